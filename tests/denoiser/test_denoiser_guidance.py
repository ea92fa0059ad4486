"""Guidance by any subset of a condition, on a law with exactly known conditional means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond, CondError, CondSpec
from softmix.denoiser import CallCounter, Network, PointHead, SoftHead, guided
from softmix.hub.keywords import Keywords
from softmix.net import MLPSpec
from softmix.posterior import Point, Posterior
from softmix.process import VP
from softmix.rng import Rng

F64 = torch.float64
SPEC = CondSpec((("top", 2), ("shoe", 3)), values=1, context=2)
A = torch.tensor([1.0, 5.0], dtype=F64)
B = torch.tensor([10.0, 40.0, 70.0], dtype=F64)


class Sum:
    """x0 ~ N(a[top] + b[shoe] + 1000 v + the sum of tokens, 1), over the given parts.

    It returns this mean at any time.
    """

    process, shape, cond = VP(), (1,), SPEC

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        assert isinstance(cond, Cond)
        mean = torch.zeros(len(xt), dtype=F64)
        if cond.label is not None:
            for table, column in zip((A, B), cond.label.unbind(1), strict=True):
                mean = mean + torch.where(column < 0, 0, table[column])
        if cond.value is not None:
            mean = mean + 1000 * cond.value[:, 0].nan_to_num(0)
        if cond.context is not None:
            mask = cond.mask if cond.mask is not None else torch.ones(cond.context.shape[:2], dtype=torch.bool)
            mean = mean + (cond.context.sum(2) * mask).sum(1)
        return Point(mean[:, None])


COND = Cond(
    label=torch.tensor([[0, 2], [1, 0], [1, -1]]),
    value=torch.tensor([[0.5], [1.5], [torch.nan]], dtype=F64),
    context=torch.full((3, 2, 2), 2.5e4, dtype=F64),
)
TOP, SHOE = torch.tensor([1.0, 5.0, 5.0], dtype=F64), torch.tensor([70.0, 10.0, 0.0], dtype=F64)
VALUE, CONTEXT = torch.tensor([500.0, 1500.0, 0.0], dtype=F64), torch.full((3,), 1e5, dtype=F64)
XT = torch.zeros(3, 1, dtype=F64)


def said(denoiser: object, cond: object = None) -> Tensor:
    return denoiser(XT, 0.5, COND if cond is None else cond).mean[:, 0]  # type: ignore[operator]


def test_the_test_denoiser_returns_the_sum_of_the_given_parts() -> None:
    assert torch.equal(said(Sum()), TOP + SHOE + VALUE + CONTEXT)


@pytest.mark.parametrize(
    ("drop", "dropped"),
    [
        (None, TOP + SHOE + VALUE + CONTEXT),
        (("label", "value", "context"), TOP + SHOE + VALUE + CONTEXT),
        (("label",), TOP + SHOE),
        ("label", TOP + SHOE),
        (("top",), TOP),
        ("shoe", SHOE),
        (("shoe", "value"), SHOE + VALUE),
        (["context"], CONTEXT),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_the_scale_applies_to_the_dropped_parts_only(
    drop: str | tuple[str, ...] | None, dropped: Tensor, scale: float
) -> None:
    whole = TOP + SHOE + VALUE + CONTEXT
    assert torch.allclose(said(guided(scale, drop=drop)(Sum())), whole + (scale - 1) * dropped.to(whole))


def test_wraps_of_several_parts_combine() -> None:
    found = said(guided(3.0, drop="context")(guided(2.0, drop=("top",))(Sum())))
    assert torch.allclose(found, 2 * TOP + SHOE + VALUE + 3 * CONTEXT)


def test_the_names_of_labels_pass_through_other_wraps() -> None:
    counted = CallCounter(Sum())
    assert torch.allclose(said(guided(2.0, drop="shoe")(counted)), TOP + 2 * SHOE + VALUE + CONTEXT)
    assert counted.calls == 2


@pytest.mark.parametrize("rows", [1, 3])
def test_a_custom_unconditional_condition(rows: int) -> None:
    other = Cond(label=torch.tensor([[1, 1]] * rows))
    whole = TOP + SHOE + VALUE + CONTEXT
    assert torch.allclose(said(guided(4.0, other)(Sum())), 45.0 + 4 * (whole - 45))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: guided(2.0, drop=()), "at least one"),
        (lambda: guided(2.0, COND, drop="label"), "give one of the two"),
    ],
)
def test_contradictory_arguments_are_refused_at_once(make: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("drop", "cond", "says"),
    [
        ("image", COND, "image was to be dropped, and the condition has label, value, context"),
        ("top", Cond(value=COND.value), "label was to be dropped, and the condition has value"),
        ("hat", COND, "'hat' was to be dropped; there are label, value, context, top, shoe"),
        (None, Cond(), "guidance needs a condition"),
        (None, None, "guidance needs a condition"),
        ("label", torch.zeros(3), "needs unconditional"),
        (None, Keywords(a=torch.zeros(3, 1)), "needs unconditional"),
    ],
    ids=str,
)
def test_guidance_without_effect_is_refused(drop: str | None, cond: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        guided(2.0, drop=drop)(Sum())(XT, 0.5, cond)  # type: ignore[arg-type]


def test_unconditional_has_the_type_and_length_of_the_condition() -> None:
    with pytest.raises(ValueError, match="give unconditional as a Cond too"):
        guided(2.0, torch.zeros(1))(Sum())(XT, 0.5, COND)
    with pytest.raises(ValueError, match="has 2 rows, and the condition 3"):
        guided(2.0, COND.take(slice(0, 2)))(Sum())(XT, 0.5, COND)


def model(labels: tuple[tuple[str, int], ...], head: PointHead | SoftHead) -> Network:
    torch.manual_seed(0)
    return Network(VP(), MLPSpec(16, 2), head, (2,), CondSpec(labels, values=1)).double()


def test_a_tensor_of_labels_equals_a_condition() -> None:
    """One label, dropped with everything, as the part or by its name."""
    one, x, label = model((("class", 3),), PointHead()), Rng(0, 4).normal((4, 2), F64), torch.tensor([0, 1, 2, -1])
    right = guided(3.0)(one)(x, 0.5, Cond(label=label)).mean  # type: ignore[attr-defined]
    for drop in (None, "label", "class"):
        assert torch.equal(guided(3.0, drop=drop)(one)(x, 0.5, label).mean, right)  # type: ignore[attr-defined]
    told, unconditional = (one(x, 0.5, cond).mean for cond in (label, None))  # type: ignore[attr-defined]
    assert torch.allclose(right, unconditional + 3 * (told - unconditional))


def test_draws_of_a_network_are_guided_by_one_of_two_labels() -> None:
    two, x = model((("top", 3), ("shoe", 2)), SoftHead(latent=3)), Rng(0, 3).normal((3, 2), F64)
    cond = Cond(label=torch.tensor([[0, 1], [1, 0], [2, -1]]), value=torch.tensor([[0.1], [0.2], [torch.nan]]))
    less = Cond(label=torch.tensor([[0, -1], [1, -1], [2, -1]]), value=cond.value)
    found = guided(3.0, drop="shoe")(two)(x, 0.5, cond).draws(4, Rng(1, 3))
    a, b = (two(x, 0.5, each).draws(4, Rng(1, 3)) for each in (cond, less))
    assert torch.allclose(found, b + 3 * (a - b)) and torch.equal(a[:, 2], b[:, 2])
    assert float((a - b)[:, :2].detach().abs().min()) > 0
    with pytest.raises(CondError, match="'hat' was to be dropped"):
        guided(3.0, drop="hat")(two)(x, 0.5, cond)
