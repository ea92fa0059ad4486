"""Signals: Ctrl-C and SIGTERM let a run finish its step and save."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """A run has been asked to stop. It has saved, and can continue.

    number : the number of the signal.
    """

    def __init__(self, sentence: str, number: int):
        super().__init__(sentence)
        self.number = number


@contextmanager
def stop_signal() -> Iterator[Callable[[], int]]:
    """Gives a function that returns the number of the signal received so far, 0 for none.

    A second Ctrl-C stops at once. Outside the main thread Python delivers no signals, and the function returns 0.
    """
    seen: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)
        # print may be interrupted in its middle, and is not reentrant
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, receive) for number in _SIGNALS}
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
