"""Too little memory halves the batch of every measure, with a warning, and changes no result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.data.report import Report
from softmix.data.store import Data, make
from softmix.evaluate import (
    Features,
    classifier_features,
    coverage,
    energy_distance,
    evaluate_model,
    kernel_distance,
    latent_spread,
    mode_statistics,
    nearest,
    pixel_features,
    sliced_wasserstein,
)
from softmix.evaluate import classifier as classifier_file
from softmix.evaluate.downsample import downsampled_items
from softmix.memory import NotEnoughMemoryError, in_batches
from softmix.oracle import gaussian
from softmix.rng import Rng

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB"


def small_memory(function: Callable[..., Any], most: int, rows: Callable[..., int]) -> Callable[..., Any]:
    """The function, with memory for at most `most` rows."""

    def limited(*args: Any, **options: Any) -> Any:
        if rows(*args) > most:
            raise torch.OutOfMemoryError(MESSAGE)
        return function(*args, **options)

    return limited


def points(count: int, role: str) -> Tensor:
    return Rng(0, count, role).normal((count, 4), torch.float64)


def images(count: int, size: int = 8) -> Tensor:
    return Rng(0, count, "images").uniform((count, 1, size, size)) * 2 - 1


def spread() -> Any:
    return latent_spread(gaussian().denoiser(), points(60, "x0").float()[:, :2], m=2, levels=(0.0,)).spread


A, B = points(120, "a"), points(100, "b")


@cache
def classifier_of(count: int, size: int) -> Features:
    """Trained in the first test that needs it. A backward pass while pytest imports this file would start torch's
    autograd before `--device pretend` adds its device.
    """
    return classifier_features(images(count, size), torch.arange(count) % 2, 2, name="noise")


PCA = pixel_features(images(40), 8)


def sizes(data: Tensor) -> Data:
    grey = ((data + 1) * 127.5).to(torch.uint8)
    return make("noise", grey, torch.arange(len(grey)) % 2, ("a", "b"), Report(len(grey)))


FIRST: Callable[..., int] = lambda x, *_: len(x)  # noqa: E731
SECOND: Callable[..., int] = lambda _, x, *__: len(x)  # noqa: E731
# name: the measure, the function that needs memory, and the rows in one call
CASES: dict[str, tuple[Callable[[], Any], str, Callable[..., int]]] = {
    "coverage": (lambda: coverage(A, B), "softmix.evaluate.coverage._squares", FIRST),
    "kernel_distance": (lambda: kernel_distance(A, B, 0, subsets=2), "softmix.evaluate.kernel._kernel", FIRST),
    "nearest": (lambda: nearest(A, B), "softmix.evaluate.nearest._indices", FIRST),
    "energy_distance": (lambda: energy_distance(A, B), "softmix.evaluate.points.distances", FIRST),
    "mode_statistics": (lambda: mode_statistics(A, B[:3], 1.0), "softmix.evaluate.points.distances", FIRST),
    "latent_spread": (spread, "softmix.evaluate.spread.spread", SECOND),
    "features": (lambda: classifier_of(40, 8)(images(90)), "softmix.evaluate.classifier.Classifier.features", SECOND),
    "large features": (lambda: classifier_of(20, 70)(images(90, 70)), "softmix.evaluate.downsample.downsample", FIRST),
    "classes": (
        lambda: classifier_of(40, 8).classify(images(90)),
        "softmix.evaluate.classifier.Classifier.features",
        SECOND,
    ),
    "pca": (lambda: PCA(images(90)), "softmix.evaluate.features.as_matrix", FIRST),
    "downsampled_items": (
        lambda: downsampled_items(sizes(images(90, 70)), torch.arange(90)),
        "softmix.evaluate.downsample.downsample",
        FIRST,
    ),
}


def numbers(found: Any) -> Tensor:
    if isinstance(found, Tensor):
        return found.double().flatten()
    if isinstance(found, tuple):
        return torch.cat([numbers(each) for each in found])
    return torch.tensor([float(found)], dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_a_measure_halves_its_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, place, rows = CASES[name]
    if name == "latent_spread":
        rows = lambda draws: draws.shape[1]  # noqa: E731
    whole = numbers(measure())
    file, function = place.rsplit(".", 1)
    # the room exports functions of the same names as some of its files
    owner: Any = classifier_file.Classifier if file.endswith("Classifier") else sys.modules[file]
    monkeypatch.setattr(owner, function, small_memory(getattr(owner, function), 20, rows))
    with pytest.warns(UserWarning, match=r"\d+ \w+s at a time do not fit into the memory; now \d+"):
        parts = numbers(measure())
    if name in ("features", "large features", "classes"):
        # they are float32, and some processors take other kernels of convolution for another batch size
        assert float((parts - whole).norm()) <= 1e-5 * float(whole.norm())
    else:
        assert torch.allclose(parts, whole, rtol=1e-6, atol=1e-9)


def test_sliced_wasserstein_halves_its_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sliced_wasserstein(A, B, 33, seed=1)
    sort = torch.Tensor.sort
    limited = small_memory(sort, 5, lambda x, *_: x.shape[1])
    monkeypatch.setattr(torch.Tensor, "sort", limited)
    with pytest.warns(UserWarning) as warned:
        assert sliced_wasserstein(A, B, 33, seed=1) == pytest.approx(whole, rel=1e-12)
    assert str(warned[0].message) == "33 projections at a time do not fit into the memory; now 17"


def test_a_whole_evaluation_survives_a_small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples, reference, features and distances, all with memory for 20 rows."""
    train, held_out = (
        make("points", points(count, role).float()[:, :2], None, (), Report(count))
        for count, role in ((60, "train"), (50, "held out"))
    )
    denoiser = gaussian().denoiser()

    def rows() -> dict[str, float]:
        values = evaluate_model(denoiser, train, held_out, title="exact", steps=(1,), n=40).rows[1].values
        return {name: value for name, value in values.items() if name != "seconds"}

    whole = rows()
    call = type(denoiser).__call__
    monkeypatch.setattr(type(denoiser), "__call__", small_memory(call, 20, SECOND))
    for place in ("coverage._squares", "kernel._kernel", "nearest._indices"):
        file, function = place.split(".")
        module = sys.modules[f"softmix.evaluate.{file}"]
        monkeypatch.setattr(module, function, small_memory(getattr(module, function), 20, FIRST))
    with pytest.warns(UserWarning):
        assert rows() == pytest.approx(whole, rel=1e-5)


