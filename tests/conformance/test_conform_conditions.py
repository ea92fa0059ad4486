"""Every net with every kind of condition: independence of items, and missing parts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from softmix.cond import UNCONDITIONED, Cond, CondError, CondSpec, Part, joined
from softmix.denoiser import HeadSpec, MapHead, MixtureHead, Network, NormalHead, PointHead, PublishedSMD, SoftHead
from softmix.net import MLP, DiTSpec, MLPSpec, Net, NetSpec, SequenceSpec, UNetSpec
from softmix.posterior import HasMean
from softmix.process import VP
from softmix.rng import Rng

F64 = torch.float64
N = 4
FULL = CondSpec((("top", 3), ("shoe", 4)), image=2, values=2, context=5)
SPECS: list[tuple[NetSpec, tuple[int, ...]]] = [
    (MLPSpec(16, 3, 2), (3,)),
    (UNetSpec(8, (1, 2), 1), (3, 4, 6)),
    (DiTSpec(16, 3, 2), (3, 4, 6)),
    (SequenceSpec(16, 3), (6, 3)),
]
IDS = ["mlp", "unet", "dit", "sequence"]
NETS = pytest.mark.parametrize(("spec", "shape"), SPECS, ids=IDS)
# every net with all supported conditions
PAIRS = [
    pytest.param(spec, shape, part, id=f"{name}-{part}")
    for name, (spec, shape) in zip(IDS, SPECS, strict=True)
    for part in FULL.parts
    if not (name == "mlp" and part == "image")
]
EACH = pytest.mark.parametrize(("spec", "shape", "part"), PAIRS)
HEADS: list[HeadSpec] = [
    PointHead(),
    MapHead(),
    NormalHead("element"),
    MixtureHead(3),
    SoftHead(latent=5, local=2),
    PublishedSMD(7),
]


def possible(spec: NetSpec) -> CondSpec:
    return replace(FULL, image=0) if isinstance(spec, MLPSpec) else FULL


def network(
    spec: NetSpec, shape: tuple[int, ...], cond: CondSpec, head: HeadSpec | None = None, dtype: torch.dtype = F64
) -> Network:
    torch.manual_seed(0)
    return Network(VP(), spec, head or PointHead(), shape, cond).to(dtype)


def inputs(shape: tuple[int, ...], n: int = N, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    return Rng(0, n, "x").normal((n, *shape), dtype), torch.linspace(0.2, 1.0, n, dtype=F64)


def given(shape: tuple[int, ...], parts: Sequence[Part], n: int = N, dtype: torch.dtype = F64) -> Cond:
    """All parts. The last item lacks its second label, its second number, its tokens and half of its image."""
    size = {1: (), 2: (shape[0], 2), 3: (2, *shape[1:])}[len(shape)]
    label = torch.stack([torch.arange(n) % 3, torch.arange(n) % 4], 1)
    value, context = Rng(1, n).normal((n, 2), dtype), Rng(2, n).normal((n, 3, 5), dtype)
    image = Rng(3, n).normal((n, *size), dtype) if size else None
    mask = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])[:n]
    label[-1, 1], value[-1, 1] = -1, torch.nan
    if image is not None:
        image[-1, :2] = torch.nan
    every = {"label": label, "value": value, "image": image, "context": context}
    return Cond(**{part: every[part] for part in parts}, mask=mask if "context" in parts else None)


def mean(model: Network, x: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Tensor:
    posterior = model(x, t, cond)
    assert isinstance(posterior, HasMean)
    return posterior.mean


def far(a: Tensor, b: Tensor) -> Tensor:
    """The largest difference of each item."""
    return (a - b).detach().abs().flatten(1).amax(1)


# independence of items


@EACH
def test_a_condition_affects_its_own_item_only(spec: NetSpec, shape: tuple[int, ...], part: Part) -> None:
    model, (x, t) = network(spec, shape, possible(spec)), inputs(shape)
    cond = given(shape, model.cond.parts)
    changed = cond.dropped(torch.tensor([False, True, True, True]), part)
    moved = far(mean(model, x, t, changed), mean(model, x, t, cond))
    assert float(moved[0]) > 1e-4 and float(moved[1:].max()) < 1e-12


@NETS
@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_a_batch_is_its_items_one_by_one_with_every_condition(
    spec: NetSpec, shape: tuple[int, ...], head: HeadSpec, dtype: torch.dtype
) -> None:
    model, (x, t) = network(spec, shape, possible(spec), head, dtype), inputs(shape, dtype=dtype)
    cond = given(shape, model.cond.parts, dtype=dtype)
    with torch.no_grad():
        whole = model(x, t, cond)
        draws = whole.draws(2, Rng(5, N))
        assert draws.dtype == dtype and draws.isfinite().all()
        for k in range(N):
            alone = model(x[k : k + 1], t[k : k + 1], cond.take(torch.tensor([k])))
            assert far(alone.draws(2, Rng(5, [k]))[:, 0], draws[:, k]).max() < (1e-11 if dtype == F64 else 1e-4)


@NETS
def test_a_condition_of_one_item_applies_to_all(spec: NetSpec, shape: tuple[int, ...]) -> None:
    model, (x, t) = network(spec, shape, possible(spec)), inputs(shape)
    one = given(shape, model.cond.parts).take(slice(0, 1))
    assert torch.equal(mean(model, x, t, one), mean(model, x, t, joined([one] * N)))
    with pytest.raises(CondError, match="a condition of 2 items was given for 4"):
        model(x, t, given(shape, model.cond.parts).take(slice(0, 2)))


# missing parts


@EACH
def test_a_dropped_part_equals_a_missing_part(spec: NetSpec, shape: tuple[int, ...], part: Part) -> None:
    model, (x, t) = network(spec, shape, possible(spec)), inputs(shape)
    cond = given(shape, model.cond.parts)
    none = cond.dropped(torch.zeros(N, dtype=torch.bool), part)
    without = Cond(**{name: getattr(cond, name) for name in cond.parts if name != part})
    without = without if part == "context" else replace(without, mask=cond.mask)
    same, found = mean(model, x, t, without), mean(model, x, t, none)
    assert torch.equal(found, same) if part != "context" else float(far(found, same).max()) < 1e-13
    assert float(far(found, mean(model, x, t, cond)).max()) > 1e-4


@NETS
def test_each_label_and_each_number_is_dropped_on_its_own(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """All cases differ: both labels, either, none; and the same for two numbers."""
    model, (x, t) = network(spec, shape, possible(spec)), inputs(shape, 1)
    t = t[:1]
    labels = [Cond(label=torch.tensor([pair])) for pair in ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 2), (2, 1))]
    nan = torch.nan
    numbers = [
        Cond(value=torch.tensor([pair])) for pair in ((0.0, 0.0), (nan, 0.0), (0.0, nan), (nan, nan), (0.5, 0.0))
    ]
    for several in (labels, numbers):
        found = [mean(model, x, t, cond) for cond in several]
        assert all(float(far(a, b).max()) > 1e-4 for k, a in enumerate(found) for b in found[:k])


@NETS
def test_no_condition_equals_all_parts_missing(spec: NetSpec, shape: tuple[int, ...]) -> None:
    model, (x, t) = network(spec, shape, possible(spec)), inputs(shape)
    cond = given(shape, model.cond.parts)
    bare = cond.without(cond.parts, model.cond)
    assert torch.equal(mean(model, x, t, None), mean(model, x, t, Cond()))
    assert float(far(mean(model, x, t, None), mean(model, x, t, bare)).max()) < 1e-13


# tokens


@NETS
def test_tokens_have_no_order_and_masked_tokens_are_ignored(spec: NetSpec, shape: tuple[int, ...]) -> None:
    model, (x, t) = network(spec, shape, possible(spec)), inputs(shape)
    cond = given(shape, ("context",))
    right, order = mean(model, x, t, cond), torch.tensor([2, 0, 1])
    turned = Cond(context=cond.context[:, order], mask=cond.mask[:, order])  # type: ignore[index]
    assert float(far(mean(model, x, t, turned), right).max()) < 1e-12
    hidden = cond.context.masked_fill(~cond.mask[..., None], torch.nan)  # type: ignore[union-attr, index, operator]
    assert torch.equal(mean(model, x, t, replace(cond, context=hidden)), right)
    longer = Cond(
        context=torch.cat([cond.context, torch.full((N, 40, 5), 1e6, dtype=F64)], 1),  # type: ignore[list-item]
        mask=torch.cat([cond.mask, torch.zeros(N, 40, dtype=torch.bool)], 1),  # type: ignore[list-item]
    )
    assert float(far(mean(model, x, t, longer), right).max()) < 1e-12
    whole = Cond(context=cond.context, mask=torch.ones(N, 3, dtype=torch.bool))
    assert float(far(mean(model, x, t, Cond(context=cond.context)), mean(model, x, t, whole)).max()) < 1e-13


# refusals


@EACH
def test_an_unsupported_part_is_refused(spec: NetSpec, shape: tuple[int, ...], part: Part) -> None:
    cond = given(shape, possible(spec).parts)
    others = possible(spec).only([each for each in FULL.parts if each != part])
    model, (x, t) = network(spec, shape, others), inputs(shape)
    with pytest.raises(CondError, match=f"the condition has {part}, and the model was built for"):
        model(x, t, cond)
    alone = Cond(**{part: getattr(cond, part)})
    assert mean(network(spec, shape, FULL.only([part])), x, t, alone).isfinite().all()


@pytest.mark.parametrize(("spec", "shape"), SPECS[1:], ids=IDS[1:])
def test_an_image_on_another_grid_is_refused(spec: NetSpec, shape: tuple[int, ...]) -> None:
    model, (x, t) = network(spec, shape, FULL.only(["image"])), inputs(shape)
    size = (7, 2) if len(shape) == 2 else (2, 4, 7)
    with pytest.raises(CondError, match="the image has the size"):
        model(x, t, Cond(image=torch.zeros(N, *size)))
    turned = (2, 6) if len(shape) == 2 else (4, 6, 2)
    with pytest.raises(CondError, match="image has the shape"):
        model(x, t, Cond(image=torch.zeros(N, *turned)))


def test_an_unknown_class_is_refused_with_the_name_of_its_label() -> None:
    model, (x, t) = network(*SPECS[0], FULL.only(["label"])), inputs((3,))
    for label, says in (([2, 4], "the label shoe has the classes 0 to 3, .* found 4"), ([3, 0], "the label top has")):
        with pytest.raises(CondError, match=says):
            # the numbers of labels are read on the CPU alone: a card would have to be waited for
            model(x, t, Cond(label=torch.tensor([label] * N, device="cpu")))
    with pytest.raises(CondError, match="label has 1 columns"):
        model(x, t, torch.zeros(N, dtype=torch.long))
    with pytest.raises(CondError, match="a condition is a Cond, or a tensor of labels; found list"):
        model(x, t, [0, 1])  # type: ignore[arg-type]


def test_a_custom_net_refuses_unsupported_conditions() -> None:
    class Own(MLP):
        parts = Net.parts

    class OwnSpec(MLPSpec):
        def build(self, channels: int, out_channels: int, cond: CondSpec = UNCONDITIONED) -> MLP:
            return Own(self, channels, out_channels, cond)

    assert network(OwnSpec(16, 2), (3,), FULL.only(["label", "value"])).cond.parts == ("label", "value")
    with pytest.raises(CondError, match="OwnSpec takes label, value, and was asked for with a context of tokens"):
        network(OwnSpec(16, 2), (3,), FULL.only(["context"]))


# items of other shapes


@pytest.mark.parametrize(
    ("spec", "shape", "says"),
    [
        (MLPSpec(), (3, 4), "takes points .*: use SequenceSpec"),
        (UNetSpec(), (3, 4), "takes images .*: use SequenceSpec"),
        (SequenceSpec(), (3, 8, 8), "takes sequences .*: use UNetSpec or DiTSpec"),
        (SequenceSpec(), (3,), "use MLPSpec"),
        (UNetSpec(), (1, 4, 4, 4), "the nets are for points .*, images .*, sequences .*: reshape them"),
        (MLPSpec(), (), "an item has at least one number"),
        (DiTSpec(), (3, 0, 4), "an item has at least one number"),
    ],
    ids=str,
)
def test_items_of_another_kind_are_refused(spec: NetSpec, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Network(VP(), spec, PointHead(), shape)


@NETS
@pytest.mark.parametrize("t", [torch.rand(2), torch.rand(N, 1), torch.rand(0)], ids=lambda t: str(tuple(t.shape)))
def test_another_number_of_times_is_refused(spec: NetSpec, shape: tuple[int, ...], t: Tensor) -> None:
    with pytest.raises(ValueError, match="one time, or one for each of 4 items"):
        network(spec, shape, CondSpec())(inputs(shape)[0], t)


def test_a_sequence_may_have_any_length_but_other_channels() -> None:
    spec, shape = SPECS[3]
    for head in (PointHead(), NormalHead("element"), MixtureHead(3), MixtureHead(3, "item"), SoftHead(local=0)):
        model = network(spec, shape, CondSpec(), head)
        for length in (1, 3, 40):
            assert model(torch.zeros(2, length, 3, dtype=F64), 0.5).draws(2, Rng(0, 2)).shape == (2, 2, length, 3)
        with pytest.raises(ValueError, match=r"made for items of shape \(6, 3\), but x_t has shape \(6, 4\)"):
            model(torch.zeros(2, 6, 4, dtype=F64), 0.5)
    with pytest.raises(ValueError, match="made for items of shape"):
        network(spec, shape, CondSpec(), SoftHead())(torch.zeros(2, 5, 3, dtype=F64), 0.5)


# learning, precision, threads


@NETS
def test_every_parameter_of_a_condition_has_a_gradient(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """In a batch with each class, and with each part missing once."""
    model, (x, t) = network(spec, shape, possible(spec)), inputs(shape)
    cond = given(shape, model.cond.parts)
    value = torch.tensor([[0.1, 0.2], [torch.nan, 0.5], [0.3, torch.nan], [0.7, -0.2]], dtype=F64)
    label = torch.tensor([[0, 0], [1, 1], [2, 2], [-1, 3]])
    mean(model, x, t, replace(cond, value=value, label=label)).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert idle == [] and all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@NETS
def test_bf16_is_close_to_float32_with_every_condition(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """Under 3 % of the root mean square of the means (measured 0.2 to 0.5 %)."""
    model = network(spec, shape, possible(spec), dtype=torch.float32)
    x, t = inputs(shape, dtype=torch.float32)
    cond = given(shape, model.cond.parts, dtype=torch.float32)
    with torch.no_grad():
        full = mean(model, x, t, cond)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = mean(model, x, t, cond)
    assert half.dtype == torch.float32
    assert float((half - full).square().mean().sqrt()) < 0.03 * float(full.square().mean().sqrt())


@NETS
def test_threads_that_share_one_network_are_independent(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """Each requests other hidden states with another condition, and gets the same result as alone."""
    model, (x, t) = network(spec, shape, possible(spec)), inputs(shape)
    every = given(shape, model.cond.parts)
    depth = len(model.net.body)

    def ask(k: int) -> tuple[Tensor, dict[int, Tensor]]:
        part = model.cond.parts[k % len(model.cond.parts)]
        cond = every.dropped(torch.arange(N) != k % N, part)
        with torch.no_grad():
            posterior, side = model.with_side(x + k, t, cond, hidden=[k % depth])
        return posterior.mean, side.hidden  # type: ignore[attr-defined]

    alone = [ask(k) for k in range(24)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, range(24)))
    for (right, states), (found, hidden) in zip(alone, together, strict=True):
        assert torch.equal(found, right) and list(hidden) == list(states)
        assert all(torch.equal(hidden[k], states[k]) for k in states)
