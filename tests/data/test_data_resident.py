"""Sources whose stored tensors are moved to a device, and the conditions under which this is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from every_source import COUNT, SOURCES, Halved, Jittered, array, images, noisy, numbers, shifted
from test_data_conformance import INDICES, same
from torch import Tensor

from softmix.data import (
    Coarse,
    DataError,
    Degraded,
    Encoded,
    Paired,
    Report,
    Source,
    Target,
    derived,
    from_dataset,
    resident,
)
from softmix.data.contract import Stored
from softmix.data.delivered import Delivered, Gathered, Read
from softmix.data.derived import reads_alone, with_storage
from softmix.data.resident import HostReadError, NoHostReads, fits, rows, stored_tensors, works_on
from softmix.data.store import make
from softmix.rng import Rng

CPU = torch.device("cpu")
# the partner of an unpaired item is any item, so that its rows are no tensors of their own
SHOWS_NOTHING = {"a Dataset", "a Dataset of dicts", "a Dataset that is random", "unpaired images", "unpaired points"}


@pytest.fixture(params=SOURCES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(name: str, tmp_path: Path) -> Source:
    return SOURCES[name](tmp_path, 0)


def assert_same_batch(a: Source, at_a: list[int], b: Source, at_b: list[int], rng: Rng) -> None:
    first, second = a.batch(torch.tensor(at_a), rng), b.batch(torch.tensor(at_b), rng)
    assert torch.equal(first[0], second[0])
    assert first[0].dtype == second[0].dtype
    assert same(first[1], second[1])


# the stored tensors


def test_all_sources_but_datasets_show_their_tensors(name: str, source: Source) -> None:
    assert (stored_tensors(source) is None) == (name in SHOWS_NOTHING)


def test_a_part_without_stored_tensors_hides_those_of_the_whole() -> None:
    dataset = from_dataset(Jittered([torch.from_numpy(one) for one in array(1, 5)]))
    assert stored_tensors(Paired(numbers(2), dataset)) is None
    assert stored_tensors(Paired(dataset, numbers(2))) is None


def test_only_sources_with_stored_tensors_follow_the_protocol_stored() -> None:
    assert isinstance(images(), Stored)
    assert not isinstance(from_dataset(Jittered([torch.zeros(5)])), Stored)


def test_pixels_are_stored_as_bytes_and_labels_as_integers() -> None:
    pair = Paired(images(), images(1, seed=5))
    kinds = [tensor.dtype for tensor in stored_tensors(pair) or []]
    assert kinds == [torch.uint8, torch.int64, torch.uint8, torch.int64]


def test_moved_tensors_give_the_same_items(name: str, source: Source) -> None:
    moved = with_storage(source, torch.clone)
    if moved is None:
        assert name in SHOWS_NOTHING
        return
    for at in INDICES:
        assert_same_batch(moved, at, source, at, Rng(3, [20 + i for i in range(len(at))]))


def test_moving_leaves_the_source_as_it_was(source: Source) -> None:
    before = stored_tensors(source) or []
    with_storage(source, lambda tensor: tensor + 1)
    assert all(a is b for a, b in zip(before, stored_tensors(source) or [], strict=True))


def test_the_moved_source_uses_the_changed_tensors(name: str, source: Source) -> None:
    moved = with_storage(source, lambda tensor: tensor.flip(0))
    if moved is not None:
        index = list(range(len(source)))
        assert_same_batch(moved, index, source, index[::-1], Rng(3, len(source)))


@pytest.mark.parametrize("index", INDICES, ids=len)
def test_rows_are_the_items_with_these_numbers(name: str, source: Source, index: list[int]) -> None:
    few = rows(source, torch.tensor(index))
    if few is None:
        assert name in SHOWS_NOTHING
        return
    assert_same_batch(few, list(range(len(index))), source, index, Rng(3, [20 + i for i in range(len(index))]))
    assert all(len(tensor) == len(index) for tensor in stored_tensors(few) or [])


def test_rows_are_copies() -> None:
    data = images()
    few = rows(data, torch.tensor([0]))
    assert few is not None
    tensors = stored_tensors(few) or []
    tensors[0].zero_()
    assert int(data.values[0].max()) == 255


def test_every_pixel_becomes_the_nearest_float_of_the_equation(device: torch.device) -> None:
    values = torch.arange(256, dtype=torch.uint8, device=device).reshape(256, 1, 1, 1)
    data = make("grey", values, None, (), Report(256))
    pixel = np.arange(256, dtype=np.float32)
    wanted = pixel / np.float32(127.5) - np.float32(1)
    assert torch.equal(data.x0().flatten().cpu(), torch.from_numpy(wanted))
    assert data.values.dtype == torch.uint8
    assert int(data.values.max()) == 255


def test_the_latents_of_a_cache_do_not_read_the_items() -> None:
    cached = Encoded(images(), Halved()).cached()
    tensors = stored_tensors(cached) or []
    assert [tuple(tensor.shape) for tensor in tensors] == [(COUNT, 0), (COUNT,), (COUNT, *cached.shape)]


def test_the_labels_of_cached_latents_stay() -> None:
    cached = Encoded(images(), Halved()).cached()
    _, cond = cached.batch(torch.tensor([4, 2]), Rng(0, 2))
    assert cond is not None
    assert cond.label is not None
    assert cond.label.tolist() == [1, 2]


# sources that read on the host


def test_delivered_batches_are_those_of_the_source(source: Source) -> None:
    for at in INDICES:
        assert_same_batch(Delivered(source, CPU), at, source, at, Rng(3, [20 + i for i in range(len(at))]))


def test_gathered_batches_are_those_of_the_source(name: str, source: Source) -> None:
    if name in SHOWS_NOTHING:
        with pytest.raises(TypeError, match="shows no stored tensors"):
            Gathered(source, CPU).batch(torch.tensor([0]), Rng(0, 1))
        return
    for at in INDICES:
        assert_same_batch(Gathered(source, CPU), at, source, at, Rng(3, [20 + i for i in range(len(at))]))


def test_a_batch_that_was_read_is_a_source(source: Source) -> None:
    rng = Rng(3, COUNT)
    read = Read(source, *source.batch(torch.arange(COUNT), rng))
    x0, cond = read.batch(torch.tensor([5, 1, 1]), Rng(9, 3))
    wanted = source.batch(torch.arange(COUNT), rng)
    assert torch.equal(x0, wanted[0][[5, 1, 1]])
    assert same(cond, None if wanted[1] is None else wanted[1].take(torch.tensor([5, 1, 1])))


def test_the_tensors_of_a_batch_that_was_read_can_be_moved(source: Source) -> None:
    read = Read(source, *source.batch(torch.arange(COUNT), Rng(3, COUNT)))
    flipped = read.with_storage(lambda tensor: tensor.flip(0))
    index = list(range(COUNT))
    assert_same_batch(flipped, index, read, index[::-1], Rng(0, COUNT))


@pytest.mark.parametrize("wrap", [Delivered, Gathered])
def test_a_wrapped_source_has_the_facts_of_the_source(wrap: type) -> None:
    data = images()
    found = wrap(data, CPU)
    assert isinstance(found, Source)
    assert (found.name, found.fingerprint, found.shape, len(found)) == (data.name, data.fingerprint, data.shape, COUNT)
    assert (found.is_image, found.cond, found.classes) == (True, data.cond, ("a", "b", "c"))
    assert not hasattr(found, "no such fact")


# the choice


@pytest.mark.parametrize(("spare", "wanted"), [(0, True), (-1, False), (1000, True)])
def test_data_take_at_most_a_third_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, spare: int, wanted: bool
) -> None:
    # 9 pictures of 3 x 6 x 4 bytes, and 9 labels of 8 bytes
    size = 9 * 72 + 9 * 8
    monkeypatch.setattr(resident, "free_on", lambda device: 3 * size + spare)
    assert fits(images(), CPU) == wanted


def test_both_sources_of_a_pair_count(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 9 * 4 * (2 + 3)
    monkeypatch.setattr(resident, "free_on", lambda device: 3 * size - 1)
    assert not fits(Paired(numbers(2), numbers(3, seed=1)), CPU)
    monkeypatch.setattr(resident, "free_on", lambda device: 3 * size)
    assert fits(Paired(numbers(2), numbers(3, seed=1)), CPU)


def test_nothing_fits_into_memory_of_unknown_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "free_on", lambda device: None)
    assert not fits(images(), CPU)


def test_a_source_without_stored_tensors_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "free_on", lambda device: 1 << 40)
    assert not fits(from_dataset(Jittered([torch.zeros(5)])), CPU)


@pytest.mark.parametrize(
    "source",
    [
        images(),
        Paired(images(), images(1, seed=5)),
        Degraded(images(), noisy),
        Encoded(images(), Halved()),
        Coarse(images(), 1),
    ],
    ids=["images", "pair", "measured", "latents", "coarse"],
)
def test_sources_of_tensor_operations_work_on_a_device(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    assert works_on(source, CPU)


def test_a_measurement_that_reads_on_the_host_does_not_work_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    assert not works_on(Degraded(images(), lambda x0, rng: x0 * x0[:, :1, :1, :1].mean().item() ** 0), CPU)


def test_a_measurement_that_fails_on_a_device_does_not_work_there() -> None:
    calls = []

    def once(x0: Tensor, rng: Rng) -> Tensor:
        calls.append(len(x0))
        if len(calls) > 9:
            raise RuntimeError("a tensor on the CPU beside a tensor of the device")
        return x0.mean(1, keepdim=True)

    # construction tries eight items together, and each alone
    source = Degraded(images(), once)
    assert len(calls) == 9
    assert not works_on(source, CPU)


def test_another_result_on_the_device_does_not_work_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    state = {"scale": 1.0}
    source = Degraded(images(), lambda x0, rng: state["scale"] * x0.mean(1, keepdim=True))
    assert works_on(source, CPU)

    def later(x0: Tensor, rng: Rng) -> Tensor:
        state["scale"] += 0.1
        return state["scale"] * x0.mean(1, keepdim=True)

    source.measurement = later
    assert not works_on(source, CPU)


def test_a_dataset_and_a_target_do_not_work_on_a_device() -> None:
    assert not works_on(from_dataset(Jittered([torch.zeros(5)])), CPU)
    assert not works_on(Target((2,), lambda x: -x.square().sum(1)), CPU)


def test_datasets_and_sources_made_of_them_are_read_alone() -> None:
    dataset = from_dataset(Jittered([torch.from_numpy(one) for one in array(1, 5)]))
    made = [dataset, Paired(numbers(2), dataset), Degraded(dataset, shifted), Encoded(dataset, Identity())]
    assert [reads_alone(source) for source in made] == [True] * 4
    made_of_data = [images(), Paired(numbers(2), numbers(3)), Degraded(numbers(2), shifted)]
    assert [reads_alone(source) for source in made_of_data] == [False] * 3


class Identity:
    def encode(self, x0: Tensor) -> Tensor:
        return x0

    decode = encode


# no reads of the device


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: x.masked_select(x > 1),
        lambda x: x.clone().index_put_((x > 1,), x[:1]),
    ],
)
def test_a_read_from_the_host_is_refused(read: object, device: torch.device) -> None:
    x = torch.arange(3.0, device=device)
    with NoHostReads(x.device), pytest.raises(HostReadError):
        read(x)  # type: ignore[operator]


def test_a_copy_to_another_device_is_refused(device: torch.device) -> None:
    x = torch.zeros(3, device=device)
    with NoHostReads(x.device), pytest.raises(HostReadError, match=f"copies a tensor from {x.device} to meta"):
        x.to("meta")


def test_tensor_operations_are_allowed(device: torch.device) -> None:
    x, index = torch.arange(3.0, device=device), torch.tensor([2, 0], device=device)
    with NoHostReads(x.device):
        found = torch.where(x > 1, x, -x)[index].sum()
    assert float(found) == 2.0


# values that are not finite


def broken(x0: Tensor, rng: Rng) -> Tensor:
    """A measurement that is not finite for dark pictures."""
    mean = x0.mean((1, 2, 3), keepdim=True)
    return torch.where(mean < -0.9, torch.nan, x0[:, :1])


def dark_picture(source: type) -> Source:
    data = images()
    built = Degraded(data, broken)
    # the picture becomes dark after the trial at construction
    data.values[3] = 0
    return built


def test_on_a_cpu_a_measurement_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(DataError, match="not finite for the items 3"):
        dark_picture(Degraded).batch(torch.tensor([1, 3]), Rng(0, 2))


def test_on_a_device_its_item_becomes_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    source = dark_picture(Degraded)
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    x0, _ = source.batch(torch.tensor([1, 3]), Rng(0, 2))
    assert x0.isnan().flatten(1).all(1).tolist() == [False, True]
    assert not x0[0].isnan().any()


def test_tokens_cannot_be_nan_so_that_the_error_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.zeros(9, 4, dtype=torch.int32)
    tokens = make("tokens", values, None, (), Report(9), vocabulary=3)
    source = Degraded(tokens, lambda x0, rng: torch.where(x0[:, :1] > 1, torch.nan, 1.0))
    values[3] = 2
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    with pytest.raises(DataError, match="not finite for the items 3"):
        source.batch(torch.tensor([1, 3]), Rng(0, 2))


def test_an_image_condition_without_finite_latents_makes_its_item_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inverse(Halved):
        def encode(self, x0: Tensor) -> Tensor:
            dark = x0.flatten(1).mean(1) < -0.9
            return torch.where(dark[:, None, None, None], torch.inf, super().encode(x0))

    beside = images(3, seed=7)
    source = Encoded(Paired(images(), beside), Inverse())
    beside.values[3] = 0
    monkeypatch.setattr(derived, "reading_waits", lambda device: True)
    x0, _ = source.batch(torch.tensor([1, 3]), Rng(0, 2))
    assert x0.isnan().flatten(1).all(1).tolist() == [False, True]
