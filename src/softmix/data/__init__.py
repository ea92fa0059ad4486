"""Room `data`: anything becomes x0 in [-1, 1], with a report of what was left out. Start at `load`."""

from softmix.data import toys
from softmix.data.contract import Source
from softmix.data.dataset import from_dataset
from softmix.data.degraded import Degraded
from softmix.data.encoded import Encoded, LatentScale
from softmix.data.mirror import mirrored
from softmix.data.origin import Origin
from softmix.data.paired import Paired
from softmix.data.report import DataError, NoSplitError, Report
from softmix.data.source import load
from softmix.data.store import Data, to_uint8
from softmix.data.target import Target
from softmix.data.text import to_text

__all__ = [
    "Data",
    "DataError",
    "Degraded",
    "Encoded",
    "LatentScale",
    "NoSplitError",
    "Origin",
    "Paired",
    "Report",
    "Source",
    "Target",
    "from_dataset",
    "load",
    "mirrored",
    "to_text",
    "to_uint8",
    "toys",
]
