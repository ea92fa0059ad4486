"""Every head on every net: shapes, classes, splits, draws, latents, gradients, bf16."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import class_label
from softmix.denoiser import (
    OUTPUTS,
    HeadSpec,
    MixtureHead,
    Network,
    NormalHead,
    Output,
    PointHead,
    PublishedSMD,
    SoftHead,
)
from softmix.denoiser.smd import _Hyper
from softmix.loss import Energy
from softmix.net import DiTSpec, MLPSpec, NetSpec, SequenceSpec, UNetSpec
from softmix.posterior import HasDensity, HasMean, Implicit, ImplicitMean, Mixture, Normal, Point
from softmix.posterior.implicit import spread
from softmix.process import VP
from softmix.rng import Rng
from softmix.sampler import ancestral, sample

MLP = MLPSpec(width=32, depth=3, frequencies=4)
UNET = UNetSpec(width=16, mults=(1, 2), depth=1)
DIT = DiTSpec(width=32, depth=3, patch=2)
SEQUENCE = SequenceSpec(width=32, depth=3)
SPECS = [(MLP, (3,)), (UNET, (3, 4, 3)), (DIT, (3, 4, 3)), (SEQUENCE, (3, 3))]
NETS = pytest.mark.parametrize(("spec", "shape"), SPECS, ids=["mlp", "unet", "dit", "sequence"])
HEADS: list[HeadSpec] = [
    PointHead(),
    NormalHead(),
    NormalHead("element"),
    MixtureHead(3),
    MixtureHead(3, "item"),
    SoftHead("all", latent=5, local=2),
    SoftHead("decoder", latent=5, local=2),
    SoftHead("head", latent=5, local=2),
    SoftHead(latent=5, local=0),
    SoftHead(mean="none"),
    PublishedSMD(7),
]
EVERY = pytest.mark.parametrize("head", HEADS, ids=str)
SOFT = pytest.mark.parametrize("head", [head for head in HEADS if isinstance(head, SoftHead | PublishedSMD)], ids=str)
LABELS = torch.tensor([0, -1, 1])


def network(spec: NetSpec, shape: tuple[int, ...], head: HeadSpec, classes: int = 2, output: Output = "v") -> Network:
    torch.manual_seed(0)
    return Network(VP(), spec, head, shape, class_label(classes), output)


def inputs(shape: tuple[int, ...], n: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return Rng(0, n, "x").normal((n, *shape), dtype), torch.linspace(0.2, 1.0, n, dtype=torch.float64)


# nets


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        *((spec, shape) for spec in (UNET, DIT) for shape in ((1, 8, 8), (3, 7, 9), (1, 28, 28), (3, 3, 3), (2, 5, 2))),
        (UNetSpec(width=8, mults=(1, 2, 2), depth=1, patch=1), (3, 7, 9)),
        (UNetSpec(width=8, mults=(2, 3), depth=2, attention=False), (3, 8, 8)),
        (UNetSpec(width=50, depth=1), (1, 8, 8)),
        (DiTSpec(width=100, depth=2, patch=4), (3, 7, 9)),
        (DiTSpec(width=36, depth=1, heads=3), (3, 8, 8)),
        (MLPSpec(width=16, depth=1, frequencies=0), (1,)),
        (MLP, (7,)),
    ],
    ids=str,
)
def test_a_net_takes_any_size(spec: NetSpec, shape: tuple[int, ...]) -> None:
    net = spec.build(shape[0], 5)
    out = net(Rng(0, 2).normal((2, *shape)), torch.zeros(2))
    assert out.shape == (2, 5, *shape[1:]) and out.isfinite().all() and float(out.detach().std()) > 1e-3


@pytest.mark.parametrize("spec", [DiTSpec(width=30), DiTSpec(width=32, heads=5)], ids=str)
def test_a_width_that_does_not_fit_is_refused(spec: DiTSpec) -> None:
    with pytest.raises(ValueError, match="DiT of width"):
        spec.build(3, 3)


@NETS
def test_the_splits_cut_the_net_without_changing_it(spec: NetSpec, shape: tuple[int, ...]) -> None:
    net = spec.build(shape[0], shape[0])
    x, logsnr = inputs(shape)[0], torch.tensor([-3.0, 0.0, 3.0])
    side, whole, depth = net.side(x, logsnr), net(x, logsnr), len(net.body)
    assert net.splits["all"] == 0 < net.splits["decoder"] < net.splits["head"] == depth - 1
    for split in net.splits.values():
        state = net.run(net.run(net.start(x, side), side, 0, split), side, split, depth)
        assert torch.equal(net.out(state, side, net.size(x)), whole)


@NETS
def test_hidden_states_are_the_outputs_of_their_blocks(spec: NetSpec, shape: tuple[int, ...]) -> None:
    net, left = spec.build(shape[0], shape[0]), {}
    for name, module in net.named_modules():
        if name in (f"body.{k}" for k in range(len(net.body))):
            module.register_forward_hook(lambda *call, name=name: left.update({name: call[2][0]}))
    _, hidden = net(inputs(shape)[0], torch.zeros(3), hidden=[f"body.{k}" for k in range(len(net.body))])
    assert list(hidden) == list(left) and len(left) == len(net.body)
    assert all(hidden[name] is left[name] for name in left)


@NETS
def test_a_net_depends_on_its_input_noise_level_and_class(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """Each changes every item's output, and for one item only its own. -1 means "not given", like None."""
    torch.manual_seed(0)
    net = spec.build(shape[0], shape[0], class_label(2))
    x, logsnr, label = inputs(shape)[0], torch.tensor([-3.0, 0.0, 3.0]), LABELS
    base = net(x, logsnr, label)
    changed = {
        "x": net(torch.cat([x[:1] + 1, x[1:]]), logsnr, label),
        "logsnr": net(x, logsnr + torch.tensor([1.0, 0, 0]), label),
        "label": net(x, logsnr, torch.tensor([1, -1, 1])),
    }
    for out in changed.values():
        assert (out[0] - base[0]).abs().max() > 1e-3 and (out[1:] - base[1:]).abs().max() < 1e-5
    assert torch.equal(net(x, logsnr, torch.full((3,), -1)), net(x, logsnr))
    assert (net(x, logsnr, torch.tensor([-1, -1, -1]))[0] - base[0]).abs().max() > 1e-3


