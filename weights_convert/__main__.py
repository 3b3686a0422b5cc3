"""Command line: python -m weights_convert FAMILY PATH -o OUT [--model NAME] [--overwrite]."""

import argparse
import sys
from typing import NoReturn

from . import FAMILIES, RefusedFile, convert
from .sevennet_sources import KNOWN


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say one sentence instead of the whole usage."""
        self.exit(2, f"weights_convert: {message}; see --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m weights_convert", description="Convert a checkpoint to a neutral model.")
    parser.add_argument("family", choices=sorted(FAMILIES), help="kind of the checkpoint")
    parser.add_argument(
        "path",
        help="sevennet: a .pth file, the wheel of sevenn (a .whl file), or its unpacked folder; mace: a .model file; "
        "nequix: a .nqx file",
    )
    parser.add_argument("-o", "--out", required=True, help="folder to write; must be new or empty")
    parser.add_argument("--model", help=f"which one of a sevenn wheel or folder: {', '.join(KNOWN)}; all without it")
    parser.add_argument("--overwrite", action="store_true", help="replace files of these names in the folder")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Convert as the arguments say; return 0, or 2 after one sentence on stderr."""
    args = _parser().parse_args(arguments)
    try:
        folders = convert(args.family, args.path, args.out, args.model, overwrite=args.overwrite)
    except (RefusedFile, OSError) as error:
        print(f"weights_convert: {error}", file=sys.stderr)
        return 2
    for folder in folders:
        print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
