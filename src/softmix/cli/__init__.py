"""The command line: `softmix VERB ...`. Each verb is a function; what it needs is imported when it runs."""

from __future__ import annotations

import os
import sys
import warnings

from .again import repeat
from .check import check
from .claims import cite, papers, reproduce
from .common import Interrupted, UsageError, cache
from .draw import sample
from .edit import edit
from .export import export
from .fit import train
from .measure import evaluate
from .outputs import OutputError
from .parse import named, overview, run, version
from .statistics import statistics

VERBS = (train, sample, edit, export, evaluate, statistics, repeat, reproduce, papers, check, cite)


def main(arguments: list[str] | None = None) -> None:
    """Runs a verb. A user's mistake ends with a sentence and exit code 2; whatever else goes wrong with a sentence and
    exit code 1. --debug shows where, for both."""
    warnings.showwarning = lambda message, *rest: print(f"warning: {message}", file=sys.stderr)
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    verbs = {verb.__name__: verb for verb in VERBS}
    try:
        if not words:
            print(overview(verbs), file=sys.stderr)
            raise SystemExit(2)
        if words[0] in ("-h", "--help"):
            print(overview(verbs))
        elif words[0] == "--version":
            print(version())
        else:
            run(named(words[0], verbs), words[1:])
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        sentence, code = judged(error)
        if sentence:
            print(f"softmix: {sentence}", file=sys.stderr)
        raise SystemExit(code) from None


def judged(error: BaseException) -> tuple[str, int]:
    """What is said of an error, nothing if it has been said where it arose, and the exit code."""
    if isinstance(error, UsageError):
        return str(error), 2
    if isinstance(error, OutputError):
        return str(error), 1
    if isinstance(error, Interrupted):
        return str(error), 130
    if isinstance(error, BrokenPipeError):
        # whoever read this has enough (head, less); the interpreter would complain when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "", 1
    return _of_the_rooms(error)


def _of_the_rooms(error: BaseException) -> tuple[str, int]:
    """Errors of the rooms, which are imported only now: they bring torch with them."""
    from torch import OutOfMemoryError

    from ..config import ConfigError
    from ..data import DataError
    from ..sampler import SamplerError
    from ..train import LostProcessError, RunError, StoppedError, TrainingError
    from ..train.checkpoint import CheckpointError

    if isinstance(error, StoppedError):
        return str(error), 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return "stopped", 130
    if isinstance(error, LostProcessError):
        return "", 1
    if isinstance(error, DataError | ConfigError | RunError | TrainingError | CheckpointError | SamplerError):
        return str(error), 2
    if isinstance(error, TypeError) and "needs" in str(error):
        # `need`: a part that was asked for cannot do what this model would ask of it
        return str(error), 2
    if isinstance(error, MemoryError | OutOfMemoryError) or "allocate memory" in str(error):
        return f"there is not enough memory for this ({_short(error)}); ask for less at a time", 1
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", 1
    return f"this went wrong in the program itself: {_short(error)}. With --debug it shows where; please report it", 1


def _short(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__


__all__ = ["VERBS", "cache", "main"]
