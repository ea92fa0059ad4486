"""The room of training: a checkpoint is whole or it is not there.

folder/step-000500/  model.safetensors, ema-0.050.safetensors, optimizer.safetensors, ...: one file for each entry
                     state.json: the caller's state, the size and SHA-256 of each file, and a SHA-256 of all of this
step-000500.tmp      being written, or left by a run that was killed: never read, swept away by the next save
step-000500.old      the earlier checkpoint of a step that is being saved again: read where the new one is not there
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from softmix.config import JSON, ConfigError, canonical

_FORMAT = 1
_STATE = "state.json"
_SUFFIX = ".safetensors"
_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FOLDER = re.compile(r"step-(\d{6,})(\.old)?")
_LEFTOVER = re.compile(r"step-\d{6,}(\.old)?(\.gone)?\.tmp")


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read; the sentence says which, why, and what to do."""


class _DamageError(Exception):
    """Why one checkpoint, or one of its files, is not whole."""


@dataclass(frozen=True)
class Loaded:
    """A whole checkpoint. `tensors` are on the CPU and owned; `damaged` has a sentence for each one passed over."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, JSON]
    path: Path
    damaged: list[str]


@dataclass(frozen=True)
class Finding:
    """What `verify` says of one file; `file` is empty where the whole folder is meant, `reason` where all is well."""

    checkpoint: str
    file: str
    ok: bool
    reason: str


def save(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, JSON], keep: int = 3
) -> Path:
    """Write the checkpoint of `step` into `folder` and return its path; a run killed at any instant loses nothing.

    Everything is written aside, synced and hashed, and only then renamed into place; then the folder is synced,
    and only then are older steps removed, down to `keep` in all. Later steps, if any, are left alone. A step
    that exists is replaced, and until the new one is in place the old one can be read. One process may save.

    Parameters
    ----------
    tensors : {"model": {name: tensor}, "ema-0.050": ..., "optimizer": ...}, each entry a file of its own. Layout and
        sharing of memory are not kept, values are, bit for bit. The largest entry must fit in memory once more.
    state : anything that JSON can hold; tuples come back as lists.

    Raises CheckpointError when the disk is full or refuses: earlier checkpoints are then as they were and nothing
    half-written remains. Raises ValueError for a bad step, name, state or `keep`, before anything is written.
    """
    _require(step, tensors, keep)
    kept = _plain_state(step, state)
    final = folder / f"step-{step:06d}"
    aside = folder / f"{final.name}.tmp"
    with _plainly(f"saving {final}", "the last good checkpoint is untouched"):
        folder.mkdir(parents=True, exist_ok=True)
        _sync(folder.parent)
        _sweep(folder)
        try:
            _write(aside, step, tensors, kept)
            _publish(aside, final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    with _plainly(f"removing the checkpoints before {final}", "that one is saved and whole"):
        _prune(folder, step, keep)
    return final


def latest(folder: Path, only: Iterable[str] | None = None) -> Loaded | None:
    """The newest whole checkpoint in `folder`, or None where there is none at all.

    Every file is verified by size and SHA-256, whether it is asked for or not; a damaged checkpoint is passed over
    with a sentence in `Loaded.damaged`, and the one before it is taken.

    Parameters
    ----------
    only : the entries whose tensors are wanted, such as ("ema-0.050",); all of them by default.

    Raises CheckpointError, naming each, when there are checkpoints and none is whole, and when the one taken has no
    such entry.
    """
    paths = _checkpoints(folder)
    wanted = None if only is None else tuple(only)
    loaded, damaged = _first_whole(paths, wanted)
    if loaded is not None or not paths:
        return loaded
    if paths != _checkpoints(folder):
        # A run in progress replaced what was being read.
        return latest(folder, wanted)
    raise CheckpointError(
        f"a checkpoint was asked for in {folder}, and none there is whole. {' '.join(damaged)} "
        "Restore one from a copy, or move them away to begin anew."
    )


def newest(folder: Path) -> int | None:
    """The step of the newest checkpoint, by its name alone; None where there is none."""
    paths = _checkpoints(folder)
    return _step(paths[0]) if paths else None


def load(folder: Path, step: int | None = None, only: Iterable[str] | None = None) -> Loaded:
    """The whole checkpoint of `step`, or the newest (see `latest`) where no step is given.

    Raises CheckpointError when there is none, or the one of `step` is damaged: no other step is taken for it.
    """
    found, damaged = latest(folder, only) if step is None else None, list[str]()
    if step is not None:
        paths = [path for path in _checkpoints(folder) if _step(path) == step]
        found, damaged = _first_whole(paths, None if only is None else tuple(only))
    if found is None:
        asked = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        steps = ", ".join(str(_step(path)) for path in _checkpoints(folder)) or "none"
        raise CheckpointError(" ".join([f"{asked} was asked for in {folder}; the steps found are {steps}.", *damaged]))
    return found


def verify(folder: Path) -> list[Finding]:
    """A finding for each file of each checkpoint, newest first, and one for each leftover of a save that was cut short.

    Nothing is changed, and no tensor is read. Raises CheckpointError when `folder` is not there.
    """
    if not folder.is_dir():
        raise CheckpointError(f"the checkpoints in {folder} were to be checked, and there is no such folder")
    findings = [finding for path in _checkpoints(folder) for finding in _inspect(path, ())[2]]
    left = "left by a save or a removal that was cut short: never read, and removed by the next save"
    return findings + [Finding(path.name, "", True, left) for path in _leftovers(folder)]


def _require(step: int, tensors: Mapping[str, object], keep: int) -> None:
    if step < 0:
        raise ValueError(f"a checkpoint of step {step} was to be saved; steps count from 0")
    if keep < 1:
        raise ValueError(f"{keep} checkpoints were to be kept; keep at least 1")
    for name in tensors:
        if not _ENTRY.fullmatch(name):
            raise ValueError(f"a file named {name!r} was to be saved; use letters, digits, dots, dashes, underscores")


def _plain_state(step: int, state: Mapping[str, JSON]) -> JSON:
    try:
        plain: JSON = json.loads(canonical(state))
    except ConfigError as error:
        raise ValueError(f"the state of step {step} was to be saved: {error}") from error
    return plain


@contextmanager
def _plainly(doing: str, comfort: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full; free some space" if full else f"{error}; put that right"
        raise CheckpointError(f"{doing} failed: {why}, and run the same command again ({comfort})") from error


def _write(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: JSON) -> None:
    folder.mkdir()
    files: dict[str, JSON] = {}
    for name, group in tensors.items():
        data = safetensors.torch.save(_apart(group))
        _write_synced(folder / (name + _SUFFIX), data)
        files[name + _SUFFIX] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    body: dict[str, JSON] = {"format": _FORMAT, "step": step, "files": files, "state": state}
    text = json.dumps({**body, "sha256": _seal(body)}, indent=1)
    _write_synced(folder / _STATE, text.encode())
    _sync(folder)


def _apart(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two in the same memory: the format knows neither views nor ties."""
    taken: set[int] = set()
    apart = {}
    for name, tensor in group.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if memory in taken else plain
        taken.add(memory)
    return apart


