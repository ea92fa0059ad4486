"""Several draws: each part of the network runs once for all of them, and the gradients are those of a loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from softmix.cond import class_label
from softmix.denoiser import Network, PointHead, SoftHead
from softmix.loss import Energy, FeatureEnergy, FeatureExtractor, Square, Stage, loss_of
from softmix.loss.energy import energy, power
from softmix.loss.pairs import all_pairs
from softmix.net import DiTSpec, NetSpec, UNetSpec
from softmix.net.base import SideInputs, repeat
from softmix.process import VP, Noised
from softmix.rng import Rng

F64 = torch.float64
COUNT, SHAPE = 6, (1, 8, 8)
UNET, DIT = UNetSpec(width=16, depth=1), DiTSpec(width=32, depth=4, patch=2)
NETS = pytest.mark.parametrize("net", [UNET, DIT], ids=["unet", "dit"])
WHERE = pytest.mark.parametrize("where", ["all", "decoder", "head"])


def network(net: NetSpec = UNET, classes: int = 0, dtype: torch.dtype = F64, **options: Any) -> Network:
    torch.manual_seed(0)
    head = SoftHead(**options)
    made = Network(VP(), net, head, SHAPE, class_label(classes)) if classes else Network(VP(), net, head, SHAPE)
    nn.init.normal_(made.head.off, std=0.1)  # type: ignore[arg-type, union-attr]
    return made.to(dtype)


def noised(count: int = COUNT, dtype: torch.dtype = F64, cond: Tensor | None = None) -> Noised:
    x0 = Rng(0, count, "x0").normal((count, *SHAPE), dtype)
    return VP().noise(x0, torch.linspace(0.1, 0.9, count, dtype=F64), Rng(1, count), cond)


def gradients(loss: Tensor, model: nn.Module) -> Tensor:
    """The gradient of a loss in all parameters, as one vector. A parameter without a gradient gives zeros."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def assert_close(found: Tensor, right: Tensor) -> None:
    assert float((found - right).norm()) <= 1e-6 * float(right.norm())
    assert float(right.norm()) > 0


# the draws of a soft head


@NETS
@WHERE
def test_the_gradients_of_m_draws_are_those_of_a_loop(net: NetSpec, where: str) -> None:
    """One evaluation of the network for each draw, against one for all draws."""
    model, data = network(net, where=where), noised()
    weights = Rng(3, COUNT).normal((COUNT, 4, *SHAPE), F64).transpose(0, 1)
    together = model(data.xt, data.t)
    eta = together.latents(4, Rng(2, COUNT))  # type: ignore[attr-defined]
    found = gradients((together.head(eta) * weights).sum(), model)  # type: ignore[attr-defined]
    each = [model(data.xt, data.t).head(one[None])[0] for one in eta]  # type: ignore[attr-defined]
    right = gradients(sum((x * w).sum() for x, w in zip(each, weights, strict=True)), model)  # type: ignore[arg-type]
    assert_close(found, right)


@NETS
@WHERE
def test_a_draw_does_not_depend_on_the_other_items_and_draws(net: NetSpec, where: str) -> None:
    model, data, labels = network(net, 3, where=where), noised(), torch.tensor([0, 1, 2, -1, 0, 1])
    posterior = model(data.xt, data.t, labels)
    eta = posterior.latents(3, Rng(2, COUNT))  # type: ignore[attr-defined]
    draws = posterior.head(eta)  # type: ignore[attr-defined]
    for k in range(COUNT):
        rows = slice(k, k + 1)
        alone = model(data.xt[rows], data.t[rows], labels[rows])
        assert torch.allclose(alone.head(eta[1:2, rows])[0], draws[1, rows], atol=1e-12)  # type: ignore[attr-defined]


@NETS
def test_the_trunk_runs_once_and_the_other_blocks_once_for_all_draws(net: NetSpec) -> None:
    """The batch size of every block: B before the latent enters, m B after it."""
    model, data = network(net), noised()
    sizes: list[int] = []
    for block in model.net.body:
        block.register_forward_hook(lambda block, given, state: sizes.append(len(state[0])))
    model(data.xt, data.t).draws(5, Rng(2, COUNT))
    split = model.net.splits["decoder"]
    assert sizes == [COUNT] * split + [5 * COUNT] * (len(model.net.body) - split)


