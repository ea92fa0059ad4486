"""TF32 is off where a number is decided, nothing changes outside, and weights are converted once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import softmix
from softmix.denoiser import Network, PointHead, guided
from softmix.evaluate.classifier import Classifier, Pool, fit
from softmix.evaluate.features import ClassifierFeatures
from softmix.evaluate.spread import latent_spread
from softmix.info import fit_statistics
from softmix.net import UNetSpec
from softmix.posterior import Empirical, FullMixture, Point, Posterior
from softmix.precision import computing, full_fp32
from softmix.process import VP, InBasis, cosine
from softmix.rng import Rng
from softmix.sampler import ddim, noised, sample
from softmix.shape import cell_shares

CPU = torch.device("cpu")


def settings() -> dict[str, object]:
    """Every setting of torch that decides the precision of float32 products."""
    backends = torch.backends
    return {
        "cudnn": backends.cudnn.allow_tf32,
        "matmul": torch.get_float32_matmul_precision(),
        "conv": backends.cudnn.conv.fp32_precision,
        "cuda matmul": backends.cuda.matmul.fp32_precision,
        "cpu matmul": backends.mkldnn.matmul.fp32_precision,
        "cpu conv": backends.mkldnn.conv.fp32_precision,
    }


FULL = {"cudnn": False, "matmul": "highest", **dict.fromkeys(("conv", "cuda matmul", "cpu matmul", "cpu conv"), "ieee")}
TF32 = {
    "cudnn": True,
    "matmul": "high",
    "conv": "tf32",
    "cuda matmul": "tf32",
    "cpu matmul": "ieee",
    "cpu conv": "ieee",
}


@pytest.fixture(params=["default", "high", "medium", "cudnn off", "newer settings"])
def before(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """The settings of a caller, by the older and by the newer interface of torch."""
    start = settings()
    if request.param in ("high", "medium"):
        torch.set_float32_matmul_precision(request.param)
    if request.param == "cudnn off":
        torch.backends.cudnn.allow_tf32 = False
    if request.param == "newer settings":
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
    yield settings()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for part in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv):
        part.fp32_precision = "none"
    assert settings() == start


def test_the_library_leaves_the_settings_of_torch_as_they_are() -> None:
    assert softmix and settings()["conv"] == "tf32" and settings()["matmul"] == "highest"


def test_inside_every_setting_is_full_float32(before: dict[str, object]) -> None:
    with full_fp32():
        assert settings() == FULL
    assert settings() == before


def test_tf32_is_on_where_it_is_asked_for(before: dict[str, object]) -> None:
    with computing("tf32", CPU):
        assert settings() == TF32
    assert settings() == before


def test_the_settings_are_restored_after_an_error(before: dict[str, object]) -> None:
    with pytest.raises(ZeroDivisionError), full_fp32():
        _ = 1 / 0
    assert settings() == before


def test_full_float32_holds_while_any_thread_asks_for_it() -> None:
    before, inside, done = settings(), threading.Event(), threading.Event()

    def other() -> None:
        with full_fp32():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    with computing("tf32", CPU):
        thread.start()
        inside.wait(10)
        assert settings() == FULL
        done.set()
        thread.join()
        assert settings() == TF32
    assert settings() == before


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'fp8' was asked for; there are fp32, tf32, bf16, fp16"):
        sample(Watching(), 1, 1, precision="fp8")  # type: ignore[arg-type]


class Watching(nn.Module):
    """A denoiser that notes the settings of each call."""

    process, shape = VP(), (3,)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, object]] = []

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.seen.append(settings() | {"half": torch.is_autocast_enabled("cpu")})
        return Point(xt / 2)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("fp32", FULL | {"half": False}), ("tf32", TF32 | {"half": False}), ("bf16", FULL | {"half": True})],
)
def test_sample_sets_the_precision_around_the_network(precision: Any, expected: dict[str, object]) -> None:
    watching, before = Watching(), settings()
    sample(watching, 2, 2, sampler=ddim, precision=precision)
    assert watching.seen == [expected] * 2
    assert settings() == before and not torch.is_autocast_enabled("cpu")


def test_a_start_is_computed_in_full_float32() -> None:
    seen = []

    def first(n: int, rng: Rng) -> Tensor:
        seen.append(settings())
        return torch.zeros(n, 3)

    sample(Watching(), 2, 2, sampler=ddim, start=noised(first), at=0.5)
    assert seen == [FULL]


@pytest.mark.parametrize(
    "measure",
    [
        lambda denoiser: latent_spread(denoiser, torch.zeros(4, 3), m=2),
        lambda denoiser: fit_statistics(denoiser, Rng(1, 4).normal((4, 3)), Rng(0, 4), nodes=3),
    ],
    ids=["latent_spread", "fit_statistics"],
)
def test_a_measure_is_computed_in_full_float32(measure: Callable[[Watching], object]) -> None:
    watching = Watching()
    measure(watching)
    assert watching.seen and all(each == FULL | {"half": False} for each in watching.seen)


def test_the_classifier_trains_and_looks_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(self: Classifier, x0: Tensor) -> Tensor:
        seen.append(settings() | {"deterministic": torch.backends.cudnn.deterministic})
        return self.body(x0)  # type: ignore[no-any-return]

    monkeypatch.setattr(Classifier, "features", watched)
    net, x0 = Classifier(1, 2, 8), torch.zeros(10, 1, 8, 8)
    fit(net, x0, torch.arange(10) % 2, 0)
    steps = len(seen)
    ClassifierFeatures(net, "none", (1, 8, 8), 0.5)(x0)
    assert seen[:steps] == [FULL | {"deterministic": True}] * 20
    assert seen[steps:] == [FULL | {"deterministic": False}]


# weights that are converted once


class Casts(TorchDispatchMode):
    """Counts the conversions of given tensors."""

    def __init__(self, tensors: list[nn.Parameter]):
        super().__init__()
        self.places, self.count = {tensor.data_ptr() for tensor in tensors}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.places:
            self.count += 1
        return func(*args, **(kwargs or {}))


def small() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Network(VP(), UNetSpec(width=16, depth=1, patch=1), PointHead(), (1, 8, 8))
        for weight in net.parameters():
            weight.data += 0.05 * torch.randn(weight.shape)
    return net.requires_grad_(False).eval()


@pytest.mark.parametrize("wrap", [lambda model: model, guided(2.0)], ids=["network", "wrapped"])
def test_each_weight_is_converted_once_for_all_steps_and_batches(wrap: Callable[[Any], Any]) -> None:
    model = small()
    weights = list(model.parameters())
    denoiser = wrap(model)
    # guidance is left out by a scale of its own: only the search for the module inside matters here
    inner = getattr(denoiser, "inner", denoiser)
    assert inner is model
    with Casts(weights) as casts, computing("bf16", CPU, denoiser), torch.no_grad():
        for _ in range(3):
            model(torch.zeros(2, 1, 8, 8), 0.5)
    once = casts.count
    with Casts(weights) as again, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        model(torch.zeros(2, 1, 8, 8), 0.5)
    assert 10 < once <= again.count


def test_sample_converts_each_weight_once() -> None:
    model = small()
    weights = list(model.parameters())
    with Casts(weights) as one:
        sample(model, 2, 1, sampler=ddim, precision="bf16")
    with Casts(weights) as many:
        sample(model, 6, 4, sampler=ddim, precision="bf16", batch=2)
    assert many.count == one.count > 10


def test_converted_weights_change_no_bit() -> None:
    model, x = small(), Rng(0, 3).normal((3, 1, 8, 8))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(x, 0.5).mean
    with torch.no_grad(), computing("bf16", CPU, model):
        model(x, 0.9)
        assert torch.equal(model(x, 0.5).mean, plain)


def test_weights_require_no_gradient_afterwards() -> None:
    model = small()
    with pytest.raises(ZeroDivisionError), computing("bf16", CPU, model):
        _ = 1 / 0
    assert not any(weight.requires_grad for weight in model.parameters())


def test_half_precision_is_close_to_float32() -> None:
    model = small()
    single = sample(model, 4, 4, sampler=ddim)
    for precision, bound in (("bf16", 0.05), ("fp16", 0.01)):
        half = sample(model, 4, 4, sampler=ddim, precision=precision)  # type: ignore[arg-type]
        assert half.dtype == torch.float32
        assert 0 < float((half - single).abs().max()) < bound


# statistics stay in float32


def empirical() -> Tensor:
    logits, points = Rng(0, 3).normal((3, 50)), Rng(1, 50).normal((50, 2, 2))
    posterior = Empirical(logits, points)
    return torch.stack([posterior.mean, posterior.var])


def full_mixture() -> Tensor:
    factors = Rng(2, 1).normal((1, 4, 3, 3))
    posterior = FullMixture(Rng(0, 3).normal((3, 4)), Rng(1, 3).normal((3, 4, 3)), factors, (3,))
    return torch.cat([posterior.covariance.flatten(1), posterior.sample(Rng(3, 3))], 1)


def basis() -> Tensor:
    return InBasis(VP(), (cosine(8), cosine(8))).enter(Rng(0, 3).normal((3, 1, 8, 8)), 0.5)


@pytest.mark.parametrize("statistic", [empirical, full_mixture, basis])
def test_autocast_rounds_no_statistic(statistic: Callable[[], Tensor]) -> None:
    plain = statistic()
    with torch.autocast("cpu", torch.bfloat16):
        half = statistic()
    assert half.dtype == torch.float32 and torch.equal(half, plain)


# the classifier on a GPU


@pytest.mark.parametrize(("rows", "columns"), [(7, 7), (8, 8), (9, 4), (16, 13), (5, 6)])
def test_pooling_on_a_gpu_is_that_of_the_cpu(rows: int, columns: int) -> None:
    x = Rng(0, 3).normal((3, 2, rows, columns), torch.float64)
    left, right = (cell_shares(size, 4, CPU, torch.float64) for size in (rows, columns))
    assert torch.allclose(left @ x @ right.T, Pool(4)(x), atol=1e-12)
