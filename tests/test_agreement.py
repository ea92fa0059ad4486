"""Each part agrees with itself in float64, and on another device (`--device cuda`), within its bound.

tests/agreement.py lists the parts and prints the table of docs/reliability.md.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agreement import F64, PARTS, Part, components, default_dtype, difference, result
from softmix.posterior.mixture import draw_index
from softmix.rng import Rng
from softmix.sampler import SAMPLERS, traits

CPU = torch.device("cpu")
EVERY = pytest.mark.parametrize("part", PARTS, ids=str)


@EVERY
def test_float32_agrees_with_float64(part: Part) -> None:
    assert difference(result(part, CPU, torch.float32), result(part, CPU, F64)) < part.bound32


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_device_agrees_with_the_cpu(part: Part, dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("give another device by --device")
    bound = part.bound32 if dtype == torch.float32 else part.bound64
    assert difference(result(part, device, dtype), result(part, CPU, dtype)) < bound


def test_a_bound_is_far_below_the_error_of_tf32() -> None:
    """TF32 rounds the inputs of a product to 11 bits."""

    def rounded(x: Tensor) -> Tensor:
        bits = x.float().view(torch.int32)
        return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)

    a, b = Rng(0, 64, "a").normal((64, 64)), Rng(0, 64, "b").normal((64, 64))
    error = difference((rounded(a) @ rounded(b)).double(), (a @ b).double())
    assert error > 10 * max(part.bound32 for part in PARTS if part.kind in ("head", "net", "sampler"))


def test_every_sampler_is_compared() -> None:
    assert {part.name for part in PARTS if part.kind == "sampler"} == {traits(each).name for each in SAMPLERS}


# draws of a category


def edges(log_weights: Tensor) -> Tensor:
    return log_weights.double().softmax(1).cumsum(1)[:, :-1]


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("values", [2, 8, 40])
def test_the_law_of_disagreement(size: float, values: int) -> None:
    """E |index - index'| is the sum of the differences of the cumulative weights; P(other index) is at most that."""
    logits = Rng(0, 1, "logits").normal((1, values, 1), F64)
    other = logits + size * Rng(0, 1, "change").normal((1, values, 1), F64)
    law = float((edges(logits) - edges(other)).abs().sum())
    count = 100_000
    # the same words decide both
    one, two = (draw_index(each.expand(1, values, count), Rng(0, 1, "draw")) for each in (logits, other))
    distance, share = float((one - two).abs().double().mean()), float((one != two).double().mean())
    spread = 5 * (law * values / count) ** 0.5 + 1e-9
    assert abs(distance - law) < spread
    assert share <= law + spread


def test_the_same_weights_give_the_same_index_in_any_layout() -> None:
    """Another order of the sum in memory, as on another device, changes nothing."""
    logits = 3 * Rng(0, 20, "logits").normal((20, 300, 50))
    whole = draw_index(logits, Rng(1, 20))
    turned = logits.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(draw_index(turned, Rng(1, 20)), whole)
    alone = torch.cat([draw_index(logits[k : k + 1], Rng(1, [k])) for k in range(20)])
    assert torch.equal(alone, whole)


class Given:
    """An rng with given uniform numbers."""

    device = CPU

    def __init__(self, u: Tensor):
        self.u = u

    def uniform(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self.u.to(dtype).clone().reshape(shape)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_draw_inverts_the_cumulative_weights(dtype: torch.dtype) -> None:
    """The index is the first k with u < C_k, except for u within the rounding of C_k."""
    logits = Rng(0, 1, "logits").normal((1, 8, 1), dtype)
    u = (torch.arange(200_000, dtype=F64, device=CPU) + 0.5) / 200_000
    index = draw_index(logits.expand(1, 8, len(u)), Given(u)).flatten()  # type: ignore[arg-type]
    exact = edges(logits).flatten()
    apart = (u[:, None] - exact).abs().min(1).values
    wrong = index != torch.searchsorted(exact, u, right=True)
    assert not (wrong & (apart > 3e-7)).any() and int(wrong.sum()) <= 1


def test_many_values_of_tiny_weight_can_be_drawn() -> None:
    """100,000 weights of 1e-10 hold the last 1e-5 of the probability."""
    logits = torch.full((1, 100_001, 1), torch.tensor(1e-10).log().item())
    logits[:, 0] = 0.0
    index = draw_index(logits, Given(torch.tensor([1 - 5e-6], dtype=F64)))  # type: ignore[arg-type]
    assert 40_000 < int(index) < 60_000


@pytest.mark.parametrize("values", [5, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_the_shares_are_the_weights(values: int, dtype: torch.dtype) -> None:
    logits = Rng(0, 1, "logits").normal((1, values, 1)).to(dtype)
    index = draw_index(logits.expand(1, values, 4000), Rng(3, 1))
    shares = torch.bincount(index.flatten(), minlength=values).double() / 4000
    weights = logits.double().softmax(1).flatten()
    # the law of chi^2 over the values, within five standard deviations
    chi = float(((shares - weights) ** 2 / weights).sum() * 4000)
    assert abs(chi - (values - 1)) < 5 * (2 * values) ** 0.5 + 5 * float((1 / weights).sum() / 4000) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_value_of_weight_zero_is_never_drawn(dtype: torch.dtype) -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf], dtype=dtype)[None, :, None]
    index = draw_index(logits.expand(1, 5, 20_000), Rng(0, 1))
    assert sorted(index.unique().tolist()) == [1, 3]


def test_the_sum_of_many_small_weights_keeps_their_mass() -> None:
    """60,000 values share one half: in float32 sums the small ones would lose digits."""
    logits = torch.zeros(1, 60_001, 1)
    logits[:, 0] = torch.tensor(60_000.0).log()
    index = draw_index(logits.expand(1, 60_001, 200), Rng(0, 1))
    assert abs(float((index == 0).double().mean()) - 0.5) < 0.18
    assert int(index.max()) > 59_000


def test_float32_and_float64_draw_the_same_components() -> None:
    with default_dtype(F64):
        exact = components(CPU)
    assert int((components(CPU) != exact).sum()) == 0


def test_a_device_draws_the_same_components(device: torch.device) -> None:
    """The weights differ by the rounding of a softmax, so that one draw in a million may differ."""
    assert int((components(device) != components(CPU)).sum()) <= 2
