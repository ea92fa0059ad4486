"""Files that are whole or not there; weights of feature extractors, never as pickle."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of names, dtypes, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.numpy().data)
    return digest.hexdigest()


def write_weights(path: Path, weights: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Save weights, their hash and short notes as `write_aside` does."""
    plain = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    write_aside(path, save(plain, metadata={**notes, "sha256": weights_hash(plain)}))


def write_aside(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there: aside, synced, then renamed. OSError if the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file at once, so the name aside must be one's own.
    aside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights and notes; ValueError if the file is damaged or its hash does not agree, OSError if unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
            names = file.keys()
            weights = {name: torch.clone(file.get_tensor(name)) for name in names}
    except SafetensorError as error:
        raise ValueError(f"it is not a whole safetensors file: {error}") from error
    if notes.get("sha256") != weights_hash(weights):
        raise ValueError("its contents do not agree with the hash stored beside them")
    return weights, notes
