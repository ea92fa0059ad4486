"""The data of each step on an accelerator: the same examples as on the CPU, without a read of the device.

The CPU stands for the device. `OnDevice` is a DeviceFeed that takes numbers on the CPU for numbers on the device.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from softmix.cond import Cond
from softmix.data import Data, DataError, Degraded, Encoded, Paired, Report, Source, derived, from_dataset
from softmix.data.delivered import Delivered, Gathered
from softmix.data.resident import NoHostReads
from softmix.data.store import make
from softmix.rng import Rng, stream
from softmix.rng import plain as by_torch
from softmix.train import Config, Denoise, preset, training
from softmix.train import feed as feeds
from softmix.train import trainer as trainers
from softmix.train.examples import ItemOrder, example_rng, item_index
from softmix.train.feed import DeviceFeed, Feed, StagedItems, feed_for
from softmix.train.noise_times import times
from softmix.train.preset import MODELS
from softmix.train.task import Batch

CPU = torch.device("cpu")
COUNT, BATCH, SEED = 11, 4, 5


class OnDevice(DeviceFeed):
    """A DeviceFeed on the CPU."""

    def index(self, items: Tensor) -> Tensor:
        return self._order.index(items)

    def staged(self, items: Tensor) -> StagedItems | None:
        if self._buffers is None:
            return None
        assert self._buffers._source is not None
        return StagedItems(self._buffers._source, self._buffers._rows[items % self._batch])


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All data are too large for the device."""
    monkeypatch.setattr("softmix.data.resident.free_on", lambda device: 0)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All data fit."""
    monkeypatch.setattr("softmix.data.resident.free_on", lambda device: 1 << 40)


def floats(*shape: int, seed: int = 0, labels: int = 0) -> Data:
    values = Rng(seed, COUNT, "test.floats").normal((COUNT, *shape))
    classes = tuple(map(str, range(labels)))
    return make("floats", values, torch.arange(COUNT) % labels if labels else None, classes, Report(COUNT))


def pictures(channels: int = 1, size: int = 8, seed: int = 0) -> Data:
    values = Rng(seed, COUNT, "test.pictures").integers(256, (COUNT, channels, size, size)).to(torch.uint8)
    return make("pictures", values, torch.arange(COUNT) % 3, ("a", "b", "c"), Report(COUNT))


def tokens() -> Data:
    values = Rng(0, COUNT, "test.tokens").integers(5, (COUNT, 6)).to(torch.int32)
    return make("tokens", values, None, (), Report(COUNT), vocabulary=5)


def noisy(x0: Tensor, rng: Rng) -> Tensor:
    return x0 + 0.1 * rng.normal(x0.shape)


class Doubled:
    def encode(self, x0: Tensor) -> Tensor:
        return 2 * x0

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2


class Listed:
    """A torch Dataset of dicts, with contexts of different lengths and random transforms."""

    classes = ("a", "b", "c")

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return {
            "x0": torch.full((3,), float(index)) + torch.rand(3),
            "label": index % 3,
            "context": torch.full((1 + index % 3, 2), index / 7),
        }


class ManyLabels:
    """A source of one's own, with two labels and noise, that shows no stored tensors."""

    name, fingerprint, shape, is_image = "many", "0" * 16, (2,), False

    def __init__(self) -> None:
        from softmix.cond import CondSpec

        self.cond = CondSpec((("a", 3), ("b", 4)))

    def __len__(self) -> int:
        return COUNT

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        if int(index.max()) >= COUNT:
            raise DataError("no such item")
        labels = torch.stack([index % 3, index % 4], 1)
        return index[:, None] + rng.normal((len(index), 2)), Cond(label=labels)


SOURCES: dict[str, Callable[[], Source]] = {
    "images": pictures,
    "points": lambda: floats(2, labels=3),
    "sequences": lambda: floats(4, 2),
    "tokens": tokens,
    "pairs": lambda: Paired(pictures(), pictures(3, seed=1)),
    "points with values": lambda: Paired(floats(2), floats(3, seed=1)),
    "measured": lambda: Degraded(pictures(), noisy),
    "latents": lambda: Encoded(pictures(), Doubled()),
    "cached latents": lambda: Encoded(pictures(), Doubled()).cached(),
    "a Dataset": lambda: from_dataset(Listed()),
    "many labels": ManyLabels,
}
HOST_ONLY = {"a Dataset", "many labels"}


