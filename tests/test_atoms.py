"""ASE and pymatgen atoms become systems and come back."""

import subprocess
import sys
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.spacegroup import crystal

import alchemjax as aj

EXAMPLES = Path(__file__).parents[1] / "examples"


def rock_salt():
    """Eight ions; sites 0, 2, 4 and 6 are sodium."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.05, seed=3)
    return atoms


def fluorite(occupancies=(0.5, 0.5, 1.0)):
    """Ce and Zr on sites 0 to 3, oxygen on sites 4 to 11, as ASE makes them from a CIF."""
    basis = [(0, 0, 0), (0, 0, 0), (0.25, 0.25, 0.25)]
    options = {"spacegroup": 225, "cellpar": [5.3] * 3 + [90] * 3, "onduplicates": "keep"}
    return crystal(["Ce", "Zr", "O"], basis, occupancies=list(occupancies), **options)


def layout(system):
    return [(g.name, g.sites, g.species) for g in system.sites.groups]


def assert_same_system(one, other, atol=0.0):
    assert one.sites.groups == other.sites.groups
    assert one.sites.node_species == other.sites.node_species
    for a, b in zip(one.sites[1:], other.sites[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.coupling == other.coupling
    for a, b in zip(one.structure, other.structure, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=0)


# --- from_atoms: groups and weights -----------------------------------------------------------------------------------


def test_ordinary_atoms_have_no_weights_and_keep_cell_and_periodicity():
    atoms = rock_salt()
    atoms.pbc = (True, False, True)
    system = aj.from_atoms(atoms)
    assert layout(system) == [] and len(system.weights) == 0 and system.coupling == "independent"
    assert system.sites.node_species == tuple(atoms.symbols)
    np.testing.assert_array_equal(system.structure.positions, atoms.positions)
    np.testing.assert_array_equal(system.structure.cell, atoms.cell[:])
    assert system.structure.pbc.tolist() == [True, False, True]


def test_one_group_drives_all_sites_of_a_shared_entry():
    system = aj.from_atoms(rock_salt(), {"Na": ("Na", "K"), 1: ["Cl"]}, coupling="paired")
    assert layout(system) == [("Na", (0, 2, 4, 6), ("Na", "K")), ("1", (1,), ("Cl",))]
    assert system.weights.tolist() == [1, 0, 1] and system.coupling == "paired"


def test_site_groups_stand_in_order_of_site_whatever_the_order_of_mix():
    system = aj.from_atoms(rock_salt(), {"Cl": ("O", "Cl"), (6, 0): ("K", "Na")}, groups="site")
    names = ["Na[0]", "Cl[1]", "Cl[3]", "Cl[5]", "Na[6]", "Cl[7]"]
    assert [(g.name, g.sites) for g in system.sites.groups] == [
        (n, (s,)) for n, s in zip(names, [0, 1, 3, 5, 6, 7], strict=True)
    ]
    assert system.weights.tolist() == [0, 1] * 6


def test_listed_groups_keep_their_order_and_get_distinct_names():
    groups = [
        {"sites": [4, 2], "species": ["K", "Na"]},
        {"sites": (1, 3), "species": ("Cl",), "name": "halide"},
        {"sites": np.array([0, 0]), "species": ["K", "Na"]},
    ]
    system = aj.from_atoms(rock_salt(), groups=groups)
    expected = [("K/Na[2]", (2, 4), ("K", "Na")), ("halide", (1, 3), ("Cl",)), ("K/Na[0]", (0,), ("K", "Na"))]
    assert layout(system) == expected
    assert system.weights.tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    "selector, sites",
    [
        ("Cl", (1, 3, 5, 7)),
        (5, (5,)),
        (np.int64(5), (5,)),
        ((7, 1), (1, 7)),
        ("7,1", (1, 7)),
        ("5", (5,)),
        ("tag:3", (3, 7)),
    ],
)
def test_selector_finds_its_sites(selector, sites):
    atoms = rock_salt()
    atoms.set_tags([0, 1, 2, 3, 0, 1, 2, 3])
    assert aj.from_atoms(atoms, {selector: ("Cl", "O")}).sites.groups[0].sites == sites


def test_symbol_selects_sites_that_hold_any_of_it_and_none_that_hold_nothing_of_it():
    atoms = fluorite((0.25, 0.75, 1))
    assert str(atoms.symbols[:4]) == "Zr4"
    assert aj.from_atoms(atoms, {"Ce": ("Ce", "Zr")}).sites.groups[0].sites == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="mix entry 'Ce' selects no site"):
        aj.from_atoms(fluorite((0, 1, 1)), {"Ce": ("Ce", "Zr")})


def test_given_weights_win_over_defaults():
    atoms = rock_salt()
    assert aj.from_atoms(atoms, {"Na": ("K", "Li")}, weights=[0.25, 0.5]).weights.tolist() == [0.25, 0.5]
    assert aj.from_atoms(atoms, {"Na": ("K", "Li")}, weights={"Na": {"Li": 0.5}}).weights.tolist() == [0, 0.5]
    assert aj.from_atoms(fluorite(), weights=[0.125, 0.25]).weights.tolist() == [0.125, 0.25]


@pytest.mark.parametrize(
    "mix, groups, sentence",
    [
        ({"Xe": ("Xe",)}, "shared", "mix entry 'Xe' selects no site; there are Na, Cl"),
        ({"tag:4": ("Na",)}, "shared", "mix entry 'tag:4' selects no site; there are the tags 0"),
        ({8: ("Na",)}, "shared", "mix entry 8 names a site that is not there; sites run 0 to 7"),
        ({(0, -1): ("Na",)}, "shared", r"mix entry \(0, -1\) names a site that is not there; sites run 0 to 7"),
        ({(): ("Na",)}, "shared", r"mix entry \(\) selects no site; there are 8 sites"),
        ({1.5: ("Na",)}, "shared", "mix entry 1.5 is not understood; give a chemical symbol"),
        ({"0,x": ("Na",)}, "shared", "mix entry '0,x' is not understood"),
        (
            {"Na": ("Na", "K"), (1, 2): ("Cl",)},
            "shared",
            "mix entries 'Na' and '1,2' both select site 2; select it once",
        ),
        ({"Na": ("Na", "K"), (1, 2): ("Cl",)}, "site", "both select site 2"),
        ({"Na": "K"}, "shared", r"mix entry 'Na' gives 'K'; give a tuple of species, like \('K',\)"),
        ({"Na": ("K", "Li")}, "shared", r"the sites of group 'Na' \(K/Li\) hold Na; pass weights="),
        ({(0, 1): ("Na", "Cl")}, "shared", r"the sites of group '0,1' \(Na/Cl\) differ; pass weights="),
        ({"Na": ("Na", "Na")}, "shared", "group 'Na' lists a species twice"),
        ({"Na": ("Na", "Qq")}, "shared", "species 'Qq' is not a chemical element"),
        (None, "all", "groups 'all' is unknown; allowed are 'shared', 'site' or a list of dicts"),
        ({"Na": ("Na",)}, [{"sites": [0], "species": ["Na"]}], "mix and a list of groups were both given"),
        (None, [{"sites": [0]}], "group {'sites': \\[0\\]} is not understood"),
        (None, [{"sites": [0], "species": ["Na"], "weight": 1}], "is not understood; give {'sites'"),
        (None, [{"sites": [0], "species": "Na"}], "group .* is not understood; give {'sites'"),
        (None, [{"sites": ["Na"], "species": ["Na"]}], "group .* is not understood; give {'sites'"),
        (None, ["Na"], "group 'Na' is not understood; give {'sites'"),
        ([("Na", "K")], "shared", r"mix is \[\('Na', 'K'\)\]; give a dict like {'Ce': \('Ce', 'Zr'\)}"),
        (None, [{"sites": [9], "species": ["Na"]}], "names site 9; sites run from 0 to 7"),
        (None, [{"sites": [0], "species": ["Na"]}, {"sites": [2, 0], "species": ["K"]}], "site 0 is in two groups"),
        (None, [{"sites": [s], "species": ["Na"], "name": "a"} for s in (0, 2)], "two groups are named 'a'"),
    ],
)
def test_wrong_groups_are_refused_in_one_sentence(mix, groups, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        aj.from_atoms(rock_salt(), mix, groups)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vacancy", ["X", "Va", "vacancy", ""])
def test_vacancy_is_refused_as_a_species_with_the_way_to_write_it(vacancy):
    for groups in ({"mix": {"Cl": ("Cl", vacancy)}}, {"groups": [{"sites": [1], "species": ["Cl", vacancy]}]}):
        with pytest.raises(
            ValueError, match=r"a vacancy is not a species.*the other species only, and weights that sum to less than 1"
        ):
            aj.from_atoms(rock_salt(), **groups)
    with pytest.raises(ValueError, match="a vacancy is not a species"):
        aj.from_atoms(Atoms("X", [(0, 0, 0)]))


@pytest.mark.parametrize("what", ["NaCl.cif", None, 3])
def test_anything_but_atoms_is_refused(what):
    with pytest.raises(ValueError, match="takes ase.Atoms, not (str|NoneType|int); files go through alchemjax.read"):
        aj.from_atoms(what)


def test_wrong_coupling_and_weights_are_refused():
    with pytest.raises(ValueError, match="coupling 'strong' is unknown"):
        aj.from_atoms(rock_salt(), coupling="strong")
    with pytest.raises(ValueError, match="sum to 1.2"):
        aj.from_atoms(rock_salt(), {"Na": ("Na", "K")}, weights=[0.6, 0.6])


# --- from_atoms: occupancies ------------------------------------------------------------------------------------------


def test_partial_occupancies_become_one_group_for_every_kind():
    system = aj.from_atoms(fluorite((0.25, 0.5, 0.875)))
    assert layout(system) == [("Ce/Zr", (0, 1, 2, 3), ("Ce", "Zr")), ("O", tuple(range(4, 12)), ("O",))]
    assert system.weights.tolist() == [0.25, 0.5, 0.875]


def test_partial_occupancies_become_a_group_for_every_site():
    system = aj.from_atoms(fluorite((0.25, 0.75, 1)), groups="site")
    assert layout(system) == [(f"Zr[{site}]", (site,), ("Ce", "Zr")) for site in range(4)]
    assert system.weights.tolist() == [0.25, 0.75] * 4


def test_whole_occupancies_are_ordinary_atoms():
    assert (
        layout(
            aj.from_atoms(crystal("Fe", [(0, 0, 0)], occupancies=[1.0], spacegroup=229, cellpar=[2.9] * 3 + [90] * 3))
        )
        == []
    )


def test_occupancies_are_default_weights_of_mix():
    system = aj.from_atoms(fluorite((0.25, 0.625, 1)), {"Ce": ("Zr", "Ti", "Ce")})
    assert layout(system) == [("Ce", (0, 1, 2, 3), ("Zr", "Ti", "Ce"))]
    assert system.weights.tolist() == [0.625, 0, 0.25]
    with pytest.raises(ValueError, match=r"the sites of group 'Ce' \(Ce/Ti\) hold Zr; pass weights="):
        aj.from_atoms(fluorite(), {"Ce": ("Ce", "Ti")})


def test_partial_occupancies_that_mix_leaves_out_are_not_dropped_silently():
    with pytest.raises(ValueError, match="site 0 is occupied by Ce 0.5, Zr 0.5 and in no group; mix its species too"):
        aj.from_atoms(fluorite(), {"O": ("O",)})
    with pytest.raises(ValueError, match="site 4 is occupied by O 0.5 and in no group"):
        aj.from_atoms(fluorite((0.5, 0.5, 0.5)), groups=[{"sites": [0, 1, 2, 3], "species": ["Ce", "Zr"]}])


def test_kinds_survive_repetition_and_removal_of_atoms():
    atoms = fluorite((0.25, 0.5, 0.875))
    assert [len(g.sites) for g in aj.from_atoms(atoms.repeat((2, 1, 1))).sites.groups] == [8, 16]
    del atoms[[0, 5]]
    assert [g.sites for g in aj.from_atoms(atoms).sites.groups] == [(0, 1, 2), tuple(range(3, 10))]
    whole = fluorite((0.25, 0.75, 1.0))[:4]
    assert layout(aj.from_atoms(whole)) == [("Ce/Zr", (0, 1, 2, 3), ("Ce", "Zr"))]


def test_replaced_symbol_counts_on_a_whole_site_and_is_refused_on_a_mixed_one():
    atoms = fluorite()
    atoms.symbols[4] = "F"
    assert aj.from_atoms(atoms).sites.node_species[8] == "F"
    atoms.symbols[1] = "Hf"
    with pytest.raises(ValueError, match="site 1 is Hf, but its occupancies are Ce 0.5, Zr 0.5;"):
        aj.from_atoms(atoms)


def test_rounded_occupancies_are_scaled_to_one_and_larger_ones_refused():
    atoms = fluorite()
    atoms.info["occupancy"]["0"] = {"Ce": 0.334, "Zr": 0.668}
    np.testing.assert_allclose(aj.from_atoms(atoms).weights, np.array([0.334, 0.668]) / 1.002, rtol=1e-12)
    for amounts, what in (
        ({"Ce": 0.4, "Zr": 0.7}, "Ce 0.4, Zr 0.7 of one site sum to 1.1; give numbers from 0 to 1"),
        ({"Ce": -0.1, "Zr": 0.7}, "Ce -0.1, Zr 0.7 of one site are not all positive; give numbers from 0 to 1"),
        ({"Zr": np.nan}, "Zr nan of one site are not all positive"),
    ):
        atoms.info["occupancy"]["0"] = amounts
        with pytest.raises(ValueError, match=f"^the occupancies {what}"):
            aj.from_atoms(atoms)


def test_occupancies_without_matching_kinds_are_refused():
    atoms = fluorite()
    del atoms.info["occupancy"]["0"]
    with pytest.raises(
        ValueError, match=r"\['occupancy'\] has the kinds 1, 2, .*\['spacegroup_kinds'\] has 0, 2; correct"
    ):
        aj.from_atoms(atoms)
    atoms = fluorite()
    del atoms.arrays["spacegroup_kinds"]
    with pytest.raises(ValueError, match="has the kinds 0, 1, 2, .* has none .*delete atoms.info"):
        aj.from_atoms(atoms)


def test_kinds_that_a_trajectory_lost_are_not_taken_for_sites(tmp_path):
    pair = aj.to_atoms(aj.from_atoms(rock_salt()[:2], {1: ("Cl", "O")}))
    pair.write(tmp_path / "a.traj")
    back = ase.io.read(tmp_path / "a.traj")
    assert len(back.info["occupancy"]) == len(back) and "spacegroup_kinds" not in back.arrays
    with pytest.raises(ValueError, match=r"has none \(.traj files lose them, extended XYZ does not\)"):
        aj.from_atoms(back)


@pytest.mark.parametrize(
    "rows", ["Ce3+ 0 0 0 .25,Ce4+ 0 0 0 .25,Zr4+ 0 0 0 .5", "Ce 0 0 0 .5,Zr .5 .5 0 .5", "Fe2+ 0 0 0 .4,Fe3+ 0 0 0 .4"]
)
def test_occupancies_that_ase_lost_are_refused_not_guessed(rows):
    labels, positions, amounts = [], [], []
    for row in rows.split(","):
        label, *rest = row.split()
        labels.append(label[:2])
        positions.append([float(x) for x in rest[:3]])
        amounts.append(float(rest[3]))
    options = {"spacegroup": 225, "cellpar": [5.3] * 3 + [90] * 3, "onduplicates": "keep"}
    atoms = crystal([*labels, "O"], [*positions, (0.25, 0.25, 0.25)], occupancies=[*amounts, 1.0], **options)
    with pytest.raises(
        ValueError, match="ASE lost occupancies when it read these atoms.*read the file with alchemjax.read"
    ):
        aj.from_atoms(atoms)


# --- pymatgen ---------------------------------------------------------------------------------------------------------


def disordered(species, coordinates=((0, 0, 0), (0.5, 0.5, 0.5)), lattice=4.2):
    core = pytest.importorskip("pymatgen.core")
    return core.Structure(core.Lattice.cubic(lattice), species, coordinates)


def test_ordered_pymatgen_structure_is_that_of_ase():
    structure = disordered(["Na", "Cl"])
    system = aj.from_pymatgen(structure, {"Na": ("Na", "K")}, coupling="paired")
    atoms = Atoms("NaCl", [(0, 0, 0), (2.1, 2.1, 2.1)], cell=np.eye(3) * 4.2, pbc=True)
    assert_same_system(system, aj.from_atoms(atoms, {"Na": ("Na", "K")}, coupling="paired"))


def test_oxidation_states_of_one_element_are_summed():
    system = aj.from_pymatgen(disordered([{"Fe2+": 0.25, "Mg2+": 0.125, "Fe3+": 0.5}, "O2-"]))
    assert layout(system) == [("Fe/Mg", (0,), ("Fe", "Mg"))]
    assert system.weights.tolist() == [0.75, 0.125]
    assert system.sites.node_species == ("Fe", "Mg", "O")


def test_pymatgen_sites_of_one_composition_share_a_group_only_under_one_label():
    structure = disordered([{"Fe": 0.5}] * 4, [(0, 0, 0), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)])
    assert [g.sites for g in aj.from_pymatgen(structure).sites.groups] == [(0, 1, 2, 3)]
    structure[1].label = structure[3].label = "M2"
    system = aj.from_pymatgen(structure)
    assert [(g.name, g.sites) for g in system.sites.groups] == [("Fe[0]", (0, 2)), ("Fe[1]", (1, 3))]
    assert [g.sites for g in aj.from_pymatgen(structure, groups="site").sites.groups] == [(0,), (1,), (2,), (3,)]


def test_pymatgen_periodicity_molecules_and_hydrogen_isotopes_are_understood():
    core = pytest.importorskip("pymatgen.core")
    slab = core.Structure(core.Lattice(np.diag([3.0, 4.0, 20.0]), pbc=(True, True, False)), ["D"], [(0, 0, 0.5)])
    system = aj.from_pymatgen(slab)
    assert system.structure.pbc.tolist() == [True, True, False] and system.sites.node_species == ("H",)
    system = aj.from_pymatgen(core.Molecule(["O", "H", "H"], molecule("H2O").positions))
    assert not system.structure.pbc.any() and not system.structure.cell.any()
    np.testing.assert_allclose(system.structure.positions, molecule("H2O").positions)


def test_pymatgen_dummies_and_foreign_objects_are_refused():
    core = pytest.importorskip("pymatgen.core")
    with pytest.raises(ValueError, match="species 'X' is not a chemical element; a vacancy is not a species"):
        aj.from_pymatgen(disordered([{core.DummySpecies("X"): 0.5, "Fe": 0.5}, "O"]))
    for wrong in (rock_salt(), [1, 2], "a.cif"):
        with pytest.raises(ValueError, match="from_pymatgen takes a pymatgen Structure, not (Atoms|list|str)"):
            aj.from_pymatgen(wrong)


# --- to_atoms ---------------------------------------------------------------------------------------------------------

MIXTURES = {
    "ordinary": {},
    "shared": {"mix": {"Na": ("Na", "K", "Li"), "Cl": ("Cl", "O")}, "weights": [0.3, 0.1, 1 / 3, 0.7, 0.2]},
    "site": {"mix": {"Na": ("K", "Na")}, "groups": "site", "weights": np.linspace(0.05, 0.49, 16)},
    "full vacancy variable": {"mix": {"Cl": ("Cl",)}},
    "pure": {"mix": {"Na": ("K", "Na"), 1: ("O", "Cl")}},
    "empty": {"mix": {"Na": ("K", "Na")}, "weights": [0, 0]},
    "listed": {"groups": [{"sites": [s, s + 1], "species": ["Mg", "O"]} for s in (4, 0)], "weights": [0.5, 0.25] * 2},
    "twelve": {
        "groups": [{"sites": [s], "species": ["K"], "name": f"b {s}"} for s in range(12)],
        "weights": np.arange(12) / 12,
    },
}


@pytest.mark.parametrize("case", MIXTURES)
@pytest.mark.parametrize("through", ["memory", "extxyz"])
def test_system_survives_atoms_and_files(case, through, tmp_path):
    atoms = rock_salt().repeat((1, 1, 2))
    system = aj.from_atoms(atoms, coupling="paired", **MIXTURES[case])
    back = aj.to_atoms(system)
    if through != "memory":
        ase.io.write(tmp_path / f"a.{through}", back)
        back = ase.io.read(tmp_path / f"a.{through}")
    assert_same_system(aj.from_atoms(back, coupling="paired"), system, atol=1e-7)


@pytest.mark.parametrize("atoms", [molecule("H2O"), fcc111("Na", (1, 1, 2), a=4.0), rock_salt()[[1, 0]]])
def test_periodicity_and_missing_vectors_survive_extended_xyz(atoms, tmp_path):
    atoms.set_cell(atoms.cell[:] @ np.diag([1, 1, -1]))  # left-handed where it has a volume
    system = aj.from_atoms(atoms, {0: (atoms.symbols[0], "K")})
    ase.io.write(tmp_path / "a.xyz", aj.to_atoms(system))
    assert_same_system(aj.from_atoms(ase.io.read(tmp_path / "a.xyz")), system, atol=1e-7)


def test_symbols_are_the_majority_and_arguments_replace_what_the_system_holds():
    system = aj.from_atoms(rock_salt(), {"Na": ("Na", "K"), 1: ("Cl", "O")}, weights=[0.25, 0.5, 0.3, 0.3])
    assert str(aj.to_atoms(system).symbols) == "KClKClKClKCl"
    atoms = aj.to_atoms(system, np.zeros((8, 3)), np.eye(3), {"Na": {"Na": 1}, "1": {"O": 0.1}})
    assert str(atoms.symbols) == "NaONaClNaClNaCl"
    assert not atoms.positions.any() and atoms.cell.volume == 1
    assert atoms.info["occupancy"]["1"] == {"Cl": 0, "O": 0.1}


def test_kinds_are_those_that_ase_writes_into_a_cif(tmp_path):
    system = aj.from_atoms(rock_salt(), {"Na": ("Na", "K")}, weights=[0.25, 0.5])
    ase.io.write(tmp_path / "a.cif", aj.to_atoms(system))
    back = aj.read(tmp_path / "a.cif")
    assert [g.species for g in back.sites.groups] == [("K", "Na")] * 4
    assert back.weights.tolist() == [0.5, 0.25] * 4


def test_supercell_of_written_atoms_extends_the_groups():
    system = aj.from_atoms(rock_salt(), {"Na": ("Na", "K")}, groups="site", weights=np.arange(8) / 16)
    double = aj.from_atoms(aj.to_atoms(system).repeat((2, 1, 1)))
    assert [(g.name, g.sites) for g in double.sites.groups] == [(f"Na[{s}]", (s, s + 8)) for s in (0, 2, 4, 6)]
    np.testing.assert_array_equal(double.weights, system.weights)


def test_wrong_arguments_of_to_atoms_are_refused():
    system = aj.from_atoms(rock_salt(), {"Na": ("Na", "K")})
    with pytest.raises(ValueError, match="7 positions were given for 8 sites"):
        aj.to_atoms(system, np.zeros((7, 3)))
    with pytest.raises(ValueError, match="weights have shape"):
        aj.to_atoms(system, weights=[1.0])


# --- import -----------------------------------------------------------------------------------------------------------


def test_import_is_light_and_changes_no_setting():
    code = (
        "import jax, os, sys; before = dict(os.environ), jax.config.values.copy(); import alchemjax; "
        "assert before[0] == os.environ and all(jax.config.values[k] == v for k, v in before[1].items()); "
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    modules = set(run.stdout.split())
    assert "alchemjax" in modules
    assert modules.isdisjoint({"pymatgen", "matplotlib", "jax_md", "pymbar", "torch", "pytest"})


def test_pymatgen_structure_of_a_file_is_the_system_that_read_makes():
    core = pytest.importorskip("pymatgen.core")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = core.Structure.from_file(EXAMPLES / "Ce0.5Zr0.5O2.cif")
    system, other = aj.from_pymatgen(structure), aj.read(EXAMPLES / "Ce0.5Zr0.5O2.cif")
    assert [(len(g.sites), g.species) for g in system.sites.groups] == [(4, ("Ce", "Zr"))]
    np.testing.assert_array_equal(system.weights, other.weights)
    assert sorted(system.sites.node_species) == sorted(other.sites.node_species)
