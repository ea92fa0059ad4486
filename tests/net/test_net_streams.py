"""The net of two streams: two separate nets at first, and an exchange that learns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import CondSpec, class_label
from softmix.denoiser import MixtureHead, Network, NormalHead, PointHead, PublishedSMD, SoftHead
from softmix.denoiser.head import HeadSpec
from softmix.net import DiTSpec, MLPSpec, SequenceSpec, TwoStreams, TwoStreamsSpec, UNetSpec
from softmix.posterior import Implicit
from softmix.process import VP, TwoClocks
from softmix.rng import Rng

# the net of each stream, the shape of a pair, the channels of each signal
EACH = [
    (MLPSpec(width=16, depth=3, frequencies=2), (5,), (2, 3)),
    (UNetSpec(width=8, mults=(1, 2), depth=1), (3, 8, 6), (1, 2)),
    (DiTSpec(width=16, depth=3, patch=2), (3, 6, 5), (2, 1)),
    (SequenceSpec(width=16, depth=3), (4, 3), (1, 2)),
]
NETS = pytest.mark.parametrize(("net", "shape", "sizes"), EACH, ids=["mlp", "unet", "dit", "sequence"])
Net = MLPSpec | UNetSpec | DiTSpec | SequenceSpec
LEVELS = torch.tensor([[-3.0, 2.0], [0.0, 1.0], [4.0, -2.0]])


def build(net: Net, sizes: Sequence[int], exchange: str = "both", classes: int = 0) -> TwoStreams:
    torch.manual_seed(0)
    total = sum(sizes)
    return TwoStreamsSpec(net, sizes[0], exchange).build(total, total, class_label(classes))  # type: ignore[arg-type]


def awake(streams: TwoStreams) -> TwoStreams:
    """The exchange with weights as after some training."""
    torch.manual_seed(1)
    for name, parameter in streams.named_parameters():
        if "cross.join" in name:
            nn.init.normal_(parameter, std=0.5)
    return streams


def inputs(shape: tuple[int, ...]) -> Tensor:
    return Rng(0, 3, "z").normal((3, *shape))


def halves(net: TwoStreams, x: Tensor) -> tuple[Tensor, ...]:
    return x.split(list(net.sizes), net.channel_axis)


@NETS
@pytest.mark.parametrize("exchange", ["both", "none"])
def test_at_first_it_is_two_separate_nets(
    net: Net, shape: tuple[int, ...], sizes: tuple[int, int], exchange: str
) -> None:
    two, z = build(net, sizes, exchange), inputs(shape)
    torch.manual_seed(0)
    alone = [net.build(size, size) for size in sizes]
    found = halves(two, two(z, LEVELS))
    for k, (part, own) in enumerate(zip(halves(two, z), found, strict=True)):
        assert torch.allclose(own, alone[k](part, LEVELS[:, k]), atol=1e-6)


@NETS
def test_one_level_is_that_of_both_streams(net: Net, shape: tuple[int, ...], sizes: tuple[int, int]) -> None:
    two, z = awake(build(net, sizes)), inputs(shape)
    level = LEVELS[:, 0]
    assert torch.equal(two(z, level), two(z, torch.stack([level, level], 1)))


@NETS
@pytest.mark.parametrize(
    ("exchange", "heard"),
    [("both", (True, True)), ("to first", (True, False)), ("to second", (False, True)), ("none", (False, False))],
)
def test_a_stream_reads_the_other_in_the_directions_of_the_exchange(
    net: Net, shape: tuple[int, ...], sizes: tuple[int, int], exchange: str, heard: tuple[bool, bool]
) -> None:
    two, z = awake(build(net, sizes, exchange)), inputs(shape)
    base = halves(two, two(z, LEVELS))
    for k in (0, 1):
        parts = list(halves(two, z))
        parts[1 - k] = parts[1 - k] + 1
        changed = halves(two, two(torch.cat(parts, two.channel_axis), LEVELS))
        assert (float((changed[k] - base[k]).detach().abs().max()) > 1e-3) == heard[k]
        levels = LEVELS.clone()
        levels[:, 1 - k] += 1
        later = halves(two, two(z, levels))
        assert (float((later[k] - base[k]).detach().abs().max()) > 1e-4) == heard[k]
        assert float((later[1 - k] - base[1 - k]).detach().abs().max()) > 1e-3, "its own level"


@NETS
def test_the_exchange_learns_from_the_first_step(net: Net, shape: tuple[int, ...], sizes: tuple[int, int]) -> None:
    """At W = 0 only W has a gradient; after a step every parameter has one."""
    two, z = build(net, sizes, classes=2), inputs(shape)
    target, label = Rng(1, 3).normal((3, *shape)), torch.tensor([0, 1, -1])

    def idle() -> set[str]:
        two.zero_grad()
        (two(z, LEVELS, label) - target).square().mean().backward()
        return {name for name, each in two.named_parameters() if each.grad is None or not float(each.grad.abs().sum())}

    asleep = idle()
    assert asleep and all("to_first" in name or "to_second" in name for name in asleep)
    assert not any("join.weight" in name for name in asleep)
    with torch.no_grad():
        for each in two.parameters():
            if each.grad is not None:
                each -= 0.1 * each.grad
    # points have one token to attend to, and no weight to learn for it
    allowed = ("q.weight", "q.bias", "norm.weight", "norm.bias") if len(shape) == 1 else ()
    assert {name.split(".", 4)[-1] for name in idle()} <= {*allowed}, idle()


@NETS
def test_the_splits_cut_the_net_and_the_state_holds_both_streams(
    net: Net, shape: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    two, z = awake(build(net, sizes)), inputs(shape)
    side, whole, depth = two.side(z, LEVELS), two(z, LEVELS), len(two.body)
    for split in two.splits.values():
        state = two.run(two.run(two.start(z, side), side, 0, split), side, split, depth)
        assert torch.equal(two.out(state, side, two.size(z)), whole)
    _, hidden = two(z, LEVELS, hidden=[-1])
    channels = hidden[-1].shape[1 if hidden[-1].ndim == 4 else -1]
    assert channels == two.width and side.emb.shape == (3, two.embed_width)


HEADS: list[HeadSpec] = [
    PointHead(),
    NormalHead("element"),
    SoftHead(latent=3, local=2),
    SoftHead("all", latent=3, local=0),
]


@NETS
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_items_are_independent(net: Net, shape: tuple[int, ...], sizes: tuple[int, int], head: HeadSpec) -> None:
    model, z = network(net, shape, sizes, head), inputs(shape).double()
    t = torch.tensor([[0.9, 0.1], [0.3, 0.8], [0.5, 0.0]], dtype=torch.float64)
    draws = model(z, t).draws(2, Rng(1, 3))
    assert draws.shape == (2, 3, *shape) and bool(draws.isfinite().all())
    for k in range(3):
        alone = model(z[k : k + 1], t[k : k + 1]).draws(2, Rng(1, [k]))
        assert torch.allclose(alone[:, 0], draws[:, k], atol=1e-10)


def network(net: Net, shape: tuple[int, ...], sizes: tuple[int, int], head: HeadSpec) -> Network:
    torch.manual_seed(0)
    model = Network(TwoClocks(VP(), sizes, len(shape)), TwoStreamsSpec(net, sizes[0]), head, shape)
    assert isinstance(model.net, TwoStreams)
    awake(model.net)
    return model.double()


@NETS
def test_every_latent_of_a_soft_mixture_moves_both_signals(
    net: Net, shape: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    model = network(net, shape, sizes, SoftHead(latent=3, local=2))
    t = torch.tensor([[0.9, 0.8]], dtype=torch.float64)
    posterior = model(inputs(shape).double(), t)
    assert isinstance(posterior, Implicit)
    still = posterior.latents(1, Rng(0, 3))
    base = posterior.head(still)
    axis = -1 if len(shape) < 3 else -3
    for place in range(still.shape[-1]):
        moved = still.clone()
        moved[..., place] += 1
        change = (posterior.head(moved) - base).abs().split(list(sizes), axis)
        assert all(float(each.detach().max()) > 1e-6 for each in change), place


@NETS
def test_with_its_streams_exchanged_it_exchanges_its_outputs(
    net: Net, shape: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    """Both streams read the state of the other from before the exchange."""
    two, z = awake(build(net, sizes)), inputs(shape)
    right = halves(two, two(z, LEVELS))
    turned = build(net, (sizes[1], sizes[0]))
    places = {"first": "second", "second": "first", "to_first": "to_second", "to_second": "to_first"}

    def renamed(name: str) -> str:
        parts = name.split(".")
        if parts[0] == "streams":
            return ".".join(["streams", str(1 - int(parts[1])), *parts[2:]])
        return ".".join([*parts[:2], places[parts[2]], *parts[3:]])

    turned.load_state_dict({renamed(name): value for name, value in two.state_dict().items()})
    axis = two.channel_axis
    found = halves(turned, turned(torch.cat(halves(two, z)[::-1], axis), LEVELS.flip(1)))
    assert all(torch.allclose(own, other, atol=1e-5) for own, other in zip(found[::-1], right, strict=True))


@NETS
def test_each_stream_has_the_outputs_of_its_own_mean_and_variance(
    net: Net, shape: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    """At first a change of one signal changes its own mean and variance, and nothing of the other."""
    torch.manual_seed(0)
    clocks = TwoClocks(VP(), sizes, len(shape))
    model = Network(clocks, TwoStreamsSpec(net, sizes[0]), NormalHead("element"), shape)
    z, t = inputs(shape), torch.tensor([[0.8, 0.7]], dtype=torch.float64)
    base = model(z, t)
    for k in (0, 1):
        parts = [clocks.part(z, 0), clocks.part(z, 1)]
        parts[k] = parts[k] + 1
        moved = model(clocks.joined(*parts), t)
        for name in ("mean", "var"):
            change = (getattr(moved, name) - getattr(base, name)).detach().abs()
            assert float(clocks.part(change, 1 - k).max()) < 1e-6 < 1e-3 < float(clocks.part(change, k).max())


def test_what_has_no_stream_is_refused() -> None:
    spec = TwoStreamsSpec(MLPSpec(width=16, depth=2))
    for head in (MixtureHead(3), NormalHead("item")):
        with pytest.raises(ValueError, match="which are of no stream: take PointHead"):
            Network(TwoClocks(VP(), (2, 2), 1), spec, head, (4,))
    with pytest.raises(ValueError, match="PublishedSMD has one small net"):
        Network(TwoClocks(VP(), (2, 2), 1), spec, PublishedSMD(5), (4,))
    with pytest.raises(ValueError, match="asked for 5 outputs"):
        spec.build(4, 5)
    with pytest.raises(ValueError, match="share 3 channels, of which the first has half"):
        spec.build(3, 3)
    with pytest.raises(ValueError, match="share 2 channels, of which the first has 2"):
        TwoStreamsSpec(MLPSpec(width=16, depth=2), 2).build(2, 2)
    with pytest.raises(ValueError, match="found -1"):
        TwoStreamsSpec(first=-1)
    with pytest.raises(ValueError, match="takes label, value"):
        Network(TwoClocks(VP(), (1, 1)), TwoStreamsSpec(), PointHead(), (2, 8, 8), CondSpec(image=1))


def test_it_runs_on_the_device(device: torch.device) -> None:
    for net, shape, sizes in EACH:
        two = build(net, sizes).to(device)
        out = two(inputs(shape).to(device), LEVELS.to(device))
        assert out.device.type == device.type
