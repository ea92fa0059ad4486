"""`Align`: its sum written out, its gradients, its end, its refusals, and the resizing of grids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softmix.config import from_json, to_json
from softmix.denoiser import Network, PointHead, PublishedSMD, SoftHead
from softmix.loss import (
    Align,
    Consistency,
    Energy,
    FeatureEnergy,
    Group,
    Loss,
    RandomEncoder,
    Square,
    SquarePerElement,
    Stage,
    loss_of,
)
from softmix.loss.align import on_grid, resized, similarity
from softmix.net import DiTSpec, MLPSpec, NetSpec, UNetSpec
from softmix.process import VP, Flow, Noised
from softmix.rng import Rng

pytestmark = pytest.mark.usefixtures("on_device")

F64 = torch.float64
COUNT, SHAPE = 5, (2, 6, 8)
DIT = DiTSpec(width=16, depth=4, patch=2)


class Quadrants(nn.Module):
    """Known features of the 2 x 3 cells of a 6 x 8 image: its mean, its largest value, 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x0: Tensor) -> Tensor:
        cells = x0.unfold(2, 3, 3).unfold(3, 4, 2)
        values = cells.mean((1, 4, 5)), cells.amax((1, 4, 5)), torch.ones_like(cells[:, 0, :, :, 0, 0])
        return self.scale * torch.stack(values, 1)


@dataclass(frozen=True)
class QuadrantsEncoder:
    """An encoder of the caller."""

    channels: int = 3

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        return Quadrants()


def network(net: NetSpec = DIT, head: Any = None, process: VP | Flow | None = None) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Network(process or VP(), net, head or PointHead(), SHAPE).double()


def noised(count: int = COUNT, process: VP | Flow | None = None) -> Noised:
    x0 = Rng(0, count, "x0").normal((count, *SHAPE), F64).tanh()
    return (process or VP()).noise(x0, torch.linspace(0.1, 0.9, count, dtype=F64), Rng(1, count))


def aligned(**settings: Any) -> Align:
    return Align(QuadrantsEncoder(), **settings)  # type: ignore[arg-type]


def modules(loss: Align, one: Network) -> Mapping[str, nn.Module]:
    return {"model": one, **{name: module.double() for name, module in loss.build(one).items()}}


def ask(loss: Align, one: Network, given: Noised, made: Mapping[str, nn.Module], progress: float = 0.0) -> Tensor:
    return loss_of(loss, one, given, Rng(2, len(given.x0), "loss"), Stage(progress, None, made))


def base_of(loss: Loss, one: Network, given: Noised) -> Tensor:
    return loss(one(given.xt, given.t), given, Rng(2, len(given.x0), "loss"))


def by_hand(one: Network, given: Noised, made: Mapping[str, nn.Module], block: int) -> Tensor:
    """-(1 / N) sum_n cos(proj(h_n), y_n) by loops, with h from running the blocks one by one."""
    net, process = one.net, given.process
    alpha, sigma = (part(given.t)[:, None, None, None] for part in (process.alpha, process.sigma))  # type: ignore[attr-defined]
    scaled = given.xt / (alpha**2 + sigma**2).sqrt()
    side = net.side(scaled, given.logsnr)
    state = net.start(scaled, side)
    for k in range(block):
        state = net.body[k](state, side)
    features = Quadrants().double()(given.x0)
    sums = []
    for item in range(len(given.x0)):
        cosines = []
        for row in range(3):
            for column in range(4):
                # tokens of 2 x 2 pixels on a 3 x 4 grid; features on a 2 x 3 grid
                rows = [r for r in range(2) if r * 3 < (row + 1) * 2 and (r + 1) * 3 > row * 2]
                columns = [c for c in range(3) if c * 4 < (column + 1) * 3 and (c + 1) * 4 > column * 3]
                y = torch.stack([features[item, :, r, c] for r in rows for c in columns]).mean(0)
                p = made["projector"](state[0][item, row * 4 + column])
                cosines.append(p @ y / (p.norm() * y.norm()))
        sums.append(-torch.stack(cosines).mean())
    return torch.stack(sums)


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("process", [VP(), Flow()], ids=str)
def test_the_loss_is_the_base_and_the_weighted_cosine_at_the_state_after_the_block(
    block: int, process: VP | Flow
) -> None:
    one, given, loss = network(process=process), noised(process=process), aligned(block=block, weight=0.7, width=8)
    made = modules(loss, one)
    found, right = ask(loss, one, given, made), base_of(loss.base, one, given) + 0.7 * by_hand(one, given, made, block)
    assert found.dtype == F64 and found.shape == (COUNT,)
    assert torch.allclose(found, right, rtol=0, atol=1e-12)


