"""Labels, real numbers, an image and tokens as inputs of nets; and attention, by the documented formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import Cond, CondError, CondSpec, class_label
from softmix.net import Attention, CrossAttention, DiTSpec, Embedding, MLPSpec, SequenceSpec, UNetSpec
from softmix.net.attention import angles_of, attend, turned
from softmix.net.embedding import Tokens, Values, image_channels, waves, with_given
from softmix.rng import Rng

F64 = torch.float64
silu = nn.functional.silu
TWO = CondSpec((("top", 3), ("shoe", 4)))


def random(*shape: int, role: str = "x") -> Tensor:
    return Rng(0, shape[0], role).normal(shape, F64)


# labels


def test_several_labels_are_the_sum_of_their_vectors() -> None:
    """The table holds 3 + 1 rows for the first label and then 4 + 1 for the second. The last row of each is for -1."""
    embedding, level = Embedding(8, TWO).double(), torch.zeros(4, dtype=F64)
    table = embedding.classes.weight  # type: ignore[union-attr]
    label = torch.tensor([[0, 0], [2, -1], [-1, 3], [-1, -1]])
    bare = Embedding(8).double()
    bare.load_state_dict({k: v for k, v in embedding.state_dict().items() if k != "classes.weight"})
    right = bare(level) + torch.stack(
        [table[0] + table[4], table[2] + table[8], table[3] + table[7], table[3] + table[8]]
    )
    assert torch.allclose(embedding(level, Cond(label=label)), right)
    assert torch.equal(embedding(level), embedding(level, Cond(label=torch.full((4, 2), -1))))


def test_one_label_is_a_column_or_a_vector() -> None:
    embedding, level = Embedding(8, class_label(3)), torch.zeros(4)
    label = torch.tensor([0, 2, -1, 1])
    assert torch.equal(embedding(level, label), embedding(level, Cond(label=label[:, None])))
    assert torch.equal(embedding(level, label), embedding(level, label.to(torch.int16)))


@pytest.mark.parametrize("label", [[3, 0], [0, 4]])
def test_an_unknown_class_never_reads_a_row_of_another_label(label: list[int]) -> None:
    """Row 3 of the first label would be that of the second. An index beyond the table raises."""
    with pytest.raises(IndexError):
        Embedding(8, TWO)(torch.zeros(1), Cond(label=torch.tensor([label])))


# real numbers


def test_a_real_number_enters_by_itself_and_its_sines() -> None:
    """Periods 16, 16/2, ..., 16/8; then two layers over the features of all numbers."""
    part, v = Values(2, 8).double(), random(5, 2)
    phase = [2 * math.pi * k / 16 * v for k in range(1, 9)]
    features = torch.stack([v, *(p.sin() for p in phase), *(p.cos() for p in phase)], -1).flatten(1)
    first, _, second = part.layers
    assert torch.allclose(part(v, torch.zeros(5, dtype=F64)), second(silu(first(features))), atol=1e-6)


def test_a_missing_number_has_learned_features() -> None:
    part, v, level = Values(2, 8).double(), random(3, 2), torch.zeros(3, dtype=F64)
    lacking = v.clone()
    lacking[0, 1] = lacking[1] = torch.nan
    freqs = part.freqs
    features = waves(v.reshape(-1, 1), freqs).reshape(3, 2, -1)
    features[0, 1], features[1] = part.none[1], part.none
    found = part(lacking, level)
    assert torch.allclose(found, part.layers(features.flatten(1)))
    assert torch.equal(found[1], part(None, level)[0]) and torch.equal(found[2], part(v, level)[2])


# an image


def test_an_image_has_a_channel_that_marks_given_places() -> None:
    """nan in a whole item, in one place of another, in one channel of a place: zeros there, and 0 in the mark."""
    image, x = random(3, 2, 2, 2), random(3, 1, 2, 2)
    image[0] = torch.nan
    image[1, 1, 0, 1] = torch.nan
    found = with_given(image, x, 2, 1)
    given = torch.ones(3, 2, 2, dtype=F64)
    given[0], given[1, 0, 1] = 0, 0
    assert torch.equal(found[:, 2], given)
    assert torch.equal(found[:, :2], image.nan_to_num(0) * given[:, None])
    assert torch.equal(with_given(None, x, 2, 1), torch.zeros(3, 3, 2, 2, dtype=F64))
    assert image_channels(CondSpec(image=2)) == 3 and image_channels(TWO) == 0


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(UNetSpec(8), (2, 5, 6)), (DiTSpec(16, 2, 2), (2, 5, 6)), (SequenceSpec(16, 2), (5, 2))],
    ids=str,
)
def test_the_stem_receives_the_image_after_the_channels_of_x(
    spec: UNetSpec | DiTSpec | SequenceSpec, shape: tuple[int, ...]
) -> None:
    """The net with an image equals a net with more channels: x, the image and the mark."""
    channels = 2
    net = spec.build(channels, channels, CondSpec(image=3)).double()
    wide = spec.build(channels + 4, channels).double()
    wide.load_state_dict(net.state_dict())
    x, level = random(3, *shape), random(3, role="level")
    image = random(3, *((5, 3) if len(shape) == 2 else (3, 5, 6)), role="image")
    given = torch.ones_like(image[..., :1] if len(shape) == 2 else image[:, :1])
    both = torch.cat([x, image, given], net.channel_axis)
    assert torch.equal(net(x, level, Cond(image=image)), wide(both, level))


def test_an_mlp_refuses_an_image() -> None:
    with pytest.raises(CondError, match="points have no grid; give the numbers as value"):
        MLPSpec().build(2, 2, CondSpec(image=1))


# tokens


def test_tokens_follow_a_learned_token() -> None:
    part, like, tokens = Tokens(4).double(), torch.zeros(2, dtype=F64), random(2, 3, 4)
    found, mask = part(tokens, None, like)
    assert mask is None and torch.equal(found[:, 0], part.none.expand(2, 4)) and torch.equal(found[:, 1:], tokens)
    there = torch.tensor([[True, False, True], [False, False, False]])
    hidden = tokens.masked_fill(~there[..., None], torch.nan)
    found, mask = part(hidden, there, like)
    assert mask.tolist() == [[True, True, False, True], [True, False, False, False]]
    assert torch.equal(found[:, 1:], tokens * there[..., None])
    none, mask = part(None, None, like)
    assert mask is None and torch.equal(none, part.none.expand(2, 1, 4))


def test_cross_attention_is_its_formula() -> None:
    part, h, c = CrossAttention(64, 6).double(), random(2, 5, 64), random(2, 3, 6, role="c")
    mask = torch.tensor([[True, True, False], [True, False, False]])
    k, v = part.kv(c).split(64, -1)
    heads = [each.unflatten(-1, (2, 32)).transpose(1, 2) for each in (part.q(part.norm(h)), k, v)]
    mixed = nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None])
    assert torch.allclose(part(h, c, mask), h + part.join(mixed.transpose(1, 2).flatten(2)))
    # with one token the result is its value for any query
    assert torch.allclose(part(h, c, mask)[1], h[1] + part.join(v[1, :1]))


@pytest.mark.parametrize("scale", [None, 0.0, 0.3])
def test_the_scale_of_attention_can_be_set(scale: float | None) -> None:
    """Scale 0 gives the mean of the values; the default is 1 / sqrt(width / heads)."""
    q, k, v = (random(2, 5, 12, role=role) for role in "qkv")
    found = Attention(3, scale)(q, k, v)
    heads = [each.unflatten(-1, (3, 4)).transpose(1, 2) for each in (q, k, v)]
    alike = heads[0] @ heads[1].mT * (0.5 if scale is None else scale)
    assert torch.allclose(found, (alike.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2))
    if scale == 0.0:
        assert torch.allclose(found, v.mean(1, keepdim=True).expand_as(v))
    assert torch.allclose(attend(*heads, scale), alike.softmax(-1) @ heads[2])


@pytest.mark.parametrize(
    "spec", [UNetSpec(8, (1, 2), 2), DiTSpec(16, 3, 2), SequenceSpec(16, 3), MLPSpec(16, 3)], ids=str
)
def test_the_blocks_with_cross_attention(spec: UNetSpec) -> None:
    """Every block of a transformer and of the MLP; in a U-Net the middle and the coarsest decoder blocks."""
    body = spec.build(2, 2, CondSpec(context=5)).body
    looks = [getattr(block, "cross", None) is not None for block in body]
    assert looks == ([False] * 4 + [True] * 3 + [False] * 3 if isinstance(spec, UNetSpec) else [True] * 3)


# rotary positions


def test_rotary_positions_depend_on_the_distance_only() -> None:
    """Pair i of place n is turned by n / 10000^(2 i / d), so that q_n . k_m is a function of n - m."""
    d = 6
    angles = angles_of(40, d, torch.zeros(1, dtype=F64))
    for n in (0, 1, 39):
        assert angles[n].tolist() == pytest.approx([n / 10000 ** (2 * i / d) for i in range(3)], rel=1e-6)
    q, k = random(d), random(d, role="k")
    score = turned(q.expand(40, d), angles) @ turned(k.expand(40, d), angles).mT
    for distance in (0, 3, 17):
        same = score.diagonal(distance)
        assert torch.allclose(same, same[:1], atol=1e-6)
    assert float((score.diagonal(3)[0] - score.diagonal(-3)[0]).abs()) > 1e-3
    c, s = math.cos(5.0), math.sin(5.0)
    pair = turned(q.expand(40, d), angles)[5]
    assert pair[0].item() == pytest.approx(float(q[0]) * c - float(q[3]) * s, abs=1e-6)
    assert pair[3].item() == pytest.approx(float(q[0]) * s + float(q[3]) * c, abs=1e-6)


def test_a_net_for_sequences_is_its_formula() -> None:
    net, x, level = SequenceSpec(8, 1, 2).build(3, 4).double(), random(2, 7, 3), random(2, role="level")
    h, block = net.enter(x), net.body[0]
    scale, shift = (part[:, None] for part in block.modulation(net.time(level)))
    layer = lambda h: nn.functional.layer_norm(h, h.shape[-1:])  # noqa: E731
    y = block.enter((1 + scale) * layer(h) + shift)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in y[..., :24].chunk(3, -1))
    angles = angles_of(7, 4, x)
    mixed = nn.functional.scaled_dot_product_attention(turned(q, angles), turned(k, angles), v)
    h = h + block.leave(torch.cat([mixed.transpose(1, 2).flatten(2), y[..., 24:].clamp(min=0)], -1))
    assert torch.allclose(net(x, level), net.leave(layer(h)))


def test_a_sequence_net_depends_on_the_order_and_not_on_absolute_places() -> None:
    """Two equal places with the same distances to all others differ by their order alone.

    A much longer sequence works.
    """
    net, level = SequenceSpec(16, 2).build(1, 1).double(), torch.zeros(1, dtype=F64)
    x = torch.zeros(1, 6, 1, dtype=F64)
    x[0, 1] = 1
    assert not torch.allclose(net(x, level)[0, 0], net(x, level)[0, 2])
    assert not torch.allclose(net(x.flip(1), level).flip(1), net(x, level))
    for length in (1, 2, 300):
        assert net(torch.zeros(1, length, 1, dtype=F64), level).shape == (1, length, 1)
    # all places of a constant input are equal, for any length
    assert torch.allclose(net(x * 0 + 0.3, level)[:, :1], net(torch.full((1, 50, 1), 0.3, dtype=F64), level))


def test_rotary_heads_of_odd_width_are_refused() -> None:
    with pytest.raises(ValueError, match="1 heads of 33 channels were asked for in a sequence net"):
        SequenceSpec(33).build(1, 1)
    with pytest.raises(ValueError, match="5 heads were asked for in a sequence net of width 32"):
        SequenceSpec(32, heads=5).build(1, 1)
