"""Data sets: read from files, made from other data sets, or drawn from known distributions.

Images are in [-1, 1]. Items that cannot be read are listed in a report with the reason.

Read files: `load` returns a `Data`, or a `Paired` of two sources. `from_dataset` takes a torch Dataset. `load_volume`
reads one volume.
Sources: `Source` is the protocol. `Data`, `Paired`, `Unpaired`, `Degraded`, `Coarse`, `Encoded` and `Target` follow it.
Back to files: `to_uint8` gives pixels and `to_text` gives text.
Known distributions: `toys`.

Files of this room:
    loading, request         `load` and its options
    contract, store          the protocol `Source`, and `Data`
    picture*, folder_splits  one picture, a folder of pictures, lists of pictures
    entries, labels          the files of a folder or zip, and class labels
    array*, conversion       arrays of pictures, numbers and tokens
    volume                   one volume, from .npy or NIfTI
    npy, idx, mnist, cifar, text, builtin   one kind of file or data set each
    paired, unpaired, load_pairs, degraded, coarse, encoded, derived   sources made from other sources
    target, logistic         densities without items
    torch_dataset, torch_item                a torch Dataset as a source
    cache, storage, disk_storage, file_state, limits         data larger than memory
    resident, delivered, prefetch            sources on an accelerator
    report, origin           the items that were left out, and the way to read the same items again
    augment, toys            random flips, and known distributions
"""

from . import toys
from .augment import mirrored, random_view
from .coarse import Coarse
from .contract import Source
from .degraded import Degraded
from .encoded import Encoded, LatentScale
from .loading import load
from .logistic import logistic_regression
from .origin import Origin
from .paired import Paired
from .report import DataError, NoSplitError, Report
from .store import Data, to_uint8
from .target import Target
from .text import to_text
from .torch_dataset import from_dataset
from .unpaired import Unpaired
from .volume import Volume, load_volume

__all__ = [
    "Coarse",
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
    "Unpaired",
    "Volume",
    "from_dataset",
    "load",
    "load_volume",
    "logistic_regression",
    "mirrored",
    "random_view",
    "to_text",
    "to_uint8",
    "toys",
]
