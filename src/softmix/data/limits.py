"""How much may be read: no more than memory holds, and no more than a packed file can be meant to hold."""

from __future__ import annotations

import os

from .report import DataError

# A packed file may always hold this much, and else so many times its own size. Real data are packed 2 to 20 times,
# and a file of nothing but zeros 1000 times.
PACKED_BYTES = 1 << 28
PACKED_RATIO = 100


def unpacked_limit(packed: int) -> int:
    """How many bytes a file packed into `packed` bytes may hold: 256 MiB, or a hundred times its size."""
    return max(PACKED_BYTES, PACKED_RATIO * packed)


def free_bytes() -> int | None:
    """The memory that is free on this machine, in bytes; None if the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next((int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:")), None)
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def require_memory(name: str, need: int) -> None:
    """Raises DataError if `need` bytes are more than the memory that is free."""
    free = free_bytes()
    if free is not None and need > free:
        raise DataError(
            f"{name} needs {need / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free; give a smaller size, "
            "or a limit"
        )
