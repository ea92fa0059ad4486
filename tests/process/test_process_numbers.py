"""One time for the batch: coefficients as numbers, few operations, and the same result as with a tensor of times."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from softmix.posterior import Point
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.sampler import Sampler, ancestral, drive, renoise

PROCESSES = [VP(), VP("linear"), VP("sigmoid"), VE(), Flow()]
T, S = 0.7, 0.3


class FixedNoise(Rng):
    """An Rng of which every normal draw is the same tensor, without an operation."""

    def __init__(self, z: Tensor):
        super().__init__(0, len(z))
        self.z, self.normals = z, 0

    def normal(self, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
        self.normals += 1
        return self.z


class Operations(TorchDispatchMode):
    """The names of operations that compute: on a GPU each is a launch. Views and reads on the CPU are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1]
        if not any(word in name for word in ("view", "expand", "select", "slice", "unbind", "scalar", "lift")):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def items(n: int = 5, size: int = 7, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    x0, xt, z = (Rng(seed, n).normal((n, size), dtype) for seed in (1, 2, 3))
    return x0, xt, z


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_bridge_by_numbers_is_that_by_a_tensor_of_times(process: Gaussian, eta: float) -> None:
    x0, xt, z = items(dtype=torch.float64)
    times, later = (torch.full((5,), t, dtype=torch.float64) for t in (T, S))
    by_numbers = process.bridge(xt, x0, T, S, FixedNoise(z), eta=eta)
    by_tensors = process.bridge(xt, x0, times, later, FixedNoise(z), eta=eta)
    of_x0, of_xt, of_noise = process.shares(T, S, eta)
    assert (by_numbers - (of_x0 * x0 + of_xt * xt + of_noise * z)).abs().max() < 1e-13 * (1 + float(of_noise))
    assert (by_numbers - by_tensors).abs().max() < 1e-13 * (1 + float(of_noise))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_a_state_by_numbers_is_that_by_a_tensor_of_times(process: Gaussian) -> None:
    x0, _, z = items(dtype=torch.float64)
    right = process.alpha(T) * x0 + process.sigma(T) * z
    for t in (T, torch.tensor(T, dtype=torch.float64), torch.full((5,), T, dtype=torch.float64)):
        assert (process.state(x0, t, z) - right).abs().max() < 1e-13 * (1 + float(process.sigma(T)))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_both_levels_are_alpha_and_sigma(process: Gaussian) -> None:
    for t in (T, torch.linspace(0, 1, 11, dtype=torch.float64)):
        alpha, sigma = process.levels(t)
        assert torch.equal(alpha, process.alpha(t)) and torch.equal(sigma, process.sigma(t))


def test_a_bridge_and_a_state_change_none_of_their_arguments() -> None:
    x0, xt, z = items()
    before = [part.clone() for part in (x0, xt, z)]
    with torch.no_grad():
        VP().bridge(xt, x0, T, S, FixedNoise(z))
        VP().bridge(xt, x0, T, 0.0, FixedNoise(z))
        VP().state(x0, T, z)
        VP().state(x0, 0.0, z)
    assert all(torch.equal(part, old) for part, old in zip((x0, xt, z), before, strict=True))


def test_a_bridge_has_its_derivatives_and_the_same_value_with_them() -> None:
    x0, xt, z = items()
    with torch.no_grad():
        right = VP().bridge(xt, x0, T, S, FixedNoise(z))
    x0.requires_grad_(), xt.requires_grad_()
    value = VP().bridge(xt, x0, T, S, FixedNoise(z))
    value.sum().backward()
    of_x0, of_xt, _ = VP().shares(T, S)
    assert torch.equal(value.detach(), right)
    assert x0.grad is not None and torch.allclose(x0.grad, of_x0.to(x0).expand(5, 7))
    assert xt.grad is not None and torch.allclose(xt.grad, of_xt.to(xt).expand(5, 7))


def test_a_derivative_in_one_time_is_not_lost() -> None:
    x0, _, z = items(dtype=torch.float64)
    t = torch.tensor(T, dtype=torch.float64, requires_grad=True)
    VP().state(x0, t, z).sum().backward()
    alpha, sigma = VP().rates(T)
    assert t.grad is not None and torch.allclose(t.grad, alpha * x0.sum() + sigma * z.sum())


def test_states_of_another_type_keep_the_wider_one() -> None:
    x0, xt, z = items()
    with torch.no_grad():
        assert VP().bridge(xt, x0.double(), T, S, FixedNoise(z)).dtype == torch.float64
        assert VP().state(x0, T, z.double()).dtype == torch.float64


@pytest.mark.parametrize("size", [1, 3, 7, 33, 1023])
@pytest.mark.parametrize("sampler", [ancestral, renoise])
def test_an_item_of_a_batch_is_stepped_as_the_item_alone(sampler: Sampler, size: int) -> None:
    """Bitwise, also in the tail of vectorised code: a fused multiplication and addition rounds once everywhere."""
    ends = []
    for numbers in (range(5), [3]):
        x = Rng(0, numbers, "x").normal((len(numbers), size))
        for step in drive(_Fixed(Point(x / 2)), sampler, x, VP().grid(4), Rng(0, numbers, "walk")):
            ends.append(step.x[3] if len(numbers) == 5 else step.x[0])
        noised = VP().noise(x, torch.full((len(numbers),), T), Rng(0, numbers, "noise")).xt
        ends.append(noised[3] if len(numbers) == 5 else noised[0])
    for several, alone in zip(ends[:5], ends[5:], strict=True):
        assert torch.equal(several, alone)


class _Fixed:
    process: Gaussian = VP()

    def __init__(self, posterior: Point):
        self.posterior = posterior

    def __call__(self, xt: Tensor, t: Any, cond: Any = None) -> Point:
        return self.posterior


@pytest.mark.parametrize("sampler", [ancestral, renoise])
def test_a_step_has_no_operation_on_times(sampler: Sampler) -> None:
    """Outside the network and the noise: a product and sums. DDPM of diffusers has 5 on items, and 28 on numbers."""
    x0, x, z = items()
    for _ in range(2):
        # the coefficients of a pair of times are computed in the first run only
        steps = drive(_Fixed(Point(x0)), sampler, x, VP().grid(6), FixedNoise(z))
        next(steps), next(steps)
        with Operations() as counted:
            next(steps)
    assert counted.names == ["mul.Tensor", "add_.Tensor", "add_.Tensor"][: 3 if sampler is ancestral else 2]


@pytest.mark.parametrize("sampler", [ancestral, renoise])
def test_the_step_to_the_end_draws_no_noise(sampler: Sampler) -> None:
    x0, x, z = items()
    rng = FixedNoise(z)
    steps = drive(_Fixed(Point(x0)), sampler, x, VP().grid(4), rng)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        assert torch.equal(end.value, x0)
    assert rng.normals == 3


def test_the_noise_of_a_batch_of_times_computes_its_schedule_once() -> None:
    """sigma^2 is shared by alpha and sigma: 11 operations on times, and 2 on items."""
    x0, _, z = items()
    t, rng = torch.full((5,), T, dtype=torch.float64), FixedNoise(z)
    with Operations() as counted:
        VP().noise(x0, t, rng)
    assert len(counted.names) <= 12, counted.names
    assert counted.names.count("sin") == 1 and counted.names[-1] == "addcmul"
