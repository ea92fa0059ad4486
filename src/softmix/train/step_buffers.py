"""`StepBuffers`: the items of one step in buffers on the device, while those of the next steps are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data import Source
from ..data.delivered import Read
from ..data.derived import reads_alone, with_storage
from ..data.prefetch import Prefetcher
from ..data.resident import rows, stored_tensors
from ..rng import Rng
from .examples import example_rng, item_index, source_rng

# the number of steps that are read ahead
_AHEAD = 2


@dataclass(frozen=True)
class StepKey:
    """The examples of a process in one step.

    step, attempt : the numbers of finished steps and of rollbacks.
    places : their places in the batch; None for all.
    """

    step: int
    attempt: int = 0
    places: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sent:
    """Items that are being copied to the device.

    source : the items, on the device.
    done : the end of the copy; None if the copy was waited for.
    """

    source: Source
    done: torch.cuda.Event | None = None


class StepReader:
    """Reads the examples of a step on the host, and copies them to the device beside its other work.

    source, seed, batch : the data, the seed and the batch size of the run.
    """

    def __init__(self, source: Source, seed: int, batch: int, device: torch.device):
        self.source, self.seed, self.batch, self.device = source, seed, batch, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, key: StepKey) -> Sent:
        """Read and copy the examples of a step. It can be called in any thread."""
        first = key.step * self.batch
        items = torch.arange(first, first + self.batch, device="cpu")
        if key.places is not None:
            items = items[list(key.places)]
        few = self.read(item_index(self.seed, len(self.source), items), example_rng(self.seed, items, key.attempt))
        if self._stream is None:
            return Sent(_changed(few, lambda tensor: tensor.to(self.device)))
        with torch.cuda.stream(self._stream):
            there = _changed(few, lambda tensor: tensor.to(self.device, non_blocking=True))
            return Sent(there, self._stream.record_event())

    def read(self, index: Tensor, rng: Rng) -> Source:
        """The items of some examples, as a source on the host."""
        raise NotImplementedError

    @property
    def pins(self) -> bool:
        """Whether memory on the host is pinned, so that a copy does not wait."""
        return self._stream is not None


class RowReader(StepReader):
    """Reads the stored rows of the items. They become items on the device. Nothing is random here."""

    def read(self, index: Tensor, rng: Rng) -> Source:
        few = rows(self.source, index, self.pins)
        assert few is not None, "a RowReader is for sources that show their stored tensors"
        return few


class BatchReader(StepReader):
    """Reads whole batches, with the random stream of the examples."""

    def read(self, index: Tensor, rng: Rng) -> Source:
        few = Read(self.source, *self.source.batch(index, source_rng(rng)))
        return few.with_storage(Tensor.pin_memory) if self.pins else few


class StepBuffers:
    """The items of one step in buffers on the device.

    `prepare` fills the buffers in place. The items of the next two steps are read meanwhile, in a thread. Every batch
    is a function of the step, so a step that was not expected, after a rollback, is read at once.

    reader : reads the examples of a step.
    version : grows when a buffer is replaced, because its shape has changed.
    """

    def __init__(self, reader: StepReader):
        self.version = 0
        self._reader, self._batch, self._device = reader, reader.batch, reader.device
        self._ahead = 0 if reads_alone(reader.source) else _AHEAD
        self._prefetcher: Prefetcher[StepKey, Sent] = Prefetcher(reader)
        self._key: StepKey | None = None
        self._places: tuple[int, ...] | None = None
        self._source: Source | None = None
        self._rows = torch.arange(self._batch, device=self._device)
        # which places of the batch are in the buffers, on the host
        self._held = torch.ones(self._batch, dtype=torch.bool, device="cpu")

    def prepare(self, step: int, attempt: int, places: Tensor | None) -> None:
        """Bring the items of a step into the buffers. Raises any error of the source."""
        key = StepKey(step, attempt, None if places is None else tuple(places.tolist()))
        if key == self._key:
            return
        following = [replace(key, step=step + ahead) for ahead in range(1, self._ahead + 1)]
        sent = self._prefetcher.get(key, following)
        self._key = None
        self._fill(sent)
        self._set_places(key)
        self._key = key

    def items(self, items: Tensor) -> tuple[Source, Tensor] | None:
        """The source of the step, and the row of each example there. None if the examples are of another step.

        items : numbers of examples. Those on an accelerator are of the prepared step.
        """
        if self._source is None or self._key is None:
            return None
        if items.device.type == "cpu" and not self._holds(items, self._key):
            return None
        return self._source, self._rows[(items % self._batch).to(self._device)]

    def settle(self) -> None:
        """Wait until the thread has nothing to do."""
        self._prefetcher.settle()

    def close(self) -> None:
        """End the thread."""
        self._prefetcher.close()

    def _set_places(self, key: StepKey) -> None:
        if key.places == self._places:
            return
        places = (
            torch.arange(self._batch, device="cpu") if key.places is None else torch.tensor(key.places, device="cpu")
        )
        rows = torch.zeros(self._batch, dtype=torch.int64, device="cpu")
        rows[places] = torch.arange(len(places), device="cpu")
        self._held = torch.zeros_like(self._held).index_fill(0, places, True)
        self._rows.copy_(rows)
        self._places = key.places

    def _holds(self, items: Tensor, key: StepKey) -> bool:
        """Whether the buffers have these examples, which are on the CPU."""
        places = items - key.step * self._batch
        return bool(((places >= 0) & (places < self._batch)).all()) and bool(self._held[places].all())

    def _fill(self, sent: Sent) -> None:
        if sent.done is not None:
            torch.cuda.current_stream(self._device).wait_event(sent.done)
        new = stored_tensors(sent.source) or []
        for tensor in new if sent.done is not None else []:
            # the memory belongs to the other stream
            tensor.record_stream(torch.cuda.current_stream(self._device))
        old = [] if self._source is None else stored_tensors(self._source) or []
        if [(each.shape, each.dtype) for each in old] != [(each.shape, each.dtype) for each in new]:
            self.version += 1
            self._source = sent.source
            return
        for buffer, tensor in zip(old, new, strict=True):
            buffer.copy_(tensor)


def _changed(source: Source, change: Callable[[Tensor], Tensor]) -> Source:
    changed = with_storage(source, change)
    assert changed is not None
    return changed
