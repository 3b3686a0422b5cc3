"""Order of Cu-Au from the alchemical Hamiltonian against direct Monte Carlo with the same potential.

    python benchmarks/transition.py [--sweeps 200] [--json results.json]

Atoms stay on their sites; both swap atoms in the same box of 32 sites at the same temperatures. The direct one takes
the energy from SevenNet-0 in float32 at every move. Energies, heat capacities, short-range order of nearest neighbours
and the temperature of the largest heat capacity come from the same analysis.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk
from side_by_side import use_two_cores

import alchemjax as aj
from alchemjax.calculate import precision, topology_of
from alchemjax.energy import batch_energy
from alchemjax.tasks.averages import shells, statistics, transition_temperature
from alchemjax.tasks.lattice import arranger, checked_model
from alchemjax.tasks.sampling import BLOCKS, Samples, sample
from alchemjax.tasks.validate import explicit_system
from alchemjax.units import KELVIN

SHAPE = (2, 2, 2)
FACTORS = (0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 1.9)  # of the temperature of the Hamiltonian's largest heat capacity
EQUILIBRATION = 0.25


def direct(potential, system, alloy, temperatures, sweeps, seed=0):
    """One chain per temperature; neighbours in temperature exchange arrangements after every sweep."""
    large = explicit_system(system, alloy, SHAPE)
    topology, structure = topology_of(potential, large), large.structure
    chains, sites = len(temperatures), len(structure.positions)
    many = lambda a: jnp.broadcast_to(jnp.asarray(a), (chains, *np.shape(a)))
    heats = KELVIN * jnp.asarray(temperatures, jnp.float32)
    topologies = jax.tree.map(many, topology)
    place = [many(np.asarray(a, np.float32)) for a in (structure.positions, structure.cell)]

    def energies(params, states):
        weights = jax.nn.one_hot(states, len(alloy.species)).reshape(chains, -1)
        rest = jnp.zeros(chains), jnp.zeros((chains, 3, 3))
        return batch_energy(potential.node_energies, potential.config, params, topologies, *place, weights, *rest)[
            1
        ].sum(1)

    def move(params, carry, key):
        states, energy = carry
        one, two, luck = jax.random.split(key, 3)
        # an atom of each kind, so that no move is idle
        pick = lambda key, kind: jnp.argmax(
            jax.random.gumbel(key, states.shape) + jnp.where(states == kind, 0, -jnp.inf), 1
        )
        first, second = pick(one, 0), pick(two, 1)
        rows = jnp.arange(chains)
        tried = states.at[rows, first].set(1).at[rows, second].set(0)
        new = energies(params, tried)
        accept = new - energy < heats * jax.random.exponential(luck, (chains,))
        return (jnp.where(accept[:, None], tried, states), jnp.where(accept, new, energy)), accept

    @jax.jit
    def sweep(params, states, energy, key):
        keys = jax.random.split(key, sites // 2)  # as many as unlike ones among swaps of any two
        (states, energy), accepted = jax.lax.scan(lambda *a: move(params, *a), (states, energy), keys)
        return states, energy, accepted.mean(0)

    model, rng = checked_model(aj.lattice_model(alloy, SHAPE, relaxed=False)), np.random.default_rng(seed)
    start = jax.vmap(arranger(model, alloy.weights))(jax.random.split(jax.random.key(seed), chains))
    with precision(potential):
        states, series, seen, rate = start.reshape(chains, -1), [], [], np.zeros(chains)
        energy = jax.jit(energies)(potential.params, states)
        began = time.perf_counter()
        for number in range(sweeps):
            states, energy, accepted = sweep(potential.params, states, energy, jax.random.key(1000 * seed + number))
            order, now = np.arange(chains), np.asarray(energy, float)
            for low in range(number % 2, chains - 1, 2):
                loss = (1 / heats[low] - 1 / heats[low + 1]) * (now[low + 1] - now[low])
                if loss < rng.exponential():
                    order[[low, low + 1]] = order[[low + 1, low]]
            states, energy = states[order], energy[order]
            series.append(np.asarray(energy, float))
            seen.append(np.asarray(states))
            rate += np.asarray(accepted) / sweeps
            if number % 10 == 0:
                print(f"# sweep {number}, {time.perf_counter() - began:.0f} s", flush=True)
    return np.array(series), np.array(seen), rate


def as_samples(alloy, temperatures, series, states, rate) -> Samples:
    """In the form of our own Monte Carlo, so that one analysis serves both."""
    cells = int(np.prod(SHAPE))
    length = len(series) // BLOCKS
    series, states = (a[len(a) - BLOCKS * length :] for a in (series, states))
    states = np.moveaxis(states, 0, 1).reshape(len(temperatures), 1, -1, *SHAPE, len(alloy.site))
    present = np.eye(len(alloy.species))[states]
    waves = np.fft.fftn(present, axes=(3, 4, 5))
    both = np.fft.ifftn(np.einsum("tsnxyzck,tsnxyzdl->tsnxyzcdkl", waves.conj(), waves, optimize=True), axes=(3, 4, 5))
    both = both.real.reshape(len(temperatures), 1, BLOCKS, length, *both.shape[3:]).mean(3) / cells
    energy = np.moveaxis(series, 0, 1)[:, None] / cells
    composition = present.mean((3, 4, 5, 6))[:, :, :, None]
    last = states[:, :, -1]
    return Samples(np.array(temperatures), energy, energy, composition, both, last, alloy.sublattice, rate, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=200, help="of the direct Monte Carlo, a quarter to equilibrate")
    parser.add_argument("--json")
    given = parser.parse_args()
    use_two_cores()
    potential = aj.load("sevennet-0")
    system = aj.from_atoms(bulk("Cu", "fcc", 3.95, cubic=True), mix={"Cu": ("Cu", "Au")}, weights=[0.5, 0.5])
    relaxed = aj.relax(potential, system, cell=True, fluctuations="site-exact")
    system = system._replace(structure=relaxed.structure)
    alloy = aj.alloy(potential, system, relaxed=False)
    model = aj.lattice_model(alloy, SHAPE, relaxed=False)
    scan = sample(model, np.geomspace(150, 3000, 16), alloy.weights, sweeps=8000, seeds=4)
    middle = transition_temperature(scan).temperature
    temperatures = [round(middle * f) for f in FACTORS]
    ours = sample(model, temperatures, alloy.weights, sweeps=8000, seeds=8)
    series, states, rate = direct(potential, system, alloy, temperatures, given.sweeps)
    skip = int(EQUILIBRATION * given.sweeps)
    theirs = as_samples(alloy, temperatures, series[skip:], states[skip:], rate)
    near = shells(alloy.structure.cell, alloy.structure.positions, alloy.sublattice, SHAPE, 3.5)[:1]
    results = {"temperatures_K": temperatures, "sites": 32, "sweeps": given.sweeps, "accepted": rate.tolist()}
    sites = len(alloy.site)
    print("| T (K) | energy (meV/site) | | heat capacity (k_B/site) | | alpha, nearest | |")
    print("|---|---|---|---|---|---|---|")
    print("| | Hamiltonian | direct | Hamiltonian | direct | Hamiltonian | direct |")
    rows = []
    for name, found in (("hamiltonian", ours), ("direct", theirs)):
        about = statistics(found, near)
        peak = transition_temperature(found)
        results[name] = {
            "energy_meV": (1000 * about.energy / sites).tolist(),
            "energy_error_meV": (1000 * about.energy_error / sites).tolist(),
            "heat_capacity_kB": (about.heat_capacity / sites).tolist(),
            "heat_capacity_error_kB": (about.heat_capacity_error / sites).tolist(),
            "alpha": about.warren_cowley[:, 0, 0, 1].tolist(),
            "alpha_error": about.warren_cowley_error[:, 0, 0, 1].tolist(),
            "maximum_K": peak.temperature,
            "maximum_error_K": peak.error,
        }
        rows.append(results[name])
    base = 1000 * aj.random_energy(alloy, relaxed=False) / sites
    for t, temperature in enumerate(temperatures):
        cells = [str(temperature)]
        for quantity, zero, digits in (("energy_meV", base, 1), ("heat_capacity_kB", 0, 2), ("alpha", 0, 3)):
            error = quantity.replace("_meV", "_error_meV").replace("_kB", "_error_kB").replace("alpha", "alpha_error")
            cells += [f"{row[quantity][t] - zero:.{digits}f} +- {row[error][t]:.{digits}f}" for row in rows]
        print("| " + " | ".join(cells) + " |")
    print(
        "largest heat capacity: "
        + ", ".join(
            f"{n} {results[n]['maximum_K']:.0f} +- {results[n]['maximum_error_K']:.0f} K"
            for n in ("hamiltonian", "direct")
        )
    )
    if given.json:
        with open(given.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