def _seal(body: Mapping[str, JSON]) -> str:
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _write_synced(file: Path, data: bytes) -> None:
    with open(file, "xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    # Where a folder cannot be opened (Windows), its entries are the file system's own affair.
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish(aside: Path, final: Path) -> None:
    old = _old(final)
    if final.exists() and old.exists():
        # Two of this step from earlier saves: whichever can be read must stay until the new one is there.
        whole = all(finding.ok for finding in _inspect(final, ())[2])
        _remove(old if whole else final)
    if final.exists():
        os.rename(final, old)
    os.rename(aside, final)
    _sync(final.parent)


def _old(final: Path) -> Path:
    return final.with_name(f"{final.name}.old")


def _prune(folder: Path, step: int, keep: int) -> None:
    paths = _checkpoints(folder)
    older = sorted({_step(path) for path in paths if _step(path) < step}, reverse=True)
    replaced = [_old(path) for path in paths]
    for path in paths:
        if path in replaced or _step(path) in older[keep - 1 :]:
            _remove(path)


def _remove(path: Path) -> None:
    # Renamed first, so that a removal cut short does not leave what looks like a damaged checkpoint.
    gone = path.with_name(f"{path.name}.gone.tmp")
    os.rename(path, gone)
    shutil.rmtree(gone)


def _sweep(folder: Path) -> None:
    for path in _leftovers(folder):
        shutil.rmtree(path)


def _leftovers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name))


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints' folders, newest first; a replaced one (.old) after the one that replaced it."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _FOLDER.fullmatch(path.name)]
    return sorted(found, key=lambda path: (-_step(path), path.name))


