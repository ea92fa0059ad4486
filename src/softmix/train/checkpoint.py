"""Checkpoints: after a crash at any instant a checkpoint is whole, or absent.

folder/step-000500/  model.safetensors, ema-0.050.safetensors, optimizer.safetensors, ...: one file for each entry
                     state.json: the caller's state, the size and SHA-256 of each file, and a SHA-256 of all of this
step-000500.tmp      a checkpoint being written, or left by a killed run: never read, removed by the next save
step-000500.old      the earlier checkpoint of a step that is being saved again: read if the new one is absent
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..config import JSON, canonical

_FORMAT = 1
_STATE = "state.json"
_SUFFIX = ".safetensors"
_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(_ENTRY.pattern + re.escape(_SUFFIX))
_FOLDER = re.compile(r"step-(\d{6,})(\.old)?")
_LEFTOVER = re.compile(r"step-\d{6,}(\.old)?(\.gone)?\.tmp")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read. The sentence names it, the reason, and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, read from disk.

    step : its step.
    tensors : entry -> name -> tensor, on the CPU, in memory of their own.
    state : the caller's state.
    path : its folder.
    damaged : a sentence for each newer checkpoint that is damaged.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, JSON]
    path: Path
    damaged: list[str]


def save(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, JSON], keep: int = 3
) -> Path:
    """Write the checkpoint of `step` into `folder`. A run killed at any instant loses no earlier checkpoint.

    All files are written aside, synced and hashed, and then renamed into place. Then the folder is synced. Then older
    steps are removed, down to `keep` in all. Later steps stay. If the step exists it is replaced, and the old one can
    be read until the new one is in place. Only one process may save.

    Parameters
    ----------
    tensors : {"model": {name: tensor}, "ema-0.050": ..., "optimizer": ...}. Each entry becomes a file. Values are
        stored bit for bit; memory layout and shared memory are not. The largest entry must fit in memory once more.
    state : any JSON values; tuples come back as lists.

    Returns the path of the checkpoint.
    Raises CheckpointError if the disk is full or refuses: earlier checkpoints are then unchanged and no half-written
    one remains. Raises ValueError for a bad step, name, state or `keep`, before anything is written.
    """
    _require(step, tensors, keep)
    plain = json.loads(canonical(state))
    final = folder / f"step-{step:06d}"
    aside = folder / f"{final.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sync(folder.parent)
        for left in folder.iterdir():
            if _LEFTOVER.fullmatch(left.name):
                shutil.rmtree(left)
        try:
            _write(aside, step, tensors, plain)
            _publish(aside, final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _prune(folder, step, keep)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full; free some space" if full else f"{error}; put that right"
        raise CheckpointError(
            f"saving {final} failed: {why}, and run the same command again (the last good checkpoint is untouched)"
        ) from error
    return final


def latest(folder: Path, only: Iterable[str] | None = None) -> Checkpoint | None:
    """Read the newest whole checkpoint in `folder`. None if there is no checkpoint.

    Every file is read and its SHA-256 compared, one file at a time. A damaged checkpoint is left out, with a
    sentence in `Checkpoint.damaged`, and the one before it is read.

    only : the entries to return, such as ("ema-0.050",); None for all.

    Raises CheckpointError if all checkpoints are damaged, and for an entry that the checkpoint does not have.
    """
    wanted = None if only is None else tuple(only)
    paths, damaged = _checkpoints(folder), list[str]()
    for path in paths:
        state, tensors, faults = _inspect(path, wanted)
        if any(faults.values()):
            sentences = "; ".join(filter(None, faults.values()))
            damaged.append(f"{path.name} is damaged, so it was not taken: {sentences}.")
            continue
        missing = [name for name in wanted or () if name not in tensors]
        if missing:
            raise CheckpointError(f"{', '.join(missing)} was asked for; {path} holds {', '.join(faults)}")
        return Checkpoint(_step(path), tensors, state, path, damaged)
    if paths != _checkpoints(folder):
        # a run in progress has replaced a checkpoint in the meantime
        return latest(folder, wanted)
    if not paths:
        return None
    raise CheckpointError(
        f"a checkpoint was asked for in {folder}, and none there is whole. {' '.join(damaged)} "
        "Restore one from a copy, or move them away to start again."
    )


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint, by its name alone. None if there is no checkpoint."""
    paths = _checkpoints(folder)
    return _step(paths[0]) if paths else None


def faults(folder: Path) -> dict[str, str]:
    """The fault of each file of each checkpoint, newest first; an empty text for a whole file."""
    return {
        f"{path.name}/{file}": fault for path in _checkpoints(folder) for file, fault in _inspect(path, ())[2].items()
    }


