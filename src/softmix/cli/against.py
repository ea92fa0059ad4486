"""The command line: the data that a run was trained on, and data that it was not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError

if TYPE_CHECKING:
    from ..data import Data


def trained_on(run: Path, source: str | None, verb: str) -> Data:
    """The items that a run was trained on. Raises UsageError if they are not there, or others are."""
    from ..data import DataError
    from ..train import RunError, data_of

    try:
        return data_of(run, source)
    except DataError as error:
        raise UsageError(
            f"the data that {run} was trained on cannot be read: {error}. Say where they are: softmix {verb} {run} DATA"
        ) from error
    except RunError as error:
        more = f"; for other data: softmix sample {run} --out SAMPLES --n 1000, then softmix evaluate SAMPLES DATA"
        raise UsageError(f"{error}{more if verb == 'evaluate' else ''}") from error


def with_held_out(train: Data) -> tuple[Data, Data, str]:
    """Training data, held-out data, and what these are: the test split, read as the training data were, or a tenth of
    the training data where the source has none. Raises UsageError for a test split of another shape."""
    from ..data import NoSplitError, load

    origin = train.origin
    if origin is None:
        raise UsageError(f"{train.name} were not read from anywhere, and have no test split")
    options: dict[str, Any] = {**origin.options(), "split": "test"}
    if not origin.hold_out:
        options["limit"] = None
    if train.is_image and train.shape[1] == train.shape[2]:
        options |= {"size": train.shape[1], "channels": train.shape[0]}
    try:
        held_out = load(origin.source, **options)
    except NoSplitError:
        print(
            f"{train.name} has no test split: a tenth of the training items stands in for it, "
            "which flatters a model that was trained on them and copies"
        )
        return *train.split(0.1, 0), "a tenth of the training items"
    if held_out.shape != train.shape:
        raise UsageError(
            f"the test split of {train.name} has items of shape {held_out.shape}, and its training items have shape "
            f"{train.shape}: bring them to one size"
        )
    return train, held_out, "the share held out" if origin.hold_out else "the test split"