def _step(path: Path) -> int:
    match = _FOLDER.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _first_whole(paths: list[Path], only: tuple[str, ...] | None) -> tuple[Loaded | None, list[str]]:
    damaged: list[str] = []
    for path in paths:
        body, tensors, findings = _inspect(path, only)
        faults = "; ".join(one.reason for one in findings if not one.ok)
        if faults:
            damaged.append(f"{path.name} is damaged, so it was not taken: {faults}.")
            continue
        for name in only or ():
            if name not in tensors:
                held = ", ".join(file.removesuffix(_SUFFIX) for file in body["files"])
                raise CheckpointError(f"{name} was asked for; {path} holds {held or 'no tensors'}")
        return Loaded(_step(path), tensors, body["state"], path, damaged), damaged
    return None, damaged


def _inspect(
    path: Path, only: tuple[str, ...] | None
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], list[Finding]]:
    """What state.json says, the tensors of the entries in `only`, and a finding for every file."""
    try:
        body = _manifest(path)
    except _DamageError as error:
        return {}, {}, [Finding(path.name, _STATE, False, f"{error}, and without it no other file can be judged")]
    tensors, findings = {}, [Finding(path.name, _STATE, True, "")]
    for file in body["files"]:
        name, reason = file.removesuffix(_SUFFIX), ""
        try:
            if only is None or name in only:
                tensors[name] = _read(path, file, body["files"])
            else:
                _check(path, file, body["files"])
        except _DamageError as error:
            reason = str(error)
        findings.append(Finding(path.name, file, not reason, reason))
    return body, tensors, findings


def _manifest(path: Path) -> dict[str, Any]:
    """What state.json says, once its own hash, its step and the names of its files have been checked."""
    try:
        body = json.loads((path / _STATE).read_bytes())
        seal = body.pop("sha256")
        intact = seal == _seal(body)
    except FileNotFoundError:
        raise _DamageError(f"{_STATE} is missing") from None
    except OSError as error:
        raise _DamageError(f"{_STATE} cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _DamageError(f"{_STATE} is not the JSON that was written") from error
    if not intact:
        raise _DamageError(f"{_STATE} was altered: its SHA-256 is not the one that it carries")
    if body.get("format") != _FORMAT:
        raise _DamageError(
            f"{_STATE} has format {body.get('format')}, and this softmix reads {_FORMAT}; use the one that wrote it"
        )
    if body.get("step") != _step(path):
        raise _DamageError(f"{_STATE} is of step {body.get('step')}: the folder, or the file, was renamed")
    _require_shape(body)
    return dict(body)


def _require_shape(body: Mapping[str, Any]) -> None:
    # A seal can be forged; a name that leads out of the folder must not be followed even then.
    files = body.get("files")
    if not isinstance(files, dict) or not isinstance(body.get("state"), dict):
        raise _DamageError(f"{_STATE} lacks its files or its state")
    for name, entry in files.items():
        if not (name.endswith(_SUFFIX) and _ENTRY.fullmatch(name) and isinstance(entry, dict)):
            raise _DamageError(f"{_STATE} lists a file {name!r}, which is no name for one")


def _read(path: Path, name: str, files: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one file, from the very bytes whose hash was checked."""
    with _reading(name, path, files):
        data = (path / name).read_bytes()
        _judge(path, name, files, len(data), hashlib.sha256(data).hexdigest())
        # A clone is aligned as torch aligns; borrowed bytes may be summed in another order.
        return {key: tensor.clone() for key, tensor in safetensors.torch.load(data).items()}


def _check(path: Path, name: str, files: Mapping[str, Any]) -> None:
    with _reading(name, path, files):
        with open(path / name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        _judge(path, name, files, size, digest)
        with safetensors.safe_open(path / name, "pt") as tensors:
            tensors.keys()


@contextmanager
def _reading(name: str, path: Path, files: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        strangers = sorted({file.name for file in path.glob("*")} - {_STATE, *files})
        hint = f" (found instead, and not listed: {', '.join(strangers)})" if strangers else ""
        raise _DamageError(f"{name} is missing{hint}") from None
    except OSError as error:
        raise _DamageError(f"{name} cannot be read ({error.strerror})") from error
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise _DamageError(f"{name} is not a safetensors file") from error


def _judge(path: Path, name: str, files: Mapping[str, Any], size: int, digest: str) -> None:
    if digest == files[name].get("sha256") and size == files[name].get("size"):
        return
    twins = [other for other, entry in files.items() if entry.get("sha256") == digest and other != name]
    if twins:
        raise _DamageError(f"{name} has the content of {twins[0]}: the names were exchanged")
    if size != files[name].get("size"):
        raise _DamageError(f"{name} has {size} bytes, and {files[name].get('size')} were written")
    raise _DamageError(f"{name} was altered: its SHA-256 is not the one that was written")
