"""The border to ASE and pymatgen: atoms in, atoms out, and an ASE calculator."""

import operator
from collections import Counter

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from ase.data import atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress

from alchemjax.calculate import calculate_next, check_kind, fluctuating_derivatives, species_rows, with_fluctuations
from alchemjax.model.load import Potential
from alchemjax.system.sites import WEIGHT_TOLERANCE, Group, make_sites
from alchemjax.system.structure import Structure, make_structure, volume
from alchemjax.system.system import UNBOUNDED, System, checked_alpha, checked_weights, make_system
from alchemjax.system.topology import make_layout

ROUNDING = 0.005  # rounded occupancies may sum to this much over 1; they are scaled down
OCCUPANCY, KINDS = "occupancy", "spacegroup_kinds"  # ASE's names: weights by kind in info, kind by site in arrays
NAMES = "alchemjax_groups"  # in info: {kind: group name}


def from_atoms(atoms, mix=None, groups="shared", coupling="independent", weights=None) -> System:
    """The system of `atoms`, with several species on the sites that `mix` or `groups` select.

    `mix` is {selector: species}; a selector is a symbol (every site that holds it), a site index, a tuple of indices or
    "tag:3". groups: "shared" makes one group of every entry, "site" one of every site; or, without `mix`, a list of
    {"sites": [0, 1], "species": ["Ce", "Zr"], "name": optional}. Occupancies that the atoms carry (ASE's form) make the
    groups where there is neither, one for every kind, and the weights where none are given. With coupling "published",
    as in the published code, weights are any real numbers, and a site may be in several groups of a list.
    Errors: ValueError for selectors that match nothing or overlap, species that are no element, missing weights.
    """
    if not isinstance(atoms, Atoms):
        raise ValueError(f"from_atoms takes ase.Atoms, not {type(atoms).__name__}; files go through alchemjax.read")
    occupancies, kinds = _occupancies(atoms, bounded=coupling != UNBOUNDED)
    if isinstance(groups, list | tuple):
        if mix is not None:
            raise ValueError("mix and a list of groups were both given; give one of them")
        entries = [_listed(item) for item in groups]
    elif groups not in ("shared", "site"):
        raise ValueError(f"groups {groups!r} is unknown; allowed are 'shared', 'site' or a list of dicts")
    else:
        entries = _of_kinds(atoms, occupancies, kinds) if mix is None else _of_mix(atoms, occupancies, mix)
        if groups == "site":
            each = sorted((site, species) for _, sites, species in entries for site in sites)
            entries = [(f"{atoms.symbols[site]}[{site}]", [site], species) for site, species in each]
    sites = make_sites(atoms.symbols, _groups(entries), overlapping=coupling == UNBOUNDED)
    _check_elements(sites.node_species)
    _check_covered(occupancies, sites.groups)
    weights = _default_weights(occupancies, sites.groups) if weights is None else weights
    return make_system(make_structure(atoms.positions, atoms.cell.array, atoms.pbc), sites, weights, coupling)


def from_pymatgen(structure, mix=None, groups="shared", coupling="independent", weights=None) -> System:
    """The system of a pymatgen Structure or Molecule, ordered or not; arguments and errors as in `from_atoms`.

    Oxidation states are dropped and summed by element; sites of one label and composition are of one kind.
    """
    try:
        labelled = [(site.label, [(s.symbol, float(x)) for s, x in site.species.items()]) for site in structure]
        positions, lattice = structure.cart_coords, getattr(structure, "lattice", None)
    except AttributeError:
        raise ValueError(f"from_pymatgen takes a pymatgen Structure, not {type(structure).__name__}") from None
    numbers, kinds = {}, []
    for label, species in labelled:
        amounts: dict[str, float] = {}
        for symbol, amount in species:
            symbol = "H" if symbol in ("D", "T") else symbol
            amounts[symbol] = amounts.get(symbol, 0.0) + amount
        kinds.append(numbers.setdefault((label, tuple(amounts.items())), len(numbers)))
    table = {str(kind): dict(amounts) for (_, amounts), kind in numbers.items()}
    _check_elements(symbol for amounts in table.values() for symbol in amounts)
    atoms = Atoms([_majority(table[str(kind)]) for kind in kinds], positions, info={OCCUPANCY: table})
    atoms.set_array(KINDS, np.array(kinds))
    if lattice is not None:
        atoms.set_cell(lattice.matrix)
        atoms.pbc = lattice.pbc
    return from_atoms(atoms, mix, groups, coupling, weights)


