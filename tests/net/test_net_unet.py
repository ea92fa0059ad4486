"""The U-Net block by block, and sides that patches do not divide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import class_label
from softmix.net import DiTSpec, Net, NetSpec, SideInputs, UNet, UNetSpec
from softmix.rng import Rng

F64 = torch.float64
silu = nn.functional.silu


def random(*shape: int, role: str = "x") -> Tensor:
    return Rng(0, shape[0], role).normal(shape, F64)


def seeded(spec: NetSpec, channels: int, out: int, classes: int = 0) -> Net:
    torch.manual_seed(0)
    return spec.build(channels, out, class_label(classes)).double()


def layer(h: Tensor) -> Tensor:
    """Normalised over the last axis, without weights."""
    return (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()


# the U-Net


def normed(norm: nn.Module, h: Tensor) -> Tensor:
    y = layer(h.permute(0, 2, 3, 1))
    inner = norm.inner
    y = y if inner.weight is None else y * inner.weight + inner.bias  # type: ignore[operator]
    return y.permute(0, 3, 1, 2)


def residual(res: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    """Two 3x3 convolutions, modulated between them, around a residual; the second norm has no weights of its own."""
    scale, shift = (part[..., None, None] for part in res.modulation(emb))  # type: ignore[operator]
    inner = res.conv_1(silu(normed(res.norm_1, h)))  # type: ignore[operator, arg-type]
    assert res.norm_2.inner.weight is None and res.norm_1.inner.weight is not None  # type: ignore[union-attr]
    inner = res.conv_2(silu(normed(res.norm_2, inner) * (1 + scale) + shift))  # type: ignore[operator, arg-type]
    return inner + (h if h.shape[1] == inner.shape[1] else res.skip(h))  # type: ignore[operator]


def attention(part: nn.Module, h: Tensor) -> Tensor:
    batch, width, height, wide = h.shape
    assert part.attention.heads == max(width // 32, 1)
    qkv = part.qkv(normed(part.norm, h)).flatten(2).unflatten(1, (3, part.attention.heads, -1)).transpose(-1, -2)  # type: ignore[operator, arg-type]
    mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind(1))
    return h + part.join(mixed.transpose(-1, -2).reshape(batch, width, height, wide))  # type: ignore[operator]


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("side", [(8, 8), (7, 10)], ids=str)
@pytest.mark.parametrize("width", [8, 64])
def test_a_unet_is_its_blocks_written_out(attends: bool, side: tuple[int, int], width: int) -> None:
    """Encoder with a halving before each level but the first, the middle, then the decoder with the skip connections,
    newest first, doubled by nearest neighbour and cropped to an odd side.
    """
    spec = UNetSpec(width, (1, 2), 2, 1, attends)
    net, x, emb = seeded(spec, 3, 3), random(2, 3, *side), random(2, 4 * width, role="emb")
    assert isinstance(net, UNet) and net.embed_width == 4 * width
    blocks, left = iter(net.body), list[Tensor]()
    h = net.enter(x)
    for level in range(2):
        for k in range(2):
            block = next(blocks)
            if level == 1 and k == 0:
                assert block.halve.stride == (2, 2)
                h = block.halve(h)
            h = residual(block.res, h, emb)
            left.append(h)
    middle = next(blocks)
    h = residual(middle.res, h, emb)
    h = attention(middle.attention, h) if attends else h
    for _ in range(4):
        skip = left.pop()
        if h.shape[-1] != skip.shape[-1]:
            h = nn.functional.interpolate(h, scale_factor=2, mode="nearest")[..., : skip.shape[-2], : skip.shape[-1]]
        h = residual(next(blocks).res, torch.cat([h, skip], 1), emb)
    h = residual(next(blocks).res, h, emb)
    told = SideInputs(emb, emb[:, 0])
    state = net.run(net.stem(x), told, 0, len(net.body))
    assert torch.allclose(state[0], h) and len(state) == 1 and next(blocks, None) is None
    assert torch.allclose(net.out(state, told, side), net.leave(silu(normed(net.norm, h))))


def test_a_unets_levels_are_as_wide_as_its_multiples() -> None:
    net = UNetSpec(8, (1, 2, 3), 1).build(1, 1)
    assert [block.res.conv_2.out_channels for block in net.body] == [8, 16, 24, 24, 24, 16, 8, 8]
    assert net.width == 8


# sides that patches do not divide


@pytest.mark.parametrize(
    "spec", [UNetSpec(8, (1,), 1, 2), DiTSpec(16, 1, 2), UNetSpec(8, (1,), 1, 4), DiTSpec(16, 1, 4)], ids=str
)
def test_sides_that_a_patch_does_not_divide_are_padded_and_cropped(spec: NetSpec) -> None:
    net, x, level = seeded(spec, 3, 3), random(2, 3, 7, 5), torch.zeros(2, dtype=F64)
    filled = nn.functional.pad(x, (0, 3, 0, 1), mode="replicate")
    if spec.patch == 2:  # type: ignore[union-attr]
        filled = filled[..., :6]
    assert torch.allclose(net(x, level), net(filled, level)[..., :7, :5])
    assert net(x, level).shape == x.shape


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_a_patch_is_folded_into_channels(patch: int) -> None:
    unet, dit = UNetSpec(8, (1,), 1, patch).build(3, 5), DiTSpec(16, 1, patch).build(3, 5)
    assert unet.enter.in_channels == dit.enter.in_features == 3 * patch**2
    assert unet.leave.out_channels == dit.leave.out_features == 5 * patch**2
    assert unet.stem(torch.zeros(1, 3, 8, 8))[0].shape[-2:] == (8 // patch, 8 // patch)
