"""Ground floor: errors for a lack of memory, and work in batches that fit into it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class NotEnoughMemoryError(RuntimeError):
    """The memory is too small, also for the smallest piece of the work. Nothing was changed."""


def is_memory_error(error: BaseException) -> bool:
    """Whether an error of torch or Python means that the memory is too small."""
    message = str(error).lower()
    # the last two are of oneDNN and C++
    words = ("not enough memory", "can't allocate memory", "out of memory", "could not create a primitive", "bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in message for word in words)


def in_batches(work: Callable[[int, int], T], count: int, batch: int, noun: str) -> list[T]:
    """Do work for items 0 .. count-1 in batches, with half the batch size from each lack of memory on.

    work : from the first item of a batch and the one after its last to a result.
    batch : the largest number of items in a batch.
    noun : the singular of the items, for the warning and the error.

    Returns the results in order. A warning names the old and the new batch size.
    Raises NotEnoughMemoryError if one item is too large for the memory.
    """
    done: list[T] = []
    low = 0
    while low < count:
        high, problem = min(low + batch, count), ""
        try:
            done.append(work(low, high))
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            # a MemoryError of Python has no message
            problem = " ".join(str(error).split()) or type(error).__name__
        if not problem:
            low = high
        elif high - low == 1:
            raise NotEnoughMemoryError(f"one {noun} at a time does not fit into the memory ({problem})")
        else:
            # outside the except block, so that the traceback no longer holds tensors
            batch = (high - low + 1) // 2
            warnings.warn(f"{high - low} {noun}s at a time do not fit into the memory; now {batch}", stacklevel=3)
    return done