def to_atoms(system: System, positions=None, cell=None, weights=None) -> Atoms:
    """ASE atoms with the majority species on every site, and all weights beside them.

    The weights stand in ASE's form, `info["occupancy"]` by `arrays["spacegroup_kinds"]`, one kind for every group, the
    groups' names in `info["alchemjax_groups"]`. Extended XYZ keeps all three, and `from_atoms` makes the same system of
    them (pass it the coupling again). A vacant site shows its group's first species.
    Errors: ValueError for wrong weights or shapes, a site in several groups.
    """
    structure, groups = system.structure, system.sites.groups
    if twice := _in_several(groups):
        raise ValueError(f"site {twice[0]} is in several groups; ASE's occupancies cannot say so")
    flat = checked_weights(system, weights)
    structure = make_structure(
        structure.positions if positions is None else positions,
        structure.cell if cell is None else cell,
        structure.pbc,
    )
    if len(structure.positions) != len(system.structure.positions):
        raise ValueError(f"{len(structure.positions)} positions were given for {len(system.structure.positions)} sites")
    nodes = zip(system.sites.node_site.tolist(), system.sites.node_species, system.sites.node_group, strict=True)
    symbols = {site: symbol for site, symbol, group in nodes if group < 0}
    species = sorted(set(symbols.values()))
    table = {len(groups) + k: {s: 1.0} for k, s in enumerate(species)}
    kinds = {site: len(groups) + species.index(s) for site, s in symbols.items()}
    start = 0
    for k, group in enumerate(groups):
        table[k] = dict(zip(group.species, flat[start : start + len(group.species)].tolist(), strict=True))
        start += len(group.species)
        kinds |= {site: k for site in group.sites}
        symbols |= {site: _majority(table[k]) for site in group.sites}
    num_sites = len(structure.positions)
    atoms = Atoms([symbols[i] for i in range(num_sites)], structure.positions, cell=structure.cell, pbc=structure.pbc)
    if groups:
        atoms.set_array(KINDS, np.array([kinds[i] for i in range(num_sites)]))
        atoms.info[OCCUPANCY] = {str(k): table[k] for k in sorted(table)}
        atoms.info[NAMES] = {str(k): group.name for k, group in enumerate(groups)}
    return atoms


