"""Each head on a net with known outputs, and every default."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import Cond, CondError, class_label
from softmix.denoiser import (
    MapHead,
    MixtureHead,
    Network,
    NormalHead,
    Output,
    PointHead,
    PublishedSMD,
    SoftHead,
    affine,
)
from softmix.net import DiTSpec, MLPSpec, SequenceSpec, SideInputs, UNetSpec
from softmix.posterior import Mixture, Normal, Point
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng
from softmix.shape import column

F64 = torch.float64
T = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
MLP = MLPSpec(width=16, depth=3, frequencies=2)
UNET = UNetSpec(width=8, depth=1)
DIT = DiTSpec(width=16, depth=3, patch=2)
SEQUENCE = SequenceSpec(width=16, depth=3)
NETS = pytest.mark.parametrize(
    ("spec", "shape"),
    [(MLP, (2,)), (UNET, (2, 4, 4)), (DIT, (2, 4, 4)), (SEQUENCE, (5, 2))],
    ids=["mlp", "unet", "dit", "sequence"],
)


class FixedNet(nn.Module):
    """A stand-in for a net: returns fixed numbers, and records its inputs."""

    def __init__(self, says: Tensor):
        super().__init__()
        self.says = says
        self.heard: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def side(
        self, x: Tensor, logsnr: Tensor, cond: Cond | Tensor | None = None, hidden: Sequence[int | str] = ()
    ) -> SideInputs:
        self.heard.append((x, logsnr, cond))
        return SideInputs(x, logsnr)

    def through(self, x: Tensor, side: SideInputs) -> Tensor:
        return self.says


def saying(head: object, says: Tensor, shape: tuple[int, ...], **options: object) -> Network:
    spec = MLP if len(shape) == 1 else UNET
    network = Network(options.pop("process", VP()), spec, head, shape, **options)  # type: ignore[arg-type]
    assert head.channels(shape[0]) == says.shape[1]  # type: ignore[attr-defined]
    network.net = FixedNet(says)  # type: ignore[assignment]
    return network


def x_of(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return Rng(0, n, "x").normal((n, *shape), F64)


def row(process: Gaussian, output: Output, sd: float, x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = affine(output, process.alpha(T), process.sigma(T), sd)
    return column(a, x), column(b, x)


# defaults


def test_the_defaults_are_the_documented_ones() -> None:
    assert NormalHead() == NormalHead(per="item") and MixtureHead() == MixtureHead(k=8, per="pixel")
    assert SoftHead() == SoftHead(where="decoder", latent=32, local=4, mean="own", scale=1.0)
    assert PublishedSMD() == PublishedSMD(latent=100)
    network = Network(VP(), MLP, PointHead(), (2,))
    assert (network.output, network.data_sd, network.classes) == ("v", 1.0, 0) and network.net.time.classes is None


@pytest.mark.parametrize("sizes", [(0, 4, 1.0), (32, -1, 1.0), (32, 4, -0.1)])
def test_sizes_below_1_are_refused(sizes: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="a SoftHead needs latent >= 1"):
        SoftHead(latent=sizes[0], local=sizes[1], scale=sizes[2])
    with pytest.raises(ValueError, match="latent is at least 1"):
        PublishedSMD(0)
    with pytest.raises(ValueError, match="k is at least 1"):
        MixtureHead(0)


def test_nets_refuse_items_of_another_kind() -> None:
    for spec, shape, use in ((MLP, (2, 4, 4), "UNetSpec or DiTSpec"), (UNET, (2,), "MLPSpec"), (DIT, (2,), "MLPSpec")):
        with pytest.raises(ValueError, match=use):
            Network(VP(), spec, PointHead(), shape)


# inputs of the net


@pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
@pytest.mark.parametrize("sd", [0.3, 1.0])
@pytest.mark.parametrize("head", [PointHead(), NormalHead(), MixtureHead(2)], ids=str)
def test_the_net_receives_scaled_x_the_noise_level_and_the_class(process: Gaussian, sd: float, head: object) -> None:
    x, cond = x_of((2,)), torch.tensor([0, 1, -1])
    network = saying(head, torch.zeros(3, head.channels(2)), (2,), process=process, cond=class_label(2), data_sd=sd)  # type: ignore[attr-defined]
    network(x, T, cond)
    heard, logsnr, label = network.net.heard[0]  # type: ignore[attr-defined]
    size = (process.alpha(T) ** 2 * sd**2 + process.sigma(T) ** 2).sqrt()
    assert torch.allclose(heard, x / size[:, None]) and torch.allclose(logsnr, process.logsnr(T)) and label is cond


def test_the_embedding_has_a_row_for_each_class_and_one_for_none() -> None:
    table = Network(VP(), MLP, PointHead(), (2,), class_label(3)).net.time.classes
    assert table is not None and table.num_embeddings == 4


def test_an_unsupported_condition_is_refused() -> None:
    network = Network(VP(), MLP, PointHead(), (2,)).double()
    assert torch.equal(network(x_of((2,)), T, None).mean, network(x_of((2,)), T, Cond()).mean)  # type: ignore[attr-defined]
    with pytest.raises(CondError, match="the condition has label, and the model was built for no condition"):
        network(x_of((2,)), T, torch.tensor([0, 1, -1]))


# posteriors from the outputs


@pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
@pytest.mark.parametrize("output", ["x0", "eps", "v", "flow", "edm"])
@pytest.mark.parametrize("sd", [0.3, 1.0])
def test_a_point_head_returns_x0_of_the_table(process: Gaussian, output: Output, sd: float) -> None:
    x, says = x_of((2, 4, 4)), Rng(1, 3).normal((3, 2, 4, 4), F64)
    a, b = row(process, output, sd, x)
    found = saying(PointHead(), says, (2, 4, 4), process=process, output=output, data_sd=sd)(x, T)
    assert isinstance(found, Point) and torch.allclose(found.mean, a * x + b * says)


def test_the_default_output_is_v_with_unit_data() -> None:
    x, says = x_of((2,)), Rng(1, 3).normal((3, 2), F64)
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(saying(PointHead(), says, (2,))(x, T).mean, a * x + b * says)  # type: ignore[attr-defined]


@pytest.mark.parametrize("per", ["item", "element"])
@pytest.mark.parametrize("shape", [(2,), (2, 4, 4)], ids=str)
def test_a_normal_has_the_variance_b_squared_exp_2l(per: str, shape: tuple[int, ...]) -> None:
    """l is one number for each element, or the mean over the places of an item."""
    x, head = x_of(shape), NormalHead(per)  # type: ignore[arg-type]
    says = Rng(1, 3).normal((3, head.channels(2), *shape[1:]), F64)
    a, b = row(VP(), "edm", 0.4, x)
    found = saying(head, says, shape, output="edm", data_sd=0.4)(x, T)
    log_sd = says[:, 2:]
    if per == "item":
        log_sd = log_sd.flatten(1).mean(1).reshape(-1, *[1] * len(shape))
    assert isinstance(found, Normal) and torch.allclose(found.mean, a * x + b * says[:, :2])
    assert torch.allclose(found.var.expand_as(x), ((b * log_sd.exp()) ** 2).expand_as(x))


@pytest.mark.parametrize("per", ["item", "pixel"])
@pytest.mark.parametrize("shape", [(2,), (2, 4, 4)], ids=str)
def test_a_mixture_has_components_a_x_plus_b_u_and_one_spread(per: str, shape: tuple[int, ...]) -> None:
    """Means and weights of k = 3 for each place or for the item. The sd is |b| exp(l), with l the mean over places."""
    x, head = x_of(shape), MixtureHead(3, per)  # type: ignore[arg-type]
    says = Rng(1, 3).normal((3, head.channels(2), *shape[1:]), F64)
    a, b = row(VP(), "v", 1.0, x)
    found = saying(head, says, shape)(x, T)
    assert isinstance(found, Mixture) and float(b.max()) < 0
    for k in range(3):
        assert torch.allclose(found.means[:, k], a * x + b * says[:, 2 * k : 2 * k + 2])
    weights = says[:, 6:9]
    if shape[1:] and per == "item":
        weights = weights.mean((2, 3))
    elif shape[1:]:
        weights = weights[:, :, None]
    assert torch.allclose(found.log_weights, weights.log_softmax(1))
    log_sd = says[:, 9:].flatten(1).mean(1)
    var = (b.flatten() * log_sd.exp()) ** 2
    assert torch.allclose(found._var, var.reshape(-1, *[1] * (x.ndim)).expand_as(found.means))


@pytest.mark.parametrize(
    "head", [PointHead(), NormalHead(), NormalHead("element"), MixtureHead(3), MixtureHead(3, "item")], ids=str
)
def test_a_sequence_equals_an_image_of_one_column(head: object) -> None:
    """The same outputs of the net, with the channels last, give the same law: mean, variance and density."""
    x = x_of((2, 5, 1))
    says = Rng(1, 3).normal((3, head.channels(2), 5, 1), F64)  # type: ignore[attr-defined]
    image = saying(head, says, (2, 5, 1))(x, T)
    network = Network(VP(), SEQUENCE, head, (5, 2))  # type: ignore[arg-type]
    network.net = FixedNet(says[..., 0].mT)  # type: ignore[assignment]
    sequence = network(x[..., 0].mT, T)
    assert torch.allclose(sequence.mean, image.mean[..., 0].mT)  # type: ignore[attr-defined]
    if not isinstance(image, Point):
        assert torch.allclose(sequence.log_prob(0.3 * x[..., 0].mT), image.log_prob(0.3 * x))  # type: ignore[attr-defined]
        var = image.var.expand_as(x)[..., 0].mT  # type: ignore[attr-defined]
        assert torch.allclose(sequence.var.expand(3, 5, 2), var)  # type: ignore[attr-defined]


# flow maps


@NETS
def test_a_flow_map_receives_the_second_time_and_the_class(spec: object, shape: tuple[int, ...]) -> None:
    """The embedding is the sum of that of the level and the class, and that of the second level."""
    torch.manual_seed(0)
    network = Network(VP(), spec, MapHead(), shape, class_label(2)).double()  # type: ignore[arg-type]
    x, cond, to = x_of(shape), torch.tensor([0, 1, -1]), T / 2
    net = network.net
    emb = net.time(VP().logsnr(T), cond) + network.head.target(VP().logsnr(to))  # type: ignore[operator, union-attr]
    side = SideInputs(emb, VP().logsnr(T))
    said = net.out(net.run(net.stem(x), side, 0, len(net.body)), side, net.size(x))
    a, b = row(VP(), "v", 1.0, x)
    assert torch.allclose(network(x, T, cond, to).mean, a * x + b * said)  # type: ignore[attr-defined]
    assert torch.equal(network(x, T, cond).mean, network(x, T, cond, T).mean)  # type: ignore[attr-defined]
    assert network.two_times and not Network(VP(), MLP, PointHead(), (2,)).two_times


# features


@NETS
def test_features_are_the_states_of_the_first_half_at_unit_size(spec: object, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    process, sd = VE(), 0.4
    network = Network(process, spec, PointHead(), shape, data_sd=sd).double()  # type: ignore[arg-type]
    x, net, t = x_of(shape), network.net, 0.3
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    emb = net.time(process.logsnr(torch.tensor(t, dtype=F64)).expand(3))
    state = net.stem(x / math.sqrt(alpha**2 * sd**2 + sigma**2))
    found = network.features(x, t)
    assert len(found) == net.splits["decoder"] > 0
    for k, block in enumerate(list(net.body)[: net.splits["decoder"]]):
        state = block(state, SideInputs(emb, emb[:, 0]))
        h = state[0]
        right = h[:, :, None] if h.ndim == 2 else h.transpose(1, 2) if h.ndim == 3 else h.flatten(2)
        assert torch.allclose(found[k], right)