# networks


@NETS
@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_posterior_has_the_shape_of_the_items_and_items_are_independent(
    spec: NetSpec, shape: tuple[int, ...], head: HeadSpec, dtype: torch.dtype
) -> None:
    model = network(spec, shape, head).to(dtype)
    xt, t = inputs(shape, dtype=dtype)
    with torch.no_grad():
        posterior = model(xt, t, LABELS)
        draws = posterior.draws(2, Rng(1, 3))
        assert draws.shape == (2, 3, *shape) and draws.dtype == dtype and draws.isfinite().all()
        for k in range(3):
            one = slice(k, k + 1)
            alone = model(xt[one], float(t[k]), LABELS[one])
            tolerance = 1e-12 if dtype == torch.float64 else 1e-5
            assert (alone.draws(2, Rng(1, [k]))[:, 0] - draws[:, k]).abs().max() < tolerance
            if isinstance(posterior, HasMean):
                mean = cast(HasMean, alone).mean
                assert mean.dtype == dtype and (mean[0] - posterior.mean[k]).abs().max() < tolerance
            if isinstance(posterior, HasDensity):
                density = cast(HasDensity, alone).log_prob(xt[one])
                assert (density - posterior.log_prob(xt)[k]).abs() < 100 * tolerance * (1 + density.abs())


def test_the_posterior_of_each_head() -> None:
    kinds = [Point, Normal, Normal, Mixture, Mixture, *[ImplicitMean] * 4, Implicit, Implicit]
    for spec, shape in SPECS:
        for head, kind in zip(HEADS, kinds, strict=True):
            posterior = network(spec, shape, head)(*inputs(shape))
            assert type(posterior) is kind
            if isinstance(posterior, Normal):
                size = shape if head == NormalHead("element") else (1,) * len(shape)
                assert posterior.var.shape == (3, *size) and (posterior.var > 0).all()
            if isinstance(posterior, Mixture):
                per_pixel = len(shape) > 1 and head == MixtureHead(3)
                size = (3, 1) if spec is SEQUENCE else (1, *shape[1:])
                assert posterior.log_weights.shape == ((3, 3, *size) if per_pixel else (3, 3))


