"""The command line, `softmix VERB ...`.

Each verb is a frozen dataclass in the file of its name (`train.py`, `sample.py`, ...): its fields are the options, its
docstring is the help, and a call does the work. `parse.py` makes the instance. A verb imports torch and the rooms when
it runs, so that help and usage errors are quick.
"""

from __future__ import annotations

import os
import sys
import warnings

from .bits import Bits
from .check import Check
from .cite import Cite
from .common import Interrupted, UsageError, cache
from .edit import Edit
from .evaluate import Evaluate
from .export import Export
from .outputs import OutputError
from .papers import Papers
from .parse import find_verb, overview, parse, version
from .repeat import Repeat
from .reproduce import Reproduce
from .restore import Restore
from .sample import Sample
from .statistics import Statistics
from .train import Train
from .verb import Verb

_ALL = (Train, Sample, Restore, Edit, Export, Evaluate, Bits, Statistics, Repeat, Reproduce, Papers, Check, Cite)
VERBS: dict[str, type[Verb]] = {verb.command(): verb for verb in _ALL}


def main(arguments: list[str] | None = None) -> None:
    """Run a verb.

    A mistake of the user ends with a sentence and exit code 2, any other error with a sentence and exit code 1. With
    --debug the error itself is raised.

    arguments : the words after `softmix`; those of the process if None.
    """
    warnings.showwarning = lambda message, *rest: print(f"warning: {message}", file=sys.stderr)
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        if not words:
            print(overview(VERBS), file=sys.stderr)
            raise SystemExit(2)
        if words[0] in ("-h", "--help"):
            print(overview(VERBS))
        elif words[0] == "--version":
            print(version())
        else:
            parse(find_verb(words[0], VERBS), words[1:])()
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        sentence, code = describe_error(error)
        if sentence:
            print(f"softmix: {sentence}", file=sys.stderr)
        raise SystemExit(code) from None


def describe_error(error: BaseException) -> tuple[str, int]:
    """The sentence for an error, empty if it was printed before, and the exit code."""
    if isinstance(error, UsageError):
        return str(error), 2
    if isinstance(error, OutputError):
        return str(error), 1
    if isinstance(error, Interrupted):
        return str(error), 130
    if isinstance(error, BrokenPipeError):
        # The reader (head, less) has enough. The interpreter would complain when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "", 1
    return _describe_room_error(error)


def _describe_room_error(error: BaseException) -> tuple[str, int]:
    """The same for errors of the rooms. They are imported only here, because they bring torch with them."""
    from torch import OutOfMemoryError

    from ..config import ConfigError
    from ..data import DataError
    from ..denoiser import StepsError
    from ..sampler import SamplerError
    from ..train import LostProcessError, RunError, StoppedError, TrainingError
    from ..train.checkpoint import CheckpointError

    if isinstance(error, StoppedError):
        return str(error), 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return "stopped", 130
    if isinstance(error, LostProcessError):
        return "", 1
    known = DataError | ConfigError | RunError | TrainingError | CheckpointError | SamplerError | StepsError
    if isinstance(error, known):
        return str(error), 2
    if isinstance(error, TypeError) and "needs" in str(error):
        # `need`: the chosen part does not fit this model.
        return str(error), 2
    if isinstance(error, MemoryError | OutOfMemoryError) or "allocate memory" in str(error):
        return f"there is not enough memory for this ({_short(error)}); ask for less at a time", 1
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", 1
    return f"this went wrong in the program itself: {_short(error)}. With --debug it shows where; please report it", 1


def _short(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__


__all__ = ["VERBS", "Verb", "cache", "main"]
