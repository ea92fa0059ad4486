"""The contrastive loss of CDCD: its value by hand, its negatives, its minimiser, and its cap."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond
from softmix.config import from_json, to_json
from softmix.denoiser import CategoricalHead, PointHead
from softmix.loss import Contrastive, MaskedCrossEntropy, Stage
from softmix.loss.contrastive import reordered
from softmix.net import TokenSpec
from softmix.posterior import Categorical
from softmix.process import Masked, Noised
from softmix.rng import Rng
from softmix.train import Config, Denoise

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
SYMBOLS, LENGTH, ITEMS = 5, 6, 4


def record(t: float = 0.4, label: bool = True) -> Noised:
    """Items of tokens, about half of them masked."""
    x0 = (torch.arange(ITEMS * LENGTH).reshape(ITEMS, LENGTH) * 7) % SYMBOLS
    cond = Cond(label=torch.arange(ITEMS) % 3) if label else None
    return Masked(SYMBOLS).noise(x0, t, Rng(5, ITEMS), cond)


class ByLabel:
    """Logits that depend on the label, and not on x_t; other logits without a condition."""

    process, shape = Masked(SYMBOLS), (LENGTH,)

    def __init__(self) -> None:
        self.logits = torch.randn(4, SYMBOLS, LENGTH, generator=torch.Generator().manual_seed(0), dtype=F64)
        self.asked = 0

    def __call__(self, xt: Tensor, t: Any, cond: Cond | None = None) -> Categorical:
        self.asked += 1
        label = torch.full((len(xt),), -1) if cond is None or cond.label is None else cond.label
        return Categorical(self.logits[label])


def nats(logits: Tensor, tokens: Tensor, noised: Noised, cap: float = 10.0) -> Tensor:
    """The mean over places of the capped cross-entropy at masked ones, by a loop, [B]."""
    total = torch.zeros(len(tokens), dtype=F64)
    logs = logits.log_softmax(1)
    for item in range(len(tokens)):
        for place in range(LENGTH):
            if noised.z[item, place]:
                total[item] += min(-float(logs[item, tokens[item, place], place]), cap) / LENGTH
    return total


class Given(Contrastive):
    """With fixed negatives."""

    def _other(self, x0: Tensor, rng: Rng) -> Tensor:
        return (x0 + 1) % SYMBOLS


@pytest.mark.parametrize(("form", "weight"), [("step", 1 / 0.4), ("sample", 1.4)])
@pytest.mark.parametrize("cap", [1.5, 10.0])
def test_the_loss_is_the_base_less_the_weighted_capped_loss_of_the_negatives(
    form: Any, weight: float, cap: float
) -> None:
    noised, model = record(), ByLabel()
    assert noised.cond is not None
    logits = model.logits[noised.cond.label]  # type: ignore[union-attr]
    loss = Given(weight=0.3, negatives=2, form=form, cap=cap)
    base = nats(logits, noised.x0, noised, math.inf) / 0.4
    other = nats(logits, (noised.x0 + 1) % SYMBOLS, noised, cap)
    assert torch.allclose(loss.ask(model, noised, Rng(0, ITEMS), Stage()).double(), base - 0.3 * weight * other)
    assert model.asked == 1


def test_without_a_weight_it_is_its_base() -> None:
    noised, model = record(), ByLabel()
    found = Contrastive(weight=0.0).ask(model, noised, Rng(0, ITEMS), Stage())
    right = MaskedCrossEntropy()(model(noised.xt, noised.t, noised.cond), noised, Rng(0, ITEMS))  # type: ignore[arg-type]
    assert torch.equal(found, right)


def test_the_control_asks_for_the_negatives_without_the_condition() -> None:
    noised, model = record(), ByLabel()
    assert noised.cond is not None
    logits = model.logits[noised.cond.label]  # type: ignore[union-attr]
    found = Given(weight=0.3, form="step", given="nothing").ask(model, noised, Rng(0, ITEMS), Stage())
    base = nats(logits, noised.x0, noised, math.inf)
    other = nats(model.logits[[-1] * ITEMS], (noised.x0 + 1) % SYMBOLS, noised)
    assert torch.allclose(found.double(), (base - 0.3 * other) / 0.4)
    with pytest.raises(ValueError, match="leaves out the condition, and these items have none"):
        Given(given="nothing").ask(model, record(label=False), Rng(0, ITEMS), Stage())


def test_other_items_are_never_the_item_itself_and_all_equally_often() -> None:
    """5,000 batches of four: each of the three others within 5 standard errors of 1/3."""
    x0 = torch.arange(ITEMS)[:, None].expand(-1, 2)
    counts = torch.zeros(ITEMS, ITEMS)
    for draw in range(1250):
        other = Contrastive(of="others")._other(x0, Rng(draw, ITEMS))
        counts[torch.arange(ITEMS), other[:, 0]] += 1
    assert float(counts.diagonal().max()) == 0
    shares = counts[~torch.eye(ITEMS, dtype=torch.bool)] / 1250
    assert float((shares - 1 / 3).abs().max()) < 5 * (2 / 9 / 1250) ** 0.5
    with pytest.raises(ValueError, match="the batch has one item"):
        Contrastive(of="others")._other(x0[:1], Rng(0, 1))


@pytest.mark.parametrize("places", [2, 3, 8, 21, 64])
def test_own_tokens_come_in_pieces_in_another_order(places: int) -> None:
    """A permutation of the places, never the identity, and inside a piece the places follow each other."""
    order = reordered(places, Rng(0, 400))
    assert torch.equal(order.sort(1).values, torch.arange(places).expand(400, -1))
    assert not bool((order == torch.arange(places)).all(1).any())
    pieces = (order.diff(dim=1) != 1).sum(1) + 1
    assert int(pieces.max()) <= min(8, places) and int(pieces.min()) >= 2
    # many orders, and each item its own
    assert len({tuple(row) for row in order.tolist()}) >= min(400, math.factorial(min(places, 8)) - 1) / 2
    alone = reordered(places, Rng(0, [7]))
    assert torch.equal(alone[0], order[7])


def test_own_negatives_have_the_tokens_of_their_item() -> None:
    x0 = record().x0
    other = Contrastive(of="own")._other(x0, Rng(0, ITEMS))
    assert torch.equal(other.sort(1).values, x0.sort(1).values)
    with pytest.raises(ValueError, match="an item has one token"):
        Contrastive(of="own")._other(x0[:, :1], Rng(0, ITEMS))


def test_each_negative_is_another_one() -> None:
    seen: list[Tensor] = []

    class Noting(Contrastive):
        def _other(self, x0: Tensor, rng: Rng) -> Tensor:
            seen.append(super()._other(x0, rng))
            return seen[-1]

    Noting(negatives=6, of="own").ask(ByLabel(), record(), Rng(0, ITEMS), Stage())
    assert len(seen) == 6 and len({str(each.tolist()) for each in seen}) > 3


def test_only_negatives_of_other_items_need_the_whole_batch() -> None:
    assert Contrastive(of="others").whole and not Contrastive(of="own").whole
    task = Denoise(Masked(), TokenSpec(), CategoricalHead(), Contrastive(), output="x0")
    assert task.whole and task.together


def test_settings_are_checked_and_saved() -> None:
    for bad in ({"weight": 1.0}, {"weight": -0.1}, {"negatives": 0}, {"cap": 0.0}, {"cap": math.inf}):
        with pytest.raises(ValueError, match=r"weight in \[0, 1\), at least 1 negative and a finite cap"):
            Contrastive(**bad)  # type: ignore[arg-type]
    for bad in ({"of": "all"}, {"form": "token"}, {"given": "label"}):
        with pytest.raises(ValueError, match="was asked for; there are"):
            Contrastive(**bad)  # type: ignore[arg-type]
    config = Config(Denoise(Masked(), TokenSpec(), CategoricalHead(), Contrastive(of="own", cap=3.0), output="x0"))
    assert from_json(Config, to_json(config)) == config
    with pytest.raises(ValueError, match="MaskedCrossEntropy needs a CategoricalHead"):
        Contrastive().fits(PointHead(), Masked())


def test_the_control_needs_items_without_a_condition() -> None:
    given = {"net": TokenSpec(16, 1), "head": CategoricalHead(), "output": "x0", "process": Masked()}
    with pytest.raises(ValueError, match="learns nothing with drop = 0"):
        Denoise(loss=Contrastive(given="nothing"), drop=0.0, **given)  # type: ignore[arg-type]
    assert Denoise(loss=Contrastive(given="condition"), drop=0.0, **given)  # type: ignore[arg-type]
    assert Denoise(loss=Contrastive(given="nothing"), drop=0.1, **given)  # type: ignore[arg-type]


def test_negatives_that_would_outweigh_the_items_are_refused() -> None:
    """1 + t against r = 1 / t, or r = pi / 2 cot(pi t / 2), is at most 2, or without a bound."""
    head = CategoricalHead()
    Contrastive(weight=0.49).fits(head, Masked(4))
    with pytest.raises(ValueError, match=r"weight below 0\.5"):
        Contrastive(weight=0.5).fits(head, Masked(4))
    with pytest.raises(ValueError, match="of the cosine schedule"):
        Contrastive(weight=0.1).fits(head, Masked(4, "cosine"))
    for loss in (Contrastive(weight=0.0), Contrastive(weight=0.9, form="step")):
        loss.fits(head, Masked(4, "cosine"))