def test_the_projector_is_three_layers_at_each_token() -> None:
    layers = aligned(width=8).build(network())["projector"]
    kinds = [(type(layer).__name__, *getattr(layer, "weight", torch.empty(0)).shape) for layer in layers.children()]
    assert kinds == [("Linear", 8, 16), ("SiLU", 0), ("Linear", 8, 8), ("SiLU", 0), ("Linear", 3, 8)]


def gradients(value: Tensor, module: nn.Module) -> dict[str, Tensor | None]:
    names, weights = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, weights, allow_unused=True, retain_graph=True), strict=True))


def test_gradients_reach_the_projector_and_the_blocks_before_the_state_and_never_the_encoder() -> None:
    one, given, loss = network(), noised(), aligned(block=2)
    made = modules(loss, one)
    assert not any(each.requires_grad for each in made["encoder"].parameters())
    assert not made["encoder"].training
    # an encoder that could be trained gets no gradient either
    made["encoder"].requires_grad_(True)
    term = (ask(loss, one, given, made) - base_of(loss.base, one, given)).sum()
    assert all(g is None for g in gradients(term, made["encoder"]).values())
    assert all(g is not None and g.abs().max() > 0 for g in gradients(term, made["projector"]).values())
    found = gradients(term, one.net.body)
    before = [g for name, g in found.items() if name[0] in "01"]
    after = [g for name, g in found.items() if name[0] in "23"]
    assert before and all(g is not None and g.abs().max() > 1e-9 for g in before)
    # rounding alone: the two base losses are the same function
    assert after and all(g is None or g.abs().max() < 1e-12 for g in after)


def test_the_gradient_makes_the_cosine_larger() -> None:
    one, given, loss = network(), noised(), aligned(weight=1.0)
    made = modules(loss, one)
    weights = list(made["projector"].parameters())
    before = ask(loss, one, given, made)
    term = float((before - base_of(loss.base, one, given)).sum().detach())
    for weight, slope in zip(weights, torch.autograd.grad(before.sum(), weights), strict=True):
        weight.data -= 1e-3 * slope
    assert float(by_hand(one, given, made, 2).sum().detach()) < term


def test_from_until_on_the_loss_is_that_of_the_base_bit_for_bit() -> None:
    one, given, loss = network(), noised(), aligned(until=0.5)
    made, base = modules(loss, one), base_of(aligned().base, network(), given)
    assert not torch.equal(ask(loss, one, given, made, 0.4999), base)
    assert torch.equal(ask(loss, one, given, made, 0.5), base) and torch.equal(ask(loss, one, given, made, 1.0), base)
    assert [loss.phase(progress) for progress in (0.0, 0.4999, 0.5, 1.0)] == [True, True, False, False]
    assert aligned().phase(1.0) and not torch.equal(ask(aligned(), one, given, made, 1.0), base)
    # the gradient of the projector is there and 0: several processes exchange it
    found = gradients(ask(loss, one, given, made, 0.7).sum(), made["projector"])
    assert all(g is not None and float(g.abs().max()) == 0 for g in found.values())


def test_without_an_end_the_progress_is_not_read() -> None:
    def read() -> float:
        raise AssertionError("the progress was read")

    one, given = network(), noised()
    made = modules(aligned(), one)
    stage = Stage(read, None, made)  # type: ignore[arg-type]
    assert len(aligned().ask(one, given, Rng(2, COUNT), stage)) == COUNT
    with pytest.raises(AssertionError, match="was read"):
        aligned(until=0.5).ask(one, given, Rng(2, COUNT), stage)


def test_weight_0_is_the_base() -> None:
    one, given, loss = network(), noised(), aligned(weight=0.0)
    assert torch.equal(ask(loss, one, given, modules(loss, one)), base_of(loss.base, one, given))