class Calculator(AseCalculator):
    """ASE calculator of ordinary atoms or, with a system, of its mixture at the atoms' positions and cell.

    The symbols of the atoms count without a system only. `results` also holds "weights_gradient" [eV] with one.
    Neighbour lists are kept while they hold; moving atoms, cells and symbols compile nothing again, and calculators of
    one potential for atoms of one kind, such as the images of an elastic band, share what is compiled.
    `fluctuations` and `supercell` choose the energy as in `calculate`; the supercell is that of the system's structure.
    Errors: ValueError for wrong weights or alpha, another number of atoms, species that the potential lacks, atoms
    closer than 0.1 A, partial occupancies without a system; PropertyNotImplementedError for the stress where the cell
    has no volume.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        potential: Potential,
        system: System | None = None,
        weights=None,
        alpha=None,
        *,
        fluctuations: str = "none",
        supercell=None,
    ):
        """Check the composition; weights default to those of the system."""
        super().__init__()
        check_kind(potential, Potential)
        if system is None and not (weights is None and alpha is None):
            raise ValueError("weights and alpha belong to a system; pass system= too")
        if system is None and not (fluctuations == "none" and supercell is None):
            raise ValueError("fluctuations and supercell belong to a system; pass system= too")
        self.potential, self.system = potential, system
        self.weights, self.alpha = np.zeros(0), 0.0
        self._symbols, self._rule, self._layout, self._kept = (), None, None, None
        self._fluctuations, self._supercell, self._shapes = fluctuations, None, None
        if system is not None:
            check_kind(system, System)
            self._lay_out(system)
            self.weights = checked_weights(system, weights)
            self.alpha = checked_alpha(system, self.weights, alpha)
            chosen = with_fluctuations(potential, system, fluctuations, supercell).fluctuations
            self._supercell = None if chosen is None else chosen.supercell.matrix  # the same for all atoms

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Fill `results`; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        structure = self._follow(self.atoms)
        if self.system is None or self._supercell is None:
            arguments = self._rule, self._layout, structure, self.weights, self.alpha, self._kept
            out, self._kept = calculate_next(self.potential, *arguments)
        else:
            system = self.system._replace(structure=structure)
            system = with_fluctuations(self.potential, system, self._fluctuations, self._supercell)
            arguments = self.weights, self.alpha, self._shapes
            out, self._shapes = fluctuating_derivatives(self.potential, system, *arguments)
        results: dict = {"energy": float(out.energy), "free_energy": float(out.energy)}
        results |= {"energies": out.site_energies, "forces": -out.positions}
        if (space := volume(structure)) is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(out.strain / space)
        if self.system is not None:
            results["weights_gradient"] = out.weights
        self.results = results

    def _follow(self, atoms) -> Structure:
        """Where the atoms are. Without a system, their symbols count, which may have changed."""
        if self.system is not None:
            num_sites = len(self.system.structure.positions)
            if len(atoms) != num_sites:
                raise ValueError(f"{len(atoms)} atoms were given for a system of {num_sites} sites; make a new system")
        elif any(_is_mixed(amounts) for amounts in _occupancies(atoms)[0]):
            raise ValueError("these atoms have partial occupancies; pass system=alchemjax.from_atoms(atoms)")
        structure = make_structure(atoms.positions, atoms.cell.array, atoms.pbc)
        if self.system is None and (symbols := tuple(atoms.symbols)) != self._symbols:
            self._lay_out(make_system(structure, make_sites(symbols), []))
            self._symbols = symbols
        return structure

    def _lay_out(self, system: System) -> None:
        rows = species_rows(self.potential, system)
        self._rule, self._layout = make_layout(system.sites, rows, system.coupling, per_node=self.potential.per_node)


def _occupancies(atoms: Atoms, *, bounded: bool = True) -> tuple[list[dict[str, float]], list[str] | None]:
    """{species: weight} and kind of every site; without occupancies every atom is whole and of no kind."""
    whole = [{symbol: 1.0} for symbol in atoms.symbols]
    if not (table := atoms.info.get(OCCUPANCY)):
        return whole, None
    table = {str(kind): {s: float(x) for s, x in amounts.items()} for kind, amounts in table.items()}
    by_site = KINDS not in atoms.arrays and NAMES not in atoms.info and len(table) == len(atoms)  # ASE, without a cell
    kinds = [str(kind) for kind in (range(len(atoms)) if by_site else atoms.arrays.get(KINDS, ()))]
    if not kinds or set(kinds) - set(table):
        raise ValueError(
            f"atoms.info['{OCCUPANCY}'] has the kinds {', '.join(table)}, atoms.arrays['{KINDS}'] has "
            f"{', '.join(sorted(set(kinds))) or 'none (.traj files lose them, extended XYZ does not)'}; correct them "
            f"or delete atoms.info['{OCCUPANCY}']"
        )
    if NAMES not in atoms.info:
        _refuse_lost_occupancies(table, set(kinds))
    if bounded:
        table = {kind: _checked_amounts(amounts) for kind, amounts in table.items()}
    for site, kind in enumerate(kinds):
        if not _is_mixed(table[kind]):
            continue  # the symbol says what the atom is, even if it was replaced after reading
        if atoms.symbols[site] not in table[kind]:
            raise ValueError(
                f"site {site} is {atoms.symbols[site]}, but its occupancies are {shown_amounts(table[kind])}; "
                f"correct or delete atoms.info['{OCCUPANCY}']"
            )
        whole[site] = table[kind]
    return whole, kinds


def _refuse_lost_occupancies(table: dict, kinds: set[str]) -> None:
    """ASE reads one row of a CIF for a site: a second oxidation state or a species at an equivalent place is lost."""
    partial = {kind for kind, amounts in table.items() if sum(amounts.values()) < 1 - ROUNDING}
    kept = [table[kind] for kind in kinds]
    strange = [kind for kind in partial - kinds if table[kind] not in kept]
    for kind in partial & kinds:
        rows = [other for other in table if table[other] == table[kind]]
        if strange or len(rows) > len(table[kind]) * kept.count(table[kind]):
            raise ValueError(
                f"ASE lost occupancies when it read these atoms (what is left of one site is "
                f"{shown_amounts(table[kind])}); read the file with alchemjax.read, or delete the kinds that no atom "
                f"has from atoms.info['{OCCUPANCY}']"
            )


def shown_amounts(amounts: dict[str, float]) -> str:
    """`Ce 0.5, Zr 0.5`."""
    return ", ".join(f"{species} {amount:.4g}" for species, amount in amounts.items())


def _checked_amounts(amounts: dict[str, float]) -> dict[str, float]:
    total, shown = sum(amounts.values()), shown_amounts(amounts)
    if not all(x >= -WEIGHT_TOLERANCE for x in amounts.values()):
        raise ValueError(f"the occupancies {shown} of one site are not all positive; give numbers from 0 to 1")
    if not total <= 1 + ROUNDING:
        raise ValueError(
            f"the occupancies {shown} of one site sum to {total:.4g}; give numbers from 0 to 1, in all at most 1"
        )
    return {s: x / total for s, x in amounts.items()} if total > 1 + WEIGHT_TOLERANCE else amounts


def _is_mixed(amounts: dict[str, float]) -> bool:
    return len(amounts) > 1 or abs(sum(amounts.values()) - 1) > WEIGHT_TOLERANCE


def _majority(amounts: dict[str, float]) -> str:
    return max(amounts, key=lambda species: amounts[species])


def _of_kinds(atoms: Atoms, occupancies, kinds) -> list[tuple]:
    """One entry for every kind that is mixed, or that was a group when `to_atoms` wrote it."""
    names = atoms.info.get(NAMES, {})
    entries = []
    for kind in sorted(set(kinds or ()), key=lambda k: (len(k), k)):
        sites = [site for site, own in enumerate(kinds) if own == kind]
        species = tuple(dict.fromkeys(s for site in sites for s in occupancies[site]))
        if kind in names or any(_is_mixed(occupancies[site]) for site in sites):
            entries.append((names.get(kind), sites, species))
    return entries


def _of_mix(atoms: Atoms, occupancies, mix) -> list[tuple]:
    if not isinstance(mix, dict) or not mix:
        raise ValueError(f"mix is {mix!r}; give a dict like {{'Ce': ('Ce', 'Zr')}}")
    entries, owner = [], {}
    for selector, species in mix.items():
        name = ",".join(map(str, selector)) if isinstance(selector, tuple) else str(selector)
        if isinstance(species, str):
            raise ValueError(f"mix entry '{name}' gives '{species}'; give a tuple of species, like ('{species}',)")
        sites = _selected(atoms, occupancies, selector)
        for site in sites:
            if site in owner:
                raise ValueError(f"mix entries '{owner[site]}' and '{name}' both select site {site}; select it once")
            owner[site] = name
        entries.append((name, sites, tuple(species)))
    return entries


def _selected(atoms: Atoms, occupancies, selector) -> list[int]:
    """The sites that a selector of `mix` stands for, in ascending order."""
    if isinstance(selector, str) and selector.startswith("tag:"):
        tags = atoms.get_tags().tolist()
        found = [site for site, tag in enumerate(tags) if str(tag) == selector[4:].strip()]
        there = "the tags " + ", ".join(map(str, sorted(set(tags))))
    elif isinstance(selector, str) and not selector[:1].isdigit():
        found = [site for site, amounts in enumerate(occupancies) if amounts.get(selector, 0) > 0]
        there = ", ".join(dict.fromkeys(s for amounts in occupancies for s in amounts))
    else:
        parts = selector.split(",") if isinstance(selector, str) else selector
        try:
            numbers = [int(x) if isinstance(x, str) else operator.index(x) for x in np.atleast_1d(parts).tolist()]
            if isinstance(selector, bool):
                raise TypeError
        except (TypeError, ValueError):
            raise ValueError(
                f"mix entry {selector!r} is not understood; give a chemical symbol, a site index, a tuple of site "
                "indices, or 'tag:3'"
            ) from None
        found = sorted(set(numbers))
        if found and not 0 <= found[0] <= found[-1] < len(atoms):
            raise ValueError(f"mix entry {selector!r} names a site that is not there; sites run 0 to {len(atoms) - 1}")
        there = f"{len(atoms)} sites"
    if not found:
        raise ValueError(f"mix entry {selector!r} selects no site; there are {there}")
    return found


def _listed(item) -> tuple:
    try:
        if not set(item) <= {"sites", "species", "name"} or isinstance(item["species"], str):
            raise TypeError
        return item.get("name"), sorted({operator.index(site) for site in item["sites"]}), tuple(item["species"])
    except (TypeError, KeyError, AttributeError):
        raise ValueError(
            f"group {item!r} is not understood; give {{'sites': [0, 1], 'species': ['Ce', 'Zr']}}, with a 'name' or not"
        ) from None


def _groups(entries: list[tuple]) -> tuple[Group, ...]:
    """Groups with distinct names; those without are named after species and, where needed, first site and number."""
    plain = ["/".join(species) for name, _, species in entries if name is None]
    groups = []
    for name, sites, species in entries:
        if name is None:
            name = "/".join(species)
            name = f"{name}[{sites[0]}]" if plain.count(name) > 1 else name
            name = f"{name}#{len(groups)}" if any(g.name == name for g in groups) else name
        groups.append(Group(str(name), tuple(sites), species))
    if twice := [name for name, count in Counter(g.name for g in groups).items() if count > 1]:
        raise ValueError(f"two groups are named '{twice[0]}'; give every group a name of its own")
    return tuple(groups)


def _check_elements(species) -> None:
    for symbol in species:
        if symbol == "X" or symbol not in atomic_numbers:
            raise ValueError(
                f"species '{symbol}' is not a chemical element; a vacancy is not a species but what the weights of a "
                "site lack to 1: give the other species only, and weights that sum to less than 1"
            )


def _check_covered(occupancies, groups: tuple[Group, ...]) -> None:
    covered = {site for group in groups for site in group.sites}
    for site, amounts in enumerate(occupancies):
        positive = {s: x for s, x in amounts.items() if x > 0}
        if site not in covered and _is_mixed(positive):
            raise ValueError(
                f"site {site} is occupied by {shown_amounts(positive)} and in no group; mix its species too, or make "
                f"it whole (ASE keeps occupancies in atoms.info['{OCCUPANCY}'])"
            )


def _in_several(groups: tuple[Group, ...]) -> list[int]:
    """Sites that are in more than one group."""
    return [site for site, count in Counter(s for group in groups for s in group.sites).items() if count > 1]


def _default_weights(occupancies, groups: tuple[Group, ...]) -> list[float]:
    if twice := _in_several(groups):
        raise ValueError(f"site {twice[0]} is in several groups; pass weights=")
    weights: list[float] = []
    for group in groups:
        held = {s for site in group.sites for s, x in occupancies[site].items() if x > 0}
        each = {tuple(occupancies[site].get(s, 0.0) for s in group.species) for site in group.sites}
        if held - set(group.species) or len(each) > 1:
            what = "differ" if held <= set(group.species) else f"hold {', '.join(sorted(held - set(group.species)))}"
            raise ValueError(f"the sites of group '{group.name}' ({'/'.join(group.species)}) {what}; pass weights=")
        weights += each.pop()
    return weights
