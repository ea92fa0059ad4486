"""Networks learn known dependences on conditions; and the side outputs of blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from softmix.cond import Cond, CondSpec, class_label
from softmix.denoiser import MapHead, Network, PointHead, SoftHead
from softmix.net import DiTSpec, MLPSpec, NetSpec, SequenceSpec, UNetSpec
from softmix.net.base import SideInputs, State, places
from softmix.process import VP
from softmix.rng import Rng

F64 = torch.float64


def trained(model: Network, batch: Callable[[int, Rng], tuple[Tensor, Cond]], steps: int, n: int = 128) -> Network:
    """A network trained by squared error, mostly at high noise, since there the condition matters most."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for k in range(steps):
        rng = Rng(k, n, "batch")
        x0, cond = batch(n, rng)
        t = 0.2 + 0.8 * rng.uniform((n,), F64)
        noised = VP().noise(x0, t, Rng(k, n, "noise"))
        loss = (model(noised.xt, t, cond).mean - x0).square().mean()  # type: ignore[attr-defined]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return model.eval()


def error(model: Network, xt: Tensor, t: float, cond: Cond | None, truth: Tensor) -> float:
    """The root mean square distance of the means from the true means."""
    with torch.no_grad():
        return float((model(xt, t, cond).mean - truth).square().mean().sqrt())  # type: ignore[attr-defined]


def posterior_mean(prior: Tensor, var: float, xt: Tensor, t: float) -> Tensor:
    """E[x0 | xt] for x0 ~ N(prior, var)."""
    alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
    return prior + alpha * var / (alpha**2 * var + sigma**2) * (xt - alpha * prior)


