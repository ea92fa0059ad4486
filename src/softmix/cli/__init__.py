"""The command line: `softmix VERB ...`. Each verb is a function; what it needs is imported when it runs."""

from __future__ import annotations

import sys
import warnings

import tyro

from .again import repeat
from .claims import cite, papers, reproduce
from .common import UsageError, cache
from .draw import sample
from .edit import edit
from .export import export
from .fit import train
from .measure import check, evaluate, statistics

VERBS = (train, sample, edit, export, evaluate, statistics, repeat, reproduce, papers, check, cite)


def main(arguments: list[str] | None = None) -> None:
    """Runs a verb. A user's mistake ends with a sentence and exit code 2."""
    warnings.showwarning = lambda message, *rest: print(f"warning: {message}", file=sys.stderr)
    verbs = {verb.__name__: verb for verb in VERBS}
    from ..config import ConfigError
    from ..data import DataError
    from ..sampler import SamplerError
    from ..train import LostError, RunError, StoppedError, TrainingError
    from ..train.checkpoint import CheckpointError

    try:
        tyro.extras.subcommand_cli_from_dict(
            verbs, prog="softmix", description="Diffusion models that believe a whole posterior.", args=arguments
        )
    except (UsageError, DataError, ConfigError, RunError, TrainingError, CheckpointError, SamplerError) as error:
        print(f"softmix: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except TypeError as error:
        if "needs" not in str(error):
            raise
        print(f"softmix: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except LostError:
        # said where it was found
        raise SystemExit(1) from None
    except StoppedError as stop:
        print(f"softmix: {stop}", file=sys.stderr)
        raise SystemExit(128 + stop.number) from None
    except KeyboardInterrupt:
        print("\nsoftmix: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


__all__ = ["VERBS", "cache", "main"]
