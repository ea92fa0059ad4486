"""A signal that asks a run to stop lets it finish its step and save."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """A run that was asked to stop, has saved, and can go on. `number` : of the signal."""

    def __init__(self, sentence: str, number: int):
        super().__init__(sentence)
        self.number = number


@contextmanager
def asked() -> Iterator[Callable[[], int]]:
    """A function that says which signal has asked to stop, 0 for none; a second Ctrl-C stops at once.

    Outside the main thread signals cannot be had, and none is ever seen.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)
        # print may be in the middle of something
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
