"""Text as items of tokens, and tokens as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .report import DataError, Report, printable
from .request import Request
from .store import Data, choose, make


def from_text(path: Path, request: Request) -> Data:
    """A text file, cut into items of `request.length` tokens. The rest at its end is left out.

    "characters": the token of a character is its index in the sorted characters of the text, which is UTF-8.
    "bytes": the tokens are the 256 bytes.
    Raises DataError.
    """
    name = printable(path.stem)
    request.refuse_options(name, "is read as text", "size", "channels", "bits", "values", "layout", "spacing")
    length = request.length
    assert length is not None
    try:
        raw = path.read_bytes()
        numbers, alphabet = _characters(raw) if request.tokens == "characters" else (np.frombuffer(raw, np.uint8), "")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{printable(str(path))} cannot be read as text ({error}); save it as UTF-8") from error
    items = len(numbers) // length
    if not items:
        raise DataError(
            f"{name}: items of {length} {request.tokens} were asked for, and it has {len(numbers)}; give a "
            "smaller length"
        )
    vocabulary = len(alphabet) if request.tokens == "characters" else 256
    notes = [f"{len(numbers)} {request.tokens}, with a vocabulary of {vocabulary}, in items of {length}"]
    if rest := len(numbers) - items * length:
        notes.append(f"the last {rest} {request.tokens} are too few for an item, and were left out")
    chosen = choose(items, request.limit)
    if len(chosen) < items:
        notes.append(f"limit: {len(chosen)} items were taken, chosen at random from {items}")
    cut = numbers[: items * length].reshape(items, length)
    values = request.storage.empty(name, (len(chosen), length), np.int32)
    values[...] = cut[chosen.numpy()]
    report = Report(len(values), notes=tuple(notes))
    return make(name, torch.from_numpy(values), None, (), report, vocabulary=vocabulary, alphabet=alphabet)


def _characters(raw: bytes) -> tuple[NDArray[np.int64], str]:
    """Return (the token of each character, the characters)."""
    codes = np.frombuffer(raw.decode("utf-8-sig").encode("utf-32-le"), "<u4")
    known, numbers = np.unique(codes, return_inverse=True)
    return numbers.reshape(-1), known.astype("<u4").tobytes().decode("utf-32-le")


def to_text(tokens: Tensor, alphabet: str) -> list[str]:
    """The text of tokens.

    tokens : [N, L].
    alphabet : the character of each token; "" for bytes of UTF-8.
    Raises ValueError for a number that is no token.
    """
    most = len(alphabet) or 256
    if tokens.is_floating_point() or (tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < most):
        raise ValueError(f"tokens are whole numbers from 0 to {most - 1}; found {tokens.dtype} up to {tokens.max()}")
    if alphabet:
        return ["".join(alphabet[i] for i in item) for item in tokens.tolist()]
    return [bytes(item).decode("utf-8", errors="replace") for item in tokens.tolist()]