def test_the_initial_weights_of_the_network_are_those_without_the_loss() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        one = Network(VP(), DIT, PointHead(), SHAPE)
        first = aligned().build(one)
        torch.default_generator.manual_seed(0)
        Network(VP(), DIT, PointHead(), SHAPE)
        # nor do the weights of the projector depend on the kind of encoder
        second = Align(RandomEncoder(2)).build(one)
    assert all(
        torch.equal(a, b)
        for a, b in zip(list(first["projector"].parameters())[:4], second["projector"].parameters(), strict=False)
    )


# other losses, heads and nets


@pytest.mark.parametrize("base", [Energy(m=3), Square("eps")], ids=str)
def test_a_soft_mixture_is_aligned_before_its_latent(base: Energy | Square) -> None:
    one, given = network(head=SoftHead()), noised()
    loss = aligned(base=base, block=2)
    made = modules(loss, one)
    right = base_of(base, one, given) + 0.5 * by_hand(one, given, made, 2)
    assert torch.allclose(ask(loss, one, given, made), right, rtol=0, atol=1e-12)
    assert loss.proper == base.proper
    with pytest.raises(ValueError, match=r"block 3, and the head runs it later.*before those of the latent"):
        ask(aligned(base=base, block=3), one, given, made)


def test_a_head_that_runs_all_blocks_for_each_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="the head runs it later"):
        loss, one = aligned(base=Energy(m=2)), network(head=PublishedSMD(latent=4))
        ask(loss, one, noised(), modules(loss, one))


@pytest.mark.parametrize(("block", "grid"), [(1, (6, 8)), (2, (3, 4)), (4, (3, 4)), (5, (6, 8))])
def test_each_place_of_a_feature_map_is_a_token(block: int, grid: tuple[int, int]) -> None:
    one, given = network(UNetSpec(width=8, mults=(1, 2), depth=1, patch=1)), noised()
    loss = aligned(block=block)
    made = modules(loss, one)
    side = one.with_side(given.xt, given.t, hidden=(block - 1,))[1]
    state = side.hidden[block - 1]
    assert state.shape[2:] == grid
    target = resized(made["encoder"](given.x0), grid)
    term = torch.stack(
        [
            torch.cosine_similarity(made["projector"](state[:, :, i, j]), target[:, :, i, j])
            for i in range(grid[0])
            for j in range(grid[1])
        ]
    ).mean(0)
    right = base_of(loss.base, one, given) - 0.5 * term
    assert torch.allclose(ask(loss, one, given, made), right, rtol=0, atol=1e-12)


def test_images_of_other_sizes_have_their_own_grid() -> None:
    """7 x 5 pixels are 4 x 3 tokens of 2 x 2: the sides are padded."""
    one, loss = network(), Align(RandomEncoder(2))
    made = modules(loss, one)
    x0 = Rng(0, 2, "x0").normal((2, 2, 7, 5), F64)
    given = VP().noise(x0, torch.tensor([0.3, 0.6], dtype=F64), Rng(1, 2))
    assert ask(loss, one, given, made).isfinite().all()
    state = one.with_side(given.xt, given.t, hidden=(1,))[1].hidden[1]
    assert on_grid(state, x0, 2)[1] == (4, 3)
    with pytest.raises(ValueError, match=r"12 tokens were found, and squares of 3 pixels of \[7, 5\] are 3 x 2"):
        on_grid(state, x0, 3)


# lanes


def test_a_batch_is_its_single_items() -> None:
    one, given, loss = network(), noised(), Align(RandomEncoder(4))
    made = modules(loss, one)
    single = [
        loss.ask(one, given.take(torch.tensor([k])), Rng(2, COUNT).take(slice(k, k + 1)), Stage(0.0, None, made))
        for k in range(COUNT)
    ]
    assert torch.allclose(torch.cat(single), loss.ask(one, given, Rng(2, COUNT), Stage(0.0, None, made)), atol=1e-12)


def test_several_threads_align_one_network_at_the_same_time() -> None:
    one, loss = network(), Align(RandomEncoder(4))
    made, parts = modules(loss, one), [noised(n) for n in (1, 2, 3, 5, 7, 11)]

    def work(given: Noised) -> Tensor:
        value = ask(loss, one, given, made)
        return torch.cat([value, *(g.flatten() for g in torch.autograd.grad(value.sum(), list(one.net.body[0].parameters())))])  # fmt: skip # noqa: E501

    alone = [work(given) for given in parts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(alone, pool.map(work, parts), strict=True))
    # nothing is stored on modules
    assert not any("hidden" in name for module in one.modules() for name in vars(module))


