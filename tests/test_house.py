"""The rooms of the package: who imports whom, how long files are, and what an import must not do."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import pytest
from conftest import ROOT

ARRAYS = {"jax", "numpy", "jaxtyping"}
OUTSIDE = (
    "alchemjax/commands/*",
    *(
        f"alchemjax/{name}.py"
        for name in (
            "atoms",
            "conversion",
            "decorate",
            "export",
            "io",
            "plot",
            "cli",
            "cli_options",
            "cli_optimise",
            "cli_free_energy",
            "cli_errors",
        )
    ),
)
ENTRANCES = ("alchemjax/__init__.py", "alchemjax/__main__.py")
# room: (what it may import of alchemjax, and of others besides the standard library); a colon limits the names
ROOMS = {
    "alchemjax/units.py": (set(), set()),
    "alchemjax/selftest.py": (set(), {"jax", "numpy"}),
    "alchemjax/devices.py": (set(), {"jax", "numpy"}),
    "alchemjax/system/*": ({"units", "system"}, ARRAYS | {"spglib", "vesin"}),
    "alchemjax/model/*": (
        {"units", "devices", "model", "system.graph:Graph", "system.graph:Edges", "system.topology:rows_at_once"},
        ARRAYS | {"e3nn_jax", "safetensors"},
    ),
    "alchemjax/energy.py": ({"units", "system"}, ARRAYS),
    "alchemjax/calculate.py": ({"units", "system", "energy", "model.load:Potential"}, ARRAYS),
    "alchemjax/tasks/*": (
        {"units", "devices", "system", "energy", "calculate", "tasks", "model.load:Potential"},
        ARRAYS | {"optax", "pymbar", "scipy", "sqsgenerator"},
    ),
    "weights_convert/*": (set(), {"numpy", "safetensors"}),
}
JAX_MD = ("alchemjax/system/neighbours*.py",) + tuple(
    f"alchemjax/tasks/{name}*.py" for name in ("jax_md", "md", "switch", "frenkel_ladd", "free_energy", "vacancy")
)
LONGEST = 400  # lines
FORBIDDEN_NAMES = {"utils.py", "util.py", "types.py", "base.py", "helpers.py", "common.py", "misc.py"}
FORBIDDEN_WORDS = {
    "alchemjax/model/*": {"positions", "cell", "strain"},
    "alchemjax/system/*": {"params", "energy", "energies", "forces"},
}

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ("alchemjax", "weights_convert")
    for path in (ROOT / room).rglob("*.py")
)


def imports(source: str, file: str):
    """(module, name) of every import, also those inside functions; name is None for `import module`."""
    package = file.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def matches(file: str, patterns) -> bool:
    return any(fnmatch(file, pattern) for pattern in patterns)


def allowed(module: str, name: str | None, file: str) -> bool:
    """Whether `file` may import `name` from `module`."""
    top = module.split(".")[0]
    if matches(file, (*OUTSIDE, *ENTRANCES)) or top in sys.stdlib_module_names:
        return True
    if top == "jax_md":
        return matches(file, JAX_MD)
    room = next(pattern for pattern in ROOMS if fnmatch(file, pattern))
    inside, others = ROOMS[room]
    if top == "weights_convert" and room == "weights_convert/*":
        return True
    if top != "alchemjax":
        return top in others
    rest = ".".join([*module.split(".")[1:], *([name] if name else [])])
    for entry in inside:
        where, _, only = entry.partition(":")
        if only and module == f"alchemjax.{where}" and name == only:
            return True
        if not only and (rest == where or rest.startswith(where + ".")):
            return True
    return False


@pytest.mark.parametrize("file", FILES)
def test_every_file_has_a_room_and_imports_only_what_the_room_may(file):
    assert matches(file, (*ROOMS, *OUTSIDE, *ENTRANCES)), f"{file} belongs to no room; add it to ROOMS"
    wrong = [f"{m}:{n}" for m, n in imports((ROOT / file).read_text(), file) if not allowed(m, n, file)]
    assert not wrong, f"{file} may not import {', '.join(wrong)}"


@pytest.mark.parametrize(
    "file, line",
    [
        ("alchemjax/units.py", "import numpy"),
        ("alchemjax/system/graph.py", "from alchemjax.model.load import Potential"),
        ("alchemjax/system/graph.py", "from alchemjax import calculate"),
        ("alchemjax/system/graph.py", "import jax_md"),
        ("alchemjax/system/sites.py", "def f():\n    from ase import Atoms"),
        ("alchemjax/model/sevennet.py", "from alchemjax.system.structure import Structure"),
        ("alchemjax/model/sevennet.py", "from alchemjax.system.graph import make_graph"),
        ("alchemjax/model/sevennet.py", "from ..system import structure"),
        ("alchemjax/model/mace.py", "import ase.io"),
        ("alchemjax/calculate.py", "from alchemjax.model.load import read_model"),
        ("alchemjax/calculate.py", "from alchemjax.model import sevennet"),
        ("alchemjax/calculate.py", "import optax"),
        ("alchemjax/tasks/relax.py", "from alchemjax.atoms import from_atoms"),
        ("alchemjax/tasks/relax.py", "from alchemjax import io"),
        ("alchemjax/tasks/relax.py", "import jax_md.minimize"),
        ("alchemjax/tasks/relax.py", "from alchemjax.model import sevennet"),
        ("alchemjax/selftest.py", "import alchemjax"),
        ("weights_convert/write.py", "import torch"),
        ("weights_convert/write.py", "from alchemjax.model import load"),
    ],
)
def test_an_import_against_an_arrow_is_noticed(file, line):
    assert [(m, n) for m, n in imports(line, file) if not allowed(m, n, file)]


@pytest.mark.parametrize(
    "file, line",
    [
        ("alchemjax/system/neighbours_md.py", "from jax_md import partition"),
        ("alchemjax/tasks/md.py", "import jax_md"),
        ("alchemjax/model/mace.py", "from alchemjax.system.graph import Edges, Graph"),
        ("alchemjax/tasks/sweep.py", "from alchemjax.tasks.relax import relax"),
        ("alchemjax/cli.py", "from alchemjax.plot import plot_sweep"),
        ("weights_convert/write.py", "from .layout import tensor_shapes"),
    ],
)
def test_an_import_along_an_arrow_is_allowed(file, line):
    assert all(allowed(m, n, file) for m, n in imports(line, file))


def test_no_file_is_longer_than_the_limit():
    lengths = {file: len((ROOT / file).read_text().splitlines()) for file in FILES}
    assert not {file: length for file, length in lengths.items() if length > LONGEST}


def test_no_file_is_named_after_nothing_in_particular():
    assert not [file for file in FILES if file.split("/")[-1] in FORBIDDEN_NAMES]


@pytest.mark.parametrize("room", FORBIDDEN_WORDS)
def test_a_room_has_no_names_of_things_that_are_not_its_business(room):
    for file in (file for file in FILES if fnmatch(file, room)):
        tree = ast.parse((ROOT / file).read_text())
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        names |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        assert not names & FORBIDDEN_WORDS[room], file


def test_calculations_neither_print_nor_open_files():
    for file in (file for file in FILES if matches(file, ("alchemjax/tasks/*", "alchemjax/system/*"))):
        calls = [n.func for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.Call)]
        assert not {f.id for f in calls if isinstance(f, ast.Name)} & {"print", "open"}, file


IMPORT = """
import json, os, sys
import jax
names = [name for name in dir(jax.config) if name.startswith("jax_")]
state = lambda: ({name: repr(getattr(jax.config, name)) for name in names}, dict(os.environ))
before = state()
import alchemjax
after = state()
heavy = [m for m in ("jax_md", "matplotlib", "pymatgen", "torch", "pymbar", "icet", "smol") if m in sys.modules]
print(json.dumps([len(names), before == after, heavy, alchemjax.__version__]))
"""


def test_importing_alchemjax_changes_no_setting_prints_nothing_and_leaves_heavy_packages_out():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    number, unchanged, heavy, version = json.loads(done.stdout)
    assert number > 50 and unchanged and heavy == []
    assert not done.stderr
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", version)


def test_there_is_one_version_string():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "alchemjax/__init__.py"
    having = [file for file in FILES if re.search(r"^\s*__version__\s*=", (ROOT / file).read_text(), re.M)]
    assert having == ["alchemjax/__init__.py"]
