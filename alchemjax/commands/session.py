"""What every command needs: JAX made ready, the inputs read, and where a result comes from."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np
import platformdirs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

import alchemjax
from alchemjax.commands.columns import plain
from alchemjax.io import read
from alchemjax.model.load import Potential
from alchemjax.selftest import check_compiler
from alchemjax.system.system import System
from alchemjax.tasks.pairs import PAIR_LIMIT


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Name, bar and more columns on stderr; nothing where that is no terminal."""
    console = Console(stderr=True)
    named = TextColumn("{task.description}"), BarColumn(), *columns
    return Progress(*named, console=console, disable=not console.is_terminal)


def bar_of(what: str) -> tuple[Callable[[int, int], None], Progress]:
    """What is to be told of numbers done and all, and the bar that shows them."""
    bar = progress_bar(MofNCompleteColumn(), TimeElapsedColumn())
    task = bar.add_task(what, total=None)
    return (lambda done, number: bar.update(task, completed=done, total=number)), bar


def warn(sentence: str) -> None:
    """A plain warning on stderr."""
    print(f"alchemjax: warning: {sentence}", file=sys.stderr)


def prepare_jax() -> None:
    """Make every core of a CPU a device, keep compiled code in the user's cache folder, and check that JAX is right.

    The check is made once for every version of JAX. Errors: ValueError if it computes wrong numbers.
    """
    use_cores()
    cache = platformdirs.user_cache_path("alchemjax") / "jax" / _processor()
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    passed = cache / f"{jax.__version__}-{jax.default_backend()}-is-right"
    if passed.exists():
        return
    try:
        check_compiler()
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        passed.touch()
    except OSError:
        pass  # a cache that cannot be written only costs time


def use_cores() -> None:
    """Make every core that this process may use a device of JAX, unless the user chose their number."""
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or jax.config.jax_num_cpu_devices > 0:  # pyright: ignore[reportAttributeAccessIssue]
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        jax.config.update("jax_num_cpu_devices", cores or 1)
    except RuntimeError:
        pass  # JAX is at work already, in the process that called the command


def _processor() -> str:
    """Name of a folder: code compiled for one processor may crash another that shares the home directory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    features = "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def unwritable(out: Path, error: OSError) -> ValueError:
    """What to say of a folder for results that cannot be made or written."""
    file = next((place for place in (out, *out.parents) if os.path.isfile(place)), None)
    why = error.strerror if file is None else f"'{file}' is a file"
    return ValueError(f"the folder '{out}' cannot be written: {why}; give another name with --out")


def read_system(path: Path, mix, groups: str, coupling: str, *, needs_weights: bool = True) -> System:
    """The system of a file. Without `needs_weights` a shared group may be one that the file has no weights for.

    Errors: ValueError as in `alchemjax.read`.
    """
    if groups not in ("shared", "site"):
        raise ValueError(f"--groups '{groups}' is unknown; allowed are shared and site")
    try:
        return read(path, mix, groups, coupling)
    except ValueError as error:
        if "pass weights=" not in str(error):
            raise
        if needs_weights or groups == "site":
            what = "name every species that the sites hold in --mix, or " if groups == "site" else ""
            raise ValueError(str(error).replace("pass weights=", f"{what}give --weights")) from None
    first = np.concatenate([np.eye(len(species))[0] for species in mix.values()])
    return read(path, mix, groups, coupling, weights=first)


def provenance(path: Path, arguments: dict, potential: Potential, system: System) -> dict:
    """Where a result comes from, for a JSON file."""
    return {
        "versions": {
            "alchemjax": alchemjax.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": plain(arguments),
        "input": {"file": str(path), "sha256": sha256_of(path)},
        "model": {"name": potential.name, "sha256": potential.sha256, "source": plain(potential.source)},
        "dtype": potential.dtype,
        "coupling": system.coupling,
        "energy": _energy_facts(system),
        "groups": [{"name": g.name, "sites": list(g.sites), "species": list(g.species)} for g in system.sites.groups],
    }


def energy_kind(system: System) -> str:
    """Which energy is shown, in two words."""
    if system.fluctuations is not None:
        return "random alloy"
    return "mean field" if system.sites.groups else "ordinary atoms"


def doubts_about(per_site: np.ndarray) -> list[str]:
    """What to say of fluctuations of pairs [eV per site], one for each composition."""
    large = np.abs(per_site) > PAIR_LIMIT
    if not large.any():
        return []
    where = "" if len(per_site) == 1 else f"at {large.sum()} of {len(per_site)} compositions "
    most = 1000 * per_site[large][np.abs(per_site[large]).argmax()]
    return [
        f"{where}fluctuations of two sites at a time would add more than {1000 * PAIR_LIMIT:g} meV per site (up to "
        f"{most:+.1f}) to the energy of the random alloy, which is doubtful"
    ]


def _energy_facts(system: System) -> dict:
    facts: dict = {"kind": energy_kind(system)}
    if (chosen := system.fluctuations) is not None:
        size = {"sites": len(chosen.supercell.origin), "matrix": chosen.supercell.matrix}
        facts |= {"fluctuations": chosen.kind, "supercell": size, "fluctuating_sites": np.unique(chosen.variants.site)}
    return facts


def fingerprint_of(settings: list, arrays) -> str:
    """Hash of settings and arrays: of all that determines the numbers of a result."""
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def sha256_of(file: Path) -> str | None:
    """Of a file, all of it where one structure of several is meant (run.xyz@0); None if it is none."""
    path = file if file.is_file() else Path(str(file).rpartition("@")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
