"""The time of a call, on a CPU and on a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """The seconds from the start of a call to the end of its work on the device.

    On a GPU two events in its stream give the time, and the call need not wait for the device.
    """
    wait_for(device)
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    wait_for(device)
    return first.elapsed_time(last) / 1000


def seconds_each(call: Callable[[], object], device: torch.device, seconds: float, warm: int = 3) -> float:
    """The mean seconds of a call, over calls of about `seconds` together.

    warm : calls before the measurement.
    """
    for _ in range(warm):
        call()

    def several() -> None:
        for _ in range(count):
            call()

    count = 1
    while True:
        took = timed(several, device)
        if took >= seconds / 2:
            return took / count
        count = max(2 * count, min(math.ceil(count * seconds / max(took, 1e-6)), 64 * count))