def test_a_repeated_state_keeps_its_channels_last() -> None:
    last = Rng(0, 2).normal((2, 3, 4, 5)).contiguous(memory_format=torch.channels_last)
    for x in (last, last.contiguous(), last[:, 0], last[..., :1, :1].contiguous(memory_format=torch.channels_last)):
        (several,) = repeat((x,), 3)
        assert torch.equal(several, torch.cat([x] * 3))
    assert repeat((last,), 3)[0].is_contiguous(memory_format=torch.channels_last)


# groups of items


@NETS
@WHERE
def test_the_groups_of_a_posterior_are_the_posteriors_of_the_groups(net: NetSpec, where: str) -> None:
    model, data, labels = network(net, 3, where=where), noised(), torch.tensor([0, 1, 2, -1, 0, 1])
    rng = Rng(2, COUNT)
    groups = model(data.xt, data.t, labels).split([2, 1, 3])  # type: ignore[attr-defined]
    for group, (start, stop) in zip(groups, [(0, 2), (2, 3), (3, 6)], strict=True):
        rows = slice(start, stop)
        alone = model(data.xt[rows], data.t[rows], labels[rows])
        assert torch.allclose(group.draws(2, rng.take(rows)), alone.draws(2, rng.take(rows)), atol=1e-12)
        assert torch.allclose(group.mean, alone.mean, atol=1e-12)  # type: ignore[attr-defined]


def test_the_side_inputs_of_groups() -> None:
    side = SideInputs(torch.arange(5.0)[:, None], torch.arange(5.0), mask=torch.arange(5)[:, None] > 2)
    first, second = side.split([2, 3])
    assert first.logsnr.tolist() == [0, 1] and second.emb.flatten().tolist() == [2, 3, 4]
    assert second.mask is not None and second.mask.flatten().tolist() == [False, True, True]
    assert first.context is None and first.hidden is side.hidden


# the operations of a step


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def step(model: Network, loss: Any, stage: Stage | None = None, count: int = 16) -> Callable[[], Tensor]:
    data = noised(count, torch.float32)
    return lambda: gradients(loss_of(loss, model, data, Rng(2, count), stage).mean(), model)


def plain_operations(net: NetSpec) -> int:
    torch.manual_seed(0)
    return operations(step(Network(VP(), net, PointHead(), SHAPE), Square("v")))


def share_after(net: NetSpec, where: str, count: int = 16) -> float:
    """The share of the network's operations after the block at which the latent enters, forward and backward.

    The layers of the embedding and the stem are before it.
    """
    inner = network(net, where=where, mean="none", dtype=torch.float32).net
    x = Rng(0, count).normal((count, *SHAPE))
    side = inner.side(x, torch.zeros(count))
    split, last = inner.splits[where], len(inner.body)  # type: ignore[index]
    given = [h.detach().requires_grad_() for h in (side.emb, *inner.run(inner.start(x, side), side, 0, split))]
    weights = [p for layer in (*inner.body[split:], inner.norm, inner.leave) for p in layer.parameters()]  # type: ignore[union-attr]

    def work() -> None:
        # an operation on the leaves, since the counter cannot stop at a leaf
        emb, *state = (1.0 * tensor for tensor in given)
        after = side.with_emb(emb)
        out = inner.out(inner.run(tuple(state), after, split, last), after, inner.size(x))
        torch.autograd.grad(out.sum(), [*given, *weights], allow_unused=True)

    return operations(work) / plain_operations(net)


def latent_operations(net: NetSpec, where: str, m: int, count: int = 16) -> int:
    """The operations of the latent's own layers, g, f and g_local, for m draws."""
    model = network(net, where=where, mean="none", dtype=torch.float32)
    head, total = model.head, 0
    for name, layer in head.named_modules():
        if isinstance(layer, nn.Linear):
            rows = count * (torch.Size(head.size).numel() if "local" in name else 1)  # type: ignore[arg-type]
            total += 3 * 2 * layer.in_features * layer.out_features * rows * m
    return total