def batch_of(feed: Feed, items: Tensor, attempt: int = 0) -> Batch:
    rng = example_rng(SEED, items, attempt)
    return Batch(items, feed.index(items), rng, SEED, attempt, staged=feed.staged(items))


def read(feed: Feed, items: Tensor, attempt: int = 0) -> tuple[Tensor, Cond | None]:
    return batch_of(feed, items, attempt).read(feed.source)


def plain(source: Source, items: Tensor, attempt: int = 0) -> tuple[Tensor, Cond | None]:
    """The examples as they were before there were feeds."""
    rng = Rng(SEED, items, f"train.{attempt}").child("source")
    return source.batch(item_index(SEED, len(source), items), rng)


def assert_equal(found: tuple[Tensor, Cond | None], wanted: tuple[Tensor, Cond | None]) -> None:
    assert found[0].dtype == wanted[0].dtype
    assert torch.equal(found[0], wanted[0])
    assert (found[1] is None) == (wanted[1] is None)
    if found[1] is None or wanted[1] is None:
        return
    assert found[1].parts == wanted[1].parts
    for part in ("label", "image", "value"):
        a, b = getattr(found[1], part), getattr(wanted[1], part)
        assert (a is None and b is None) or torch.equal(a, b)
    for each, (a, b) in enumerate(zip(token_rows(found[1]), token_rows(wanted[1]), strict=True)):
        assert torch.equal(a, b), each


def token_rows(cond: Cond) -> list[Tensor]:
    """The present tokens of each item."""
    if cond.context is None:
        return []
    mask = cond.mask if cond.mask is not None else torch.ones(cond.context.shape[:2], dtype=torch.bool)
    return [row[here] for row, here in zip(cond.context, mask, strict=True)]


def items_of(step: int) -> Tensor:
    return torch.arange(step * BATCH, (step + 1) * BATCH)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("softmix-data")]


@pytest.fixture(autouse=True)
def no_leaked_thread() -> Iterator[None]:
    yield
    import gc

    gc.collect()
    end = time.monotonic() + 1
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert threads() == []


# the order of the items


@pytest.mark.parametrize(("count", "batch"), [(11, 4), (11, 11), (11, 12), (3, 10), (1, 4), (4, 1), (8, 4), (5, 64)])
def test_the_table_has_the_numbers_of_the_cpu(count: int, batch: int) -> None:
    order = ItemOrder(SEED, count, batch, CPU)
    # forwards over several epochs, and back, as after a rollback
    for step in [*range(12), 3, 4, 0, 40, 41]:
        items = torch.arange(step * batch, (step + 1) * batch)
        order.prepare(int(items[0]), int(items[-1]))
        assert torch.equal(order.index(items), item_index(SEED, count, items)), step


def test_the_order_of_a_run_is_the_one_that_saved_runs_have() -> None:
    assert item_index(0, 5, torch.arange(12)).tolist() == [4, 1, 2, 0, 3, 3, 1, 2, 4, 0, 0, 4]


def test_the_table_stays_at_its_address() -> None:
    order = ItemOrder(SEED, 3, 4, CPU)
    order.prepare(0, 3)
    before = order._table.data_ptr()
    for step in range(9):
        order.prepare(4 * step, 4 * step + 3)
    assert order._table.data_ptr() == before


def test_an_epoch_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    from softmix.train import examples

    compute = examples._order_on
    monkeypatch.setattr(examples, "_order_on", lambda *args: (epochs.append(args[2]), compute(*args))[1])
    order = ItemOrder(SEED, 11, 4, CPU)
    for step in range(9):
        order.prepare(4 * step, 4 * step + 3)
    assert epochs == [0, 1, 2, 3]


def test_the_table_is_read_without_the_host() -> None:
    order, items = ItemOrder(SEED, COUNT, BATCH, CPU), items_of(2)
    order.prepare(8, 11)
    with NoHostReads(CPU):
        order.index(items)


# the examples of a step


