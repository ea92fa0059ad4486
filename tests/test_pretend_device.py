"""The device "pretend" fails where CUDA fails, and gives the numbers of the CPU. It runs with `--device pretend`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from threading import Thread

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from device_guard import on_device
from softmix.evaluate import classifier
from softmix.train.make import find_device
from test_device_guard import library_function

CPU = torch.device("cpu")
MIXED = "same device|indices should be"


@pytest.fixture(autouse=True)
def only_with_the_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """The device changes torch for the whole process, so other runs leave it out."""
    if request.config.getoption("--device") != "pretend":
        pytest.skip("these tests need the option --device pretend")
    request.getfixturevalue("device")
    yield


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 3, stride=2), nn.Flatten(),
        nn.Linear(36, 3),
    )  # fmt: skip


INDEX = torch.tensor([0, 1])


@pytest.mark.parametrize(
    "mix",
    [
        lambda device, cpu: device + cpu,
        lambda device, cpu: cpu * device,
        lambda device, cpu: cpu.add_(device),
        lambda device, cpu: device.add_(cpu),
        lambda device, cpu: cpu.add_(device.sum()),
        lambda device, cpu: device @ cpu,
        lambda device, cpu: torch.cat([device, cpu]),
        lambda device, cpu: torch.where(cpu > 0, device, device),
        lambda device, cpu: torch.add(device, device, out=cpu),
        lambda device, cpu: cpu[INDEX.to("pretend")],
        lambda device, cpu: device.index_add(0, INDEX, device[:2]),
        lambda device, cpu: device.index_select(0, INDEX),
        lambda device, cpu: device.gather(1, INDEX[:, None]),
        lambda device, cpu: device.scatter(0, INDEX[:, None], 1.0),
        lambda device, cpu: device.masked_fill(cpu > 0, 0.0),
        lambda device, cpu: torch.bucketize(device, cpu[0].sort().values),
        lambda device, cpu: torch.searchsorted(cpu[0].sort().values, device),
        lambda device, cpu: nn.functional.embedding(INDEX, device),
        lambda device, cpu: nn.functional.mse_loss(device, cpu),
        lambda device, cpu: device + torch.from_numpy(cpu.numpy()),
    ],
)
def test_a_cpu_tensor_beside_a_tensor_of_the_device_is_refused(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match=MIXED):
        mix(numbers(4, 4).to("pretend"), numbers(4, 4))


def test_a_generator_of_the_cpu_is_refused() -> None:
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device="pretend", generator=torch.Generator())


@pytest.mark.parametrize("convert", [lambda x: x.numpy(), lambda x: np.asarray(x)])
def test_numpy_of_a_tensor_of_the_device_is_refused(convert: Callable[[Tensor], object]) -> None:
    with pytest.raises(TypeError, match="numpy"):
        convert(numbers(4).to("pretend"))


@pytest.mark.parametrize(
    "mix",
    [
        lambda device, cpu: device * torch.tensor(2.0),
        lambda device, cpu: torch.tensor(2.0) - device,
        lambda device, cpu: torch.where(device > 0, device, torch.tensor(0.0)),
        lambda device, cpu: device[INDEX],
        lambda device, cpu: torch.zeros_like(device).copy_(cpu),
        lambda device, cpu: cpu.to(device),
    ],
)
def test_cuda_takes_scalars_cpu_indices_and_copies(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    x = numbers(4, 4)
    result = mix(x.to("pretend"), x)
    assert result.device == torch.device("pretend:0")
    assert torch.equal(result.cpu(), mix(x, x))


def test_indices_of_the_cpu_may_be_written_through() -> None:
    x = torch.zeros(4, device="pretend")
    x[INDEX] = torch.tensor(1.0)
    assert x.tolist() == [1, 1, 0, 0]


def test_a_view_shares_its_memory() -> None:
    x = torch.zeros(2, 3, device="pretend")
    x.T.reshape(3, 2)[0].add_(1)
    x.view(-1)[4:].fill_(7)
    assert x.tolist() == [[1, 0, 0], [1, 7, 7]]


def test_a_result_changes_the_size_of_its_place() -> None:
    x = numbers(2, 3).to("pretend")
    out = torch.empty(0, device="pretend")
    torch.mul(x, 2, out=out)
    assert torch.equal(out.cpu(), 2 * x.cpu())


def test_a_network_and_its_gradients_are_those_of_the_cpu() -> None:
    cpu = network()
    device = copy.deepcopy(cpu).to("pretend")
    x = numbers(5, 1, 8, 8)
    for net, batch in ((cpu, x), (device, x.to("pretend"))):
        net(batch).square().mean().backward()
    for here, there in zip(cpu.parameters(), device.parameters(), strict=True):
        torch.testing.assert_close(there.grad.cpu(), here.grad)


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_an_optimiser_takes_the_steps_of_the_cpu(options: dict[str, bool]) -> None:
    cpu = network()
    device = copy.deepcopy(cpu).to("pretend")
    x = numbers(5, 1, 8, 8)
    for net, batch in ((cpu, x), (device, x.to("pretend"))):
        optimiser = torch.optim.AdamW(net.parameters(), lr=0.01, **options)
        for _ in range(3):
            optimiser.zero_grad()
            net(batch).square().mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
    for here, there in zip(cpu.parameters(), device.parameters(), strict=True):
        torch.testing.assert_close(there.cpu(), here)


def test_a_module_keeps_its_parameters_when_it_moves() -> None:
    net = network()
    before = list(net.parameters())
    assert all(old is new for old, new in zip(before, net.to("pretend").parameters(), strict=True))


def test_derivatives_forward_are_those_of_the_cpu() -> None:
    cpu, x = network(), numbers(2, 1, 8, 8)
    expected = torch.func.jvp(cpu, (x,), (x,))[1]
    found = torch.func.jvp(copy.deepcopy(cpu).to("pretend"), (x.to("pretend"),), (x.to("pretend"),))[1]
    torch.testing.assert_close(found.cpu(), expected)


def test_autocast_is_that_of_the_device() -> None:
    net, x = network().to("pretend"), numbers(2, 1, 8, 8).to("pretend")
    with torch.autocast("pretend", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        assert x.exp().dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.float32


def test_the_device_has_a_random_state_of_its_own() -> None:
    torch.manual_seed(0)
    first = torch.randn(3, device="pretend")
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[0], device_type="pretend"):
        forked = torch.randn(3, device="pretend")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.randn(3, device="pretend"), forked)
    torch.manual_seed(0)
    assert torch.equal(torch.randn(3, device="pretend"), first)


def test_threads_run_backward_at_once() -> None:
    net, x = network().to("pretend"), numbers(2, 1, 8, 8).to("pretend")
    found: list[Tensor] = []

    def work() -> None:
        for _ in range(5):
            found.append(torch.autograd.grad(net(x).sum(), list(net.parameters()))[0])

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(torch.equal(each, found[0]) for each in found)


def test_a_run_finds_the_device() -> None:
    assert find_device() == torch.device("pretend")


def test_building_a_classifier_leaves_the_random_state_of_the_device() -> None:
    before = torch.get_device_module("pretend").get_rng_state()
    classifier.build(1, 4, 8, seed=3)
    assert torch.equal(torch.get_device_module("pretend").get_rng_state(), before)


@pytest.mark.parametrize(
    "body",
    [
        "x + torch.ones(4)",
        "x.index_add(0, torch.arange(4), x)",
        "x * torch.from_numpy(__import__('numpy').ones(4))",
        "x + Rng(0, 4).normal((4,))",
        "x.sum().numpy()",
    ],
)
def test_a_planted_fault_of_the_library_is_found(body: str) -> None:
    fault = library_function(body)
    with on_device(CPU):
        fault(torch.zeros(4))
    with on_device(torch.device("pretend")), pytest.raises((RuntimeError, TypeError), match=f"{MIXED}|numpy"):
        fault(torch.zeros(4))
