"""The squared error with the weight of each element's own noise level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.denoiser import PointHead
from softmix.loss import Square, SquarePerElement, Weight, weight
from softmix.posterior import Implicit, Point
from softmix.process import SPD, VP, EarlyNoise, Framed, Gaussian, NonUniform, PerElement, pyramid
from softmix.rng import Rng
from softmix.train import Denoise

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
TIMES = (0.2, 0.5, 0.9)


def found(loss: Square | SquarePerElement, process: Gaussian | Framed, estimate: Tensor, x0: Tensor) -> Tensor:
    noised = process.noise(x0, torch.tensor(TIMES, dtype=F64), Rng(0, 3))
    return loss(Point(estimate), noised, Rng(1, 3))


def pair() -> tuple[Tensor, Tensor]:
    x0 = Rng(2, 3).normal((3, 2, 4, 4), F64)
    return x0, x0 + Rng(3, 3).normal((3, 2, 4, 4), F64)


@pytest.mark.parametrize("name", ["x0", "eps", "v", "min-snr"])
def test_an_error_in_one_band_has_the_weight_of_this_band(name: Weight) -> None:
    """One coefficient of the finest, the middle and the coarse band in turn, off by 3."""
    process, x0 = NonUniform((4, 4), 2), pair()[0]
    for place in ((3, 3), (1, 0), (0, 0)):
        y = pyramid(x0, 2)
        y[:, 1, place[0], place[1]] += 3
        estimate = process.leave(y, 0.0)
        logsnr = torch.stack([process.base.element_logsnr(t)[0, 0][place] for t in TIMES]).to(x0)
        right = weight(name, logsnr) * 9 / 32
        assert torch.allclose(found(SquarePerElement(name), process, estimate, x0), right, rtol=1e-9)


def test_the_weight_of_the_clock_starves_the_slow_band() -> None:
    """At t = 0.2 the coarse band has 2.85 times the weight of the finest one, and `Square` gives it the same."""
    process, (x0, _) = NonUniform((4, 4), 2), pair()

    def ratio(loss: Square | SquarePerElement) -> Tensor:
        errors = []
        for place in ((0, 0), (3, 3)):
            y = pyramid(x0, 2)
            y[:, 0, place[0], place[1]] += 1
            errors.append(found(loss, process, process.leave(y, 0.0), x0))
        return errors[0] / errors[1]

    assert torch.allclose(ratio(Square("v")), torch.ones(3, dtype=F64))
    assert float(ratio(SquarePerElement("v"))[0]) == pytest.approx(2.85, abs=0.01)


@pytest.mark.parametrize("name", ["x0", "eps", "v", "min-snr"])
def test_for_elements_of_one_schedule_it_is_the_square(name: Weight) -> None:
    x0, estimate = pair()
    process = EarlyNoise(VP(), torch.ones(1, 4, 1, dtype=F64))
    for same in (process, NonUniform((4, 4), 1, (1.0, 1.0), each=VP())):
        each = [found(loss, same, estimate, x0) for loss in (SquarePerElement(name), Square(name))]
        assert torch.allclose(*each, rtol=1e-9)


def test_it_serves_frames_and_elements() -> None:
    x0, estimate = pair()
    for process in (SPD((9.0, 4.0, 2.0, 1.0), 4), PerElement(VP(), torch.ones(1, 4, 4))):
        assert bool(torch.isfinite(found(SquarePerElement(), process, estimate, x0)).all())


def test_a_process_with_one_schedule_is_refused() -> None:
    x0, estimate = pair()
    with pytest.raises(ValueError, match="VP has one for all: take the loss Square"):
        found(SquarePerElement(), VP(), estimate, x0)
    with pytest.raises(ValueError, match="VP has one for all"):
        Denoise(loss=SquarePerElement(), head=PointHead())
    Denoise(loss=SquarePerElement(), head=PointHead(), process=NonUniform((4, 4), 1), output="x0")


def test_a_posterior_without_a_mean_is_refused() -> None:
    x0, _ = pair()
    noised = NonUniform((4, 4), 1).noise(x0, 0.5, Rng(0, 3))
    with pytest.raises(TypeError, match="squared error needs a mean"):
        SquarePerElement()(Implicit(lambda eta: eta, 3, (2, 4, 4), x0), noised, Rng(0, 3))
