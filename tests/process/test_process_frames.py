"""Shifts and bases: a framed process equals its base after the change of variables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from softmix.process import VE, VP, Flow, Framed, Gaussian, InBasis, PerElement, Shifted, cosine, one_clock, unframed
from softmix.process.frame import FixedCondition
from softmix.rng import Rng

F64 = torch.float64
PLAIN = VP()
BASES = pytest.mark.parametrize("base", [VP(), VE(), Flow()], ids=str)


@dataclass(frozen=True)
class ByLabel(Shifted):
    """Shifted by 2 t (1 + label) (1, -1, ...): a complete custom process."""

    base: Gaussian = PLAIN

    def k(self, t: Tensor | float) -> Tensor:
        return 2 * torch.as_tensor(t, dtype=F64)

    def u(self, cond: Any) -> Tensor:
        return (1.0 + cond.double())[:, None] * torch.tensor([1.0, -1.0, 0.5], dtype=F64)


LABELS = torch.tensor([0, 1, 2, 1])


def data(dtype: torch.dtype = F64) -> Tensor:
    return Rng(0, 4, "x0").normal((4, 3), dtype)


def offset(t: float) -> Tensor:
    """2 t (1 + label) (1, -1, 1/2), written out independently."""
    return 2 * t * torch.tensor([[1, -1, 0.5], [2, -2, 1], [3, -3, 1.5], [2, -2, 1]], dtype=F64)


# shifts


@BASES
def test_noise_is_that_of_the_base_plus_the_shift(base: Gaussian) -> None:
    noised = ByLabel(base).noise(data(), 0.4, Rng(1, 4), LABELS)
    plain = base.noise(data(), 0.4, Rng(1, 4))
    assert torch.allclose(noised.xt, plain.xt + offset(0.4), rtol=1e-12)
    assert torch.equal(noised.x0, data()) and torch.equal(noised.z, plain.z) and torch.equal(noised.t, plain.t)
    assert noised.cond is LABELS and isinstance(noised.process, ByLabel)
    assert torch.equal(noised.logsnr, plain.logsnr)


def test_each_item_is_shifted_by_its_own_time() -> None:
    t = torch.tensor([0.2, 0.9, 0.5, 1.0], dtype=F64)
    several = ByLabel().noise(data(), t, Rng(1, 4), LABELS).xt
    for k in range(4):
        alone = ByLabel().noise(data()[k : k + 1], float(t[k]), Rng(1, [k]), LABELS[k : k + 1]).xt
        assert torch.allclose(several[k], alone[0], rtol=1e-12)


def test_the_prior_is_shifted() -> None:
    found = ByLabel(VE()).prior((4, 3), Rng(0, 4), LABELS)
    assert torch.allclose(found.double(), VE().prior((4, 3), Rng(0, 4)).double() + offset(1.0), rtol=1e-5)


@BASES
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_bridge_is_that_of_the_base_between_unshifted_states(base: Gaussian, eta: float) -> None:
    x, x0 = Rng(1, 4).normal((4, 3), F64), data()
    found = ByLabel(base).bridge(x, x0, 0.8, 0.3, Rng(2, 4), LABELS, eta)
    right = base.bridge(x - offset(0.8), x0, 0.8, 0.3, Rng(2, 4), eta=eta) + offset(0.3)
    assert torch.allclose(found, right, rtol=1e-10, atol=1e-12)


def test_a_chain_of_shifted_steps_has_the_true_law() -> None:
    """x0, noise to 0.8, bridges to 0.5 and 0.2: mean, variance and covariance with x0, in standard errors over 40,000
    items (fixed seed, measured 1.7)."""
    n, process = 40_000, ByLabel()
    cond = torch.full((n,), 1)
    x0 = 0.7 * Rng(0, n, "x0").normal((n, 3), F64) + 0.3
    rng = Rng(1, n)
    x = process.noise(x0, 0.8, rng, cond).xt
    x = process.bridge(process.bridge(x, x0, 0.8, 0.5, rng, cond), x0, 0.5, 0.2, rng, cond)
    alpha, sigma = float(VP().alpha(0.2)), float(VP().sigma(0.2))
    off = x - alpha * 0.3 - 0.4 * torch.tensor([2, -2, 1], dtype=F64)
    products = torch.cat([off, off**2 - alpha**2 * 0.49 - sigma**2, off * (x0 - 0.3) - alpha * 0.49], dim=1)
    assert float((products.mean(0) / products.std(0)).abs().max()) * math.sqrt(n) < 4


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_bridge_to_the_clean_item_leaves_no_shift(dtype: torch.dtype) -> None:
    x0 = data(dtype)
    found = ByLabel().bridge(x0 + 5, x0, 0.7, 0.0, Rng(0, 4), LABELS)
    assert torch.equal(found, x0) and found.dtype == dtype


def test_the_clock_and_the_grid_are_those_of_the_base() -> None:
    process = ByLabel(VE())
    assert torch.equal(process.logsnr(0.3), VE().logsnr(0.3)) and torch.equal(process.time(1.0), VE().time(1.0))
    assert torch.equal(process.grid(7), VE().grid(7))


@dataclass(frozen=True)
class Late(ByLabel):
    def k(self, t: Tensor | float) -> Tensor:
        return 1 - torch.as_tensor(t, dtype=F64)


def test_a_shift_of_the_clean_item_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shift of Late is k\(0\) = \[1.0\] at t = 0.*k\(0\) = 0"):
        Late().noise(data(), 0.5, Rng(0, 4), LABELS)


@dataclass(frozen=True)
class Flat(ByLabel):
    def u(self, cond: Any) -> Tensor:
        return cond.double()


def test_a_shift_of_another_rank_is_refused() -> None:
    """With B = D it would be mistaken for a row of elements."""
    x = torch.zeros(4, 4, dtype=F64)
    with pytest.raises(ValueError, match=r"states of shape \[4, 4\] by u\(cond\) of shape \[4\]"):
        Flat().enter(x, 0.5, LABELS)


# bases


def test_cosines_are_an_orthonormal_basis_from_low_to_high() -> None:
    for n in (1, 2, 7, 28):
        rows = cosine(n).to(torch.zeros(()).device)
        assert rows.dtype == F64 and torch.allclose(rows @ rows.mT, torch.eye(n, dtype=F64), atol=1e-12)
        turns = (rows[:, 1:] * rows[:, :-1] < 0).sum(1)
        assert turns.tolist() == list(range(n))
    assert torch.allclose(cosine(4)[0].cpu(), torch.full((4,), 0.5, dtype=F64).cpu())


def spectral(base: Gaussian) -> InBasis:
    return InBasis(base, (cosine(3), cosine(5)))


def test_a_basis_transforms_the_last_axes_of_an_image_and_back() -> None:
    x = Rng(0, 2).normal((2, 4, 3, 5), F64)
    y = spectral(VP()).enter(x, 0.3)
    assert torch.allclose(y, torch.einsum("ui,vj,bcij->bcuv", cosine(3).to(x), cosine(5).to(x), x))
    assert torch.allclose(spectral(VP()).leave(y, 0.3), x, rtol=1e-12)
    assert torch.allclose(y.norm(), x.norm())
    # a constant image has one frequency
    flat = spectral(VP()).enter(torch.ones(1, 1, 3, 5), 0.3)
    assert float(flat[0, 0, 0, 0]) == pytest.approx(15**0.5, rel=1e-6) and float(flat.abs().sum()) < 15**0.5 + 1e-5


def test_white_noise_is_white_in_every_basis() -> None:
    """With one alpha and one sigma the bridge without noise equals that of the base, and so does the prior."""
    x, x0 = Rng(0, 2).normal((2, 4, 3, 5), F64), Rng(1, 2).normal((2, 4, 3, 5), F64)
    turned = spectral(Flow()).bridge(x, x0, 0.8, 0.3, Rng(2, 2), eta=0.0)
    assert torch.allclose(turned, Flow().bridge(x, x0, 0.8, 0.3, Rng(2, 2), eta=0.0), rtol=1e-9, atol=1e-12)


def test_each_frequency_has_its_own_schedule() -> None:
    """Without noise the remaining signal of one basis image is alpha(t^p) of that frequency."""
    power = torch.linspace(0.5, 2, 15, dtype=F64).reshape(1, 3, 5)
    process = spectral(PerElement(VP(), power))
    for u, v in ((0, 0), (1, 3), (2, 4)):
        image = torch.outer(cosine(3)[u], cosine(5)[v])[None, None]
        end = process.bridge(torch.zeros_like(image), image, 0.9, 0.4, Rng(0, 1), eta=0.0)
        own = [float(t) ** float(power[0, u, v]) for t in (0.9, 0.4)]
        right = VP().alpha(own[1]) - VP().sigma(own[1]) / VP().sigma(own[0]) * VP().alpha(own[0])
        assert torch.allclose(end, right * image, atol=1e-12)


def test_a_matrix_that_is_not_orthogonal_is_refused() -> None:
    for wrong in (torch.ones(2, 2), torch.eye(3)[:2], torch.ones(3), 1.1 * cosine(4)):
        with pytest.raises(ValueError, match="orthogonal matrix"):
            InBasis(VP(), (wrong,))
    with pytest.raises(ValueError, match="at least one axis"):
        InBasis(VP(), ())
    for shape in ((2, 3), (2, 4, 5, 3), (3, 5)):
        with pytest.raises(ValueError, match=r"axes of sizes \[3, 5\].*items have shape"):
            spectral(VP()).enter(torch.zeros(shape), 0.5)


# custom frames


class Scaled(Framed):
    """y = 2 x: a frame that is neither a shift nor a basis."""

    base: ClassVar[Gaussian] = VP()  # type: ignore[misc]

    def enter(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        return 2 * x

    def leave(self, y: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        return y / 2


def test_any_frame_has_noise_prior_and_bridge() -> None:
    process, x0 = Scaled(), data()
    assert torch.allclose(process.noise(x0, 0.4, Rng(0, 4)).xt, VP().noise(2 * x0, 0.4, Rng(0, 4)).xt / 2)
    assert torch.allclose(process.prior((4, 3), Rng(0, 4)), VP().prior((4, 3), Rng(0, 4)) / 2)
    right = VP().bridge(2 * x0, 2 * x0, 0.4, 0.2, Rng(0, 4)) / 2
    assert torch.allclose(process.bridge(x0, x0, 0.4, 0.2, Rng(0, 4)), right)


@pytest.mark.parametrize("process", [ByLabel(), ByLabel(VE())], ids=str)
def test_a_fixed_condition_replaces_a_missing_one(process: ByLabel) -> None:
    given = FixedCondition(process, LABELS)
    assert given.base == process.base and given.keeps_x0
    assert torch.equal(given.enter(data(), 0.5), process.enter(data(), 0.5, LABELS))
    assert torch.equal(given.noise(data(), 0.5, Rng(0, 4)).xt, process.noise(data(), 0.5, Rng(0, 4), LABELS).xt)
    assert torch.equal(given.prior((4, 3), Rng(0, 4)), process.prior((4, 3), Rng(0, 4), LABELS))
    assert torch.equal(given.leave(data(), 0.5, LABELS.flip(0)), process.leave(data(), 0.5, LABELS.flip(0)))


def test_unframed_and_one_clock_refuse_other_processes() -> None:
    assert unframed(VP(), "a part") == VP() and one_clock(VE(), "a part") == VE()
    apart = PerElement(VP(), torch.ones(3))
    assert unframed(apart, "a part") is apart
    with pytest.raises(TypeError, match=r"a part uses .* ByLabel in its frame only.*in_frame"):
        unframed(ByLabel(), "a part")
    with pytest.raises(TypeError, match=r"a part needs one alpha .* PerElement has a number for each"):
        one_clock(apart, "a part")
    with pytest.raises(TypeError, match="a part needs a Gaussian process, and found object"):
        unframed(object(), "a part")  # type: ignore[arg-type]
