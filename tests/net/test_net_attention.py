"""Attention on an accelerator: the fused kernel gives the numbers of the matrix products, and forward mode works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counting import as_on_an_accelerator, counted
from torch import Tensor

from softmix.denoiser import MapHead, Network
from softmix.net import UNetSpec
from softmix.net.attention import attend
from softmix.process import VP
from softmix.rng import Rng

F64 = torch.float64


def random(*shape: int, role: str = "x", dtype: torch.dtype = F64) -> Tensor:
    return Rng(0, shape[0], role).normal(shape, F64).to(dtype)


def attention_kernels(monkeypatch: pytest.MonkeyPatch | None, *given: Any) -> tuple[list[Tensor], bool]:
    """The output of attention and its gradients, and whether a fused kernel gave them."""
    if monkeypatch is not None:
        as_on_an_accelerator(monkeypatch)
    device = "cpu" if monkeypatch is None else torch.zeros(()).device
    q, k, v = (random(2, 3, 9, 8, role=role, dtype=torch.float32).to(device).requires_grad_() for role in "qkv")
    with counted() as kernels:
        out = attend(q, k, v, *(each.to(device) if isinstance(each, Tensor) else each for each in given))
        grads = torch.autograd.grad(
            (out * random(2, 3, 9, 8, role="along", dtype=torch.float32).to(device)).sum(), (q, k, v)
        )
    return [each.cpu() for each in (out, *grads)], any("scaled_dot_product" in call.name for call in kernels.calls)


@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_attention_is_the_written_out_one(
    scale: float | None, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator takes the fused kernel, and a CPU matrix products."""
    mask = torch.arange(9) < torch.tensor([5, 8]).reshape(2, 1, 1, 1) if masked else None
    right, fused = attention_kernels(None, scale, mask)
    assert not fused
    found, fused = attention_kernels(monkeypatch, scale, mask)
    assert fused and all(torch.allclose(x, y, rtol=1e-5, atol=1e-5) for x, y in zip(found, right, strict=True))


@pytest.mark.parametrize("moving", ["q", "k", "v"])
def test_attention_has_a_forward_derivative_on_an_accelerator(moving: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each of its inputs: the difference of two near points. Only tensors of four axes reach a fused kernel."""
    as_on_an_accelerator(monkeypatch)
    given = {role: random(2, 3, 9, 8, role=role) for role in "qkv"}
    along = random(2, 3, 9, 8, role="along")

    def out(x: Tensor) -> Tensor:
        return attend(**(given | {moving: x}))

    derivative = torch.func.jvp(out, (given[moving],), (along,))[1]
    near = (out(given[moving] + 1e-6 * along) - out(given[moving] - 1e-6 * along)) / 2e-6
    assert torch.allclose(derivative, near, rtol=1e-6, atol=1e-8)


def test_a_map_is_differentiable_in_forward_mode_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """MeanFlow takes d/dt of the network, which the fused kernels of attention cannot give."""
    network = Network(VP(), UNetSpec(32), MapHead(), (1, 8, 8)).double()

    def mean(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, to=torch.full((2,), 0.2, dtype=F64)).mean

    x, t = random(2, 1, 8, 8), torch.tensor([0.4, 0.8], dtype=F64)
    along = (random(2, 1, 8, 8, role="along"), torch.ones(2, dtype=F64))
    right = torch.func.jvp(mean, (x, t), along)[1]
    as_on_an_accelerator(monkeypatch)
    assert torch.allclose(torch.func.jvp(mean, (x, t), along)[1], right, rtol=1e-9, atol=1e-11)