@NETS
@SOFT
def test_several_draws_equal_single_draws(spec: NetSpec, shape: tuple[int, ...], head: HeadSpec) -> None:
    posterior = network(spec, shape, head).double()(*inputs(shape, dtype=torch.float64))
    assert isinstance(posterior, Implicit)
    latents = posterior.latents(4, Rng(0, 3))
    with torch.no_grad():
        several = posterior.head(latents)
        for j in range(4):
            assert (posterior.head(latents[j : j + 1])[0] - several[j]).abs().max() < 1e-12
        assert torch.equal(posterior.draws(4, Rng(0, 3)), several)


@NETS
@SOFT
def test_the_latent_matters_from_the_start(spec: NetSpec, shape: tuple[int, ...], head: HeadSpec) -> None:
    """The sd of the draws per element at initialisation: measured 2e-4 to 0.09. Every latent number has an effect."""
    with torch.no_grad():
        posterior = network(spec, shape, head)(*inputs(shape))
        assert isinstance(posterior, Implicit)
        sd = (spread(posterior.draws(16, Rng(0, 3))) / torch.Size(shape).numel()).sqrt()
        assert (sd > 5e-5).all() and (sd < 1).all()
        still = posterior.latents(1, Rng(0, 3))
        base = posterior.head(still)
        for place in range(0, still[0, 0].numel(), 3):
            moved = still.clone()
            moved.view(1, 3, -1)[..., place] += 1
            assert (posterior.head(moved) - base).abs().max() > 1e-5, place


@pytest.mark.parametrize(("spec", "shape"), SPECS[1:], ids=["unet", "dit", "sequence"])
def test_local_latents_act_at_their_place(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """In the head of a DiT a local latent enters at one token. It changes the pixels of this token the most."""
    shape = (1, 8, 8)
    posterior = network(DiTSpec(width=32, depth=3, patch=2), shape, SoftHead("head", latent=0 + 4, local=2))(
        *inputs(shape)
    )
    assert isinstance(posterior, Implicit)
    still = posterior.latents(1, Rng(0, 3))
    moved = still.clone()
    moved[..., 4:6] += 3
    with torch.no_grad():
        change = (posterior.head(moved) - posterior.head(still))[0, :, 0].abs()
    assert (change[:, :2, :2].mean((1, 2)) > 2 * change.mean((1, 2))).all()


@NETS
def test_blocks_before_the_latent_run_once(spec: NetSpec, shape: tuple[int, ...]) -> None:
    for where in ("decoder", "head"):
        model = network(spec, shape, SoftHead(where))  # type: ignore[arg-type]
        calls = [0] * len(model.net.body)
        for i, block in enumerate(model.net.body):
            block.register_forward_hook(
                lambda *call, i=i, calls=calls: calls.__setitem__(i, calls[i] + len(call[2][0]))
            )
        model(*inputs(shape)).draws(8, Rng(0, 3))
        split = model.net.splits[where]  # type: ignore[index]
        assert calls == [3] * split + [24] * (len(calls) - split)


@NETS
@EVERY
def test_every_parameter_has_a_gradient(spec: NetSpec, shape: tuple[int, ...], head: HeadSpec) -> None:
    """Except the output layer of the small net g of PublishedSMD, since only its features are used; the vector `off` of
    a soft head without a mean; and the first weights at frequencies or classes that do not occur.
    """
    model = network(spec, shape, head)
    xt, t = inputs(shape)
    posterior = model(xt, t, LABELS)
    loss = posterior.draws(4, Rng(0, 3)).square().mean()
    if isinstance(posterior, HasMean):
        loss = loss + posterior.mean.square().mean()
    if isinstance(posterior, HasDensity):
        loss = loss - posterior.log_prob(xt).mean()
    loss.backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or float(p.grad.abs().sum()) == 0}
    allowed = {name for name, _ in model.named_parameters() if name.startswith(("head.g.leave.", "head.g.norm."))}
    if head == SoftHead(mean="none"):
        allowed = {"head.off"}
    assert idle == (allowed if isinstance(head, PublishedSMD) or head == SoftHead(mean="none") else set())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_the_published_layer_is_its_matrices() -> None:
    """x + W_out M_2 M_1 W_in x with M = v v^T + softplus(s) I written out, place by place."""
    torch.manual_seed(0)
    layer = _Hyper(6, 5).double()
    one = torch.eye(5, dtype=torch.float64)
    x, z = Rng(0, 2).normal((2, 3, 6), torch.float64), Rng(1, 2).normal((2, 3, 5), torch.float64)
    for b in range(2):
        for place in range(3):
            product = torch.eye(5, dtype=torch.float64)
            for vector, scale in zip(layer.vector, layer.scale, strict=True):
                v = cast(nn.Linear, vector)(z[b, place])
                product = (torch.outer(v, v) + nn.functional.softplus(scale) * one) @ product
            truth = x[b, place] + layer.leave(product @ layer.enter(x[b, place]))
            assert (layer(x, z)[b, place] - truth).abs().max() < 1e-12


