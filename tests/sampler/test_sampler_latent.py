"""Decoded codes, and the walk in codes: each option against the equation written out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from softmix.denoiser import CallCounter, wiener
from softmix.posterior import Implicit, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.sampler import ancestral, decoded, drive
from softmix.sampler import steered as steered_by
from softmix.sampler.drive import finish

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
SHAPE = (1, 2, 3)


class Curved:
    """A point at tanh(x). It records its questions and conditions."""

    def __init__(self, process: Gaussian | None = None):
        self.process, self.shape = process or VP(), SHAPE
        self.asked: list[tuple[float, Tensor | None]] = []

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.asked.append((float(t), cond))
        return Point(xt.tanh())


class Drawn(Curved):
    """Draws tanh(x) + eta; it has no mean."""

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.asked.append((float(t), cond))
        return Implicit(lambda eta: xt.tanh() + eta, len(xt), SHAPE, xt)


def images() -> Tensor:
    return Rng(0, 3, "images").normal((3, *SHAPE), F64)


def times(*last: float) -> Tensor:
    return torch.tensor([0.9, 0.7, 0.4, *last], dtype=F64)


CLEAN = times(0.0)


# the walk in codes


@THREE
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_code_is_decoded_by_the_steps_of_the_sampler(process: Gaussian, eta: float) -> None:
    """From sigma_T z_0, with z_1, z_2, ... as fresh noise, and the mean at the end."""
    z, model, cond = Rng(0, 3).normal((3, 3, *SHAPE), F64), Curved(process), torch.tensor([4, 5, 6])
    x = float(process.sigma(CLEAN[0])) * z[:, 0]
    for i, (t, s) in enumerate(pairwise(CLEAN.tolist())):
        mean, fresh = process.kernel(x, x.tanh(), t, s, eta)
        x = mean + fresh * z[:, i + 1] if s > 0 else mean
    assert torch.allclose(decoded(model, z, CLEAN, eta, cond), x, atol=1e-12)
    assert [t for t, _ in model.asked] == CLEAN[:-1].tolist() and all(given is cond for _, given in model.asked)
    if eta == 1.0:
        assert torch.equal(decoded(Curved(process), z, CLEAN), decoded(Curved(process), z, CLEAN, eta=1.0))


def test_decoding_draws_from_the_given_latents() -> None:
    z = torch.zeros(3, 3, *SHAPE, dtype=F64)
    named = decoded(Drawn(), z, CLEAN, latents=Rng(5, [7, 8, 9], "mine"))
    x = z[:, 0]
    for i, (t, s) in enumerate(pairwise(CLEAN.tolist())):
        drawn = x.tanh() + Implicit(lambda eta: eta, 3, SHAPE, x).sample(Rng(5, [7, 8, 9], "mine").child(str(i)))
        x = VP().kernel(x, drawn, t, s, 1.0)[0]
    assert torch.allclose(named, x, atol=1e-12)
    assert torch.equal(decoded(Drawn(), z, CLEAN), decoded(Drawn(), z, CLEAN, latents=Rng(0, 3, "latents")))


def test_a_decoded_image_is_differentiable_unless_gradients_are_off() -> None:
    z = Rng(0, 3).normal((3, 3, *SHAPE), F64).requires_grad_()
    assert decoded(Curved(), z, CLEAN).requires_grad
    with torch.no_grad():
        assert not decoded(Curved(), z, CLEAN).requires_grad


def test_decoding_and_ancestral_steps_have_the_same_law() -> None:
    """x0 ~ N(0.2, 0.5), known by its mean: the variances of 20,000 items agree within five standard errors."""
    line, n = wiener(VP(), torch.tensor([0.2]), torch.full((1, 1), 0.5)), 20_000

    def meant(xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        return Point(line(xt, t).mean)

    meant.process = VP()  # type: ignore[attr-defined]
    grid = torch.tensor([1.0, 0.6, 0.0], dtype=F64)
    end = decoded(meant, Rng(0, n).normal((n, 2, 1)), grid)  # type: ignore[arg-type]
    walked = finish(drive(meant, ancestral, VP().prior((n, 1), Rng(1, n)), grid, Rng(2, n)))  # type: ignore[arg-type]
    assert float(end.var() / walked.var()) == pytest.approx(1, abs=5 * math.sqrt(4 / n))


def steered(energy: Callable[[Tensor], Tensor], **options: object) -> tuple[Tensor, Curved]:
    model = Curved()
    return steered_by(model, energy, SHAPE, CLEAN, Rng(4, 3), **options), model  # type: ignore[arg-type]


@pytest.mark.parametrize("steps, size, eta", [(0, 0.05, 1.0), (1, 0.05, 1.0), (3, 0.2, 0.6)])
def test_the_walk_is_a_langevin_walk(steps: int, size: float, eta: float) -> None:
    """z <- z - (h / 2) (z + grad E) + sqrt(h) n, and the image of its end."""
    energy = lambda x: (x - 1).square().flatten(1).sum(1)  # noqa: E731
    seen: list[tuple[int, Tensor]] = []
    cond = torch.tensor([1, 2, 3])
    end, model = steered(energy, steps=steps, size=size, eta=eta, cond=cond, look=lambda k, x: seen.append((k, x)))
    rng = Rng(4, 3)
    z = rng.normal((3, 3, *SHAPE))
    for k in range(steps):
        z = z.detach().requires_grad_()
        x = decoded(Curved(), z, CLEAN, eta)
        (slope,) = torch.autograd.grad(energy(x).sum(), z)
        z = z.detach() - size / 2 * (z.detach() + slope) + math.sqrt(size) * rng.normal(z.shape)
        assert seen[k][0] == k and torch.allclose(seen[k][1], x.detach(), atol=1e-6)
    assert torch.allclose(end, decoded(Curved(), z.detach(), CLEAN, eta), atol=1e-5) and not end.requires_grad
    assert len(seen) == steps and all(given is cond for _, given in model.asked)


def test_the_defaults_of_the_walk_are_those_of_the_documentation() -> None:
    """200 steps of 0.05, ancestral."""
    counted = CallCounter(Curved())
    steered_by(counted, lambda x: 0 * x.flatten(1).sum(1), SHAPE, times()[:2], Rng(4, 3))
    assert counted.calls == 201
    known = inspect.signature(steered_by).parameters
    assert (known["size"].default, known["eta"].default) == (0.05, 1.0)


def test_the_latents_of_a_walk_do_not_change() -> None:
    """For posteriors without a mean: the same draws at every step of the walk, from their own stream."""
    model = Drawn()
    end = steered_by(model, lambda x: 0 * x.flatten(1).sum(1), SHAPE, CLEAN, Rng(4, 3), steps=0)
    z = Rng(4, 3).normal((3, 3, *SHAPE))
    assert torch.allclose(end, decoded(Drawn(), z, CLEAN, latents=Rng(4, 3).child("latents")), atol=1e-6)
