"""Errors of commands: one sentence and a status."""

import os
import sys
from collections.abc import Callable
from functools import wraps

import typer

# after an interruption
GOES_ON = (
    "sweep", "md", "alloy", "optimise", "switch", "frenkel_ladd", "vacancy", "stability",
)  # fmt: skip


def plainly(command: Callable) -> Callable:
    """Errors as one sentence and a status; the whole traceback with ALCHEMJAX_TRACEBACK=1."""

    @wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            again = "; run the same command to continue" if command.__name__ in GOES_ON else ""
            print(f"alchemjax: interrupted{again}", file=sys.stderr)
            raise typer.Exit(130) from None
        except (ValueError, OSError, RuntimeError) as error:
            sentence = _sentence(error)
            if sentence is None or os.environ.get("ALCHEMJAX_TRACEBACK") == "1":
                raise
            print(f"alchemjax: {sentence}", file=sys.stderr)
            raise typer.Exit(2) from None

    return run


def _sentence(error: Exception) -> str | None:
    """What to say of an error; None for one that only a traceback explains."""
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    if isinstance(error, RuntimeError):
        full = "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
        advice = "try fewer at once (--batch, --replicas), --dtype float32 or a smaller cell"
        return f"not enough memory; {advice}" if full else None
    sentence = " ".join(str(error).split())
    for option in ("modality", "head"):  # the library speaks of its arguments
        sentence = sentence.replace(f"pass {option}=", f"give --{option}").replace(
            f"leave {option}", f"leave --{option}"
        )
    return sentence
