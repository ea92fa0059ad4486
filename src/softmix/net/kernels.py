"""Norm, modulation and SiLU over the last axis, and modulations of several blocks, with few kernels on an accelerator.

Each function is small and has no branch on the values of a tensor, so that torch.compile makes one kernel of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def on_cpu(x: Tensor) -> bool:
    """Whether x is on the CPU. The CPU and accelerators have different fast forms of attention and modulation."""
    return x.device.type == "cpu"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator,unused-ignore]
def _has_autocast(device: str) -> bool:
    """Whether a type of device knows autocast. torch.compile of torch 2.11 cannot look into the question."""
    return torch.amp.is_autocast_available(device)


def _in_its_dtype(h: Tensor) -> AbstractContextManager[object]:
    """A context in which a norm is computed in the dtype of h.

    Autocast on CUDA computes every norm in float32. Then the whole state is converted before the norm and after it.
    The kernels of norms take sums in float32 for any dtype, so that this adds no accuracy. The CPU has no such rule.
    """
    device = h.device.type
    if on_cpu(h) or not _has_autocast(device) or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def normed(h: Tensor, norm: nn.LayerNorm) -> Tensor:
    """norm(h) over the last axis, in the dtype of h."""
    with _in_its_dtype(h):
        return _normed(h, norm)


def _normed(h: Tensor, norm: nn.LayerNorm) -> Tensor:
    if on_cpu(h) or norm.weight is None or norm.weight.dtype == h.dtype:
        result: Tensor = norm(h)
        return result
    # only the CPU takes a weight of another dtype
    return nn.functional.layer_norm(h, norm.normalized_shape, norm.weight.to(h.dtype), norm.bias.to(h.dtype), norm.eps)


def normed_silu(h: Tensor, norm: nn.LayerNorm) -> Tensor:
    """silu(norm(h)) over the last axis, in the dtype of h."""
    return nn.functional.silu(normed(h, norm))


def modulated(h: Tensor, norm: nn.LayerNorm, scale: Tensor, shift: Tensor) -> Tensor:
    """norm(h) * (1 + scale) + shift over the last axis.

    scale, shift : [B, width].
    """
    with _in_its_dtype(h):
        return torch.addcmul(_beside(shift, h), _normed(h, norm), 1 + _beside(scale, h))


def modulated_silu(h: Tensor, norm: nn.LayerNorm, scale: Tensor, shift: Tensor) -> Tensor:
    """silu(norm(h) * (1 + scale) + shift) over the last axis."""
    if on_cpu(h):
        # `addcmul` rounds otherwise, and saved U-Nets keep their outputs bit for bit
        return nn.functional.silu(normed(h, norm) * (1 + _beside(scale, h)) + _beside(shift, h))
    return nn.functional.silu(modulated(h, norm, scale, shift))


def _beside(part: Tensor, h: Tensor) -> Tensor:
    """part [B, width] with axes of length 1 between the two, as many as h has."""
    return part.reshape(part.shape[0], *(1,) * (h.ndim - 2), part.shape[-1])


def joined(layers: Sequence[nn.Linear], x: Tensor) -> tuple[Tensor, ...]:
    """The outputs of several linear layers of the same x [B, D], by one matrix product."""
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return nn.functional.linear(x, weight, bias).split([layer.out_features for layer in layers], dim=-1)


def is_plain(layer: object) -> bool:
    """Whether a layer is a linear layer with a bias, unchanged and whole: not adapted, hooked, sharded or quantised."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and type(layer.bias) is nn.Parameter
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
    )