@pytest.mark.parametrize("memory", [small, large], ids=["resident", "buffers"])
@pytest.mark.parametrize("name", SOURCES)
def test_examples_are_those_of_the_cpu(
    name: str, memory: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(monkeypatch)
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    source = SOURCES[name]()
    feed = OnDevice(source, SEED, BATCH, CPU)
    # 11 items: steps 2 and 5 have two epochs. Then a rollback.
    for step, attempt in [*((step, 0) for step in range(7)), (3, 1), (4, 1), (4, 2)]:
        feed.prepare(step, attempt)
        for items in (items_of(step), *items_of(step).chunk(3), items_of(step).flip(0)):
            assert_equal(read(feed, items, attempt), plain(source, items, attempt))
    feed.close()


@pytest.mark.parametrize("name", SOURCES)
def test_the_place_of_the_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    small(monkeypatch)
    resident = DeviceFeed(SOURCES[name](), SEED, BATCH, CPU)
    large(monkeypatch)
    kept = DeviceFeed(SOURCES[name](), SEED, BATCH, CPU)
    assert isinstance(resident.source, Delivered) == (name in HOST_ONLY)
    assert isinstance(kept.source, Delivered if name in HOST_ONLY else Gathered)


@pytest.mark.parametrize("name", ["images", "measured", "a Dataset", "many labels"])
def test_a_process_reads_its_own_places(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    source, sizes = SOURCES[name](), []
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    feed = OnDevice(source, SEED, BATCH, CPU)
    for step, places in [(0, [1, 3]), (1, [1, 3]), (2, [0, 2]), (3, [3])]:
        feed.prepare(step, 0, torch.tensor(places))
        items = items_of(step)[places]
        staged = feed.staged(items)
        assert staged is not None
        sizes.append(len(staged.source))
        assert_equal(read(feed, items), plain(source, items))
    assert sizes == [2, 2, 2, 1]
    feed.close()


@pytest.mark.parametrize("name", ["images", "many labels"])
def test_numbers_on_the_cpu_may_be_of_any_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    source = SOURCES[name]()
    feed = DeviceFeed(source, SEED, BATCH, CPU)
    assert_equal(read(feed, torch.arange(2)), plain(source, torch.arange(2)))
    feed.prepare(6, 0, torch.tensor([0, 1, 2]))
    for items in (torch.arange(2), torch.tensor([27]), torch.tensor([24, 28]), torch.tensor([3, 24]), items_of(6)):
        assert feed.staged(items) is None
        assert_equal(read(feed, items), plain(source, items))
    assert feed.staged(torch.tensor([26, 24])) is not None
    assert_equal(read(feed, torch.tensor([26, 24])), plain(source, torch.tensor([26, 24])))
    feed.close()


def test_an_item_may_be_twice_in_a_batch_with_other_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    source = ManyLabels()
    feed = OnDevice(source, SEED, 3 * COUNT, CPU)
    feed.prepare(1)
    items = torch.arange(3 * COUNT, 6 * COUNT)
    assert_equal(read(feed, items), plain(source, items))
    feed.close()


def test_the_buffers_stay_at_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    feed = OnDevice(Paired(pictures(), pictures(3, seed=1)), SEED, BATCH, CPU)
    places, versions = set(), set()
    for step in range(6):
        feed.prepare(step)
        staged = feed.staged(items_of(step))
        assert staged is not None
        places.add(tuple(tensor.data_ptr() for tensor in stored(staged.source)))
        versions.add(feed.version)
    assert len(places) == 1
    assert versions == {1}
    feed.close()


def stored(source: Source) -> list[Tensor]:
    from softmix.data.resident import stored_tensors

    return stored_tensors(source) or []


def test_buffers_of_another_shape_have_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    feed = OnDevice(pictures(), SEED, BATCH, CPU)
    assert feed.version == 0
    large(monkeypatch)
    feed = OnDevice(pictures(), SEED, BATCH, CPU)
    versions = []
    for step, places in [(0, None), (1, None), (2, torch.tensor([0, 1])), (3, torch.tensor([2, 1])), (4, None)]:
        feed.prepare(step, 0, places)
        versions.append(feed.version)
    assert versions == [1, 1, 2, 2, 3]
    feed.close()


def test_pixels_cross_to_the_device_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    feed = OnDevice(pictures(), SEED, BATCH, CPU)
    feed.prepare(0)
    staged = feed.staged(items_of(0))
    assert staged is not None
    assert [tensor.dtype for tensor in stored(staged.source)] == [torch.uint8, torch.int64]
    feed.close()


def test_a_step_that_is_prepared_twice_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    source = Counting(pictures())
    feed = OnDevice(source, SEED, BATCH, CPU)
    feed.prepare(0)
    feed._buffers.settle()  # type: ignore[union-attr]
    before = list(source.read)
    feed.prepare(0)
    feed.prepare(0)
    assert source.read == before
    feed.close()


class Counting:
    """A source of one's own that notes which items are read in which thread, and that has a bad item."""

    def __init__(self, data: Data, bad: int = -1):
        self.data, self.bad = data, bad
        self.name, self.fingerprint, self.shape, self.is_image = data.name, data.fingerprint, data.shape, True
        self.cond = data.cond
        self.read: list[list[int]] = []
        self.threads: list[str] = []

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        self.read.append(index.tolist())
        self.threads.append(threading.current_thread().name)
        if self.bad in index.tolist():
            raise DataError(f"item {self.bad} of my source cannot be read; leave it out")
        return self.data.batch(index, rng)


def test_the_next_two_steps_are_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    source = Counting(pictures())
    feed = OnDevice(source, SEED, BATCH, CPU)
    for step in range(3):
        feed.prepare(step)
        feed.settle()
    wanted = [item_index(SEED, COUNT, items_of(step)).tolist() for step in range(5)]
    assert sorted(source.read) == sorted(wanted)
    assert sum(name.startswith("softmix-data") for name in source.threads) == 4
    feed.close()


def test_a_dataset_is_read_in_the_thread_of_the_training() -> None:
    """Its transforms draw from the global generators, which are seeded for each item."""
    names: list[str] = []

    class Noting(Listed):
        def __getitem__(self, index: int) -> Any:
            names.append(threading.current_thread().name)
            return super().__getitem__(index)

    feed = OnDevice(from_dataset(Noting()), SEED, BATCH, CPU)
    for step in range(3):
        feed.prepare(step)
    assert set(names) == {threading.current_thread().name}
    assert threads() == []


def test_an_error_of_the_source_is_raised_by_the_step_that_needs_it() -> None:
    bad = int(item_index(SEED, COUNT, torch.tensor([9])))
    feed = OnDevice(Counting(pictures(), bad), SEED, BATCH, CPU)
    feed.prepare(0)
    feed.prepare(1)
    with pytest.raises(DataError, match=f"item {bad} of my source cannot be read; leave it out"):
        feed.prepare(2)
    # and again, if the step is tried again
    with pytest.raises(DataError, match="cannot be read"):
        feed.prepare(2)
    feed.close()


def test_the_thread_ends_with_the_feed() -> None:
    feed = OnDevice(Counting(pictures()), SEED, BATCH, CPU)
    feed.prepare(0)
    assert len(threads()) == 1
    del feed
    # the fixture no_leaked_thread waits for the end


def test_a_closed_feed_goes_on() -> None:
    source = Counting(pictures())
    feed = OnDevice(source, SEED, BATCH, CPU)
    feed.prepare(0)
    feed.close()
    assert threads() == []
    feed.prepare(1)
    assert_equal(read(feed, items_of(1)), plain(source, items_of(1)))
    feed.close()


def test_a_loss_that_is_not_finite_is_explained_by_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures()
    source = Degraded(data, lambda x0, rng: torch.where(x0.mean((1, 2, 3), keepdim=True) < -0.9, torch.nan, x0))
    items = items_of(0)
    bad = int(item_index(SEED, COUNT, items)[1])
    data.values[bad] = 0
    small(monkeypatch)
    feed = DeviceFeed(source, SEED, BATCH, CPU)
    with pytest.raises(DataError, match=f"not finite for the items {bad}"):
        feed.explain(items)
    feed.explain(items[:1])


def test_the_cpu_has_no_buffers_and_no_thread() -> None:
    source = pictures()
    feed = feed_for(source, SEED, BATCH, CPU)
    feed.prepare(0)
    assert type(feed) is Feed
    assert feed.source is source
    assert feed.staged(items_of(0)) is None
    assert threads() == []


def test_an_accelerator_has_a_device_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(feeds, "DeviceFeed", lambda *args: made.append(args))
    source = pictures()
    feed_for(source, SEED, BATCH, torch.device("cuda"))
    assert made == [(source, SEED, BATCH, torch.device("cuda"))]


# no reads of the device


class NoLists(TorchFunctionMode):
    """Refuses the ways to read a tensor that no dispatcher sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.item, Tensor.__float__, Tensor.__int__, Tensor.__bool__):
            raise AssertionError(f"{func} reads a tensor on the host")
        return func(*args, **(kwargs or {}))


def config_of(model: Any, source: Source) -> Config:
    config = preset(model, source.shape, source.cond).but(batch=BATCH, seed=SEED)
    return config.but(task=replace(config.task, classes="label" in source.cond.parts, flip=source.is_image))


@pytest.mark.parametrize("memory", [small, large], ids=["resident", "buffers"])
@pytest.mark.parametrize(
    "source",
    [pictures(), floats(2, labels=3), floats(4, 2), Degraded(pictures(), noisy), ManyLabels()],
    ids=["images", "points", "sequences", "measured", "many labels"],
)
@pytest.mark.parametrize("model", MODELS)
def test_examples_are_made_without_a_read_of_the_device(
    model: str, source: Source, memory: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(monkeypatch)
    # the numbers of a CPU come from numpy, those of a device do not
    monkeypatch.setattr(stream, "cpu", by_torch)
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    feed = OnDevice(source, SEED, BATCH, CPU)
    task = config_of(model, source).task
    spec = task.cond_spec(source)
    feed.prepare(1)
    # numbers of the run, such as the first time, are computed in the first step
    wanted = task.examples(feed.source, batch_of(feed, items_of(1)), spec)[0]
    with NoHostReads(CPU), NoLists():
        noised = task.examples(feed.source, batch_of(feed, items_of(1)), spec)[0]
    assert torch.equal(noised.xt, wanted.xt)
    assert torch.equal(noised.t, wanted.t)
    feed.close()


def test_the_times_depend_on_the_run_the_attempt_and_the_item() -> None:
    task = Denoise()

    def at(seed: int, attempt: int, first: int) -> Tensor:
        items = torch.arange(first, first + 3)
        return times(task, Batch(items, items, Rng(0, 3), seed, attempt))

    assert torch.equal(at(0, 0, 5)[1:], at(0, 0, 6)[:-1])
    assert len({float(at(seed, attempt, 0)[0]) for seed in (0, 1) for attempt in (0, 1)}) == 4


# whole runs


def weights(out: Path) -> dict[str, bytes]:
    newest = max((out / "checkpoints").iterdir())
    return {path.name: path.read_bytes() for path in sorted(newest.iterdir()) if path.suffix == ".safetensors"}


def tiny(source: Source, **changes: Any) -> Config:
    config = preset("plain", source.shape)
    return config.but(batch=BATCH, seed=SEED, steps=7, precision="fp32", **changes)


def run(source: Source, out: Path, config: Config, stop_after: int | None = None) -> list[float]:
    losses = []
    for step in training(source, config, out):
        losses.append(step.loss)
        if step.step == stop_after:
            break
    return losses


@pytest.mark.parametrize("memory", [small, large], ids=["resident", "buffers"])
@pytest.mark.parametrize("name", ["points", "many labels", "a Dataset"])
def test_a_run_has_the_same_bits(
    name: str, memory: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = SOURCES[name]()
    config = tiny(source)
    wanted = run(source, tmp_path / "plain", config)
    memory(monkeypatch)
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    monkeypatch.setattr(trainers, "feed_for", DeviceFeed)
    assert run(source, tmp_path / "whole", config) == wanted
    found = run(source, tmp_path / "cut", config, stop_after=3)
    assert [*found, *run(source, tmp_path / "cut", config)] == wanted
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole") == weights(tmp_path / "plain")


def test_an_error_of_the_source_in_a_thread_ends_the_run_with_its_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trainers, "feed_for", DeviceFeed)
    source = Counting(pictures())
    config = tiny(source)
    steps = training(source, config, tmp_path / "run")
    next(steps)
    next(steps)
    source.bad = int(item_index(SEED, COUNT, torch.tensor([4 * 5])))
    with pytest.raises(DataError, match=f"item {source.bad} of my source cannot be read"):
        list(steps)
    assert threads() == []


def test_a_run_leaves_no_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trainers, "feed_for", DeviceFeed)
    run(ManyLabels(), tmp_path / "run", tiny(ManyLabels()))
    assert threads() == []


def test_a_caller_who_leaves_the_loop_leaves_no_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trainers, "feed_for", DeviceFeed)
    steps = training(ManyLabels(), tiny(ManyLabels()), tmp_path / "run")
    next(steps)
    assert len(threads()) == 1
    steps.close()
    assert threads() == []
