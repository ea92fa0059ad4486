"""Anything becomes x0 in [-1, 1], with a report of what was left out. Start at `load`."""

from . import toys
from .augment import mirrored
from .contract import Source
from .degraded import Degraded
from .encoded import Encoded, LatentScale
from .loading import load
from .origin import Origin
from .paired import Paired
from .report import DataError, NoSplitError, Report
from .store import Data, to_uint8
from .target import Target
from .text import to_text
from .torch_dataset import from_dataset

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
