"""Limits on memory and on the size of compressed files."""

from __future__ import annotations

import os

import torch

from .report import DataError

# Real data are compressed 2 to 20 times. A file of zeros is compressed 1000 times, and may be an attack.
PACKED_BYTES = 1 << 28
PACKED_RATIO = 100


def unpacked_limit(packed: int) -> int:
    """The largest number of bytes that a file of `packed` bytes may unpack to: 256 MiB, or 100 times its size."""
    return max(PACKED_BYTES, PACKED_RATIO * packed)


def free_bytes() -> int | None:
    """The free memory of this machine in bytes; None if the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next((int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:")), None)
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def free_on(device: torch.device) -> int | None:
    """The free memory of an accelerator in bytes; None if torch does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        return int(torch.accelerator.get_memory_info(device)[0])
    except (AttributeError, RuntimeError, NotImplementedError):
        return None


def require_memory(name: str, need: int) -> None:
    """Raises DataError if fewer than `need` bytes of memory are free."""
    free = free_bytes()
    if free is not None and need > free:
        raise DataError(
            f"{name} needs {need / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free; give a smaller size, "
            "or a limit"
        )
