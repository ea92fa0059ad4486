"""`FeatureEnergy`, term by term, against its sums written out, with known feature functions."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from softmix.loss import FeatureEnergy, FeatureExtractor, Stage
from softmix.posterior import Implicit, ImplicitMean, Posterior
from softmix.process import VP, Noised
from softmix.rng import Rng

F64 = torch.float64
# a share too small for one item of a batch
NONE = 1e-9
COUNT, SHAPE = 20, (2, 2, 2)
P = VP()


class Features(nn.Module):
    """Two blocks of known features that depend on the time of the extractor."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def features(self, x: Tensor, t: float) -> list[Tensor]:
        self.times.append(float(t))
        return [3 * x.flatten(2) + t, (x.flatten(2) ** 2)[:, :, :3]]


class RecordingDenoiser:
    """Draws x_t / 2 + eta and the mean x_t / 3; records its calls."""

    def __init__(self) -> None:
        self.process = P
        self.asked: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.asked.append((xt, torch.as_tensor(t), cond))
        return ImplicitMean(lambda eta: xt / 2 + eta, len(xt), SHAPE, xt, lambda: xt / 3)


def eyes(at: float = 0.05) -> FeatureExtractor:
    return FeatureExtractor(Features(), at, Rng(9, 50).normal((50, *SHAPE)))  # type: ignore[arg-type]


def given(cond: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Noised:
    x0 = Rng(0, COUNT, "x0").normal((COUNT, *SHAPE), dtype)
    return P.noise(x0, torch.linspace(0.05, 0.95, COUNT, dtype=F64), Rng(1, COUNT), cond)


def ask(loss: FeatureEnergy, given: Noised, look: FeatureExtractor | None = None) -> tuple[Tensor, RecordingDenoiser]:
    believing = RecordingDenoiser()
    return loss.ask(believing, given, Rng(2, COUNT), Stage(0.9, look or eyes())), believing


def moved(given: Noised, items: slice, low: float, high: float) -> tuple[Tensor, Tensor]:
    """x_t and times of items with their own times mapped into [low, high]."""
    t = low + (high - low) * given.t[items]
    alpha, sigma = (part(t)[:, None, None, None].float() for part in (P.alpha, P.sigma))
    return alpha * given.x0[items] + sigma * given.z[items], t


def border(until: float = -6.0) -> float:
    return float(P.time(until))


def scales(look: FeatureExtractor) -> list[Tensor]:
    data = Rng(9, 50).normal((50, *SHAPE))
    return [h.std() for h in Features().features(data, look.at)]


def test_the_defaults_are_the_documented_ones() -> None:
    assert FeatureEnergy() == FeatureEnergy(
        share=0.5,
        until=-6.0,
        blank=0.8,
        high=0.05,
        mean=1.0,
        m=2,
        pixels=0.1,
        features=0.1,
        at=0.05,
        weight="v",
    )


@pytest.mark.parametrize(
    "wrong", [{"m": 1}, {"share": 0.0}, {"share": 1.0}, {"blank": 0.9, "high": 0.2}, {"mean": 1.1}, {"mean": -0.1}]
)
def test_invalid_shares_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="FeatureEnergy needs m >= 2"):
        FeatureEnergy(**wrong)  # type: ignore[arg-type]


def test_it_is_proper_with_a_pixel_term_and_freezes_at_its_share() -> None:
    assert FeatureEnergy().proper and not FeatureEnergy(pixels=0.0).proper
    assert FeatureEnergy(share=0.3).freeze_at == 0.3


# the feature extractor


def test_the_extractor_uses_its_own_time() -> None:
    kept = FeatureEnergy(at=0.2).freeze(Features(), torch.randn(9, *SHAPE))  # type: ignore[arg-type]
    assert kept.at == 0.2 and kept.network.times == [0.2]  # type: ignore[attr-defined]
    kept(torch.zeros(3, *SHAPE))
    assert kept.network.times == [0.2, 0.2]  # type: ignore[attr-defined]


def test_features_are_divided_by_their_standard_deviation() -> None:
    look, x = eyes(), Rng(3, 4).normal((4, *SHAPE))
    for found, raw, scale in zip(look(x), Features().features(x, 0.05), scales(look), strict=True):
        assert torch.allclose(found, raw / scale, rtol=1e-5)
    data = Rng(9, 50).normal((50, *SHAPE))
    assert all(float(h.std()) == pytest.approx(1, rel=1e-5) for h in look(data))
    assert "scale" in look.state_dict()


# the first part: the mean


