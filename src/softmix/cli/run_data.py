"""The training data of a run, and its held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError

if TYPE_CHECKING:
    from ..data import Data


def training_data(run: Path, source: str | None, verb: str) -> Data:
    """The items that a run was trained on.

    source : their new place, or None. verb : the name of the command, for the error.
    Raises UsageError if they cannot be read, and for other data.
    """
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
    """The training data, the held-out data, and a description of the held-out data.

    Held out is the test split, read like the training data. A source without a test split gives a tenth of the
    training data instead. Raises UsageError for a test split of another shape.
    """
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