@NETS
@WHERE
@pytest.mark.parametrize("m", [2, 8])
def test_a_step_with_m_draws_costs_1_plus_m_minus_1_times_s(net: NetSpec, where: str, m: int) -> None:
    """s is the share of the network after the block at which the latent enters.

    The latent's own layers are counted apart. The energy score has no matrix products.
    """
    model = network(net, where=where, mean="none", dtype=torch.float32)
    found = operations(step(model, Energy(m=m, weight="v"))) - latent_operations(net, where, m)
    law = (1 + (m - 1) * share_after(net, where)) * plain_operations(net)
    assert found <= 1.02 * law
    assert found >= 0.8 * law


@NETS
def test_the_first_part_of_the_feature_score_costs_as_much_as_a_plain_step(net: NetSpec) -> None:
    """While the mean is trained, nothing of the latent runs."""
    model = network(net, dtype=torch.float32)
    assert operations(step(model, FeatureEnergy(), Stage(0.2))) == plain_operations(net)


def test_the_first_part_of_the_feature_score_runs_no_layer_of_the_latent() -> None:
    model, called = network(dtype=torch.float32), []
    for name, layer in model.head.named_modules():
        layer.register_forward_hook(lambda layer, given, out, name=name: called.append(name) if name else None)
    step(model, FeatureEnergy(), Stage(0.2))()
    assert called == []


def frozen(model: Network) -> FeatureExtractor:
    return FeatureExtractor(copy.deepcopy(model), 0.05, Rng(7, 20).normal((20, *SHAPE), next(model.parameters()).dtype))


def test_the_second_part_of_the_feature_score_costs_the_sum_of_its_parts() -> None:
    """Mean + draws through the decoder + features of data, forward, and of draws, forward and back to the draws."""
    count, loss = 20, FeatureEnergy(blank=0.5, high=0.1)
    model = network(dtype=torch.float32)
    extractor, drawn = frozen(model), 12
    plain = operations(step(model, FeatureEnergy(), Stage(0.2), count)) / count
    several = operations(step(model, Energy(m=2, mean=0.0), count=drawn))
    x = Rng(0, 2 * drawn).normal((2 * drawn, *SHAPE)).requires_grad_()
    features = operations(lambda: torch.autograd.grad(sum(h.sum() for h in extractor(1.0 * x)), x))  # type: ignore[arg-type]
    data = operations(lambda: extractor(x.detach()[:count]))
    found = operations(step(model, loss, Stage(0.9, extractor), count))
    parts = count * plain + several + features + data
    near = operations(lambda: [all_pairs(1.0 * h, h[:count]) for h in extractor(x[: 2 * 10])])
    assert parts <= found <= 1.02 * parts + 2 * near


def test_the_weights_of_the_frozen_network_get_no_gradient() -> None:
    extractor = frozen(network())
    assert not any(p.requires_grad for p in extractor.parameters())
    x = Rng(0, 3).normal((3, *SHAPE), F64).requires_grad_()
    assert all(h.requires_grad for h in extractor(x)) and not any(h.requires_grad for h in extractor(x.detach()))


def test_the_second_part_calls_the_network_once_and_the_frozen_one_for_draws_and_for_data() -> None:
    model, sizes, seen = network(), [], []
    extractor = frozen(model)
    model.net.body[0].register_forward_hook(lambda block, given, state: sizes.append(len(state[0])))
    extractor.network.net.body[0].register_forward_hook(lambda block, given, state: seen.append(len(state[0])))
    data = noised(20)
    FeatureEnergy(blank=0.5, high=0.2).ask(model, data, Rng(2, 20), Stage(0.9, extractor))
    assert sizes == [20 + 10 + 4] and seen == [2 * 14, 20]


# the values and gradients of the scores


