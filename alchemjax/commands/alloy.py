"""alchemjax alloy: order and disorder at one composition, from the alchemical Hamiltonian."""

import json

import ase.io
import numpy as np
from ase import Atoms
from rich.console import Console
from rich.table import Table

from alchemjax.atoms import shown_amounts, to_atoms
from alchemjax.calculate import with_fluctuations
from alchemjax.commands.alloy_file import csv_table
from alchemjax.commands.alloy_hamiltonian import (
    ARRANGEMENTS,
    FILES,
    NEW,
    PAIRS,
    SAMPLING,
    hamiltonian_fingerprint,
    make_hamiltonian,
    open_folder,
    warn_of_force,
)
from alchemjax.commands.alloy_options import check_numbers, check_size, given_weights, parse_box, parse_temperatures
from alchemjax.commands.alloy_tables import describe_instability, interaction_table, temperature_table
from alchemjax.commands.columns import plain
from alchemjax.commands.options import check_periodic, parse_mix, parse_supercell
from alchemjax.commands.session import (
    bar_of,
    fingerprint_of,
    prepare_jax,
    provenance,
    read_system,
    warn,
)
from alchemjax.io import load, write_atomically
from alchemjax.system.sites import WEIGHT_TOLERANCE
from alchemjax.system.structure import completed_cell, volume
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.alloy import (
    Alloy,
    doubts,
    mean_square_displacements,
    random_energy,
    strain_by_displacements,
)
from alchemjax.tasks.averages import REMEMBERS, shells
from alchemjax.tasks.lattice import box_strain, nearest_counts, total_energy
from alchemjax.tasks.ordering import box_of, check_box, instability, lattice_model, spinodal
from alchemjax.tasks.sampling import ground_state
from alchemjax.tasks.states import VACANCY, mixed_states
from alchemjax.tasks.transition import OrderDisorder, order_disorder
from alchemjax.tasks.validate import MOST, explicit_system, one_hot, validate

