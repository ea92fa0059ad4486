"""`Noised.at`: the same items and noise at other times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.process import VE, VP, Flow, Gaussian, InBasis, Noised, PerElement, Process, Shifted, cosine
from softmix.rng import Rng

F64 = torch.float64
EARLY, LATE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64), torch.tensor([0.9, 0.5, 0.7, 0.4], dtype=F64)


@dataclass(frozen=True)
class ByLabel(Shifted):
    """x_t = alpha x0 + t label + sigma z."""

    base: Gaussian = VP()  # noqa: RUF009

    def k(self, t: Tensor | float) -> Tensor:
        return torch.as_tensor(t, dtype=F64)

    def u(self, cond: Any) -> Tensor:
        return cond.double()[:, None]


LABELS = torch.tensor([0, 1, 2, 1])
POWER = torch.tensor([1.0, 2.0, 0.5], dtype=F64)
PROCESSES: list[Process] = [
    *(VP(), VP("linear"), VE(), Flow(), PerElement(VP(), POWER), ByLabel()),
    InBasis(PerElement(Flow(), POWER), (cosine(3),)),
]


def noised(process: Process, t: Tensor | float, dtype: torch.dtype = F64) -> Noised:
    return process.noise(Rng(0, 4, "x0").normal((4, 3), dtype), t, Rng(1, 4), LABELS)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_state_at_another_time_uses_the_same_noise(process: Process, dtype: torch.dtype) -> None:
    moved, there = noised(process, EARLY, dtype).at(LATE), noised(process, LATE, dtype)
    assert torch.equal(moved.xt, there.xt)
    assert torch.equal(moved.t, LATE)
    assert torch.equal(moved.z, there.z)
    assert torch.equal(moved.x0, there.x0)
    assert moved.cond is LABELS
    assert moved.process is process


def test_one_time_is_expanded_to_all_items() -> None:
    moved = noised(VP(), EARLY).at(0.7)
    assert torch.equal(moved.t, torch.full((4,), 0.7, dtype=F64))
    torch.testing.assert_close(moved.xt, noised(VP(), 0.7).xt, rtol=1e-14, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_at_time_0_it_is_the_clean_item(process: Process) -> None:
    found = noised(process, LATE)
    torch.testing.assert_close(found.at(0.0).xt, found.x0, rtol=0, atol=1e-14)


def test_a_process_without_a_state_is_refused() -> None:
    class Other:
        pass

    found = noised(VP(), EARLY)
    other = Noised(found.x0, found.xt, found.t, found.z, Other())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Other has no formula .* give it a method state\(x0, t, z, cond\)"):
        other.at(0.5)
