"""Every constant and branch of the networks, layer by layer, against the documented formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import class_label
from softmix.net import MLP, DiT, DiTSpec, Embedding, MLPSpec, Net, NetSpec, SequenceNet, SequenceSpec, UNet, UNetSpec
from softmix.net.attention import attend, heads_for
from softmix.net.base import Modulation, SideInputs, at_least_one, places, repeat
from softmix.rng import Rng

F64 = torch.float64
silu = nn.functional.silu


def random(*shape: int, role: str = "x") -> Tensor:
    return Rng(0, shape[0], role).normal(shape, F64)


def seeded(spec: NetSpec, channels: int, out: int, classes: int = 0) -> Net:
    torch.manual_seed(0)
    return spec.build(channels, out, class_label(classes)).double()


def side(emb: Tensor) -> SideInputs:
    """Side inputs for a block that uses the embedding alone."""
    return SideInputs(emb, emb[:, 0])


def layer(h: Tensor) -> Tensor:
    """Normalised over the last axis, without weights."""
    return (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()


# defaults


def test_the_defaults_are_the_documented_ones() -> None:
    assert MLPSpec() == MLPSpec(width=128, depth=4, frequencies=16)
    assert UNetSpec() == UNetSpec(width=64, mults=(1, 2), depth=2, patch=2, attention=True)
    assert DiTSpec() == DiTSpec(width=192, depth=6, patch=4, heads=0)
    assert SequenceSpec() == SequenceSpec(width=128, depth=4, heads=0)


def test_a_spec_builds_an_unconditional_net_by_default() -> None:
    for spec, kind, shape in (
        (MLPSpec(16, 2), MLP, (3, 2)),
        (UNetSpec(8), UNet, (3, 2, 8, 8)),
        (DiTSpec(16), DiT, (3, 2, 8, 8)),
        (SequenceSpec(16), SequenceNet, (3, 8, 2)),
    ):
        net = spec.build(2, 5)
        assert type(net) is kind and net.time.classes is None
        assert net.width == spec.width and net.embed_width == (4 if kind is UNet else 1) * spec.width
        out = (3, 8, 5) if kind is SequenceNet else (3, 5, *shape[2:])
        assert net(torch.zeros(shape), torch.zeros(3)).shape == out
        assert spec.build(2, 5, class_label(4)).time.classes.num_embeddings == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: MLPSpec(width=0), "width"),
        (lambda: MLPSpec(depth=0), "depth"),
        (lambda: UNetSpec(width=0), "width"),
        (lambda: UNetSpec(depth=0), "depth"),
        (lambda: UNetSpec(patch=0), "patch"),
        (lambda: UNetSpec(mults=()), "levels"),
        (lambda: UNetSpec(mults=(1, 0)), r"mults\[1\]"),
        (lambda: DiTSpec(width=0), "width"),
        (lambda: DiTSpec(depth=0), "depth"),
        (lambda: DiTSpec(patch=0), "patch"),
        (lambda: SequenceSpec(width=0), "width"),
        (lambda: SequenceSpec(depth=0), "depth"),
    ],
)
def test_sizes_below_1_are_refused(make: object, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is at least 1; found 0"):
        make()  # type: ignore[operator]
    at_least_one(width=1)


# the embedding


def test_the_noise_level_enters_by_sines_of_frequencies_from_an_eighth_to_4() -> None:
    """16 frequencies in geometric steps, of half the logsnr; then two layers."""
    embedding = Embedding(8).double()
    logsnr = torch.tensor([-7.0, 0.5, 13.0], dtype=F64)
    freqs = torch.tensor([0.125 * 32 ** (k / 15) for k in range(16)], dtype=F64)
    phase = logsnr[:, None] / 2 * freqs
    first, _, second = embedding.layers
    right = second(silu(first(torch.cat([phase.sin(), phase.cos()], 1))))
    assert torch.allclose(embedding(logsnr), right, atol=1e-5) and first.in_features == 32


def test_a_logsnr_above_20_is_clamped() -> None:
    """Also infinity, the logsnr of a clean image."""
    embedding = Embedding(8)
    found = embedding(torch.tensor([20.0, 25.0, math.inf, -20.0, -math.inf]))
    # rows of one product may be summed in another order
    assert torch.allclose(found[[1, 2, 4]], found[[0, 0, 3]], atol=1e-6)
    assert not torch.allclose(embedding(torch.tensor([19.0])), found[:1])
    assert not torch.allclose(embedding(torch.tensor([-19.0])), found[3:4])


def test_each_class_and_no_class_have_an_embedding() -> None:
    """It is added. -1 and no label use the last row of the table."""
    embedding = Embedding(8, class_label(3))
    assert embedding.classes is not None
    level = torch.zeros(4)
    bare = embedding.layers(torch.cat([torch.zeros(4, 16), torch.ones(4, 16)], 1))
    found = embedding(level, torch.tensor([0, 2, -1, 1])) - bare
    assert torch.allclose(found, embedding.classes.weight[[0, 2, 3, 1]], atol=1e-6)
    assert torch.allclose(embedding(level) - bare, embedding.classes.weight[3].expand(4, 8), atol=1e-6)


# pieces


def test_a_modulation_is_initialised_at_half_of_torchs_weights_without_bias() -> None:
    torch.manual_seed(0)
    mine = Modulation(6, 4, 2)
    torch.manual_seed(0)
    plain = nn.Linear(6, 8)
    assert torch.equal(mine.linear.weight, plain.weight / 2) and not mine.linear.bias.any()
    torch.manual_seed(0)
    assert torch.equal(Modulation(6, 4, 2, gain=3.0).linear.weight, 3 * plain.weight)


def test_a_modulation_is_a_layer_of_the_silu_in_parts() -> None:
    mine, emb = Modulation(6, 4, 3).double(), random(5, 6)
    parts = mine(emb)
    assert [part.shape for part in parts] == [(5, 4)] * 3
    assert torch.allclose(torch.cat(parts, 1), silu(emb) @ mine.linear.weight.mT + mine.linear.bias)


def test_attention_is_its_softmax() -> None:
    q, k, v = (random(2, 5, 3, role=role) for role in "qkv")
    right = ((q @ k.mT) / math.sqrt(3)).softmax(-1) @ v
    assert torch.allclose(attend(q, k, v), right)
    assert torch.allclose(attend(q, k, v), nn.functional.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("width, heads", [(8, 1), (32, 1), (63, 1), (64, 2), (96, 3), (100, 2), (192, 6), (130, 2)])
def test_heads_are_of_32_channels_or_the_next_larger_that_divide(width: int, heads: int) -> None:
    assert heads_for(width) == heads


def test_a_state_is_repeated_draw_by_draw() -> None:
    a, b = torch.arange(3), torch.arange(6).reshape(3, 2)
    first, second = repeat((a, b), 2)
    assert first.tolist() == [0, 1, 2, 0, 1, 2] and second.tolist() == [*b.tolist(), *b.tolist()]


def test_places_are_last_in_any_state() -> None:
    assert torch.equal(places(random(2, 3)), random(2, 3)[:, :, None])
    assert torch.equal(places(random(2, 5, 3)), random(2, 5, 3).mT)
    assert torch.equal(places(random(2, 3, 4, 5)), random(2, 3, 4, 5).reshape(2, 3, 20))


# any net


NETS = pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (MLPSpec(16, 5, 3), (2,)),
        (UNetSpec(8, depth=2), (2, 8, 8)),
        (DiTSpec(16, 5, 2), (2, 8, 8)),
        (SequenceSpec(16, 5), (7, 2)),
    ],
    ids=["mlp", "unet", "dit", "sequence"],
)


@NETS
def test_a_net_is_its_stem_its_blocks_and_its_output(spec: NetSpec, shape: tuple[int, ...]) -> None:
    net, x, level, label = (
        seeded(spec, 2, 3, 4),
        random(3, *shape),
        torch.tensor([-3.0, 0.0, 9.0]).double(),
        torch.tensor([1, -1, 3]),
    )
    told, state, left = side(net.time(level, label)), net.stem(x), []
    for block in net.body:
        state = block(state, told)
        left.append(state[0])
    assert torch.allclose(net(x, level, label), net.out(state, told, net.size(x)))
    names = [f"body.{k}" for k in range(len(net.body))]
    out, hidden = net(x, level, label, hidden=names)
    assert torch.equal(out, net(x, level, label)) and list(hidden) == names
    assert all(torch.allclose(hidden[name], h) for name, h in zip(names, left, strict=True))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_splits_of_a_net(depth: int) -> None:
    right = {"all": 0, "decoder": depth // 2, "head": depth - 1}
    assert MLPSpec(16, depth).build(2, 2).splits == right == DiTSpec(16, depth).build(2, 2).splits
    assert SequenceSpec(16, depth).build(2, 2).splits == right


@pytest.mark.parametrize("mults", [(1,), (1, 2), (1, 2, 3)])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_splits_of_a_unet(mults: tuple[int, ...], depth: int) -> None:
    down = len(mults) * depth
    net = UNetSpec(8, mults, depth).build(2, 2)
    assert net.splits == {"all": 0, "decoder": down + 1, "head": 2 * down + 1} and len(net.body) == 2 * down + 2


# the MLP


def test_a_point_enters_by_sines_at_periods_of_8_and_its_fractions() -> None:
    net, x = seeded(MLPSpec(16, 1, 3), 2, 2), random(4, 2)
    assert isinstance(net, MLP)
    waves = [2 * math.pi * k / 8 * x[:, j] for j in range(2) for k in (1, 2, 3)]
    phase = torch.stack(waves, 1)
    right = net.enter(torch.cat([x, phase.sin(), phase.cos()], 1))
    assert torch.allclose(net.stem(x)[0], right, atol=1e-6)
    moved = (net.stem(x + 8)[0] - net.stem(x)[0]) - 8 * net.enter.weight[:, :2].sum(1)
    assert float(moved.detach().abs().max()) < 1e-5


def test_a_block_of_the_mlp_is_its_formula() -> None:
    """h + W2 silu(scale norm(W1 h) + shift), scale one more than the modulation's."""
    net, emb = seeded(MLPSpec(16, 1), 2, 2), random(4, 16, role="emb")
    block, h = net.body[0], random(4, 16)
    scale, shift = block.modulation(emb)
    right = h + block.second(silu((1 + scale) * layer(block.first(h)) + shift))
    assert torch.allclose(block((h,), side(emb))[0], right)
    assert torch.allclose(net.out((h,), side(emb), ()), net.leave(silu(h)))  # type: ignore[operator]


