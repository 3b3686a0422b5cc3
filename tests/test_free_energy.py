"""Free energies with known answers: springs, harmonic crystals, normal works; errors in the assertions, fixed seeds."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from error_bars import SIGMAS, assert_is
from harmonic_crystal import SHIFT, STIFFNESS, argon, harmonic_crystal, mixed, system_masses
from pair_potential import A, ideal_gas, lennard_jones
from scipy import stats
from scipy.integrate import solve_ivp

import alchemjax as aj
from alchemjax.model.load import Potential
from alchemjax.model.messages import mix, read
from alchemjax.system.sites import make_sites
from alchemjax.tasks.free_energy import paths
from alchemjax.tasks.free_energy.frenkel_ladd import (
    HBAR,
    einstein_free_energy,
    frenkel_ladd,
    harmonic_stiffness,
    hessian_of,
    infinite,
    measured_stiffness,
    primitive_cells,
    squared_frequencies,
)
from alchemjax.tasks.free_energy.paths import Path, composition_path, einstein_path, vacancy_path
from alchemjax.tasks.free_energy.switching import plan_switch, switch
from alchemjax.tasks.free_energy.vacancy import vacancy, with_group
from alchemjax.tasks.free_energy.windows import energies_of, plan_windows, windows
from alchemjax.tasks.md_plan import make_plan
from alchemjax.units import KELVIN

KT = 100 * KELVIN
SHORT = {"temperature": 100.0, "timestep": 4.0, "every": 10, "thermostat_time": 100.0, "chunk": 1000}


def springs_alone(*stiffness):
    """A path of a crystal without a potential."""
    ends = np.stack([np.full(8, k) for k in stiffness])
    return einstein_path(argon(), 1.0)._replace(scale=np.zeros(2), stiffness=ends)


# --- springs ----------------------------------------------------------------------------------------------------------


def determinant(stiffness, share):
    """ln of the product of the eigenvalues of springs but for the three zeros, and of the length of what they leave."""
    sites = len(stiffness)
    apart = np.eye(sites) - np.ones((sites, 1)) * share[None]
    values = np.linalg.eigvalsh(apart.T @ np.diag(stiffness) @ apart)
    assert abs(values[0]) < 1e-9 * values[-1]
    return np.log(values[1:]).sum()


def test_the_free_energy_of_springs_is_that_of_their_normal_modes():
    rng = np.random.default_rng(0)
    k, share, m = rng.uniform(0.5, 3, 5), rng.dirichlet(np.ones(5)), rng.uniform(10, 40, 5)
    modes = -1.5 * (4 * np.log(2 * np.pi * KT) - determinant(k, share))
    centre = -np.log(70.0 * 5**1.5)  # displacing all sites by d is a step of sqrt(5) d in the space of all coordinates
    momenta = 1.5 * np.sum(np.log(2 * np.pi * HBAR**2 / (m * KT)))
    assert einstein_free_energy(k, share, m, 70.0, KT) == pytest.approx(KT * (modes + centre + momenta), rel=1e-12)
    assert einstein_free_energy(k, share[::-1], m, 70.0, KT) != pytest.approx(KT * (modes + centre + momenta), rel=1e-6)


@pytest.mark.parametrize(("seed", "switching"), [(0, 400.0), (1, 2000.0)])
def test_switching_springs_gives_the_difference_of_their_free_energies(seed, switching):
    system = argon()
    sites = len(system.structure.positions)
    one, two = np.full(sites, 0.5), np.linspace(0.8, 1.6, sites)
    share = np.arange(1.0, sites + 1) / np.arange(1, sites + 1).sum()
    path = Path(np.array([0.0, 1]), np.zeros((2, 0)), np.zeros(2), np.stack([one, two]), share)
    masses = np.full(sites, 39.948)
    expected = np.diff([einstein_free_energy(k, share, masses, 1.0, KT) for k in (one, two)])[0]
    found = switch(ideal_gas(), system, path, equilibration=800.0, switching=switching, replicas=32, seed=seed, **SHORT)
    assert abs(expected) > 0.05
    assert_is(found.difference, expected, 0.004)
    for name in ("crooks_gaussian", "cumulant_forward", "cumulant_backward"):
        assert_is(found.estimates[name], expected, 0.01)
    assert found.mass_term == 0 and 0 < found.dissipation


def test_the_way_back_is_the_way_there_in_reversed_time_whatever_the_schedule():
    path, masses = springs_alone(0.3, 6.0), np.full(8, 39.948)
    expected = np.diff([einstein_free_energy(k, np.full(8, 1 / 8), masses, 1.0, KT) for k in path.stiffness])[0]
    options = {"equilibration": 400.0, "switching": 1000.0, "replicas": 64} | SHORT
    found = switch(ideal_gas(), argon(), path, schedule=lambda x: x**3, **options)
    assert_is(found.difference, expected, 0.005)
    knots = paths.in_time(path, lambda x: x**3, [(100.0, 0, 1), (100.0, 1, 0)])["lambda"]
    times, lambdas = np.array(knots).T
    np.testing.assert_allclose(np.interp([20, 60], times, lambdas), np.interp([180, 140], times, lambdas), atol=1e-6)
    assert np.interp(50, times, lambdas) < 0.2


def test_slower_switches_dissipate_less():
    path, options = springs_alone(0.2, 2.0), {"equilibration": 400.0, "replicas": 16} | SHORT
    fast, slow = (switch(ideal_gas(), argon(), path, switching=t, **options).dissipation for t in (200.0, 2000.0))
    assert fast > 2 * slow > 0


def test_windows_of_springs_give_the_difference_of_their_free_energies():
    path, share, masses = springs_alone(0.4, 1.6), np.full(8, 1 / 8), np.full(8, 39.948)
    expected = np.diff([einstein_free_energy(k, share, masses, 1.0, KT) for k in path.stiffness])[0]
    options = {"sampling": 40000.0, "equilibration": 800.0} | SHORT
    for rule, number in {"gauss-legendre": 5, "trapezoid": 3}.items():
        found = windows(ideal_gas(), argon(), path, windows=number, rule=rule, **options)
        assert_is(found.difference, expected, 0.004)
        if rule == "gauss-legendre":
            assert_is(found.integral, expected, 0.004)
            assert not found.doubts
        else:
            assert abs(found.integral.value - expected) > SIGMAS * found.integral.error, "two trapezoids are too few"
            assert any("take more windows" in doubt for doubt in found.doubts)


# --- a dragged oscillator ---------------------------------------------------------------------------------------------

DRAGGED, SPRING = np.array([1.0, 0.0, 0.0]), 1.0  # A, eV/A^2


@dataclass(frozen=True)
class Config:
    """Hyper-parameters."""

    cutoff: float = 6.0
    batch: int = 1
    per_node: bool = False


def dragged_energies(params, config, graph):
    """Neon feels k/2 |r - R - b|^2 of the one other site, whose mixture of species says b."""
    mixture = mix(graph, params["drag"][graph.node_species][..., None])[..., 0]
    felt = jnp.zeros((len(graph.target_node), 1), mixture.dtype)
    for edges in graph.blocks:
        rest = params["rest"][None, None] + mixture[edges.source[0]]
        pull = SPRING / 2 * jnp.sum((edges.vectors - rest) ** 2, axis=-1, keepdims=True)
        near = jnp.sum(edges.vectors**2, axis=-1, keepdims=True) < config.cutoff**2
        felt = felt + jax.ops.segment_sum(jnp.sum(jnp.where(near, pull, 0), axis=1), edges.target[0], len(felt))
    return params["feels"][graph.node_species] * read(graph, felt)[:, 0]


def test_dragged_oscillators_do_the_exact_works_and_come_back():
    """Normal works, of the mean that the equation of motion of <y> has, and of a variance of 2 kT times that.

    m y'' = -m y' / t - k (y - R(t)), <W> = -k int (y - R) R' dt: no free energy changes. O. Mazonka, C. Jarzynski,
    cond-mat/9912121. The species that drag hardly differ in mass (Co, Ni).
    """
    params = {"drag": np.stack([np.zeros(3), DRAGGED, np.zeros(3)]), "rest": np.array([0.0, 3.0, 0.0])}
    params = {k: jnp.asarray(v) for k, v in (params | {"feels": np.array([0.0, 0.0, 1.0])}).items()}
    species = ("Co", "Ni", "Ne")
    potential = Potential("dragged", params, Config(), dragged_energies, species, 6.0, "float64", "", {})
    atoms = Atoms("NeCo", [[0, 0, 0], [0, 3, 0]])
    system = aj.from_atoms(atoms, mix={"Co": ("Co", "Ni")}, weights=[1.0, 0.0])
    path = composition_path(system, [1, 0], [0, 1])
    time, friction, options = 1000.0, 200.0, SHORT | {"thermostat_time": 200.0}
    found = switch(
        potential, system, path, equilibration=1000.0, switching=time, schedule="linear", replicas=256, **options
    )
    mass = 1 / (1 / 20.1797 + 1 / 58.933) * 103.6427  # eV fs^2/A^2
    speed = DRAGGED[0] / time
    pull = lambda t, y: -SPRING * (y - speed * t)
    of = lambda t, y: [y[1], -y[1] / friction + pull(t, y[0]) / mass, pull(t, y[0]) * speed]
    mean = solve_ivp(of, (0, time), [0.0, 0.0, 0.0], rtol=1e-9, atol=1e-12).y[2, -1]
    assert 0.3 < mean / KT < 3
    for works in (found.forward, found.backward):
        assert stats.kstest(works, stats.norm(mean, np.sqrt(2 * KT * mean)).cdf).pvalue > 1e-3
    works = np.concatenate([found.forward, found.backward])
    for wrong in ((mean, KT * mean), (mean, 4 * KT * mean), (mean / 2, 2 * KT * mean), (2 * mean, 2 * KT * mean)):
        assert stats.kstest(works, stats.norm(wrong[0], np.sqrt(wrong[1])).cdf).pvalue < 1e-3, "the test is blunt"
    assert found.dissipation == pytest.approx(mean / KT, rel=0.15)
    assert_is(found.difference, 0.0, 0.1 * KT)
    assert found.doubts == ()


# --- crystals ---------------------------------------------------------------------------------------------------------


def harmonic(system, potential, *, cells=None):
    """Classical free energy of the harmonic crystal, its centre in a primitive cell [eV]."""
    squares = squared_frequencies(potential, system)
    masses = system_masses(system)
    energy = float(aj.calculate(potential, system).energy)
    cell = abs(np.linalg.det(system.structure.cell)) / (cells or primitive_cells(system))
    modes = np.sum(np.log(HBAR * np.sqrt(squares) / KT))
    centre = 1.5 * np.log(2 * np.pi * HBAR**2 / (masses.sum() * KT)) - np.log(cell)
    return energy + KT * (modes + centre)


def test_a_harmonic_crystal_has_the_frequencies_of_its_lattice():
    squares = squared_frequencies(harmonic_crystal(), argon())
    assert len(squares) == 3 * 8 - 3 and squares.min() > 0
    # the wave of X: eight of twelve neighbours move the other way
    assert squares.max() == pytest.approx(16 * STIFFNESS["Ar"] / 39.948, rel=1e-6)


@pytest.mark.parametrize("method", ["switch", "windows"])
def test_frenkel_ladd_gives_the_free_energy_of_a_harmonic_crystal(method):
    potential, system = harmonic_crystal(), argon()
    expected = harmonic(system, potential)
    long = {"switch": {"equilibration": 800.0, "switching": 4000.0, "replicas": 16}, "windows": {"sampling": 40000.0}}
    found = frenkel_ladd(potential, system, stiffness=2.2, method=method, **long[method], **SHORT)
    assert abs(found.difference) > 0.01
    assert_is(found.total, expected, 0.003)
    assert found.total.value == pytest.approx(found.einstein + found.difference)
    x = HBAR * np.sqrt(squared_frequencies(potential, system)) / KT
    levels = np.exp(-np.outer(np.arange(2000) + 0.5, x)).sum(0)  # of every oscillator
    assert found.quantum == pytest.approx(KT * np.sum(-np.log(levels) - np.log(x)))
    assert found.quantum == pytest.approx(KT * np.sum(x**2) / 24, rel=0.05)
    assert not found.doubts


def test_springs_of_the_hessian_have_the_displacements_of_a_harmonic_crystal():
    potential, system = harmonic_crystal(), argon()
    found = harmonic_stiffness(potential, system)
    inverse = np.linalg.pinv(hessian_of(potential, system), rcond=1e-9)
    np.testing.assert_allclose(found, 3 / np.trace(inverse[:3, :3]), rtol=1e-9)  # all sites are equivalent
    measured = measured_stiffness(potential, system, temperature=100.0, duration=40000.0, timestep=4.0, seed=0)
    np.testing.assert_allclose(measured, found, rtol=0.1)
    named = frenkel_ladd(potential, system, stiffness="hessian", equilibration=400.0, switching=400.0, **SHORT)
    np.testing.assert_array_equal(named.stiffness, found)
    with pytest.raises(ValueError, match="stiffness = 'phonons' is not understood"):
        frenkel_ladd(potential, system, stiffness="phonons", **SHORT)
    far = system._replace(structure=system.structure._replace(cell=1.2 * system.structure.cell))
    far = far._replace(structure=far.structure._replace(positions=1.2 * far.structure.positions))
    with pytest.raises(ValueError, match="imaginary frequencies, or soft ones"):
        harmonic_stiffness(lennard_jones(), far)


def test_a_structure_that_is_hardly_symmetric_is_doubted():
    system = argon()
    rattled = np.random.default_rng(0).normal(0, 2e-3, system.structure.positions.shape)
    system = system._replace(structure=system.structure._replace(positions=system.structure.positions + rattled))
    assert primitive_cells(system) == 1 and primitive_cells(system, 0.05) == 8
    options = {"equilibration": 400.0, "switching": 400.0, "replicas": 4, "quantum": False} | SHORT
    found = frenkel_ladd(harmonic_crystal(), system, stiffness=2.2, **options)
    assert "has 1 primitive cells, but 8 if sites may be" in found.doubts[-1]
    slab = system._replace(structure=system.structure._replace(pbc=np.array([True, True, False])))
    with pytest.raises(ValueError, match="periodic in all directions"):
        frenkel_ladd(harmonic_crystal(), slab, stiffness=2.2, **options)


@pytest.mark.parametrize("coupling", ["independent", "paired", "published"])
def test_a_site_of_its_own_is_part_of_the_crystal(coupling):
    atoms = bulk("Ar", "fcc", A, cubic=True)
    system = aj.from_atoms(atoms, mix={"1": ("Ar", "Kr")}, weights=[0.3, 0.7], coupling=coupling)
    if coupling == "published":
        with pytest.raises(ValueError, match="do not see each other"):
            with_group(system, 0, "Ar")
        return
    grouped, number = with_group(system, 0, "Ar")
    potential = lennard_jones()
    whole, own = (float(aj.calculate(potential, one).energy) for one in (system, grouped))
    assert number == 1 and own == pytest.approx(whole, rel=1e-12)


def test_a_path_between_compositions_closes_the_cycle_of_absolute_free_energies():
    potential = harmonic_crystal()
    system = mixed(weights=[1.0, 0.0])
    ends = [system._replace(weights=np.array(w)) for w in ([1.0, 0.0], [0.0, 1.0])]
    one, two = (harmonic(end, potential) for end in ends)
    path = composition_path(system, *(end.weights for end in ends))
    found = switch(potential, system, path, equilibration=800.0, switching=4000.0, replicas=16, **SHORT)
    assert found.mass_term == pytest.approx(1.5 * KT * 8 * np.log(39.948 / 83.798))
    assert abs(found.mass_term) > 0.05 and found.mixing_term == 0
    assert_is(found.difference._replace(value=found.difference.value + found.mass_term), two - one, 0.003)
    windowed = windows(potential, system, path, windows=6, sampling=40000.0, **SHORT)
    for estimate in (windowed.integral, windowed.difference):
        assert_is(estimate._replace(value=estimate.value + found.mass_term), two - one, 0.004)
    assert windowed.overlap > 0.1 and windowed.profile[-1] == windowed.difference
    assert windowed.states[[0, -1]].tolist() == [0, 1] and len(windowed.profile) == 8


def test_a_free_centre_is_all_that_pushes_on_the_cell_of_springs():
    """PV = kT, which dynamics with a centre at rest do not show."""
    system = argon()
    times = {"equilibration": 8000.0, "switching": 400.0, "replicas": 16, "quantum": False}
    pushed = frenkel_ladd(harmonic_crystal(), system, stiffness=2.2, **times, **SHORT).path.pressure
    space = abs(np.linalg.det(system.structure.cell))
    assert_is(pushed._replace(value=pushed.value * space / KT, error=pushed.error * space / KT), 1.0, 0.2)


@pytest.mark.parametrize("route", ["alchemical", "absolute"])
def test_both_routes_to_a_vacancy_of_a_harmonic_crystal_agree_with_its_normal_modes(route):
    potential, system = harmonic_crystal(), argon()
    cells, sites = primitive_cells(system), len(system.structure.positions)
    whole = harmonic(system, potential)
    empty = system._replace(
        structure=system.structure._replace(positions=system.structure.positions[:-1]),
        sites=make_sites(["Ar"] * (sites - 1)),
    )
    # nothing but the place of the centre depends on the size of the cell, so that PV is kT
    expected = harmonic(empty, potential, cells=cells) - whole + (whole + KT) / sites
    found = vacancy(
        potential, system, sites - 1, route=route, stiffness=2.2, equilibration=800.0, switching=4000.0, replicas=16,
        **SHORT,
    )  # fmt: skip
    assert_is(found.formation, expected, 0.004)
    assert len(found.doubts) == 1 and "vacancies are 5.2 A from their images" in found.doubts[0]
    push = found.crystal.path.pressure.error * abs(np.linalg.det(system.structure.cell)) / sites
    alone, share = (found.path.total.error, 1 - 1 / sites) if route == "absolute" else (found.removal.error, 1 / sites)
    crystal = found.crystal.total.error * share
    assert push > 0 and found.formation.error == pytest.approx(np.linalg.norm([alone, crystal, push]))


def test_at_constant_pressure_the_path_gives_gibbs_energies():
    """Cells scaled by s: bonds of length R cost k/2 ((s - 1)^2 R^2 + s^2 |u|^2), and G is an integral over s."""
    potential, system = harmonic_crystal(), mixed(weights=[1.0, 0.0])
    sites, volume, pressure = 8, 2 * A**3, 2e-4
    s = np.linspace(0.8, 1.2, 20001)

    def gibbs(species):
        k, bonds = STIFFNESS[species], 6 * sites * A**2 / 2
        energy = k / 2 * (s - 1) ** 2 * bonds + pressure * volume * s**3
        weight = s ** (3 * sites + 2 - 3 * (sites - 1)) * np.exp(-energy / KT)
        return sites * SHIFT[species] + KT * (1.5 * (sites - 1) * np.log(k) - np.log(weight.sum()))

    path = composition_path(system, [1.0, 0.0], [0.0, 1.0])
    npt = {"cell": "hydrostatic", "bulk_modulus": 0.03, "barostat_time": 400.0, "pressure": pressure}
    found = switch(potential, system, path, equilibration=2000.0, switching=6000.0, replicas=16, **npt, **SHORT)
    assert_is(found.difference, gibbs("Kr") - gibbs("Ar"), 0.003)


# --- sizes ------------------------------------------------------------------------------------------------------------


def waves(cells, shift=0.0):
    """Free energy per site of `cells`^3 cubic cells of the harmonic crystal, and of infinitely many with a shift."""
    k, mass, sites = STIFFNESS["Ar"], 39.948, 4 * cells**3
    steps = np.arange(-4 * cells, 4 * cells) + shift
    whole = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3) / cells
    inside = ((whole > -1 + 1e-9) & (whole < 1 + 1e-9)).all(1)  # two reciprocal cells of a cube of side 2 pi / a
    q = 2 * np.pi * whole[inside]
    bonds = np.array([b for b in np.ndindex(3, 3, 3) if np.abs(np.array(b) - 1).sum() == 2]) - 1
    squares = k / mass * (1 - np.cos(q @ bonds.T / 2)).sum(1)
    squares = squares[squares > 1e-9]
    share = (sites - (0 if shift else 1)) / sites
    part = 1.5 * KT * share * np.log(HBAR**2 * squares / KT**2).mean()
    if shift:
        return part
    return part + KT * (1.5 * np.log(2 * np.pi * HBAR**2 / (sites * mass * KT)) - np.log(A**3 / 4)) / sites


def test_sizes_extrapolate_to_the_infinite_crystal():
    system = aj.from_atoms(bulk("Ar", "fcc", A, cubic=True) * 2)
    assert waves(2) == pytest.approx(harmonic(system, harmonic_crystal()) / 32, rel=1e-9)
    expected, sizes = waves(24, 0.5), [32, 108, 256]
    found = [waves(n) for n in (2, 3, 4)]
    limit = infinite(sizes, found, [1e-5] * 3, temperature=100.0)
    assert limit.value == pytest.approx(expected, abs=1e-5) and 5e-6 < limit.error < 3e-5
    assert abs(np.polyfit(1 / np.array(sizes), found, 1)[1] - expected) > 5e-5, "a line in 1/N alone is worse"
    with pytest.raises(ValueError, match="one size says nothing"):
        infinite([32, 32], [1, 1], [0.1, 0.1], temperature=100.0)


# --- paths ------------------------------------------------------------------------------------------------------------


def test_schedules_go_from_end_to_end():
    x = np.linspace(0, 1, 101)
    values = paths.polynomial(x)
    assert values[0] == 0 and values[-1] == pytest.approx(1) and (np.diff(values) >= 0).all()
    assert values[50] == pytest.approx(0.5) and values[10] < 1e-3
    system = argon()
    knots = paths.in_time(einstein_path(system, 2.0), "linear", [(100.0, 0, 0), (1000.0, 0, 1), (100.0, 1, 1)])
    assert knots["scale"][0] == (0.0, 1.0) and knots["scale"][-1] == (1200.0, 0.0)
    times, scale = np.array(knots["scale"]).T
    assert np.interp(600, times, scale) == pytest.approx(0.5)
    assert np.interp(600, times, [k[1][0] for k in knots["stiffness"]]) == pytest.approx(1.0)


def test_the_entropy_of_mixing_is_that_of_sites_occupied_at_random():
    sites = aj.from_atoms(bulk("NaCl", "rocksalt", 6.0, cubic=True), mix={"Na": ("Na", "K"), "Cl": ("Cl",)})
    part = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    vacancies = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert aj.mixing_entropy(sites, [0.25, 0.75, 0.9]) == pytest.approx(4 * KELVIN * (part + vacancies), rel=1e-12)
    assert aj.mixing_entropy(sites, [1.0, 0.0, 1.0]) == 0
    published = mixed(coupling="published")
    assert np.isnan(aj.mixing_entropy(published, [1.5, -0.5])) and np.isnan(aj.mixing_entropy(published, [1.0, 0.5]))


def test_a_path_into_a_mixture_reports_what_random_mixing_and_masses_add():
    half = composition_path(mixed(), [1, 0], [0.5, 0.5])
    facts = plan_switch(harmonic_crystal(), mixed(), half, temperature=100.0).facts
    assert facts.mixing_term == pytest.approx(-8 * KT * np.log(2))
    # momenta of a random alloy are those of its atoms: nothing of their masses is left in the free energy of mixing
    whole = plan_switch(harmonic_crystal(), mixed(), composition_path(mixed(), [1, 0], [0, 1]), temperature=100.0).facts
    assert facts.mass_term == pytest.approx(whole.mass_term / 2) == pytest.approx(6 * KT * np.log(39.948 / 83.798))
    assert facts.known == whole.known == []
    emptied = composition_path(mixed(), [1, 0], [0.5, 0.2])
    assert "partly empty at an end" in plan_switch(harmonic_crystal(), mixed(), emptied, temperature=9.0).facts.known[0]


def test_images_that_fluctuate_together_are_refused_or_doubted():
    potential = lennard_jones()
    for repeats, wanted in {2: "sites fluctuate together with their images, 7.4 A away", 4: None}.items():
        system = aj.from_atoms(bulk("Ar", "fcc", A) * repeats, mix={"Ar": ("Ar", "Kr")}, weights=[1.0, 0.0])
        path = composition_path(system, [1, 0], [0, 1])
        known = plan_switch(potential, system, path, temperature=9.0, fluctuations="site").facts.known
        assert (wanted in known[0]) if wanted else known == []


WRONG_WINDOWS = {
    "a free energy needs a thermostat": {"thermostat": None},
    "scale = 0.5 has no place on a path": {"scale": 0.5},
    "replicas = 3 has no place on a path": {"replicas": 3},
    "sampling = 5.0 fs must be a multiple": {"sampling": 5.0},
    "equilibration = -100.0 fs must be a multiple": {"equilibration": -100.0},
    "sampling = nan fs must be a multiple": {"sampling": float("nan")},
}


@pytest.mark.parametrize("sentence", WRONG_WINDOWS)
def test_windows_refuse_what_makes_no_sense(sentence):
    path = composition_path(mixed(), [1, 0], [0, 1])
    with pytest.raises(ValueError, match=sentence):
        plan_windows(harmonic_crystal(), mixed(), path, temperature=9.0, **WRONG_WINDOWS[sentence])


@pytest.mark.parametrize("kind", ["none", "site-exact"])
def test_energies_at_many_compositions_are_those_of_each(kind):
    potential = lennard_jones(embedding=2.0)
    system = aj.from_atoms(bulk("Ar", "fcc", A) * 2, mix={"Ar": ("Ar", "Kr")}, weights=[1.0, 0.0])
    rng, x = np.random.default_rng(0), system.structure.positions
    frames = [x + rng.normal(0, 0.1, x.shape) for _ in range(3)]
    cells = [system.structure.cell * s for s in (1.0, 1.02, 0.95)]
    weights = np.array([[1.0, 0], [0.3, 0.7]])
    chosen = {"fluctuations": kind, "supercell": None if kind == "none" else (1, 1, 1)}
    plan = make_plan(potential, system, steps=1, fluctuations=kind)
    found = energies_of(potential, plan.system, frames, cells, weights, np.zeros(2))
    for row, positions, cell in zip(found, frames, cells, strict=True):
        here = system._replace(structure=system.structure._replace(positions=positions, cell=cell))
        expected = [aj.calculate(potential, here, w, **chosen).energy for w in weights]
        np.testing.assert_allclose(row, expected, rtol=1e-12)
    assert energies_of(potential, plan.system, [], [], weights, np.zeros(2)).shape == (0, 2)


def planned(system, **options):
    path = composition_path(system, [1, 0], [0, 1])
    return plan_switch(harmonic_crystal(), system, path, temperature=9.0, **options)


WRONG = {
    "springs that are not positive": (lambda s: einstein_path(s, [1.0] * 7 + [0.0]), "must be positive"),
    "too few springs": (lambda s: einstein_path(s, [1.0, 2.0]), "must be positive"),
    "two equal ends": (lambda s: composition_path(s, [1.0, 0], [1.0, 0]), "both ends of the path"),
    "a path that leaves the simplex": (
        lambda s: composition_path(s, [1.0, 0], [0.7, 0.7]),
        "they may sum to at most 1",
    ),
    "a tether on two atoms": (lambda s: vacancy_path(s, 1.0, 0), "has 8 sites, but a spring holds one"),
    "a group that is not there": (lambda s: vacancy_path(s, 1.0, 3), "group 3 does not exist"),
    "a pressure that changes": (lambda s: planned(s, cell=True, pressure=[(0, 0.0), (9, 0.1)]), "must be one number"),
    "a thermostat that does not mix": (
        lambda s: plan_switch(harmonic_crystal(), s, einstein_path(s, 1.0), temperature=9.0, thermostat="csvr"),
        "does not mix oscillators",
    ),
    "an unknown schedule": (lambda s: paths.schedule_of("cubic"), "schedule 'cubic' is unknown"),
    "a schedule that ends elsewhere": (lambda s: paths.schedule_of(lambda x: x / 2), "must go from 0 at 0 to 1 at 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_paths_get_a_sentence(name):
    call, said = WRONG[name]
    with pytest.raises(ValueError, match=said):
        call(mixed(weights=[1.0, 0.0]))
