"""Files: potentials by name or path, structures, and writing that leaves a whole file or none."""

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import platformdirs
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.cif import CIFBlock, parse_cif, rhombohedral_spacegroups
from ase.io.formats import UnknownFileTypeError, filetype, open_with_compression
from ase.spacegroup import Spacegroup
from ase.spacegroup.spacegroup import SpacegroupNotFoundError, parse_sitesym

import weights_convert
from alchemjax.atoms import KINDS, OCCUPANCY, from_atoms, shown_amounts
from alchemjax.conversion import conversion_bar, say_recognition
from alchemjax.model.load import Potential, read_model
from alchemjax.system.system import System
from weights_convert.write import VERSION

SHIPPED = Path(__file__).parent / "potentials"
FOREIGN = weights_convert.SUFFIXES | {"": "sevennet"}  # suffix ("" is a folder) -> family
CHECKPOINTS = "*/*.pth", "pretrained_potentials/*/*.pth", "sevenn/pretrained_potentials/*/*.pth"  # in folders of sevenn
ELEMENTS = set(atomic_numbers) - {"X"} | {"D", "T"}
CELL = tuple(f"_cell_{x}" for x in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"))
COORDINATES = tuple(f"_atom_site_{kind}_{x}" for kind in ("fract", "cartn") for x in "xyz")
NO_FORMAT = "its content fits no format that is known"
GIVE = "give a CIF, an extended XYZ or what else ASE reads"
SAME_SITE = 0.05  # A; rows of a CIF that are this close share a site


def load(name_or_path, dtype="float32", head: str | None = None, modality: str | None = None) -> Potential:
    """A potential: a shipped or cached name, a converted model, or a foreign file (.pth, .whl, .nqx, .model, folder).

    Foreign files are converted once, into $ALCHEMJAX_MODELS or the user's data folder; a terminal shows a progress bar
    and what they were recognised as. One model of a file that holds several is chosen by its name:
    "sevenn-0.13.0-py3-none-any.whl@sevennet-l3i5". `dtype` is float32 or float64, by name or as NumPy has it.
    Errors: ValueError for an unknown name, a refused file, an unknown dtype, head or modality.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise ValueError(f"{name_or_path!r} is neither a name nor a path; give one, like 'sevennet-0'")
    if not str(name_or_path).strip():
        raise ValueError("the name of the potential is empty; give a name or a path, like 'sevennet-0'")
    with contextlib.suppress(TypeError):
        dtype = dtype if dtype is None else np.dtype(dtype).name
    return read_model(_model_folder(name_or_path), str(dtype), head=head, modality=modality)


def list_models() -> list[dict]:
    """Shipped and cached models: name, family, where, number of species, licence, dtype, path, sha256 of the source."""
    folders = [("shipped", path.parent) for path in sorted(SHIPPED.glob("*/config.json"))]
    children = [child for child in sorted(_cache().glob("*")) if not child.name.startswith(".")]  # being written
    folders += [("cached", folder) for child in children for folder in _models_in(child)]
    models = []
    for where, folder in folders:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # not a model's config.json
            config = json.loads((folder / "config.json").read_text())
            model = {"name": config["name"], "family": config["family"], "where": where}
            model |= {"species": len(config["species"]), "licence": config["source"].get("licence")}
            model |= {"dtype": config["dtype"], "path": str(folder), "sha256": config["source"].get("sha256")}
            models.append(model)
    return models


def read(path, mix=None, groups="shared", coupling: str = "independent", weights=None) -> System:
    """The system in a file that ASE reads, or in a CIF with partial occupancies; other arguments as in `from_atoms`.

    One of several structures is chosen by its number: "run.xyz@0".
    Errors: ValueError for a file that is missing, not understood, or holds no or several structures.
    """
    name, number = str(path), None
    if not Path(name).exists() and re.search(r"@-?\d+$", name):
        name, number = name.rsplit("@", 1)
    if not Path(name).exists():
        raise ValueError(f"'{name}' does not exist; give a structure file")
    try:
        if filetype(name) == "cif":
            with open_with_compression(name, "rb") as file:
                images = [_cif_atoms(block) for block in parse_cif(file) if block.has_structure()]
        else:
            images = list(ase.io.iread(name, ":", do_not_split_by_at_sign=True))
    except Exception as error:  # ASE's readers raise every kind
        if Path(name).is_dir() or not Path(name).stat().st_size:
            what = "is a directory" if Path(name).is_dir() else "is empty"
            raise ValueError(f"'{name}' {what}; give a structure file") from None
        ours = isinstance(error, UnknownFileTypeError | IndexError | KeyError | TypeError | AttributeError)
        said = "" if ours else str(error).strip()  # of Python's own errors nobody can make use
        what = (said.splitlines() or [NO_FORMAT])[0].rstrip(".")
        advice = "" if ";" in what else f"; {GIVE}"
        raise ValueError(f"'{path}' could not be read as a structure: {what}{advice}") from None
    if number is not None and images:
        if not -len(images) <= int(number) < len(images):
            raise ValueError(f"'{path}' is not there; the last structure is '{name}@{len(images) - 1}'")
        images = [images[int(number)]]
    if len(images) > 1:
        raise ValueError(f"'{path}' holds {len(images)} structures; choose one by its number, like '{name}@0'")
    if not images or not len(images[0]):
        raise ValueError(f"'{path}' holds no structure; give a file with atoms in it")
    try:
        return from_atoms(images[0], mix, groups, coupling, weights)
    except ValueError as error:
        if "the occupancies" not in str(error):
            raise
        raise ValueError(f"'{path}': {error}") from None


def write_atomically(path, writer: Callable[[Path], object]) -> None:
    """Call `writer` with a temporary path in the same folder, then move what it wrote to `path`.

    Errors: ValueError if the file cannot be written; what `writer` raises otherwise, after removing its file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        writer(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise ValueError(f"'{path}' could not be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _cache() -> Path:
    given = os.environ.get("ALCHEMJAX_MODELS")
    return Path(given).expanduser() if given else platformdirs.user_data_path("alchemjax") / "models"


def _models_in(folder: Path) -> list[Path]:
    """Folders of converted models: the folder itself or those directly below it."""
    return sorted(path.parent for pattern in ("config.json", "*/config.json") for path in folder.glob(pattern))


def _model_folder(source) -> Path:
    models = list_models()
    named = [m for m in models if source in (m["name"], Path(m["path"]).name)]  # a Path equals no name
    if len({m["sha256"] for m in named}) > 1 and named[0]["where"] != "shipped":
        raise ValueError(f"'{source}' is the name of {len(named)} models; give {' or '.join(m['path'] for m in named)}")
    if named:
        return Path(named[0]["path"])
    path = Path(source).expanduser()
    if path.is_file() and path.name in ("config.json", "model.safetensors"):
        path = path.parent
    if (path / "config.json").is_file():
        return path
    if path.exists():
        return _convert(path)
    file, _, chosen = str(path).rpartition("@")
    if file and Path(file).exists():
        return _convert(Path(file), chosen)
    if (official := weights_convert.find_official(str(source))) and official.status != "refused":
        raise ValueError(f"'{source}' is not here yet; `alchemjax models {source}` says how to get and convert it")
    if official:
        raise ValueError(f"'{source}' is not supported: it has {official.note}; see alchemjax models")
    names = ", ".join(dict.fromkeys(m["name"] for m in models))
    raise ValueError(f"'{source}' is neither the name of a model nor a file; models here: {names or 'none'}")


def _convert(path: Path, chosen: str | None = None) -> Path:
    """The folder of the chosen, or the only, model of a foreign file. Errors: ValueError where there is no such one."""
    if (suffix := "" if path.is_dir() else path.suffix) not in FOREIGN:
        allowed = ", ".join(s for s in FOREIGN if s)
        raise ValueError(
            f"'{path}' is not a model; give a converted model's folder, {allowed}, or the folder of sevenn; "
            "a file with another ending goes through alchemjax convert"
        )
    if not suffix and not any(file for place in CHECKPOINTS for file in path.glob(place)):
        inside = ", ".join(folder.name for folder in _models_in(path))
        what = f"several models, {inside}: give the path of one" if inside else "no model: it has no config.json"
        raise ValueError(f"the folder '{path}' holds {what}")
    digest = _digest(path)
    out = _cache() / digest[:16]
    same = [Path(model["path"]) for model in list_models() if model["sha256"] == digest]  # shipped, or under a name
    if not (folders := next(filter(None, map(_current, [out, *same])), [])):
        try:
            with conversion_bar() as progress:
                converted = weights_convert.convert(FOREIGN[suffix], path, out, overwrite=True, progress=progress)
            say_recognition(path, converted)
        except OSError as error:
            if not _current(out):  # another process may have been faster
                raise ValueError(
                    f"the converted model could not be written to '{out}' ({error.strerror or error}); "
                    "set ALCHEMJAX_MODELS to a folder that can be written"
                ) from None
        folders = _current(out)
    named = {json.loads((folder / "config.json").read_text())["name"]: folder for folder in folders}
    if chosen is None and len(named) > 1:
        raise ValueError(f"'{path}' holds several models, now converted: load one of them by name ({', '.join(named)})")
    if chosen is not None and chosen not in named:
        raise ValueError(f"'{path}' holds no model '{chosen}'; it holds {', '.join(named)}")
    return folders[0] if chosen is None else named[chosen]


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the checkpoints in the folder of sevenn or the one above it."""
    digest = hashlib.sha256()
    try:
        for file in sorted(f for place in CHECKPOINTS for f in path.glob(place)) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    except OSError as error:
        raise ValueError(f"'{path}' could not be read: {error.strerror or error}") from None
    return digest.hexdigest()


def _current(folder: Path) -> list[Path]:
    """Models in one folder of the cache, if this converter wrote them."""
    found = _models_in(folder)
    if not all((one / "model.safetensors").is_file() for one in found):
        return []
    try:
        versions = {json.loads((one / "config.json").read_text())["converter"]["version"] for one in found}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return found if versions == {VERSION} else []


def _cif_atoms(block: CIFBlock) -> Atoms:
    """The full cell of a CIF's data block, with occupancies in ASE's form; a kind is the number of a row.

    ASE's own reader drops the occupancy of a second oxidation state and of a species listed at an equivalent place.
    """
    _check_numbers(block)
    symbols, amounts = _cif_symbols(block), _cif_amounts(block)
    unit = CIFBlock(block.name, {**block, "_atom_site_type_symbol": [*symbols]}).get_unsymmetrized_structure()
    if len(amounts) != len(symbols):
        raise ValueError(f"it has {len(symbols)} atom sites and {len(amounts)} occupancies")
    if unit.cell.rank not in (0, 3):
        raise ValueError(f"its cell {unit.cell.cellpar().tolist()} has no volume")
    unit.pbc = periodic = unit.cell.rank == 3
    operations = _cif_operations(block, unit.cell.cellpar()) if periodic else (np.eye(3)[None], np.zeros((1, 3)))
    cell = unit.cell.array if periodic else np.eye(3)
    rows = unit.positions @ np.linalg.inv(cell)

    def near(points, point):
        apart = points - point
        return np.linalg.norm((apart - np.rint(apart) * periodic) @ cell, axis=-1) < SAME_SITE

    points, kinds, owners = _images(rows, operations, near)
    table = {}
    for kind in dict.fromkeys(owners):
        places: dict[int, dict[str, float]] = {}  # rows at the same coordinates hold the site together
        for row in np.flatnonzero(np.array(owners) == kind).tolist():
            place = next((p for p in places if near(rows[p], rows[row])), row)
            held = places.setdefault(place, {})
            held[symbols[row]] = held.get(symbols[row], 0.0) + amounts[row]
        table[kind] = _one_site(list(places.values()))
    majority = [max(table[kind], key=table[kind].get) for kind in kinds]
    atoms = Atoms(majority, cell=unit.cell, pbc=unit.pbc, info={OCCUPANCY: {str(k): v for k, v in table.items()}})
    atoms.positions = (points % 1.0 if periodic else points) @ cell
    atoms.set_array(KINDS, np.array(kinds))
    return atoms


def _images(rows, operations, near) -> tuple[np.ndarray, list[int], list[int]]:
    """All images of the rows, the row that each is an image of, and for every row the row whose sites it shares."""
    points, kinds, owners = np.empty((0, 3)), [], []
    rotations, shifts = operations
    for row, at in enumerate(rows):
        shared = np.flatnonzero(near(points, at))
        owners.append(kinds[shared[0]] if len(shared) else row)
        if not len(shared):
            orbit = np.empty((0, 3))
            for image in rotations @ at + shifts:
                if not near(orbit, image).any():
                    orbit = np.vstack([orbit, image])
            points, kinds = np.vstack([points, orbit]), kinds + [row] * len(orbit)
    return points, kinds, owners


def _one_site(places: list[dict[str, float]]) -> dict[str, float]:
    """One site listed at several equivalent coordinates: the same again and again, or a part at each."""
    amounts, *others = places
    for other in others:
        if set(amounts) & set(other) and amounts != other:
            both = " and ".join(map(shown_amounts, (amounts, other)))
            raise ValueError(f"equivalent positions hold {both}; list every site once")
        amounts = amounts | other
    return amounts


def _cif_operations(block: CIFBlock, cellpar) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and shifts: those listed, else those of the space group where it has one setting.

    Listed ones are taken as they are (ASE adds an inversion at the origin where the group's number has one).
    """
    names = "_space_group_symop_operation_xyz", "_space_group_symop.operation_xyz", "_symmetry_equiv_pos_as_xyz"
    if listed := next((block[name] for name in names if block.get(name)), None):
        return parse_sitesym([listed] if isinstance(listed, str) else listed)
    group = block.get_spacegroup(True)
    if group.no in rhombohedral_spacegroups:
        group = Spacegroup(group.no, 1 if np.allclose(cellpar[3:], (90, 90, 120), atol=0.1) else 2)
    elif "_symmetry_space_group_setting" not in block:
        with contextlib.suppress(SpacegroupNotFoundError):
            Spacegroup(group.no, 2)
            raise ValueError(f"space group {group.no} has several settings; list the symmetry operations in the file")
    rotations, shifts = zip(*group.get_symop(), strict=True)
    return np.array(rotations), np.array(shifts)


def _column(block: CIFBlock, name: str) -> list:
    values = block.get(name)
    return values if isinstance(values, list) else [] if values is None else [values]


def _check_numbers(block: CIFBlock) -> None:
    """Errors: ValueError naming the field for a cell or coordinates that are no numbers, or a cell in part."""
    given = [name for name in CELL if name in block]
    if given and (missing := [name for name in CELL if name not in given]):
        raise ValueError(f"it has no {missing[0]}; give all six cell parameters, or none for a molecule")
    for name in (*given, *COORDINATES):
        if strange := [x for x in _column(block, name) if isinstance(x, str)]:
            raise ValueError(f"its {name} is '{strange[0]}', not a number")


def _cif_amounts(block: CIFBlock) -> list[float]:
    labels = _column(block, "_atom_site_label") or _cif_symbols(block)
    amounts = _column(block, "_atom_site_occupancy") or [1.0] * len(labels)
    try:
        numbers = [1.0 if x in ("?", ".") else float(x) for x in amounts]
    except ValueError:
        raise ValueError(f"its occupancies are {amounts[:4]}, not numbers") from None
    for label, number in zip(labels, numbers, strict=False):
        if not number >= 0:
            raise ValueError(f"the occupancy of {label} is {number:g}; it may not be negative")
    return numbers


def _cif_symbols(block: CIFBlock) -> list[str]:
    """Elements from type symbols like Ce4+, or from labels like Ce1 and OW2."""
    symbols = []
    typed = _column(block, "_atom_site_type_symbol")
    for text in typed or _column(block, "_atom_site_label"):
        letters = re.split("[^A-Za-z]", str(text))[0]
        pair, single = letters[:2].capitalize(), letters[:1].upper()
        if typed and letters.capitalize() in ELEMENTS:
            symbol = letters.capitalize()
        elif pair in ELEMENTS and letters[1:2].isupper() and single in ELEMENTS:
            raise ValueError(f"'{text}' may be {pair} or {single}; add _atom_site_type_symbol")
        elif pair in ELEMENTS:
            symbol = pair
        elif len(letters) > 1 and single in ("C", "H", "N", "O", "P", "S"):  # OW, Hw, CB
            symbol = single
        else:
            raise ValueError(f"'{text}' is not an element; leave vacancies out, an occupancy below 1 stands for them")
        symbols.append("H" if symbol in ("D", "T") else symbol)
    return symbols