def test_images_that_do_not_fit_on_the_device_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    x0, moved = images(300), []
    move = torch.Tensor.to

    def limited(self: Tensor, *args: Any, **options: Any) -> Tensor:
        if self.ndim == 4 and args and isinstance(args[0], torch.device):
            moved.append(len(self))
            if len(self) > 200:
                raise torch.OutOfMemoryError(MESSAGE)
        return move(self, *args, **options)

    nets = [classifier_file.build(1, 2, 8, 0) for _ in range(2)]
    monkeypatch.setattr(classifier_file, "MOST_STEPS", 2)
    classifier_file.fit(nets[0], x0, torch.arange(300) % 2, 0)
    monkeypatch.setattr(torch.Tensor, "to", limited)
    classifier_file.fit(nets[1], x0, torch.arange(300) % 2, 0)
    assert moved == [300, 128, 128]
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, two)


def test_another_error_of_the_device_is_not_hidden() -> None:
    class Broken:
        def to(self, device: torch.device) -> Tensor:
            raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        classifier_file.on_device(Broken(), torch.device("cpu"))  # type: ignore[arg-type]


def test_one_item_that_does_not_fit_is_an_error_with_a_sentence() -> None:
    def work(low: int, high: int) -> int:
        raise MemoryError("not enough memory")

    with (
        pytest.warns(UserWarning),
        pytest.raises(NotEnoughMemoryError, match="one image at a time does not fit into the memory"),
    ):
        in_batches(work, 4, 4, "image")


def test_batches_cover_all_items_once_and_in_order() -> None:
    def work(low: int, high: int) -> list[int]:
        if high - low > 3:
            raise MemoryError
        return list(range(low, high))

    with pytest.warns(UserWarning):
        parts = in_batches(work, 17, 8, "item")
    assert [item for part in parts for item in part] == list(range(17))
    assert in_batches(work, 0, 8, "item") == []
