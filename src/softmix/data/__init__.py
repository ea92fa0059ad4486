"""Room `data`: anything becomes x0 in [-1, 1], with a report of what was left out. Start at `load`."""

from softmix.data import toys
from softmix.data.origin import Origin
from softmix.data.protocol import Source
from softmix.data.report import DataError, NoSplitError, Report
from softmix.data.source import load
from softmix.data.store import Data, to_uint8

__all__ = ["Data", "DataError", "NoSplitError", "Origin", "Report", "Source", "load", "to_uint8", "toys"]