def test_the_published_latent_has_the_inputs_shape() -> None:
    for spec, shape in [*SPECS, (UNetSpec(width=16, mults=(2, 3), depth=1), (3, 4, 3))]:
        posterior = network(spec, shape, PublishedSMD(7))(*inputs(shape))
        assert isinstance(posterior, Implicit) and posterior.latent_shape == shape


@NETS
@pytest.mark.parametrize("output", OUTPUTS)
def test_at_the_clean_end_the_mean_is_the_input(spec: NetSpec, shape: tuple[int, ...], output: Output) -> None:
    """At t = 1e-6 every output but x0 gives the mean x_t / alpha, for any output of the net."""
    xt = inputs(shape)[0]
    mean = network(spec, shape, PointHead(), output=output)(xt, 1e-6).mean
    assert ((mean - xt).abs().max() < 1e-3) == (output != "x0")
    assert network(spec, shape, PointHead(), output=output)(xt, 1.0).mean.isfinite().all()


@NETS
def test_a_wrong_shape_is_refused(spec: NetSpec, shape: tuple[int, ...]) -> None:
    model = network(spec, shape, PointHead())
    for wrong in ((2, *shape[:-1], 5) if spec is SEQUENCE else (2, 5, *shape[1:]), (2, *shape, 4), (2,), (2, 0, 3, 3)):
        with pytest.raises(ValueError, match="made for items of shape"):
            model(torch.zeros(wrong), 0.5)


def test_images_of_another_size_work() -> None:
    for spec in (UNET, DIT):
        for head in (PointHead(), NormalHead("element"), MixtureHead(3)):
            model = network(spec, (3, 4, 3), head)
            assert model(torch.zeros(2, 3, 9, 7), 0.5).mean.shape == (2, 3, 9, 7)


def test_local_latents_refuse_another_size() -> None:
    for spec in (UNET, DIT):
        for head in (SoftHead(), PublishedSMD(5)):
            with pytest.raises(ValueError, match="made for items of shape"):
                network(spec, (3, 4, 3), head)(torch.zeros(2, 3, 6, 6), 0.5)


@NETS
@EVERY
def test_bf16_is_close_to_float32(spec: NetSpec, shape: tuple[int, ...], head: HeadSpec) -> None:
    """Under autocast draws differ by under 2 % of their root mean square (measured 0.13 to 0.44 %), in float32."""
    model = network(spec, shape, head)
    xt, t = inputs(shape)
    with torch.no_grad():
        full = model(xt, t, LABELS).draws(2, Rng(0, 3))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(xt, t, LABELS).draws(2, Rng(0, 3))
    assert half.dtype == torch.float32
    if not isinstance(head, MixtureHead):
        assert float((half - full).square().mean().sqrt()) < 0.02 * float(full.square().mean().sqrt())


@NETS
def test_a_network_learns_and_can_be_sampled(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """Twenty steps on one batch lower the energy score, and samples have the shape of the model."""
    model = network(spec, shape, SoftHead(latent=4, local=2), classes=0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    x0 = 0.5 * Rng(5, 16).normal((16, *shape))
    values = []
    for _ in range(20):
        noised = VP().noise(x0, torch.linspace(0.1, 1, 16, dtype=torch.float64), Rng(6, 16))
        value = Energy(weight="x0")(model(noised.xt, noised.t), noised, Rng(7, 16)).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.9 * values[0]
    assert sample(model, 3, 2, sampler=ancestral).shape == (3, *shape)
