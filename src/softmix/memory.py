"""Ground floor: errors for a lack of memory."""

from __future__ import annotations

import torch


class NotEnoughMemoryError(RuntimeError):
    """The memory is too small, also for the smallest piece of the work. Nothing was changed."""


def is_memory_error(error: BaseException) -> bool:
    """Whether an error of torch or Python means that the memory is too small."""
    message = str(error).lower()
    # the last two are of oneDNN and C++
    words = ("not enough memory", "can't allocate memory", "out of memory", "could not create a primitive", "bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in message for word in words)
