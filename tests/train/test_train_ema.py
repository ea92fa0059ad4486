"""The averages of the weights have the profile of their formula."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import Tensor, nn

from softmix.train.ema import WIDEST, Ema, beta, gamma_of, name_of, width_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Something of everything: a norm with buffers, tied weights, an integer parameter, a buffer not saved."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.one = nn.Linear(5, 5)
        self.two = nn.Linear(5, 5)
        self.two.weight = self.one.weight
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.to(dtype)

    def wander(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.1)
            self.get_buffer("norm.num_batches_tracked").add_(1)


class Vector(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 7.0, dtype=torch.float64))


def profile(steps: int, width: float, every: int = 1) -> Tensor:
    """The weight that each step's parameters have in the average at the end, read off one-hot parameters."""
    module = Vector(steps)
    ema = Ema(module, [width])
    for step in range(every, steps + 1, every):
        module.weight.data.zero_()[step - 1] = 1
        ema.update(step, every)
    return ema.tensors(width)["weight"]


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, WIDEST])
def test_gamma_is_the_inverse_of_the_width(width: float) -> None:
    gamma = gamma_of(width)
    assert width_of(gamma) == pytest.approx(width, rel=1e-12)
    assert gamma == pytest.approx(brentq(lambda one: width_of(one) - width, 0, 1e4) if gamma else 0.0, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97])
def test_the_width_is_the_standard_deviation_of_the_profile(gamma: float) -> None:
    moments = [quad(lambda u, k=k: (gamma + 1) * u ** (gamma + k), 0, 1, epsabs=1e-13)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1)
    assert math.sqrt(moments[2] - moments[1] ** 2) == pytest.approx(width_of(gamma), rel=1e-9)


def test_the_published_exponents() -> None:
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.29, 1.0, math.nan])
def test_a_width_that_no_profile_has_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="was asked for; give a fraction"):
        gamma_of(width)


