"""Anything becomes x0 in [-1, 1], with a report of what was left out. Start at `load`."""

from . import toys
from .contract import Source
from .dataset import from_dataset
from .degraded import Degraded
from .encoded import Encoded, LatentScale
from .mirror import mirrored
from .origin import Origin
from .paired import Paired
from .report import DataError, NoSplitError, Report
from .source import load
from .store import Data, to_uint8
from .target import Target
from .text import to_text

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
