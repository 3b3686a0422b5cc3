"""Structures of files become systems."""

import gzip
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

import alchemjax as aj

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.usefixtures("cache")


# --- read: examples and CIF -------------------------------------------------------------------------------------------

# file: species of the sites, space group, shortest distance [A]
EXAMPLE_FACTS = {
    "CeO2": ("Ce4O8", "Fm-3m", 2.343),
    "NaCl": ("Na4Cl4", "Fm-3m", 2.820),
    "GaN": ("Ga2N2", "P6_3mc", 1.949),
    "AlN": ("Al2N2", "P6_3mc", 1.889),
    "BiSBr": ("Bi4S4Br4", "Pnma", 2.636),
    "CsPbI3": ("CsPbI3", "Pm-3m", 3.145),
    "CsPbI3_delta": ("Cs4Pb4I12", "Pnma", 3.103),
    "Fe": ("Fe2", "Im-3m", 2.482),
    "Ce0.5Zr0.5O2": ("Ce4O8", "Fm-3m", 2.282),
}


@pytest.mark.parametrize("name", EXAMPLE_FACTS)
def test_example_is_the_structure_it_says(name):
    spglib = pytest.importorskip("spglib")
    formula, group, distance = EXAMPLE_FACTS[name]
    system = aj.read(EXAMPLES / f"{name}.cif")
    atoms = aj.to_atoms(system)
    assert (str(atoms.symbols), atoms.pbc.all()) == (formula, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_spacegroup((atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers))
    assert found.split()[0] == group
    assert abs(neighbor_list("d", atoms, 4.0).min() - distance) < 1e-3
    assert len(system.weights) == (2 if "0.5" in name else 0)


def test_examples_are_all_described():
    assert {path.stem for path in EXAMPLES.glob("*.cif")} == set(EXAMPLE_FACTS)
    table = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.cif`" in table for name in EXAMPLE_FACTS)


@pytest.mark.slow
@pytest.mark.parametrize("name, force, pressure", [("BiSBr", 0.005, 2.5), ("Ce0.5Zr0.5O2", 1e-4, 5)])
def test_example_is_near_equilibrium_of_the_shipped_potential(name, force, pressure):
    out = aj.calculate(aj.load("sevennet-0"), aj.read(EXAMPLES / f"{name}.cif"))
    assert np.abs(out.forces).max() < force
    assert 0.1 < np.abs(out.stress).max() * 160.2 < pressure  # GPa


HEADER = """data_test
_cell_length_a {a}
_cell_length_b {b}
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {gamma}
{symmetry}
loop_
_atom_site_label
{columns}
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
FCC = "_space_group_name_H-M_alt 'F m -3 m'\n_space_group_IT_number 225"


def cif(tmp_path, rows, symmetry=FCC, a=5.3, b=5.3, c=5.3, gamma=90, typed=True, name="a.cif"):
    """A CIF of `label type x y z occupancy` rows (without type where not `typed`)."""
    columns = "_atom_site_type_symbol" if typed else "_atom_site_calc_flag"
    text = HEADER.format(a=a, b=b, c=c, gamma=gamma, symmetry=symmetry, columns=columns)
    (tmp_path / name).write_text(text + "\n".join(rows) + "\n")
    return tmp_path / name


def with_pymatgen(path):
    core = pytest.importorskip("pymatgen.core")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return core.Structure.from_file(path, occupancy_tolerance=1)


SYMOPS = "loop_\n_space_group_symop_operation_xyz\n{}\n"
DISORDERED = {
    "two species": (["Ce1 Ce 0 0 0 0.25", "Zr1 Zr 0 0 0 0.75", "O1 O .25 .25 .25 1"], FCC),
    "vacancies": (["Ce1 Ce 0 0 0 1", "O1 O .25 .25 .25 0.875"], FCC),
    "two oxidation states": (
        ["Ce1 Ce3+ 0 0 0 0.25", "Ce2 Ce4+ 0 0 0 0.25", "Zr1 Zr4+ 0 0 0 0.5", "O1 O2- .25 .25 .25 1"],
        FCC,
    ),
    "a whole cell away": (["Ce1 Ce 0 0 0 0.25", "Zr1 Zr 1 0 -1 0.5", "O1 O .25 .25 .25 1"], FCC),
    "equivalent place": (["Ce1 Ce 0 0 0 0.25", "Zr1 Zr .5 .5 0 0.5", "O1 O .75 .25 .25 1"], FCC),
    "rounded coordinates": (["Fe1 Fe 0.3333 0 0 0.5", "Mn1 Mn 0.33333 0 0 .25"], SYMOPS.format("'x,y,z'\n'-x,y,z'")),
    "inversion off the origin": (
        ["Fe1 Fe .1 .2 .3 0.5"],
        SYMOPS.format("'x,y,z'\n'1/2-x,1/2-y,1/2-z'") + "_space_group_IT_number 2\n_space_group_name_H-M_alt 'P -1'",
    ),
    "one operation": (["Fe1 Fe .1 .2 .3 0.5", "O1 O .6 .2 .3 1(2)"], "_symmetry_equiv_pos_as_xyz x,y,z"),
}


@pytest.mark.parametrize("case", DISORDERED)
def test_occupancies_are_those_that_pymatgen_reads(case, tmp_path):
    path = cif(tmp_path, *DISORDERED[case])
    system, other = aj.read(path, groups="site"), aj.from_pymatgen(with_pymatgen(path), groups="site")
    assert len(system.weights) > 0

    def table(system):  # fractional coordinates and weights of every site, in an order of their own
        weights = np.append(system.weights, 1.0)[system.sites.node_weight]
        sites = [{} for _ in system.structure.positions]
        for site, species, weight in zip(system.sites.node_site, system.sites.node_species, weights, strict=True):
            sites[site][species] = round(float(weight), 9)
        places = np.round(system.structure.positions / 5.3, 3) % 1
        return sorted((tuple(place.tolist()), sorted(site.items())) for place, site in zip(places, sites, strict=True))

    assert table(system) == table(other)


def test_two_oxidation_states_and_equivalent_places_are_summed_where_ase_drops_them(tmp_path):
    for case, weights in (("two oxidation states", [0.5, 0.5]), ("equivalent place", [0.25, 0.5])):
        path = cif(tmp_path, *DISORDERED[case])
        system = aj.read(path)
        assert [(len(g.sites), g.species) for g in system.sites.groups] == [(4, ("Ce", "Zr"))]
        assert system.weights.tolist() == weights
        with pytest.raises(ValueError, match="ASE lost occupancies"):
            aj.from_atoms(ase.io.read(path))


def test_deuterium_is_hydrogen_and_is_summed_with_it(tmp_path):
    system = aj.read(cif(tmp_path, ["D1 D 0 0 0 0.5", "H1 H 0 0 0 0.25", "O1 O .25 .25 .25 1"]))
    assert [g.species for g in system.sites.groups] == [("H",)] and system.weights.tolist() == [0.75]


def test_redundant_rows_count_once_and_contradictions_are_refused(tmp_path):
    rows = ["Ce1 Ce 0 0 0 .5", "Zr1 Zr 0 0 0 .25", "Ce2 Ce 0 .5 .5 .5", "Zr2 Zr 0 .5 .5 .25"]
    system = aj.read(cif(tmp_path, rows))
    assert [len(g.sites) for g in system.sites.groups] == [4] and system.weights.tolist() == [0.5, 0.25]
    with pytest.raises(
        ValueError, match="equivalent positions hold Ce 0.5, Zr 0.25 and Ce 0.5, Zr 0.125; list every site once"
    ):
        aj.read(cif(tmp_path, [*rows[:3], "Zr2 Zr 0 .5 .5 .125", "Ce3 Ce .5 .5 0 .25"]))
    with pytest.raises(ValueError, match="sum to 2; give numbers from 0 to 1"):
        aj.read(cif(tmp_path, ["Ce1 Ce 0 0 0 1", "Zr1 Zr 0 0 0 1"]))


def test_groups_mix_and_coupling_reach_the_system(tmp_path):
    path = cif(tmp_path, DISORDERED["two species"][0])
    system = aj.read(path, {"Ce": ("Zr", "Hf", "Ce")}, groups="site", coupling="paired")
    assert [g.name for g in system.sites.groups] == [f"Zr[{site}]" for site in range(4)]
    assert system.weights.tolist() == [0.75, 0, 0.25] * 4 and system.coupling == "paired"
    assert aj.read(path, {"Ce": ("Ti",)}, weights={"Ce": {"Ti": 0.5}}).weights.tolist() == [0.5]
    system = aj.read(path, groups=[{"sites": [0, 1, 2, 3], "species": ["Ce", "Zr"], "name": "A"}])
    assert [g.name for g in system.sites.groups] == ["A"]


def test_occupancy_that_is_unknown_or_absent_is_one(tmp_path):
    path = cif(tmp_path, ["Ce1 Ce 0 0 0 ?", "O1 O .25 .25 .25 ."])
    assert len(aj.read(path).weights) == 0
    path.write_text(path.read_text().replace("_atom_site_occupancy", "_atom_site_thermal_displace_type"))
    assert len(aj.read(path).weights) == 0


@pytest.mark.parametrize(
    "label, species",
    [("Ce1", "Ce"), ("O", "O"), ("OW1", "O"), ("Ow2", "O"), ("CB", "C"), ("XE1", "Xe"), ("Fe3+", "Fe")],
)
def test_label_without_type_names_the_element(label, species, tmp_path):
    system = aj.read(cif(tmp_path, [f"{label} d 0 0 0 1"], typed=False))
    assert set(system.sites.node_species) == {species}


@pytest.mark.parametrize("label", ["CA1", "CO2", "HO1", "NA1"])
def test_ambiguous_label_is_refused_and_its_type_is_not(label, tmp_path):
    with pytest.raises(ValueError, match=f"'{label}' may be .* or .; add _atom_site_type_symbol"):
        aj.read(cif(tmp_path, [f"{label} d 0 0 0 1"], typed=False))
    assert len(set(aj.read(cif(tmp_path, [f"{label} {label[:2]} 0 0 0 1"])).sites.node_species)) == 1


@pytest.mark.parametrize("vacancy", ["Va", "Vac1", "X", "VAC", "Wat"])
def test_vacancy_in_a_cif_is_refused_as_a_species(vacancy, tmp_path):
    with pytest.raises(
        ValueError, match="could not be read as a structure: '.*' is not an element; leave vacancies out"
    ):
        aj.read(cif(tmp_path, ["O1 O 0 0 0 0.5", f"V1 {vacancy} 0 0 0 0.5"]))


def test_listed_operations_win_over_the_space_group_name(tmp_path):
    listed = SYMOPS.format("'x,y,z'\n'x+1/2,y+1/2,z'") + FCC
    assert len(aj.read(cif(tmp_path, ["Ce1 Ce 0 0 0 1"], listed)).structure.positions) == 2


def test_space_group_with_two_origins_needs_its_operations(tmp_path):
    symmetry = "_space_group_name_H-M_alt 'F d -3 m :2'\n_space_group_IT_number 227"
    with pytest.raises(ValueError, match="space group 227 has several settings; list the symmetry operations"):
        aj.read(cif(tmp_path, ["C1 C .125 .125 .125 1"], symmetry))
    chosen = symmetry.replace(" :2", "") + "\n_symmetry_space_group_setting 2"
    assert len(aj.read(cif(tmp_path, ["C1 C .125 .125 .125 1"], chosen)).structure.positions) == 8


def test_rhombohedral_group_follows_the_cell(tmp_path):
    symmetry = "_space_group_name_H-M_alt 'R -3 m'\n_space_group_IT_number 166"
    path = cif(tmp_path, ["Bi1 Bi 0 0 .234 1"], symmetry, a=4.5, b=4.5, c=11.9, gamma=120)
    assert len(aj.read(path).structure.positions) == 6
    path.write_text(
        path.read_text()
        .replace("11.9", "4.5")
        .replace("_alpha 90", "_alpha 57")
        .replace("_beta 90", "_beta 57")
        .replace("120", "57")
    )
    path.write_text(path.read_text().replace("0 0 .234", ".234 .234 .234"))
    assert len(aj.read(path).structure.positions) == 2


def test_crystal_system_in_the_file_raises_no_warning(tmp_path):
    symmetry = SYMOPS.format("'x,y,z'") + "_space_group_crystal_system triclinic\n_symmetry_cell_setting cubic"
    assert len(aj.read(cif(tmp_path, ["Fe1 Fe 0 0 0 1"], symmetry)).structure.positions) == 1


def test_cif_without_a_cell_is_a_molecule(tmp_path):
    atoms = molecule("H2O")
    ase.io.write(tmp_path / "water.cif", atoms)
    system = aj.read(tmp_path / "water.cif")
    assert not system.structure.pbc.any() and system.sites.node_species == ("O", "H", "H")
    np.testing.assert_allclose(system.structure.positions, atoms.positions)


def test_compressed_cif_is_read(tmp_path):
    (tmp_path / "a.cif.gz").write_bytes(gzip.compress((EXAMPLES / "GaN.cif").read_bytes()))
    assert aj.read(tmp_path / "a.cif.gz").sites.node_species == ("Ga", "Ga", "N", "N")


# --- read: other files and errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["POSCAR", "a.xyz", "a.traj", "a.json", "a@b.xyz"])
def test_files_of_ase_are_read(name, tmp_path):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    ase.io.write(tmp_path / name, atoms)
    system = aj.read(str(tmp_path / name), {"Na": ("Na", "K")})
    np.testing.assert_allclose(system.structure.positions, atoms.positions, atol=1e-7)
    assert system.structure.pbc.all() and system.sites.groups[0].species == ("Na", "K")


def test_existing_file_is_read_whatever_its_name_looks_like(tmp_path):
    ase.io.write(tmp_path / "a.xyz", bulk("Na"))
    (tmp_path / "a.xyz").rename(tmp_path / "a@1")
    assert aj.read(tmp_path / "a@1").sites.node_species == ("Na",)


def test_one_of_several_structures_is_chosen_by_number_only(tmp_path):
    frames = [bulk("Na", a=a) for a in (4.0, 4.1, 4.2)]
    ase.io.write(tmp_path / "run.xyz", frames)
    with pytest.raises(ValueError, match="run.xyz' holds 3 structures; choose one by its number, like '.*run.xyz@0'"):
        aj.read(tmp_path / "run.xyz")
    for number in (0, 1, -1):
        system = aj.read(f"{tmp_path}/run.xyz@{number}")
        np.testing.assert_allclose(system.structure.cell, frames[number].cell[:])
    with pytest.raises(ValueError, match="run.xyz@3' is not there; the last structure is '.*run.xyz@2'"):
        aj.read(f"{tmp_path}/run.xyz@3")


def test_several_data_blocks_are_ambiguous_unless_one_holds_a_structure(tmp_path):
    text = (EXAMPLES / "NaCl.cif").read_text()
    (tmp_path / "a.cif").write_text("data_global\n_journal_year 1953\n" + text)
    assert len(aj.read(tmp_path / "a.cif").structure.positions) == 8
    (tmp_path / "a.cif").write_text(text + (EXAMPLES / "Fe.cif").read_text())
    with pytest.raises(ValueError, match="holds 2 structures; choose one"):
        aj.read(tmp_path / "a.cif")
    assert aj.read(f"{tmp_path}/a.cif@1").sites.node_species == ("Fe", "Fe")


BAD = {
    "missing.cif": (None, "does not exist; give a structure file"),
    "missing.xyz": (None, "does not exist; give a structure file"),
    "empty.cif": ("", "is empty; give a structure file"),
    "blank.cif": ("# nothing\n", "holds no structure; give a file with atoms in it"),
    "unknown.cif": ((EXAMPLES / "Fe.cif").read_text().replace("Fe1 Fe", "Fe1 ?"), "holds no structure"),
    "empty.xyz": ("", "is empty; give a structure file"),
    "text.cif": ("hello\nworld\n", "fits no format that is known; give a CIF"),
    "words.cif": ("data_a\nhello\n", "could not be read as a structure: Unexpected CIF file entry"),
    "cell.cif": ("data_a\n_cell_length_a 3\n", "holds no structure"),
    "none.xyz": ("0\n\n", "holds no structure"),
    "short.xyz": ("3\n\nH 0 0 0\n", "could not be read as a structure"),
    "a.unknown": ("hello", "fits no format that is known; give a CIF"),
    "binary.cif": (bytes(range(256)) * 4, "fits no format that is known; give a CIF"),
    "group.cif": (
        (EXAMPLES / "Fe.cif").read_text().replace("'I m -3 m'", "'I x'").replace("229", "999"),
        "could not be read",
    ),
    "number.cif": (
        (EXAMPLES / "Fe.cif").read_text().replace("Fe 0 0 0 1", "Fe 0 0 0 much"),
        r"its occupancies are \['much'\]",
    ),
    "negative.cif": (
        (EXAMPLES / "Fe.cif").read_text().replace("Fe 0 0 0 1", "Fe 0 0 0 -0.5"),
        "the occupancy of Fe1 is -0.5; it may not be negative",
    ),
    "place.cif": (
        (EXAMPLES / "Fe.cif").read_text().replace("Fe 0 0 0 1", "Fe 0 ? 0 1"),
        "its _atom_site_fract_y is '\\?', not a number",
    ),
    "length.cif": (
        (EXAMPLES / "Fe.cif").read_text().replace("length_b                   2.8664", "length_b abc"),
        "its _cell_length_b is 'abc', not a number",
    ),
    "angle.cif": (
        (EXAMPLES / "Fe.cif").read_text().replace("_cell_angle_beta", "_cell_angel_beta"),
        "it has no _cell_angle_beta; give all six cell parameters",
    ),
    "flat.cif": (
        (EXAMPLES / "Fe.cif").read_text().replace("length_c                   2.8664", "length_c 0"),
        r"its cell \[.*\] has no volume",
    ),
    "row.cif": ((EXAMPLES / "Fe.cif").read_text().replace("Fe 0 0 0 1", "Fe 0 0"), "could not be read"),
    "picture.png": (b"\x89PNG\r\n\x1a\n" * 9, "Can't read from png-format; give a CIF, an extended XYZ or what else"),
    "over.cif": (
        (EXAMPLES / "Fe.cif").read_text().replace("Fe1 Fe 0 0 0 1", "Fe1 Fe 0 0 0 0.8\nNa1 Na 0 0 0 0.8"),
        "over.cif': the occupancies Fe 0.8, Na 0.8 of one site sum to 1.6; give numbers",
    ),
    "folder.cif": ("folder", "is a directory; give a structure file"),
}


@pytest.mark.parametrize("name", BAD)
def test_file_that_is_no_structure_is_refused_in_one_sentence(name, tmp_path):
    content, sentence = BAD[name]
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=sentence) as caught:
        aj.read(path)
    assert caught.type is ValueError and caught.value.__cause__ is None
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