SAME_ENERGY = 1e-6  # eV per cell
BOX = 200, 500  # mixed sites in Monte Carlo
SHELLS = 3
FAR = 12.0  # A, of shells
ORDERED_STRAIN = 0.03  # of an ordered arrangement


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli.alloy`."""
    mix, out = parse_mix(arguments["mix"]), arguments["out"]
    temperatures, supercell = parse_temperatures(arguments["temperatures"]), parse_supercell(arguments["supercell"])
    box = None if arguments["box"] is None else parse_box(arguments["box"])
    check_numbers(arguments)
    prepare_jax()
    needs = arguments["weights"] is None and arguments["x"] is None
    system = read_system(arguments["file"], mix, arguments["groups"], "independent", needs_weights=needs)
    if not system.sites.groups:
        raise ValueError("no site is mixed: give --mix, or a file with partial occupancies")
    system = system._replace(weights=checked_weights(system, given_weights(system, arguments)))
    mixed_states(system, system.weights)
    if arguments["relax"]:
        check_periodic(system, arguments["file"], "--no-relax")
    potential = load(arguments["model"], arguments["dtype"], head=arguments["head"], modality=arguments["modality"])
    chosen = with_fluctuations(potential, system, "site-exact", supercell)  # refuses before a folder is made
    fingerprint = hamiltonian_fingerprint(potential, system, arguments, supercell)
    if box is not None:
        check_box(system.structure, np.array(box), f"--box {arguments['box']}")
        check_size(system, box, arguments["box"])
    sampling = fingerprint_of([fingerprint, *(arguments[name] for name in SAMPLING)], ())
    path, about, found = open_folder(out, fingerprint, sampling, overwrite=arguments["overwrite"])
    if found is not None and about.get("fingerprint") == fingerprint:
        warn_of_force(about.get("unrelaxed_eV_per_A"))
        system = system._replace(structure=found.structure)
    else:
        found, system = make_hamiltonian(path, potential, system, arguments, supercell, fingerprint)
    shown = system._replace(fluctuations=chosen.fluctuations)
    report = provenance(arguments["file"], arguments, potential, shown) | {"sampling_fingerprint": sampling}
    report["results"] = _of_hamiltonian(found)
    strain = None
    if found.own_strain is not None:
        strain = strain_by_displacements(found)
        report["results"]["strain_by_displacements"] = strain
    report["results"]["doubts"] = doubts(found._replace(cutoff=potential.cutoff))
    for sentence in report["results"]["doubts"]:
        warn(sentence)
    box = _default_box(found) if box is None else box
    model = lattice_model(found, box)
    held = nearest_counts(model, found.weights)
    inside = held / held.sum(1, keepdims=True)
    asked = np.stack([found.weights[found.sublattice == s].mean(0) for s in np.unique(found.sublattice)])
    if np.abs(inside - asked).max() > WEIGHT_TOLERANCE:
        cells = "x".join(map(str, box))
        warn(f"{cells} cells hold the composition {_shown(found, inside)}, not {_shown(found, asked)}; see --box")
    report["results"]["composition_of_box"] = inside
    structure = found.structure
    cell, places = completed_cell(structure), structure.positions[found.site]
    pairs = shells(cell, places, found.sublattice, box, FAR, pbc=structure.pbc)[:SHELLS]
    given = {"sweeps": arguments["sweeps"], "equilibration": arguments["sweeps"] // 4, "seeds": arguments["seeds"]}
    given["seed"] = arguments["seed"]
    on, bar = bar_of("Monte Carlo sweeps")
    with bar:
        ordered, lowest = ground_state(model, found.weights, sweeps=arguments["sweeps"], seed=arguments["seed"])
        transition = order_disorder(
            model, found.weights, temperatures, shells=pairs, ordered=ordered, on_sweeps=on, **given
        )
    smaller = _in_smaller_box(found, box, inside, temperatures, given)
    names = [group.name for group in system.sites.groups]
    columns = temperature_table(found, transition, pairs, names)
    report["results"] |= _of_sampling(found, box, transition, lowest)
    if smaller is not None:
        report["results"]["transition"]["in_smaller_box"] = {"box": smaller[0]} | _numbers(smaller[1], found)
    report["results"]["ground_state_strain"] = box_strain(model, ordered)
    if (most := np.abs(report["results"]["ground_state_strain"]).max()) > ORDERED_STRAIN:
        warn(
            f"the ordered arrangement strains by {100 * most:.1f} per cent, and its energy is of second order in "
            "strain; see how it compares (--validate)"
        )
    another, quick = _another_order(found, transition, None if smaller is None else smaller[1])
    if another is not None:
        compared = "it is compared below" if quick else f"with more than {MOST} sites it is not relaxed here: see --box"
        compared = compared if arguments["validate"] else "see how it compares (--validate)"
        warn(
            "between the ordered arrangement and disorder Monte Carlo finds another order (other_order.extxyz), of "
            f"which the potential may know nothing; {compared}"
        )
    explicit = None
    if arguments["validate"]:
        on, bar = bar_of("explicit arrangements")
        with bar:
            given = {"random": arguments["validate"], "ordered": ordered, "seed": arguments["seed"]}
            given["arrangements"] = [another] if quick else []
            explicit = validate(potential, system, found, on_arrangement=on, **given)
        report["results"]["validation"] = explicit._asdict()
    report["table"] = columns
    texts = {
        "alloy.json": json.dumps(plain(report), indent=1) + "\n",
        "interactions.csv": csv_table(interaction_table(found, names)),
        "temperatures.csv": csv_table(columns),
    }
    arrangements = [_arrangement(system, found, one) for one in (ordered, another) if one is not None]
    arrangements = dict(zip(ARRANGEMENTS, arrangements, strict=False))
    figure = None
    if arguments["plot"]:
        from alchemjax.commands.alloy_plot import plot_alloy

        figure = plot_alloy(found, columns, transition, explicit)
    path.replace(out / FILES[0])  # only now, when all is there, in the place of earlier results
    for name in (NEW, PAIRS):
        (out / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_atomically(out / name, lambda path, text=text: path.write_text(text))
    for name, atoms in arrangements.items():
        write_atomically(out / name, lambda path, atoms=atoms: ase.io.write(path, atoms, format="extxyz"))
    for name in {*ARRANGEMENTS, "alloy.png"} - set(arrangements):
        (out / name).unlink(missing_ok=True)
    if figure is not None:
        write_atomically(out / "alloy.png", lambda path: figure.savefig(path, dpi=200))
    Console(highlight=False, markup=False).print(_summary(found, report["results"], strain, transition, smaller))
    if explicit is not None:
        print(explicit.message) if explicit.valid else warn(explicit.message)
    print(f"{out / 'alloy.json'}, {out / 'temperatures.csv'}, {out / 'interactions.csv'}")


def _default_box(found: Alloy) -> tuple[int, ...]:
    share = len(found.site) / len(found.structure.positions)
    return box_of(found, *(round(number / share) for number in BOX), even=True)


# --- what is calculated -----------------------------------------------------------------------------------------------


def _shown(found: Alloy, fractions) -> str:
    """Fractions [sublattices, states] in words."""
    return "; ".join(
        shown_amounts({s: x for s, x in zip(found.species, own, strict=True) if x > 0}) for own in fractions
    )


def _of_hamiltonian(found: Alloy) -> dict:
    sites = len(found.structure.positions)
    temperature, wave = instability(found)
    rigid = random_energy(found, relaxed=False)
    results = {
        "sites_of_cell": sites,
        "supercell_sites": len(found.supercell.origin),
        "mean_field_energy_per_site_eV": found.energy / sites,
        "random_alloy_energy_per_site_eV": rigid / sites,
        "second_order_random_alloy_energy_per_site_eV": (
            found.energy + float((found.weights * found.second_order).sum())
        )
        / sites,
        "instability_K": temperature,
        "instability_wave_vector": wave.q[0],
        "instability": describe_instability(found, temperature, wave),
        "cell_A": found.structure.cell,
        "largest_force_of_random_alloy_eV_per_A": found.largest_force,
    }
    if found.displacement is not None:
        results |= {
            "random_alloy_energy_with_displacements_per_site_eV": random_energy(found) / sites,
            "mean_square_displacements_A2": mean_square_displacements(found),
            "softest_curvature_eV_per_A2": found.softest,
        }
    if found.stiffness is not None:
        results["spinodal_K"] = spinodal(found)
    return results


def _in_smaller_box(found: Alloy, box, composition, temperatures, given: dict):
    """The transition in fewer cells, to see what their number does to it; None if they do not hold the composition."""
    small = tuple(max(2, 2 * round(n / 3)) if n > 2 else n for n in box)
    model = lattice_model(found, small)
    held = nearest_counts(model, found.weights)
    if small == tuple(box) or np.abs(held / held.sum(1, keepdims=True) - composition).max() > WEIGHT_TOLERANCE:
        return None
    if not (np.count_nonzero(held, axis=1) > 1).any():
        return None
    on, bar = bar_of("the same in fewer cells")
    with bar:
        transition = order_disorder(model, found.weights, temperatures, on_sweeps=on, **given)
    return small, transition


def _of_sampling(found: Alloy, box, transition: OrderDisorder, lowest: float) -> dict:
    sites = len(found.structure.positions)
    averages = transition.equilibrium
    if len(slow := averages.temperatures[averages.memory > REMEMBERS]):
        warn(
            f"Monte Carlo is slow at {', '.join(f'{t:.0f}' for t in slow)} K: heat capacities there are too low and "
            "errors too small; give more --sweeps"
        )
    if transition.kind == "smooth" and np.isnan(transition.temperature):
        warn("no transition temperature: --temperatures are fewer than three, or too far apart to join; give more")
    if transition.missed > SAME_ENERGY:
        warn(
            f"Monte Carlo met arrangements {1000 * transition.missed / sites:.2g} meV per site below the ordered one "
            "it started from; the transition is that of the latter: try another --seed or --box"
        )
    energy = lowest / (sites * int(np.prod(box)))
    return {"box": box, "ground_state_energy_per_site_eV": energy, "transition": _numbers(transition, found)}


def _numbers(transition: OrderDisorder, found: Alloy) -> dict:
    about = {"kind": transition.kind, "temperature_K": transition.temperature, "error_K": transition.error}
    latent = transition.latent_heat / len(found.structure.positions)
    return about | {
        "latent_heat_per_site_eV": latent,
        "at_edge": transition.at_edge,
        "another_order": transition.another is not None,
    }


def _another_order(found: Alloy, *transitions: OrderDisorder | None):
    """What is ordered otherwise, of the first box that is quick to relax, or of the first; and whether it is quick."""
    others = [one.another for one in transitions if one is not None and one.another is not None]
    quick = [one for one in others if one[..., 0].size * len(found.structure.positions) <= MOST]
    return next(iter([*quick, *others]), None), bool(quick)


def _arrangement(system: System, found: Alloy, states) -> Atoms:
    """Ordinary atoms on the sites of a box that strains."""
    large, model = explicit_system(system, found, states.shape[:3]), lattice_model(found, states.shape[:3])
    strain = box_strain(model, states)
    atoms = to_atoms(large, weights=one_hot(large, found, states))
    symbols, held = atoms.get_chemical_symbols(), [found.species[k] for k in states.reshape(-1)]
    for group, own in zip(large.sites.groups, held, strict=True):
        symbols[group.sites[0]] = own
    occupied = [site for site, symbol in enumerate(symbols) if symbol != VACANCY]
    positions, cell = (a @ (np.eye(3) + strain) for a in (atoms.positions[occupied], atoms.cell.array))
    info = {"predicted_energy_eV": float(total_energy(model, states))}
    return Atoms([symbols[site] for site in occupied], positions, cell=cell, pbc=atoms.pbc, info=info)


def _summary(found: Alloy, results: dict, strain, transition: OrderDisorder, smaller) -> Table:
    sites, box = results["sites_of_cell"], results["box"]
    table = Table(title="alloy", show_edge=False, show_header=False)
    mean = results["mean_field_energy_per_site_eV"]
    per_site = lambda name: f"{1000 * (results[name] - mean):+.1f} meV per site, from the mean composition"
    table.add_row("supercell of the derivatives", f"{results['supercell_sites']} sites")
    table.add_row("energy of the mean composition", f"{mean:.6f} eV per site")
    table.add_row("random alloy, ideal sites", per_site("random_alloy_energy_per_site_eV"))
    if found.displacement is not None:
        table.add_row("random alloy, relaxed", per_site("random_alloy_energy_with_displacements_per_site_eV"))
        root = np.sqrt(np.trace(results["mean_square_displacements_A2"], axis1=1, axis2=2))
        if strain is not None:
            before = volume(found.structure) / sites  # pyright: ignore[reportOptionalOperand]
            after = before * np.linalg.det(np.eye(3) + strain)
            table.add_row("volume per site", f"{before:.3f} A^3, with displacements {after:.3f} A^3")
        table.add_row("static displacements (rms)", f"{root.min():.3f} to {root.max():.3f} A")
    table.add_row("random alloy in mean field", results["instability"])
    if results.get("spinodal_K", 0) > 0.5:
        table.add_row("mean-field spinodal", f"{results['spinodal_K']:.0f} K")
    table.add_row("ordered arrangement (annealed)", per_site("ground_state_energy_per_site_eV"))
    table.add_row(*_of_transition(transition, sites, box))
    if smaller is not None:
        table.add_row(*_of_transition(smaller[1], sites, smaller[0]))
    return table


def _of_transition(transition: OrderDisorder, sites: int, box) -> tuple[str, str]:
    """What Monte Carlo says, as a name and a value."""
    where = f"in {'x'.join(map(str, box))} cells"
    number = f"{transition.temperature:.0f} +- {transition.error:.0f} K {where}"
    if transition.kind == "first order":
        between = "order-disorder transition" if transition.another is None else "transition to another order"
        return between, (f"{number}, first order, latent heat {1000 * transition.latent_heat / sites:.1f} meV per site")
    if transition.kind == "smooth":
        if transition.at_edge:
            number = f"at the edge of --temperatures, {transition.temperature:.0f} K, {where}: give others"
        return "largest heat capacity (Monte Carlo)", number if np.isfinite(transition.temperature) else "-"
    return "order-disorder transition", f"{transition.kind} the --temperatures, {where}"
