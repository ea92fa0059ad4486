"""Data sets on disk, for data larger than memory or slow to read: built once, then mapped from files.

    DIR/NAME-KEY/store.json        the source, the state of its files, and the report
    DIR/NAME-KEY/0.npy             the values, uint8, int32 or float32
    DIR/NAME-KEY/0.labels.npy      int64, if there are labels

KEY is a hash of the source and the options. The folder is written under another name, synced and renamed, so that it is
complete or absent. One process builds it; others wait.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..config import JSON, canonical, to_json
from .disk_storage import HEAD, DiskStorage, header, mapped
from .file_state import FileState, file_state
from .origin import Origin
from .report import DataError, Report, printable
from .storage import Storage
from .store import Data

# Increase it when the same files would be read as other items.
FORMAT = 1
_STORE = "store.json"
_TYPES = {"uint8": torch.uint8, "int32": torch.int32, "float32": torch.float32}
# The number and the size in bytes of the pieces that are compared with a hash at each open, evenly spaced.
_SAMPLES, _SAMPLE = 64, 4096


class _Damaged(Exception):
    """A cache cannot be used. The message gives the reason."""


@dataclass(frozen=True)
class _CacheRequest:
    """The cache that is needed.

    folder : the folder of this cache.
    asked : the source and the options.
    state : the state of the source files.
    """

    folder: Path
    asked: JSON
    state: FileState


_Read = Callable[[Storage], tuple[Data, ...]]


def load_through_cache(root: Path, origin: Origin, read: _Read) -> tuple[Data, ...]:
    """The data sets of `origin`, from a cache below `root`; read by `read` and stored there if necessary."""
    asked = to_json(replace(origin, cache=None))
    return through_cache(root, Path(origin.source).name, asked, lambda: file_state(origin), read)


def through_cache(root: Path, name: str, asked: JSON, state: Callable[[], FileState], read: _Read) -> tuple[Data, ...]:
    """The data sets of a cache below `root`, built by `read` if necessary.

    name : the start of the folder's name.
    asked : the source and the options.
    state : gives the state of the source files.
    read : makes the data sets in a storage.

    An existing cache is used if `asked` and `state` are the same. A damaged cache is built again, as is one of changed
    files; the report gives the reason. If another process builds the same cache, this one warns and waits.
    Raises DataError if the cache cannot be written, or if the files change while they are read.
    """
    key = hashlib.sha256(canonical({"format": FORMAT, "asked": asked}).encode()).hexdigest()[:12]
    request = _CacheRequest(root / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:40]}-{key}", asked, state())
    sets, _ = _open_cache(request)
    if sets is not None:
        return sets
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(request.folder.with_name(f".{request.folder.name}.lock"))
        _acquire(lock, request.folder)
    except OSError as error:
        raise _cannot_cache(root, error) from error
    try:
        # Another process may have built it in the meantime.
        sets, why = _open_cache(request)
        return sets if sets is not None else _build_cache(request, state, read, why)
    except OSError as error:
        raise _cannot_cache(root, error) from error
    finally:
        lock.release()


def _cannot_cache(root: Path, error: OSError) -> DataError:
    return DataError(f"{printable(str(root))} cannot be a cache: {error}; name another folder as cache")


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        message = f"{printable(str(folder))} is being built by another process; waiting until it has ended"
        warnings.warn(message, stacklevel=4)
        lock.acquire(timeout=-1)


def _build_cache(request: _CacheRequest, state: Callable[[], FileState], read: _Read, why: str) -> tuple[Data, ...]:
    unfinished, old = (request.folder.with_name(f".{request.folder.name}.{kind}") for kind in ("aside", "old"))
    # A killed process may have left these folders.
    for left in (unfinished, old):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir()
    try:
        storage = DiskStorage(unfinished)
        data = read(storage)
        body = {
            "format": FORMAT,
            "asked": request.asked,
            "files": request.state.files,
            "state": request.state.digest,
            "sets": [_save_set(storage, each, str(number)) for number, each in enumerate(data)],
        }
        storage.clear()
        if state() != request.state:
            raise DataError(f"{data[0].name}: its files changed while they were read; try again when they rest")
        _write(unfinished / _STORE, json.dumps(body, indent=1).encode())
        _sync(unfinished)
        if request.folder.exists():
            request.folder.rename(old)
        unfinished.rename(request.folder)
        _sync(request.folder.parent)
    finally:
        for left in (unfinished, old):
            shutil.rmtree(left, ignore_errors=True)
    sets, bad = _open_cache(request)
    if sets is None:
        raise DataError(f"{printable(str(request.folder))} was just written and cannot be read: {bad}; check the disk")
    return tuple(each.with_note(why) for each in sets) if why else sets


def _save_set(storage: DiskStorage, data: Data, stem: str) -> dict[str, Any]:
    """Write the values and labels of a data set. Returns its entry in store.json."""
    shape = storage.finish(data.name, data.values, f"{stem}.npy")
    if data.labels is not None:
        with (storage.folder / f"{stem}.labels.npy").open("xb") as file:
            np.save(file, data.labels.numpy(), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    dtype = str(data.values.dtype).removeprefix("torch.")
    values = mapped(storage.folder / f"{stem}.npy", _TYPES[dtype], shape)
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "dtype": dtype,
        "shape": list(shape),
        "sample": _sample(values),
        "labels": None if data.labels is None else hashlib.sha256(data.labels.numpy().data).hexdigest(),
        "classes": list(data.classes),
        "vocabulary": data.vocabulary,
        "alphabet": data.alphabet,
        "spacing": data.spacing,
        "report": data.report.to_json(),
    }


def _sample(values: Tensor) -> str:
    """A hash of some pieces of the values. It finds truncated, zeroed or overwritten files and reads few bytes."""
    flat = values.reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256()
    for start in np.linspace(0, max(len(flat) - _SAMPLE, 0), _SAMPLES).astype(np.int64):
        digest.update(flat[start : start + _SAMPLE].data)
    return digest.hexdigest()


def _open_cache(request: _CacheRequest) -> tuple[tuple[Data, ...] | None, str]:
    """Return (data sets, "") if the cache is complete and its files are unchanged, else (None, the reason)."""
    if not (request.folder / _STORE).is_file():
        return (
            None,
            f"{request.folder} was damaged, it had no {_STORE}, and is built again" if request.folder.exists() else "",
        )
    try:
        body = json.loads((request.folder / _STORE).read_bytes())
        if (body["format"], body["asked"]) != (FORMAT, request.asked):
            raise _Damaged("its store.json is of something else")
        if (body["files"], body["state"]) != (request.state.files, request.state.digest):
            count = f"{body['files']} were read then, {request.state.files} are there now"
            return None, f"the cache {request.folder} was built again: the files have changed ({count})"
        sets = tuple(_load_set(request.folder, str(number), one) for number, one in enumerate(body["sets"]))
    except (_Damaged, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return None, f"the cache {request.folder} was built again: it was damaged ({error})"
    return tuple(each.with_note(f"read from the cache {request.folder}") for each in sets), ""


def _load_set(folder: Path, stem: str, entry: dict[str, Any]) -> Data:
    dtype, shape, path = _TYPES[entry["dtype"]], tuple(entry["shape"]), folder / f"{stem}.npy"
    numpy_type = np.dtype(entry["dtype"])
    whole = HEAD + int(np.prod(shape)) * numpy_type.itemsize
    size = path.stat().st_size
    if size != whole:
        raise _Damaged(f"{path.name} has {size} bytes, and {whole} were written")
    with path.open("rb") as file:
        if file.read(HEAD) != header(numpy_type, shape):
            raise _Damaged(f"{path.name} has another header than was written")
    values = mapped(path, dtype, shape)
    if _sample(values) != entry["sample"]:
        raise _Damaged(f"{path.name} has other bytes than were written")
    spacing = entry["spacing"]
    return Data(
        entry["name"],
        values,
        _labels(folder / f"{stem}.labels.npy", entry["labels"], shape[0]),
        tuple(entry["classes"]),
        Report.from_json(entry["report"]),
        entry["fingerprint"],
        vocabulary=entry["vocabulary"],
        alphabet=entry["alphabet"],
        spacing=None if spacing is None else (spacing[0], spacing[1], spacing[2]),
    )


def _labels(path: Path, digest: str | None, count: int) -> Tensor | None:
    if digest is None:
        return None
    try:
        labels = np.load(path, allow_pickle=False)
    except Exception as error:
        raise _Damaged(f"{path.name} cannot be read: {error}") from error
    if labels.shape != (count,) or hashlib.sha256(labels.data).hexdigest() != digest:
        raise _Damaged(f"{path.name} has other labels than were written")
    return torch.from_numpy(labels)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    # Windows cannot open a folder, and needs no sync of its entries.
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
