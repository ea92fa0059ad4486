"""Write files atomically; save and load the weights of feature extractors as safetensors, never as pickle."""

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
    """SHA-256 in hex of names, dtypes, shapes and values, sorted by name."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.numpy().data)
    return digest.hexdigest()


def write_weights(path: Path, weights: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Save weights, their hash and short notes with `write_whole_file`."""
    plain = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    write_whole_file(path, save(plain, metadata={**notes, "sha256": weights_hash(plain)}))


def write_whole_file(path: Path, content: bytes) -> None:
    """Write a file atomically: write a temporary file, sync it, rename it. Raises OSError if the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file at once, so each needs its own temporary name.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return weights and notes.

    Raises ValueError for a damaged file or a wrong hash, and OSError for a file that cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
            names = file.keys()
            weights = {name: torch.clone(file.get_tensor(name)) for name in names}
    except SafetensorError as error:
        raise ValueError(f"it is not a complete safetensors file: {error}") from error
    if notes.get("sha256") != weights_hash(weights):
        raise ValueError("its contents do not match the hash stored with them")
    return weights, notes
