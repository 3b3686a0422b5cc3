"""Foreign checkpoints to neutral files, without torch and without running anything from the checkpoint."""

from pathlib import Path

from .archive import RefusedFile as RefusedFile
from .archive import refuse_malformed, short
from .mace import convert_mace as convert_mace
from .nequix import convert_nequix as convert_nequix
from .official import OFFICIAL as OFFICIAL
from .official import SUFFIXES as SUFFIXES
from .official import Official as Official
from .official import commands as commands
from .official import find_official as find_official
from .sevennet import convert_sevennet as convert_sevennet
from .sevennet_sources import is_collection
from .source import Progress as Progress
from .write import model_files, write_files

FAMILIES = {"sevennet": convert_sevennet, "mace": convert_mace, "nequix": convert_nequix}


def convert(
    family: str,
    path: str | Path,
    out: str | Path,
    model: str | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Convert the checkpoint or checkpoints at `path` and write them; return the folders written.

    One checkpoint goes to the folder `out`, several (a wheel or folder without `model`) to `out`/<name>. Before every
    step, and at the end, `progress(done, total, what)` is called.

    Raises:
        RefusedFile: the file or the output folder cannot be used; nothing is written then.
    """
    if family not in FAMILIES:
        raise RefusedFile(f"family {family!r} is not supported, only {', '.join(FAMILIES)}")
    try:
        models = FAMILIES[family](path, model, progress)
    except RefusedFile as error:
        if (kind := SUFFIXES.get(Path(path).suffix, family)) != family:
            raise RefusedFile(f"{error} ({short(Path(path).name)} is named like a file of {kind})") from error
        raise
    out = Path(out)
    several = family == "sevennet" and model is None and is_collection(Path(path))
    folders = {name: Path(name) if several else Path() for name in models}
    if progress:
        progress(len(models) + 1, len(models) + 2, f"writing to {out.name}")
    files = {}
    for name, (config, tensors) in models.items():
        with refuse_malformed(short(str(path))):  # memory may be short
            contents = model_files(config, tensors)
        files |= {str(folders[name] / file): data for file, data in contents.items()}
    write_files(out, files, overwrite=overwrite)
    if progress:
        progress(len(models) + 2, len(models) + 2, "converted")
    return [out / folder for folder in folders.values()]
