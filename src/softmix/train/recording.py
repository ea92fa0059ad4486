"""Record a piece of work on a CUDA card, and replay it with one launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass

import torch

Work = Callable[[], None]
# Runs the work once, and returns a function that runs it again. Raises NotRecordableError after the first run.
Recorder = Callable[[Work], Work]

# steps of a kind before it is recorded: they make the moments, the tables that are made at first use, and compiled code
_EAGER = 3


class NotRecordableError(RuntimeError):
    """The work has run, but it cannot be recorded. The sentence gives the reason."""


def record_cuda_graph(work: Work) -> Work:
    """Run the work, and record its kernels as a CUDA graph.

    The work runs on the stream of the recording, because libraries make their handles and workspaces at the first use
    of a stream. Then it is recorded, which computes nothing. A replay reads and writes the same memory, and repeats
    every number that the host has computed.

    Raises NotRecordableError for work that waits for the card, copies from memory of the host, or does not fit into
    memory twice.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    state = generator.clone_state()
    try:
        # other threads may use the card: a progress bar, a loader of data
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
    except BaseException as error:  # torch raises errors of many types
        # the generator of torch would believe that it is still being recorded, and refuse to draw
        generator.graphsafe_set_state(state)
        if not isinstance(error, Exception):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotRecordableError(reason) from error
    return graph.replay


class RecordedWork:
    """Runs the same work again and again: some times as it is, then as a recording.

    recorder : makes the recording; None to run the work as it is.
    before : called before a recording.
    """

    def __init__(self, recorder: Recorder | None, before: Callable[[], None] = lambda: None):
        self._recorder, self._before = recorder, before
        self._replay: Work | None = None
        self._key: object = None
        self._runs = 0
        self.reason = ""

    @property
    def settled(self) -> bool:
        """Whether the next run of the same work costs as much as all later ones."""
        return self._recorder is None or self._replay is not None

    def give_up(self, reason: str) -> None:
        """Run the work as it is from now on."""
        self._recorder = self._replay = None
        self.reason = reason

    def run(self, key: object, work: Work) -> None:
        """Run the work.

        key : the numbers and objects of the host that the work depends on. With another key it is recorded anew.
        """
        if key != self._key:
            # the old recording holds memory
            self._replay, self._key, self._runs = None, key, 0
        if self._replay is not None:
            self._replay()
        elif self._recorder is None or self._runs < _EAGER:
            self._runs += 1
            work()
        else:
            self._before()
            try:
                self._replay = self._recorder(work)
            except NotRecordableError as error:
                self.give_up(str(error))


def undeclared(part: object) -> str | None:
    """The name of a class in a configuration that is not of softmix, and does not say that its work can be recorded.

    The host may compute a number in such a class, and a recording would freeze it without an error. A class says that
    it does not by the attribute `capturable = True`.
    """
    kind = type(part)
    if is_dataclass(part) and not isinstance(part, type):
        if kind.__module__.split(".")[0] != "softmix" and not getattr(part, "capturable", False):
            return kind.__name__
        return next(filter(None, (undeclared(getattr(part, field.name)) for field in fields(part))), None)
    if isinstance(part, tuple | list):
        return next(filter(None, map(undeclared, part)), None)
    return None