@pytest.mark.parametrize("name", ["v", "x0", "eps"])
def test_the_first_part_is_squared_error(name: str) -> None:
    noised, believing = given(torch.arange(COUNT)), RecordingDenoiser()
    found = FeatureEnergy(weight=name).ask(believing, noised, Rng(2, COUNT), Stage(0.2))  # type: ignore[arg-type]
    snr = noised.logsnr.exp().float()
    w = {"v": 1 + snr, "x0": torch.ones_like(snr), "eps": snr}[name]
    assert torch.allclose(found, w * (noised.xt / 3 - noised.x0).square().flatten(1).mean(1))
    assert believing.asked[0][2] is noised.cond and len(believing.asked) == 1


# the second part: the mean at low noise


@pytest.mark.parametrize("mean", [0.25, 1.0])
@pytest.mark.parametrize("until", [-6.0, -2.0])
def test_the_last_items_train_the_mean_at_low_noise(mean: float, until: float) -> None:
    noised = given()
    found, believing = ask(FeatureEnergy(blank=0.0, high=0.0, mean=mean, until=until), noised)
    first = COUNT - round(mean * COUNT)
    xt, t = moved(noised, slice(first, COUNT), 0.0, border(until))
    assert len(believing.asked) == 1
    assert torch.allclose(believing.asked[0][0], xt) and torch.allclose(believing.asked[0][1], t)
    right = (1 + P.logsnr(t).exp()).float() * (xt / 3 - noised.x0[first:]).square().flatten(1).mean(1)
    assert torch.allclose(found[first:], right) and not found[:first].any()


def test_zero_shares_call_nothing() -> None:
    found, believing = ask(FeatureEnergy(blank=0.0, high=0.0, mean=NONE), given())
    assert not believing.asked and not found.any()


# the second part: draws at high noise


def energy(draws: Tensor, truth: Tensor) -> Tensor:
    """S of one item: draws [m, ...], truth [...], with the root mean square over elements."""
    m = len(draws)
    near = sum((d - truth).square().mean().sqrt() for d in draws) / m
    pairs = [(draws[j] - draws[k]).square().mean().sqrt() for j, k in product(range(m), repeat=2) if j != k]
    return near - sum(pairs) / (2 * m * (m - 1))  # type: ignore[return-value]