# the transformer


def test_the_positions_of_tokens_are_sines_of_row_and_column() -> None:
    net, x = seeded(DiTSpec(16, 1, 2), 3, 3), random(2, 3, 4, 6)
    assert isinstance(net, DiT)
    found = net.stem(x)[0]
    freqs = [1000 ** (-k / 4) for k in range(4)]
    for row in range(2):
        for column in range(3):
            pixels = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
            place = [f(at * w) for at in (row, column) for f in (math.sin, math.cos) for w in freqs]
            right = net.enter(pixels) + torch.tensor(place, dtype=F64)
            assert torch.allclose(found[:, 3 * row + column], right, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 4])
def test_a_block_of_the_transformer_is_its_formula(heads: int) -> None:
    """h + W_out [attention(q, k, v), relu(u)], side by side, of y = scale norm(h) + shift."""
    net = seeded(DiTSpec(16, 1, 2, heads), 3, 3)
    block, h, emb = net.body[0], random(2, 6, 16), random(2, 16, role="emb")
    scale, shift = (part[:, None] for part in block.modulation(emb))
    y = block.enter((1 + scale) * layer(h) + shift)
    parts, u = [y[..., 16 * k : 16 * k + 16].unflatten(-1, (heads, -1)).transpose(1, 2) for k in range(3)], y[..., 48:]
    mixed = nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
    right = h + block.leave(torch.cat([mixed, u.clamp(min=0)], -1))
    assert torch.allclose(block((h,), side(emb))[0], right)


def test_heads_are_given_or_of_32_channels() -> None:
    for spec in (DiTSpec, SequenceSpec):
        heads = [spec(64, 1, heads=heads).build(3, 3).body[0].attention.heads for heads in (0, 8)]
        assert heads == [2, 8]
    assert DiTSpec().build(1, 1).body[0].attention.heads == 6
    with pytest.raises(ValueError, match="5 heads were asked for in a DiT of width 64"):
        DiTSpec(64, 1, heads=5).build(3, 3)
    with pytest.raises(ValueError, match="multiple of 4"):
        DiTSpec(66, 1).build(3, 3)


def test_the_transformer_outputs_pixels_of_the_normalised_state() -> None:
    net, h = seeded(DiTSpec(16, 1, 2), 3, 3), random(2, 6, 16)
    found = net.out((h,), side(h[:, 0]), (4, 6))
    said = net.leave(layer(h))  # type: ignore[operator]
    for row in range(2):
        for column in range(3):
            pixels = said[:, 3 * row + column].reshape(2, 3, 2, 2)
            assert torch.allclose(found[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2], pixels)