# grids


def test_constant_features_stay_constant_and_the_same_grid_stays_the_same() -> None:
    features = Rng(0, 3).normal((3, 4, 5, 6), F64)
    assert torch.equal(resized(features, (5, 6)), features)
    constant = torch.full((3, 4, 5, 6), 0.75, dtype=F64)
    for grid in ((1, 1), (2, 3), (4, 4), (7, 9), (10, 12)):
        assert torch.allclose(resized(constant, grid), torch.full((3, 4, *grid), 0.75, dtype=F64), rtol=0, atol=1e-15)


def test_half_the_places_are_means_of_squares_and_twice_the_places_are_copies() -> None:
    features = Rng(0, 3).normal((3, 4, 4, 6), F64)
    halves = features.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean((3, 5))
    assert torch.allclose(resized(features, (2, 3)), halves, rtol=0, atol=1e-15)
    twice = features.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(resized(features, (8, 12)), twice, rtol=0, atol=1e-15)


def test_cosines_are_computed_in_float32() -> None:
    a, b = (Rng(k, 2, "a").normal((2, 3, 200)) for k in range(2))
    half = similarity(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.float32
    assert torch.allclose(half, similarity(a.bfloat16().double(), b.bfloat16().double()).float(), atol=1e-6)
    assert torch.allclose(similarity(a.double(), -3 * a.double()), -torch.ones(2, dtype=F64))


# refusals and settings


def test_bad_settings_are_refused() -> None:
    for bad in ({"block": 0}, {"width": 0}, {"weight": -0.1}, {"weight": math.nan}, {"until": 1.1}, {"until": -0.1}):
        with pytest.raises(ValueError, match="Align needs block >= 1"):
            aligned(**bad)
    for objective in (FeatureEnergy(), Consistency(), aligned()):
        with pytest.raises(ValueError, match="is an objective, which calls the network itself"):
            aligned(base=objective)


def test_a_block_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="block 5, and the network has blocks 1 to 4"):
        aligned(block=5).build(network())
    assert "projector" in aligned(block=4).build(network())


def test_points_and_nets_without_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Align is for images, and the items have shape \(3,\)"):
        aligned().build(Network(VP(), MLPSpec(width=8, depth=2), PointHead(), (3,)))


def test_a_denoiser_without_hidden_states_is_refused() -> None:
    one, loss = network(), aligned()

    class Wrapped:
        process = VP()

        def __call__(self, *given: Any) -> Any:
            return one(*given)

    with pytest.raises(ValueError, match="Wrapped shows none"):
        loss.ask(Wrapped(), noised(), Rng(2, COUNT), Stage(0.0, None, modules(loss, one)))  # type: ignore[arg-type]


def test_the_base_keeps_its_own_demands() -> None:
    @dataclass(frozen=True)
    class Demanding(Square):
        whole: bool = True
        suits: tuple[str, dict[str, Any]] = ("heun", {})

        def fits(self, head: object, process: object) -> None:
            raise ValueError(f"not {head} with {process}")

        def fits_cond(self, spec: object) -> None:
            raise ValueError(f"not {spec}")

    loss = aligned(base=Demanding())
    assert loss.whole and loss.suits == ("heun", {}) and not loss.together
    assert not aligned().whole and aligned().suits is None
    with pytest.raises(ValueError, match="not head with process"):
        loss.fits("head", "process")
    with pytest.raises(ValueError, match="not spec"):
        loss.fits_cond("spec")  # type: ignore[arg-type]
    aligned().fits("head", "process")


def test_it_is_written_and_read_and_cites_its_papers() -> None:
    loss = Align(RandomEncoder(8, 3), SquarePerElement(), 3, 0.25, 64, 0.5)
    assert from_json(Align, to_json(loss)) == loss
    own = aligned(block=1)
    assert from_json(Align, to_json(own, (QuadrantsEncoder,)), (QuadrantsEncoder,)) == own
    assert loss.cites[:2] == ("repa", "haste") and replace(loss, until=1.0, base=Energy()).cites == (
        "repa",
        *Energy.cites,
    )
    assert dict(loss.groups) == {"projector": Group(), "encoder": Group()}