def test_two_labels_are_learned_and_each_can_be_left_out() -> None:
    """x0 ~ N(a[first] + b[second], 0.2^2). At t = 1 a missing label gives the mean over its classes. The rms of the
    means is 0.7 to 1. The rms error was 0.06 with both labels, 0.16 and 0.20 with one, 0.05 without.
    """
    a = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[0.0, -1.0], [0.0, 0.2], [0.0, 1.5]])

    def batch(n: int, rng: Rng) -> tuple[Tensor, Cond]:
        first, second = (rng.uniform((n,)) * 2).long(), (rng.uniform((n,)) * 3).long()
        cond = Cond(label=torch.stack([first, second], 1))
        for column in (0, 1):
            cond = cond.dropped(rng.uniform((n,)) > 0.3, "label", column)
        return a[first] + b[second] + 0.2 * rng.normal((n, 2)), cond

    torch.manual_seed(0)
    spec = CondSpec((("first", 2), ("second", 3)))
    model = trained(Network(VP(), MLPSpec(64, 2, 4), PointHead(), (2,), spec), batch, 400)
    x = Rng(9, 6).normal((6, 2))
    first, second = torch.arange(6) % 2, torch.arange(6) % 3
    cond = Cond(label=torch.stack([first, second], 1))
    for t in (0.6, 0.9):
        xt = float(VP().alpha(t)) * (a[first] + b[second]) + float(VP().sigma(t)) * x
        assert error(model, xt, t, cond, posterior_mean(a[first] + b[second], 0.04, xt, t)) < 0.12
    assert error(model, x, 1.0, cond.without(("second",), spec), a[first] + b.mean(0)) < 0.3
    assert error(model, x, 1.0, cond.without(("first",), spec), a.mean(0) + b[second]) < 0.3
    assert error(model, x, 1.0, None, (a.mean(0) + b.mean(0)).expand(6, 2)) < 0.15


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (UNetSpec(8, (1,), 1, 1, False), (1, 6, 6)),
        (DiTSpec(32, 2, 1), (1, 6, 6)),
        (SequenceSpec(32, 2), (12, 1)),
    ],
    ids=["unet", "dit", "sequence"],
)
def test_an_image_is_learned_place_by_place(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """x0 = image + N(0, 0.1^2) of white noise: E[x0 | xt, image] is known and the same at all places. For a nan image
    the prior is N(0, 1.01). The rms of the image is 1, and the rms error was 0.06 to 0.22.
    """

    def batch(n: int, rng: Rng) -> tuple[Tensor, Cond]:
        image = rng.normal((n, *shape))
        cond = Cond(image=image).dropped(rng.uniform((n,)) > 0.2, "image")
        return image + 0.1 * rng.normal((n, *shape)), cond

    torch.manual_seed(0)
    model = trained(Network(VP(), spec, PointHead(), shape, CondSpec(image=1)), batch, 150, 16)
    image, z, t = Rng(8, 16).normal((16, *shape)), Rng(9, 16).normal((16, *shape)), 0.7
    xt = float(VP().alpha(t)) * image + float(VP().sigma(t)) * z
    assert error(model, xt, t, Cond(image=image), posterior_mean(image, 0.01, xt, t)) < 0.35
    assert error(model, xt, t, None, posterior_mean(torch.zeros_like(image), 1.01, xt, t)) < 0.35


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(MLPSpec(32, 2, 0), (3,)), (UNetSpec(8, (1,), 1, 1), (3, 2, 2)), (DiTSpec(32, 2, 1), (3, 2, 2))],
    ids=["mlp", "unet", "dit"],
)
def test_tokens_are_learned_through_their_mask(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """x0 is the mean of one to four tokens. At t = 1 only the tokens carry it, and without tokens the mean is 0. The
    rms of x0 is 0.7, and the rms error was 0.24 to 0.26.
    """

    def batch(n: int, rng: Rng) -> tuple[Tensor, Cond]:
        tokens, mask = rng.normal((n, 4, 3)), rng.uniform((n, 4)) > 0.5
        mask[:, 0] = True
        x0 = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        x0 = x0.reshape(n, 3, *(1,) * (len(shape) - 1)).expand(n, *shape)
        return x0, Cond(context=tokens, mask=mask).dropped(rng.uniform((n,)) > 0.2, "context")

    torch.manual_seed(0)
    model = trained(Network(VP(), spec, PointHead(), shape, CondSpec(context=3), "x0"), batch, 250, 48)
    x0, cond = batch(64, Rng(10**6, 64, "batch"))
    assert cond.mask is not None
    told = cond.mask.any(1).reshape(-1, *(1,) * len(shape))
    assert error(model, Rng(9, 64).normal((64, *shape)), 1.0, cond, torch.where(told, x0, 0)) < 0.4


def test_a_real_number_is_learned_with_and_without_it() -> None:
    """x0 ~ N(sin(3 v), 0.1^2) for v ~ N(0, 1): E[x0] = 0 without v. The rms error was 0.23 of 0.7, and 0.13."""

    def batch(n: int, rng: Rng) -> tuple[Tensor, Cond]:
        v = rng.normal((n, 1))
        return (3 * v).sin() + 0.1 * rng.normal((n, 1)), Cond(value=v).dropped(rng.uniform((n,)) > 0.2, "value")

    torch.manual_seed(0)
    model = trained(Network(VP(), MLPSpec(64, 2, 4), PointHead(), (1,), CondSpec(values=1)), batch, 400)
    v = torch.linspace(-2, 2, 50)[:, None]
    assert error(model, Rng(9, 50).normal((50, 1)), 1.0, Cond(value=v), (3 * v).sin()) < 0.35
    assert error(model, Rng(9, 50).normal((50, 1)), 1.0, None, torch.zeros(50, 1)) < 0.25


# side outputs of blocks


class Balanced(nn.Module):
    """A block that also reports the balance of its gates, like a mixture of experts."""

    def __init__(self, inner: nn.Module, width: int):
        super().__init__()
        self.inner, self.gate = inner, nn.Linear(width, 3)

    def forward(self, state: State, side: SideInputs) -> State:
        side.put("balance", self.gate(side.emb).softmax(-1).mean(0).square().sum())
        return self.inner(state, side)


def balanced(head: PointHead | SoftHead | MapHead) -> Network:
    torch.manual_seed(0)
    model = Network(VP(), MLPSpec(16, 3), head, (2,), class_label(2)).double()
    for k in (0, 2):
        model.net.body[k] = Balanced(model.net.body[k], 16).double()
    return model


def test_extra_outputs_of_blocks_reach_a_loss() -> None:
    model, x, label = balanced(PointHead()), Rng(0, 4).normal((4, 2), F64), torch.tensor([0, 1, -1, 0])
    _, side = model.with_side(x, 0.5, label)
    right = [model.net.body[k].gate(side.emb).softmax(-1).mean(0).square().sum() for k in (0, 2)]
    assert torch.allclose(torch.stack(side.extra["balance"]), torch.stack(right))
    torch.stack(side.extra["balance"]).sum().backward()
    assert all(bool(model.net.body[k].gate.weight.grad.abs().sum() > 0) for k in (0, 2))


def test_a_call_stores_nothing_for_the_next() -> None:
    model, x = balanced(MapHead()), Rng(0, 4).normal((4, 2), F64)
    found = [model.with_side(x, 0.5, to=to)[1].extra["balance"] for to in (0.5, 0.1)]
    assert [len(each) for each in found] == [2, 2] and found[0][0] != found[1][0]


def test_draws_add_the_extra_outputs_of_their_blocks() -> None:
    """The first block ran once, before the latent; the last ran for every draw."""
    model, x = balanced(SoftHead("head", latent=3)), Rng(0, 4).normal((4, 2), F64)
    posterior, side = model.with_side(x, 0.5, hidden=["body.0", 2])
    assert len(side.extra["balance"]) == 1 and list(side.hidden) == [0] and len(side.hidden[0]) == 4
    posterior.draws(5, Rng(0, 4))
    assert len(side.extra["balance"]) == 2 and len(side.hidden[2]) == 20


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(MLPSpec(16, 3), (2,)), (UNetSpec(8), (2, 4, 4)), (DiTSpec(16, 4), (2, 4, 4)), (SequenceSpec(16, 4), (5, 2))],
    ids=["mlp", "unet", "dit", "sequence"],
)
def test_hidden_states_are_selected_by_name_or_number(spec: NetSpec, shape: tuple[int, ...]) -> None:
    model, x = Network(VP(), spec, PointHead(), shape, class_label(2)).double(), Rng(0, 3).normal((3, *shape), F64)
    net, level, label = model.net, torch.zeros(3, dtype=F64), torch.tensor([0, 1, -1])
    plain = net(x, level, label)
    out, hidden = net(x, level, label, hidden=["body.1", 0, -1])
    assert torch.equal(out, plain) and list(hidden) == ["body.1", 0, -1]
    side = net.side(x, level, label)
    state = net.run(net.start(x, side), side, 0, 1)
    assert torch.equal(hidden[0], state[0])
    assert torch.equal(hidden["body.1"], net.run(state, side, 1, 2)[0])
    assert torch.equal(net.out((hidden[-1],), side, net.size(x)), plain)
    assert side.hidden == {} and net(x, level, label, hidden=[])[1] == {}
    features = model.features(x, 0.5)
    _, side = model.with_side(x, 0.5, None, hidden=range(len(features)))
    assert all(torch.equal(places(side.hidden[k]), h) for k, h in enumerate(features))


@pytest.mark.parametrize("block", [3, -4, "body.3", "head", "body.x", "body.0.norm"])
def test_unknown_blocks_are_refused(block: int | str) -> None:
    net = MLPSpec(16, 3).build(2, 2)
    with pytest.raises(ValueError, match=r"was asked for; there are body\.0 to body\.2"):
        net(torch.zeros(1, 2), torch.zeros(1), hidden=[block])