def _require(step: int, tensors: Mapping[str, object], keep: int) -> None:
    if step < 0:
        raise ValueError(f"a checkpoint of step {step} was to be saved; steps count from 0")
    if keep < 1:
        raise ValueError(f"{keep} checkpoints were asked for; keep at least 1")
    for name in tensors:
        if not _ENTRY.fullmatch(name):
            raise ValueError(f"a file named {name!r} was to be saved; use letters, digits, dots, dashes, underscores")


def _write(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: JSON) -> None:
    folder.mkdir()
    files: dict[str, JSON] = {}
    for name, group in tensors.items():
        data = safetensors.torch.save(_apart(group))
        _write_synced(folder / (name + _SUFFIX), data)
        files[name + _SUFFIX] = _described(data)
    body: dict[str, JSON] = {"format": _FORMAT, "step": step, "files": files, "state": state}
    text = json.dumps({**body, "sha256": _seal(body)}, indent=1)
    _write_synced(folder / _STATE, text.encode())
    _sync(folder)


def _apart(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two in the same memory: safetensors stores neither views nor ties."""
    taken: set[int] = set()
    apart = {}
    for name, tensor in group.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if memory in taken else plain
        taken.add(memory)
    return apart


def _described(data: bytes) -> dict[str, JSON]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _seal(body: Mapping[str, JSON]) -> str:
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _write_synced(file: Path, data: bytes) -> None:
    with open(file, "xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    # Windows cannot open a folder, and so cannot sync it
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish(aside: Path, final: Path) -> None:
    if final.exists():
        old = final.with_name(f"{final.name}.old")
        if old.exists():
            _remove(old)
        os.rename(final, old)
    os.rename(aside, final)
    _sync(final.parent)


def _prune(folder: Path, step: int, keep: int) -> None:
    paths = _checkpoints(folder)
    older = sorted({_step(path) for path in paths if _step(path) < step}, reverse=True)
    for path in paths:
        replaced = path.suffix == ".old" and path.with_suffix("") in paths
        if replaced or _step(path) in older[keep - 1 :]:
            _remove(path)


def _remove(path: Path) -> None:
    # renamed first, so that a removal cut short does not look like a damaged checkpoint
    gone = path.with_name(f"{path.name}.gone.tmp")
    os.rename(path, gone)
    shutil.rmtree(gone)


def _checkpoints(folder: Path) -> list[Path]:
    """The folders of the checkpoints, newest first; a replaced one (.old) after its replacement."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if _FOLDER.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (-_step(path), path.name))


def _step(path: Path) -> int:
    match = _FOLDER.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _inspect(
    path: Path, only: tuple[str, ...] | None
) -> tuple[dict[str, JSON], dict[str, dict[str, Tensor]], dict[str, str]]:
    """The caller's state, the tensors of the entries in `only`, and the fault of each file ("" for a whole one)."""
    try:
        body = _manifest(path)
    except CheckpointError as error:
        return {}, {}, {_STATE: str(error)}
    tensors, faults = {}, {_STATE: ""}
    for file, described in body["files"].items():
        name, faults[file] = file.removesuffix(_SUFFIX), ""
        try:
            read = _read(path / file, described)
            if only is None or name in only:
                # torch aligns a clone; the bytes of the file may be unaligned, and summed in another order
                tensors[name] = {key: tensor.clone() for key, tensor in read.items()}
        except CheckpointError as error:
            faults[file] = str(error)
    return body["state"], tensors, faults


def _manifest(path: Path) -> dict[str, Any]:
    """The content of state.json, after a check of its hash, its step and its file names."""
    data = _bytes(path / _STATE)
    try:
        body = json.loads(data)
        if body.pop("sha256") != _seal(body):
            raise ValueError("another SHA-256")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{_STATE} has changed since it was written: it is no JSON or has another SHA-256"
        ) from error
    present, expected = (body.get("format"), body.get("step")), (_FORMAT, _step(path))
    if present != expected:
        present_text, text = (f"format {format_} and step {step}" for format_, step in (present, expected))
        raise CheckpointError(f"{_STATE} is of {present_text}, and this softmix reads {text} here")
    # a hash can be forged, and a name may lead out of the folder
    files = body.get("files")
    if not isinstance(files, dict) or not isinstance(body.get("state"), dict) or not all(map(_FILE.fullmatch, files)):
        raise CheckpointError(f"{_STATE} lacks its state or its files, or a name in it is no name for a file: {files}")
    return dict(body)


def _read(file: Path, described: object) -> dict[str, Tensor]:
    """The tensors of one file, from the same bytes as its hash."""
    data = _bytes(file)
    if _described(data) != described:
        raise CheckpointError(
            f"{file.name} has changed since it was written: its {len(data)} bytes have another size or SHA-256"
        )
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise CheckpointError(f"{file.name} is not a safetensors file") from error


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file.name} cannot be read ({error.strerror})") from error