def parts_apart(loss: FeatureEnergy, model: Network, data: Noised, extractor: FeatureExtractor) -> Tensor:
    """The loss with a call of the network for each part and each draw, and with all features one by one."""
    count = len(data.t)
    at_1, high, low = (round(share * count) for share in (loss.blank, loss.high, loss.mean))
    rng, border = Rng(2, count), float(VP().time(loss.until))
    out = torch.zeros(count, dtype=data.x0.dtype)
    near = data.take(slice(count - low, count))
    near = near.at(border * near.t)
    mean = model(near.xt, near.t).mean  # type: ignore[attr-defined]
    w = 1 + near.logsnr.exp().to(mean)
    out = out + nn.functional.pad(w * (mean - near.x0).square().flatten(1).mean(1), (count - low, 0))
    ends = data.take(slice(0, at_1)).at(1.0)
    draws = one_by_one(model, ends, loss.m, rng.take(slice(0, at_1))).flatten(0, 1)
    whole = loss.pixels * all_pairs(draws.flatten(1)[..., None], data.x0.flatten(1)[..., None])
    scores = []
    for a, b in zip(extractor(draws), extractor(data.x0), strict=True):
        scores.append((all_pairs(a, b) + all_pairs(a.mean(2, keepdim=True), b.mean(2, keepdim=True))) / 2)
    out = out + nn.functional.pad((whole + loss.features * torch.stack(scores).mean()).expand(at_1), (0, count - at_1))
    rows = slice(at_1, at_1 + high)
    above = data.take(rows)
    above = above.at(border + (1 - border) * above.t)
    draws = one_by_one(model, above, loss.m, rng.take(rows))
    apart = loss.pixels * energy(draws, above.x0, lambda difference: power(difference, 1.0))
    scores = []
    for a, b in zip(extractor(draws.flatten(0, 1)), extractor(above.x0), strict=True):
        a = a.unflatten(0, draws.shape[:2])
        each = energy(a, b, lambda d: ((d**2).mean(2) + 1e-6).sqrt().mean(2))
        means = energy(a.mean(3), b.mean(2), lambda d: ((d**2).mean(2) + 1e-6).sqrt())
        scores.append((each + means) / 2)
    apart = apart + loss.features * torch.stack(scores).mean(0)
    return out + nn.functional.pad(apart, (at_1, count - at_1 - high))


def one_by_one(model: Network, data: Noised, m: int, rng: Rng) -> Tensor:
    """m draws, with an evaluation of the whole network for each."""
    eta = model(data.xt, data.t).latents(m, rng)  # type: ignore[attr-defined]
    return torch.stack([model(data.xt, data.t).head(one[None])[0] for one in eta])  # type: ignore[attr-defined]


@pytest.mark.parametrize("m", [2, 3])
def test_the_feature_score_is_the_sum_of_its_parts_one_by_one(m: int) -> None:
    model, data = network(), noised(10)
    loss, extractor = FeatureEnergy(blank=0.4, high=0.3, mean=0.6, m=m, features=0.7), frozen(model)
    found = loss.ask(model, data, Rng(2, 10), Stage(0.9, extractor))
    right = parts_apart(loss, model, data, extractor)
    assert torch.allclose(found, right, rtol=1e-9)
    weights = torch.linspace(0.5, 1.5, 10, dtype=F64)
    assert_close(gradients((weights * found).sum(), model), gradients((weights * right).sum(), model))


# a step without host synchronisation


class NoHostReads(TorchDispatchMode):
    """Raises if a tensor is read by the host, or if a shape depends on the values of a tensor."""

    refused: Sequence[str] = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(func.name().split("::")[1].startswith(name) for name in self.refused):
            raise AssertionError(f"{func.name()} reads a tensor on the host")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_reads() -> Iterator[None]:
    with NoHostReads():
        yield


def test_a_host_read_is_seen() -> None:
    with pytest.raises(AssertionError, match="reads a tensor"), no_host_reads():
        torch.ones(3).sum().item()


@pytest.mark.parametrize("classes", [0, 3])
def test_the_losses_of_draws_read_no_tensor(classes: int) -> None:
    model = network(classes=classes, dtype=torch.float32)
    data = noised(20, torch.float32, torch.arange(20) % 3 if classes else None)
    extractor, rng = frozen(model), Rng(2, 20)
    losses = [(Energy(m=3), None), (FeatureEnergy(), Stage(0.1)), (FeatureEnergy(), Stage(0.9, extractor))]
    for loss, stage in losses:
        warm = loss_of(loss, model, data, rng, stage)  # type: ignore[arg-type]
        rng.draws = 0
        with no_host_reads():
            again = loss_of(loss, model, data, rng, stage)  # type: ignore[arg-type]
            gradients(again.mean(), model)
        rng.draws = 0
        assert torch.equal(warm, again)
