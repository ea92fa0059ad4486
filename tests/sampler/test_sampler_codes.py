"""Codes of images and their edits: each option against the equation written out."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from softmix.posterior import Implicit, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.sampler import ColourEdit, NoiseCode, ddim_inversion, dpm_encoder, drive, edit_friendly, replay
from softmix.sampler.drive import finish

F64 = torch.float64
THREE = pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
ENCODERS = pytest.mark.parametrize("encoder", [edit_friendly, dpm_encoder])
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


def coded(encoder: object, denoiser: Curved, grid: Tensor = CLEAN, **options: object) -> NoiseCode:
    return finish(drive(denoiser, partial(encoder, **options), images(), grid, Rng(1, 3)))  # type: ignore[arg-type, return-value]


def replayed(code: NoiseCode, denoiser: Curved, skip: int = 0, **options: object) -> Tensor:
    sampler = replay(code, skip, **options)  # type: ignore[arg-type]
    return finish(drive(denoiser, sampler, code.start(skip), code.grid[skip:], Rng(9, 3)))


# how a path is drawn


def test_edit_friendly_draws_new_noise_for_each_time() -> None:
    code, rng = coded(edit_friendly, Curved()), Rng(1, 3)
    right = torch.stack([VP().noise(images(), float(t), rng).xt for t in CLEAN[:-1]])
    assert torch.allclose(code.path, right, atol=1e-12)


@pytest.mark.parametrize("eta", [0.1, 0.6, 1.0])
def test_dpm_encoder_draws_its_path_by_the_bridge_with_its_eta(eta: float) -> None:
    code, rng = coded(dpm_encoder, Curved(), eta=eta), Rng(1, 3)
    right = [VP().noise(images(), float(CLEAN[0]), rng).xt]
    for t, s in pairwise(CLEAN[:-1]):
        right.append(VP().bridge(right[-1], images(), t, s, rng, eta=eta))
    assert torch.allclose(code.path, torch.stack(right), atol=1e-12) and code.eta == eta


@ENCODERS
def test_the_default_eta_of_a_code_is_one(encoder: object) -> None:
    plain, explicit = coded(encoder, Curved()), coded(encoder, Curved(), eta=1.0)
    assert plain.eta == 1.0 and torch.equal(plain.noise, explicit.noise)


@ENCODERS
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("last", [0.0, 0.1])
def test_the_noise_of_a_code_is_in_units_of_the_fresh_noise(encoder: object, eta: float, last: float) -> None:
    """z = (x_s - mean(x_t)) / fresh; for a step to t = 0 in the units of the image."""
    code, grid = coded(encoder, Curved(), times(last), eta=eta), times(last)
    path = [*code.path, images()]
    for i, (t, s) in enumerate(pairwise(grid.tolist())):
        mean, fresh = VP().kernel(path[i], path[i].tanh(), t, s, eta)
        assert torch.allclose(code.noise[i], (path[i + 1] - mean) / (fresh if s > 0 else 1.0), rtol=1e-9)


@pytest.mark.parametrize("eta", [0.0, -0.1, 1.1])
@ENCODERS
def test_a_code_without_fresh_noise_is_refused(encoder: object, eta: float) -> None:
    with pytest.raises(ValueError, match="eta" if encoder is dpm_encoder else "without fresh noise has no code"):
        coded(encoder, Curved(), eta=eta)


# replaying


@ENCODERS
@pytest.mark.parametrize("skip", [0, 1, 2])
@pytest.mark.parametrize("model", [Curved, Drawn])
def test_a_replay_from_any_step_gives_the_images_back(encoder: object, skip: int, model: type[Curved]) -> None:
    """With draws too: each step takes its own draw again."""
    code = coded(encoder, model(), eta=0.7)
    assert torch.equal(code.start(skip), code.path[skip])
    assert torch.allclose(replayed(code, model(), skip), images(), atol=1e-12)


def test_a_replay_skips_no_step_and_adds_the_rest_by_default() -> None:
    code = coded(edit_friendly, Curved())
    sampler = replay(code)
    end = finish(drive(Curved(), sampler, code.start(), code.grid, Rng(9, 3)))
    assert torch.allclose(end, images(), atol=1e-12) and torch.equal(code.start(), code.path[0])


def test_without_the_rest_a_replay_ends_at_the_mean() -> None:
    code = coded(edit_friendly, Curved())
    assert torch.allclose(replayed(code, Curved(), rest=False), code.path[-1].tanh(), atol=1e-12)


def test_the_draws_of_a_codes_steps_differ() -> None:
    """The posterior is the same at every step here; its draws differ."""

    class Same(Drawn):
        def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
            seen.append(Implicit(lambda eta: eta, len(xt), SHAPE, xt))
            return seen[-1]

    seen: list[Implicit] = []
    code = coded(edit_friendly, Same())
    draws = [code.latents.child(str(i)) for i in range(3)]
    path = [*code.path, images()]
    for i, (t, s) in enumerate(pairwise(CLEAN.tolist())):
        x0 = seen[i].sample(draws[i])
        mean, fresh = VP().kernel(path[i], x0, t, s, 1.0)
        assert torch.allclose(code.noise[i], (path[i + 1] - mean) / (fresh if s > 0 else 1.0), rtol=1e-9)


def test_other_times_than_those_of_the_code_are_refused() -> None:
    code = coded(edit_friendly, Curved())
    with pytest.raises(ValueError, match=r"from the 1th on.*grid=code.grid\[1:\]"):
        finish(drive(Curved(), replay(code, 1), code.start(1), code.grid, Rng(0, 3)))


# edits


def test_mixed_noise_has_the_strength_of_each_item_and_step() -> None:
    """Root mean squares. The new noise is from the rng."""
    code, rng = coded(edit_friendly, Curved()), Rng(3, 3)
    found = code.mixed(Rng(3, 3)).noise
    for i in range(3):
        z = rng.normal((3, *SHAPE), F64)
        strong = code.noise[i].square().flatten(1).mean(1).sqrt()[:, None, None, None]
        assert torch.allclose(found[i], strong * z, rtol=1e-9)


def test_a_shift_rolls_path_and_noise() -> None:
    code = coded(edit_friendly, Curved())
    moved = code.shifted(1, -1)
    assert torch.equal(moved.noise, code.noise.roll((1, -1), (-2, -1)))
    assert torch.equal(moved.path, code.path.roll((1, -1), (-2, -1)))
    assert torch.equal(code.shifted(2).path, code.path.roll(2, -1))


@pytest.mark.parametrize("last", [0.0, 0.1])
@pytest.mark.parametrize("by, came", [((1, 0), [0, 1, 2]), ((0, 1), [0, 3]), ((0, -1), [2, 5]), ((-1, 0), [3, 4, 5])])
def test_the_region_that_enters_has_the_noise_of_the_sampler(by: tuple[int, int], came: list[int], last: float) -> None:
    """White noise in each step, none in a step to t = 0. At the first time the noise has the strength of x."""
    code, rng = coded(edit_friendly, Curved(), times(last)), Rng(3, 3)
    moved, found = code.shifted(*by), code.shifted(*by, fill=Rng(3, 3))
    new = [rng.normal((3, *SHAPE), F64) for _ in range(4)]
    strong = code.path[0].square().flatten(1).mean(1).sqrt()[:, None, None, None]
    for k in range(6):
        here = (..., k // 3, k % 3)
        for i in range(3):
            drawn = 0 * new[i + 1] if last == 0 and i == 2 else new[i + 1]
            right = drawn if k in came else moved.noise[i]
            assert torch.equal(found.noise[i][here], right[here])
        right = strong * new[0] if k in came else moved.path[0]
        assert torch.allclose(found.path[0][here], right[here], rtol=1e-12)
    assert torch.equal(found.path[1:], moved.path[1:])


# tints


def test_the_defaults_of_a_colour_edit_are_those_of_the_documentation() -> None:
    one = torch.ones(1)
    colour_edit = ColourEdit(one, one)
    assert (colour_edit.strength, colour_edit.low, colour_edit.high) == (0.1, -6.0, 4.0)


def test_a_colour_edit_adds_the_difference_of_colour_and_mean() -> None:
    """z + strength mask (colour - m), m the mean on [0, 1]."""
    colour, mask = torch.tensor(0.8, dtype=F64), torch.tensor([[1.0, 0.0, 0.5]], dtype=F64)
    noise, mean = Rng(0, 3).normal((3, *SHAPE), F64), images().clamp(-1, 1)
    right = noise + 0.3 * mask * (0.8 - (mean + 1) / 2)
    assert torch.allclose(ColourEdit(colour, mask, 0.3)(noise, mean, 0.0), right)
    assert torch.allclose(ColourEdit(colour, mask)(noise, mean, 0.0), noise + (right - noise) / 3)


def test_a_colour_edit_acts_in_its_interval_ends_included() -> None:
    one, noise = torch.ones(1, dtype=F64), torch.zeros(1, 1, 1, 1, dtype=F64)
    colour_edit = ColourEdit(one, one, low=-2.0, high=3.0)
    acts = [bool(colour_edit(noise, noise, level) != 0) for level in (-2.01, -2.0, 0.0, 3.0, 3.01)]
    assert acts == [False, True, True, True, False]


def test_a_colour_edit_gets_the_level_before_each_step_and_not_the_last_step() -> None:
    seen: list[float] = []

    def colour_edit(noise: Tensor, mean: Tensor, logsnr: float) -> Tensor:
        seen.append(logsnr)
        return noise + 1

    code = coded(edit_friendly, Curved())
    end = replayed(code, Curved(), colour_edit=colour_edit)
    assert seen == pytest.approx([float(VP().logsnr(t)) for t in CLEAN[:2]])
    x = code.path[0]
    for i, (t, s) in enumerate(pairwise(CLEAN.tolist())):
        mean, fresh = VP().kernel(x, x.tanh(), t, s, 1.0)
        x = mean + fresh * (code.noise[i] + 1) if s > 0 else mean + code.noise[i]
    assert torch.allclose(end, x, atol=1e-12)


# inversion


@THREE
def test_ddim_inversion_takes_the_mean_at_the_beginning_of_each_step(process: Gaussian) -> None:
    """The first step, from t = 0, takes the mean at its end: alpha_s x0 plus the error of that mean."""
    grid = torch.tensor([0.9, 0.5, 0.2, 0.0], dtype=F64)
    found = finish(drive(Curved(process), ddim_inversion, images(), grid, Rng(0, 3)))
    a = float(process.alpha(0.2))
    x = a * images()
    x = x + a * (images() - x.tanh())
    for t, s in ((0.2, 0.5), (0.5, 0.9)):
        x = process.transfer(x, x.tanh(), t, s)
    assert torch.allclose(found, x, atol=1e-12)


@THREE
def test_ddim_inversion_from_the_middle_is_the_step_of_ddim(process: Gaussian) -> None:
    """alpha_s m + sigma_s (x - alpha_t m) / sigma_t."""
    found = finish(drive(Curved(process), ddim_inversion, images(), torch.tensor([0.6, 0.3], dtype=F64), Rng(0, 3)))
    (a, b), (c, d) = ((float(process.alpha(t)), float(process.sigma(t))) for t in (0.3, 0.6))
    mean = images().tanh()
    assert torch.allclose(found, c * mean + d * (images() - a * mean) / b, atol=1e-12)