def features_energy(draws: Tensor, truth: Tensor) -> Tensor:
    """S in the features of one block [C, places]: at each place, and of the mean over places."""
    each = torch.stack([energy(draws[..., p], truth[..., p]) for p in range(truth.shape[-1])]).mean()
    return (each + energy(draws.mean(-1), truth.mean(-1))) / 2


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("pixels, features", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_a_share_trains_draws_at_high_noise(m: int, pixels: float, features: float) -> None:
    noised, look = given(), eyes()
    loss = FeatureEnergy(blank=0.0, high=0.2, mean=NONE, m=m, pixels=pixels, features=features, until=-3.0)
    found, believing = ask(loss, noised, look)
    xt, t = moved(noised, slice(0, 4), border(-3.0), 1.0)
    assert torch.allclose(believing.asked[0][0], xt) and torch.allclose(believing.asked[0][1], t)
    eta = Implicit(lambda eta: eta, 4, SHAPE, xt).draws(m, Rng(2, COUNT).take(torch.arange(4)))
    draws = xt / 2 + eta
    for k in range(4):
        right = pixels * energy(draws[:, k], noised.x0[k])
        blocks = zip(look(draws[:, k]), look(noised.x0[k : k + 1]), strict=True)
        right = right + features * torch.stack([features_energy(a, b[0]) for a, b in blocks]).mean()
        assert float(found[k]) == pytest.approx(float(right), abs=2e-3)
    assert not found[4:].any()


def test_each_item_uses_its_own_latents() -> None:
    """After the blank items: item 10 gets the draw of item 10 of the rng."""
    noised = given()
    loss = FeatureEnergy(blank=0.5, high=0.2, mean=NONE, features=0.0, pixels=1.0)
    found, _ = ask(loss, noised)
    xt, _ = moved(noised, slice(10, 14), border(), 1.0)
    draws = xt / 2 + Implicit(lambda eta: eta, 4, SHAPE, xt).draws(2, Rng(2, COUNT).take(torch.arange(10, 14)))
    right = torch.stack([energy(draws[:, k], noised.x0[10 + k]) for k in range(4)])
    assert torch.allclose(found[10:14], right, atol=1e-3)


# the second part: draws at t = 1


def pairs(draws: Tensor, truth: Tensor) -> Tensor:
    """E |truth - draw| - E |draw - draw'| / 2 over all pairs of [n, C] and [k, C]."""
    n = len(draws)
    near = torch.stack([(a - b).square().mean().sqrt() for a in draws for b in truth]).mean()
    apart = torch.stack([(draws[j] - draws[k]).square().mean().sqrt() for j in range(n) for k in range(n) if j != k])
    return near - apart.mean() / 2


def blank_by_hand(noised: Noised, look: FeatureExtractor, n: int, m: int, pixels: float, features: float) -> Tensor:
    at_1 = float(P.alpha(1.0)) * noised.x0 + float(P.sigma(1.0)) * noised.z
    places = torch.arange(n)
    eta = Implicit(lambda eta: eta, n, SHAPE, noised.x0).draws(m, Rng(2, COUNT).take(places))
    draws = (at_1[places] / 2 + eta).flatten(0, 1)
    right = pixels * pairs(draws.flatten(1), noised.x0.flatten(1))
    parts = []
    for a, b in zip(look(draws), look(noised.x0), strict=True):
        each_place = torch.stack([pairs(a[..., p], b[..., p]) for p in range(a.shape[-1])]).mean()
        parts.append((each_place + pairs(a.mean(-1), b.mean(-1))) / 2)
    return right + features * torch.stack(parts).mean()


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("pixels, features", [(1.0, 0.0), (0.3, 0.7)])
def test_blank_items_compare_every_draw_with_every_image(m: int, pixels: float, features: float) -> None:
    noised, look = given(), eyes()
    loss = FeatureEnergy(blank=0.2, high=0.0, mean=NONE, m=m, pixels=pixels, features=features)
    found, believing = ask(loss, noised, look)
    right = blank_by_hand(noised, look, 4, m, pixels, features)
    assert torch.allclose(found[:4], right.expand(4), rtol=1e-4) and not found[4:].any()
    assert torch.equal(believing.asked[0][1], torch.ones(4, dtype=F64))


def test_two_blank_items_are_needed() -> None:
    for share, asked in ((0.1, 1), (0.05, 0)):
        found, believing = ask(FeatureEnergy(blank=share, high=0.0, mean=NONE), given())
        assert len(believing.asked) == asked and bool(found.any()) == bool(asked)


def test_with_classes_blank_items_join_the_others() -> None:
    """At t = 1 the items do not all have one posterior: each is evaluated with its class."""
    cond = torch.arange(COUNT)
    plain, classed = given(), given(cond)
    joined, believing = ask(FeatureEnergy(blank=0.5, high=0.1, mean=NONE), classed)
    alone, _ = ask(FeatureEnergy(blank=0.0, high=0.6, mean=NONE), plain)
    assert torch.allclose(joined, alone) and torch.equal(believing.asked[0][2], cond[:12])  # type: ignore[arg-type]
    assert len(believing.asked) == 1


def test_the_terms_are_added_item_by_item() -> None:
    """The mean for all, blank for the first half, draws for the next tenth."""
    noised, look = given(), eyes()
    shares = {"mean": NONE, "blank": 0.0, "high": 0.0}
    whole, _ = ask(FeatureEnergy(mean=1.0, blank=0.5, high=0.1), noised, look)
    mean, _ = ask(FeatureEnergy(**{**shares, "mean": 1.0}), noised, look)  # type: ignore[arg-type]
    blank, _ = ask(FeatureEnergy(**{**shares, "blank": 0.5}), noised, look)  # type: ignore[arg-type]
    both, _ = ask(FeatureEnergy(**{**shares, "blank": 0.5, "high": 0.1}), noised, look)  # type: ignore[arg-type]
    assert torch.allclose(whole, mean + both) and torch.allclose(both[:10], blank[:10])
    assert bool((both[10:12] != 0).all()) and not both[12:].any()


def test_images_may_be_float64() -> None:
    whole, _ = ask(FeatureEnergy(), given(dtype=F64))
    half, _ = ask(FeatureEnergy(), given())
    assert torch.allclose(whole.float(), half, rtol=1e-3)


def test_a_mean_is_needed() -> None:
    class Drawing(RecordingDenoiser):
        def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
            return Implicit(lambda eta: eta, len(xt), SHAPE, xt)

    with pytest.raises(TypeError, match="FeatureEnergy needs a mean"):
        FeatureEnergy().ask(Drawing(), given(), Rng(2, COUNT), Stage())


def test_a_single_blank_item_is_left_out_and_the_others_keep_their_latents() -> None:
    """One item has no pairs. Items 1 to 4 are drawn at high noise, with their own latents."""
    noised = given()
    found, _ = ask(FeatureEnergy(blank=0.05, high=0.2, mean=NONE, features=0.0, pixels=1.0), noised)
    xt, _ = moved(noised, slice(1, 5), border(), 1.0)
    draws = xt / 2 + Implicit(lambda eta: eta, 4, SHAPE, xt).draws(2, Rng(2, COUNT).take(torch.arange(1, 5)))
    right = torch.stack([energy(draws[:, k], noised.x0[1 + k]) for k in range(4)])
    assert torch.allclose(found[1:5], right, atol=1e-3)
    assert not found[0].any() and not found[5:].any()
