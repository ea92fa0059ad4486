"""The data of each step of a run, on the device of its loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..data import Source
from ..data.delivered import Delivered, Gathered
from ..data.resident import fits, resident, works_on
from ..rng import Rng
from .examples import ItemOrder, example_rng, item_index, source_rng
from .step_buffers import BatchReader, RowReader, StepBuffers


@dataclass(frozen=True)
class StagedItems:
    """The data items of some training examples, which are on the device already.

    source : the items of the step.
    rows : the item of each example there, [B].
    """

    source: Source
    rows: Tensor

    def batch(self, rng: Rng) -> tuple[Tensor, Cond | None]:
        """x0 and the conditions of the examples."""
        return self.source.batch(self.rows, rng)


class Feed:
    """The data of each step on the CPU, read when the step asks for them. `feed_for` chooses the feed of a device.

    source : the source for tasks. Its batches are on the device.
    numbers : the device of the numbers of examples in a step.
    """

    def __init__(self, source: Source, seed: int):
        self.host, self.source, self.seed = source, source, seed
        self.numbers = torch.device("cpu")

    @property
    def version(self) -> int:
        """Grows when a buffer on the device is replaced. A graph that was captured before is then wrong."""
        return 0

    def prepare(self, step: int, attempt: int = 0, places: Tensor | None = None) -> None:
        """Bring the data of a step to the device. Call it once before each step, and never in a captured graph.

        step, attempt : the numbers of finished steps and of rollbacks.
        places : the places in the batch that this process computes, int64, on the CPU. None: all.
        Raises any error of the source.
        """

    def index(self, items: Tensor) -> Tensor:
        """The data item of each example, on the device.

        items : [B]. Numbers on the CPU may be any. Numbers on an accelerator are those of the prepared step.
        """
        return item_index(self.seed, len(self.host), items)

    def staged(self, items: Tensor) -> StagedItems | None:
        """The items of these examples, if `prepare` has brought them to the device. None: `source` has them."""
        return None

    def placed(self, items: Tensor) -> Tensor:
        """The numbers of examples, on the device of numbers."""
        return items.to(self.numbers)

    def explain(self, items: Tensor, attempt: int = 0) -> None:
        """Raises the error of the source, if it is the reason for a loss that is not finite.

        items : the examples of the step, on the CPU.
        """

    def settle(self) -> None:
        """Wait until no thread reads data. While a graph is captured no other thread may allocate memory."""

    def close(self) -> None:
        """End the thread that reads data."""


class DeviceFeed(Feed):
    """The data of each step on an accelerator, without a wait for the device.

    The first of these that is possible is chosen:

    1. The stored tensors fit into a third of the free memory of the device: they live there.
    2. They do not fit: a thread gathers their rows for the next steps, into pinned memory, and copies them.
    3. The source shows no stored tensors, or works on the host only: the same with whole batches. Sources that draw
       from global generators (`reads_alone`) are read without a thread.

    seed : the seed of the run.
    batch : the batch size.
    """

    def __init__(self, source: Source, seed: int, batch: int, device: torch.device):
        super().__init__(source, seed)
        # times need float64, which mps does not have
        self.numbers = torch.device("cpu") if device.type == "mps" else device
        self.device, self._batch = device, batch
        self._order = ItemOrder(seed, max(len(source), 1), batch, device)
        self._buffers: StepBuffers | None = None
        whole = works_on(source, device)
        there = resident(source, device) if whole and fits(source, device) else None
        if there is not None:
            self.source = there
        elif whole:
            self.source, self._buffers = Gathered(source, device), StepBuffers(RowReader(source, seed, batch, device))
        else:
            self.source, self._buffers = (
                Delivered(source, device),
                StepBuffers(BatchReader(source, seed, batch, device)),
            )

    @property
    def version(self) -> int:
        return 0 if self._buffers is None else self._buffers.version

    def prepare(self, step: int, attempt: int = 0, places: Tensor | None = None) -> None:
        first = step * self._batch
        self._order.prepare(first, first + self._batch - 1)
        if self._buffers is not None:
            self._buffers.prepare(step, attempt, places)

    def index(self, items: Tensor) -> Tensor:
        if items.device.type == "cpu":
            return super().index(items).to(self.device)
        return self._order.index(items)

    def staged(self, items: Tensor) -> StagedItems | None:
        held = None if self._buffers is None else self._buffers.items(items)
        return None if held is None else StagedItems(*held)

    def explain(self, items: Tensor, attempt: int = 0) -> None:
        index = item_index(self.seed, len(self.host), items)
        self.host.batch(index, source_rng(example_rng(self.seed, items, attempt)))

    def settle(self) -> None:
        if self._buffers is not None:
            self._buffers.settle()

    def close(self) -> None:
        if self._buffers is not None:
            self._buffers.close()


class NoItemsFeed(Feed):
    """The feed of a source without items: a task on a `Target` makes its own samples.

    The index of every example is 0, and no source has such an item.
    """

    def __init__(self, source: Source, seed: int, device: torch.device):
        super().__init__(source, seed)
        # as in `DeviceFeed`
        self.numbers = torch.device("cpu") if device.type == "mps" else device
        self.device = device

    def index(self, items: Tensor) -> Tensor:
        return torch.zeros_like(items, device=self.device)


def feed_for(source: Source, seed: int, batch: int, device: torch.device) -> Feed:
    """The feed for a device."""
    if not len(source):
        return NoItemsFeed(source, seed, device)
    # tensors on the device "meta" have no numbers
    if device.type in ("cpu", "meta"):
        return Feed(source, seed)
    return DeviceFeed(source, seed, batch, device)