@pytest.mark.parametrize("width", [0.05, 0.1, WIDEST])
def test_the_profile_is_the_product_of_its_betas_and_the_closed_form(width: float) -> None:
    steps, gamma = 300, gamma_of(width)
    weights = profile(steps, width)
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    closed = (i ** (gamma + 1) - (i - 1) ** (gamma + 1)) / steps ** (gamma + 1)
    betas = [beta(gamma, step) for step in range(1, steps + 1)]
    product = torch.tensor([(1 - betas[k]) * math.prod(betas[k + 1 :]) for k in range(steps)], dtype=torch.float64)
    torch.testing.assert_close(weights, closed, rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(weights, product, rtol=1e-10, atol=1e-15)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_the_profile_tends_to_the_declared_width(width: float) -> None:
    errors = []
    for steps in (250, 1000):
        weights = profile(steps, width)
        u = (torch.arange(1, steps + 1) - 0.5) / steps
        mean = float((weights * u).sum())
        errors.append(abs(math.sqrt(float((weights * (u - mean) ** 2).sum())) - width) / width)
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 8


def test_updating_every_fourth_step_keeps_the_profile() -> None:
    coarse, fine = profile(400, 0.1, every=4), profile(400, 0.1)
    torch.testing.assert_close(coarse[3::4], fine.reshape(-1, 4).sum(1), rtol=1e-10, atol=1e-15)
    assert float(coarse.sum()) == pytest.approx(1)


def test_the_start_is_forgotten_at_the_first_step() -> None:
    module = Net()
    ema = Ema(module)
    module.wander(1)
    ema.update(1)
    for width in ema.widths:
        assert torch.equal(ema.tensors(width)["first.weight"], module.first.weight)


@pytest.mark.parametrize(("step", "every"), [(0, 1), (-3, 1), (3, 4), (4, 0)])
def test_steps_that_have_no_average_are_refused(step: int, every: int) -> None:
    with pytest.raises(ValueError, match="count steps from 1"):
        Ema(Vector(2)).update(step, every)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_parameters_stay_constant_bit_for_bit(dtype: torch.dtype) -> None:
    module = Net(dtype=dtype)
    ema = Ema(module, (0.05, 0.1, 0.25))
    for step in range(1, 200):
        ema.update(step)
    for width in ema.widths:
        for name, tensor in ema.tensors(width).items():
            assert torch.equal(tensor.to(module.state_dict()[name].dtype), module.state_dict()[name]), name


def test_two_widths_do_not_mix_and_the_module_is_not_touched() -> None:
    module, twin = Net(), Net()
    both, alone = Ema(module, (0.05, 0.1)), Ema(twin, (0.1,))
    for step in range(1, 30):
        for one, ema in ((module, both), (twin, alone)):
            one.wander(step)
            ema.update(step)
    assert all(
        torch.equal(one, two) for one, two in zip(both.tensors(0.1).values(), alone.tensors(0.1).values(), strict=True)
    )
    assert not torch.equal(both.tensors(0.05)["one.weight"], both.tensors(0.1)["one.weight"])
    fresh = Net()
    for step in range(1, 30):
        fresh.wander(step)
    assert all(torch.equal(one, two) for one, two in zip(module.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_equals_an_undisturbed_run_bit_for_bit(dtype: torch.dtype) -> None:
    module = Net(dtype=dtype)
    ema = Ema(module)
    for step in range(1, 41):
        module.wander(step)
        ema.update(step)
        if step == 17:
            kept, weights = ema.state(), copy.deepcopy(module.state_dict())
    again = Net(seed=5, dtype=dtype)
    resumed = Ema(again)
    again.load_state_dict(weights)
    resumed.load({"model": weights, **kept})
    for step in range(18, 41):
        again.wander(step)
        resumed.update(step)
    for name, tensors in ema.state().items():
        assert tensors.keys() == resumed.state()[name].keys()
        assert all(torch.equal(tensor, resumed.state()[name][key]) for key, tensor in tensors.items())


def test_tensors_have_the_names_of_the_module_and_belong_to_the_caller() -> None:
    module = Net(dtype=torch.bfloat16)
    ema = Ema(module)
    found = ema.tensors(0.05)
    assert found.keys() == module.state_dict().keys() == ema.state()["ema-0.050"].keys()
    assert found["one.weight"].dtype == torch.float32 and found["table"].dtype == torch.int64
    assert torch.equal(found["two.weight"], found["one.weight"])
    for tensor in found.values():
        assert not tensor.requires_grad
        tensor.zero_()
    assert ema.tensors(0.05)["one.weight"].any() and module.norm.weight.any() and module.table.any()


def test_an_average_in_bfloat16_would_lose_the_late_steps() -> None:
    module = Vector(1)
    module.weight.data = torch.ones(1, dtype=torch.bfloat16)
    ema = Ema(module)
    ema.update(1)
    module.weight.data += 0.5
    ema.update(100_000)
    assert 1 < float(ema.tensors(0.05)["weight"]) < 1.001


def test_copy_to_fills_another_module_and_never_the_trained_one() -> None:
    module = Net()
    ema = Ema(module)
    for step in range(1, 9):
        module.wander(step)
        ema.update(step)
    target = Net(seed=3)
    ema.copy_to(target, 0.1)
    assert all(torch.equal(one, ema.tensors(0.1)[name]) for name, one in target.state_dict().items())
    assert int(target.get_buffer("norm.num_batches_tracked")) == 8
    with pytest.raises(ValueError, match="module in training"):
        ema.copy_to(module, 0.1)


def test_a_misfit_is_named_and_changes_nothing() -> None:
    ema = Ema(Net())
    good = ema.state()
    before = ema.tensors(0.05)
    changed = {name: {key: tensor + 1 for key, tensor in tensors.items()} for name, tensors in good.items()}
    del changed["ema-0.100"]["one.bias"]
    with pytest.raises(ValueError, match=r"ema-0\.100 does not fit the module: one\.bias needs shape \(5,\), nothing"):
        ema.load(changed)
    changed["ema-0.100"]["one.bias"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"one\.bias needs shape \(5,\), shape \(4,\) was found"):
        ema.load(changed)
    with pytest.raises(ValueError, match=r"ema-0\.050 was asked for, and only ema-0\.100 was found"):
        ema.load({"ema-0.100": good["ema-0.100"]})
    assert all(torch.equal(tensor, before[name]) for name, tensor in ema.tensors(0.05).items())


def test_names_and_widths() -> None:
    assert name_of(0.05) == "ema-0.050" and list(Ema(Vector(1)).state()) == ["ema-0.050", "ema-0.100"]
    with pytest.raises(ValueError, match="equal to three decimals"):
        Ema(Vector(1), (0.05, 0.0501))
    with pytest.raises(ValueError, match=r"ema-0\.200 was asked for; the averages followed are ema-0\.050, ema-0\.100"):
        Ema(Vector(1)).tensors(0.2)


def test_a_parameter_replaced_later_is_not_saved_as_an_average() -> None:
    module = Net()
    ema = Ema(module)
    module.first.weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
    with pytest.raises(ValueError, match=r"parameter first\.weight was replaced"):
        ema.state()


def test_complex_parameters_are_averaged_too() -> None:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.full((2,), 1 + 2j)))
    ema = Ema(module, [WIDEST])
    ema.update(1)
    module.get_parameter("weight").data.mul_(3)
    ema.update(2)
    torch.testing.assert_close(ema.tensors(WIDEST)["weight"], torch.full((2,), 2 + 4j))
