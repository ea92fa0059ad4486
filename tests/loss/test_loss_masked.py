"""The bound of masked diffusion: exact for the exact posterior, for both schedules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from softmix.denoiser import CategoricalHead, PointHead
from softmix.loss import MaskedCrossEntropy
from softmix.posterior import Categorical, Point
from softmix.process import VP, Masked, Noised
from softmix.process.masked import MaskSchedule
from softmix.rng import Rng
from token_chain import LENGTH, SYMBOLS, TableDenoiser, code, law, rows, table

pytestmark = pytest.mark.usefixtures("on_device")
F64 = torch.float64
MASK = SYMBOLS


def integrated(logits: Tensor, x0: Tensor, schedule: MaskSchedule) -> Tensor:
    """The expectation of the loss over masks and t, by all 16 sets of masks and 120 midpoints of t, [B]."""
    process = Masked(SYMBOLS, schedule)
    hidden = torch.cartesian_prod(*[torch.tensor([False, True])] * LENGTH)
    total = torch.zeros(len(x0), dtype=F64)
    # midpoints of u with t = u^2 (3 - 2u): the ends are dense
    u = (torch.arange(120, dtype=F64) + 0.5) / 120
    for t, width in zip((u**2 * (3 - 2 * u)).tolist(), (6 * u * (1 - u) / 120).tolist(), strict=True):
        alpha = float(process.alpha(t))
        for masks in hidden:
            chance = (1 - alpha) ** int(masks.sum()) * alpha ** int((~masks).sum())
            xt = torch.where(masks, MASK, x0)
            noised = Noised(x0, xt, torch.full((len(x0),), t, dtype=F64), masks.expand(len(x0), -1), process)
            posterior = Categorical(logits[code(xt, SYMBOLS + 1)])
            total += width * chance * MaskedCrossEntropy()(posterior, noised, Rng(0, len(x0)))
    return total


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_for_the_exact_posterior_the_loss_is_the_log_probability_of_each_row(schedule: MaskSchedule) -> None:
    x0 = rows(SYMBOLS)[::9]
    assert torch.allclose(integrated(table(), x0, schedule), -law().log()[::9] / LENGTH, atol=2e-4)


def test_for_a_model_the_loss_is_the_same_for_every_schedule_and_above_the_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    wrong = table() + 0.5 * torch.randn(table().shape, generator=generator, dtype=F64)
    x0 = rows(SYMBOLS)
    linear, cosine = integrated(wrong, x0, "linear"), integrated(wrong, x0, "cosine")
    assert torch.allclose(linear, cosine, atol=2e-4)
    entropy = float(-(law() * law().log()).sum()) / LENGTH
    assert float((law() * linear).sum()) > entropy + 0.02


def a_record(t: float = 0.5, schedule: MaskSchedule = "linear") -> Noised:
    x0 = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 1]])
    hidden = torch.tensor([[True, False, True, False], [False] * 4])
    process = Masked(SYMBOLS, schedule)
    return Noised(x0, x0.masked_fill(hidden, MASK), torch.full((2,), t, dtype=F64), hidden, process)


@pytest.mark.parametrize(
    ("schedule", "weight"), [("linear", 1 / 0.3), ("cosine", math.pi / 2 / math.tan(0.15 * math.pi))]
)
def test_masked_tokens_alone_count_with_the_weight_of_their_time(schedule: MaskSchedule, weight: float) -> None:
    """An item without masks has the loss 0, even if its visible tokens are impossible."""
    logits = torch.randn(2, SYMBOLS, LENGTH, generator=torch.Generator().manual_seed(0))
    logits[:, 1, 1] = -torch.inf
    noised = a_record(0.3, schedule)
    found = MaskedCrossEntropy()(Categorical(logits), noised, Rng(0, 2))
    logs = logits.log_softmax(1)
    assert float(found[0]) == pytest.approx(-weight * float(logs[0, 0, 0] + logs[0, 2, 2]) / LENGTH, rel=1e-5)
    assert float(found[1]) == 0


def test_the_gradient_is_finite_with_impossible_visible_tokens_and_points_to_the_token() -> None:
    logits = torch.zeros(2, SYMBOLS, LENGTH, requires_grad=True)
    shut = torch.zeros(2, SYMBOLS, LENGTH).index_put(
        (torch.tensor(0), torch.tensor(1), torch.tensor(1)), torch.tensor(-torch.inf)
    )
    MaskedCrossEntropy()(Categorical(logits + shut), a_record(), Rng(0, 2)).sum().backward()
    slope = logits.grad
    assert slope is not None and bool(slope.isfinite().all())
    # weight 2, one of four places, (1/3 - 1) at the token and 1/3 elsewhere
    assert torch.allclose(slope[0, :, 0], torch.tensor([-1 / 3, 1 / 6, 1 / 6]))
    assert float(slope[0, :, 1].abs().max()) == 0 and float(slope[1].abs().max()) == 0


def test_it_refuses_other_parts_and_other_posteriors() -> None:
    loss = MaskedCrossEntropy()
    loss.fits(CategoricalHead(), Masked())
    for head, process in ((PointHead(), Masked()), (CategoricalHead(), VP())):
        with pytest.raises(ValueError, match="MaskedCrossEntropy needs a CategoricalHead and the process Masked"):
            loss.fits(head, process)
    with pytest.raises(TypeError, match="needs a Categorical, and Point was found"):
        loss(Point(torch.zeros(2, LENGTH)), a_record(), Rng(0, 2))


def test_the_device_is_that_of_the_data(device: torch.device) -> None:
    noised = a_record()
    there = replace(noised, x0=noised.x0.to(device), xt=noised.xt.to(device), z=noised.z.to(device))
    found = MaskedCrossEntropy()(TableDenoiser()(there.xt, 0.5), there, Rng(0, 2, device=device))
    assert found.device.type == device.type and torch.allclose(
        found.cpu().double(), MaskedCrossEntropy()(TableDenoiser()(noised.xt, 0.5), noised, Rng(0, 2)).double()
    )
