"""Two clocks: a noise level for each signal, paths of the two times, and the legs of a path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.process import (
    CONTROL,
    ESTIMATION,
    JOINT,
    VE,
    VP,
    Flow,
    Gaussian,
    Leg,
    OnLeg,
    PerElement,
    TimePath,
    TwoClocks,
    few,
    slower,
)
from softmix.rng import Rng

F64 = torch.float64
# the shape of a pair, and its two clocks
EACH = [
    ((5,), TwoClocks(VP(), (2, 3), 1)),
    ((4, 3), TwoClocks(Flow(), (1, 2), 2)),
    ((3, 4, 5), TwoClocks(VE(), (2, 1), 3)),
]
CLOCKS = pytest.mark.parametrize(("shape", "clocks"), EACH, ids=["points", "sequences", "images"])


def some(shape: tuple[int, ...], name: str, n: int = 3) -> Tensor:
    return Rng(0, n, name).normal((n, *shape), F64)


@CLOCKS
def test_each_signal_has_the_noise_of_its_own_time(shape: tuple[int, ...], clocks: TwoClocks) -> None:
    t = torch.tensor([[0.2, 0.9], [0.7, 0.0], [1.0, 0.4]], dtype=F64)
    noised = clocks.noise(some(shape, "x0"), t, Rng(1, 3))
    for stream in (0, 1):
        x0, xt, z = (clocks.part(each, stream) for each in (noised.x0, noised.xt, noised.z))
        assert x0.shape[1:] == clocks.shape_of(shape, stream)
        assert torch.equal(xt, clocks.base.state(x0, t[:, stream], z))
    assert torch.equal(clocks.part(noised.xt, 1)[1], clocks.part(noised.x0, 1)[1]), "clean at time 0"
    assert torch.equal(noised.t, t) and noised.logsnr.shape == (3, 2)


@CLOCKS
def test_a_pair_is_its_two_parts(shape: tuple[int, ...], clocks: TwoClocks) -> None:
    z = some(shape, "z")
    assert torch.equal(clocks.joined(clocks.part(z, 0), clocks.part(z, 1)), z)
    draws = z.expand(2, *z.shape)
    assert torch.equal(clocks.part(draws, 1)[0], clocks.part(z, 1)), "draws have an axis more"
    wide = z.new_ones(3, *(1,) * len(shape))
    assert torch.equal(clocks.part(wide, 1), wide), "one number for all channels is one for each signal"


def test_one_pair_of_times_serves_all_items() -> None:
    _, clocks = EACH[0]
    x0, t = some((5,), "x0"), torch.tensor([[0.3, 0.6]], dtype=F64)
    assert torch.equal(clocks.noise(x0, t, Rng(1, 3)).xt, clocks.noise(x0, t.expand(3, 2), Rng(1, 3)).xt)
    with pytest.raises(ValueError, match="one for each of 3 items"):
        clocks.noise(x0, t.expand(2, 2), Rng(1, 3))


def test_a_network_is_told_the_least_time_of_a_clean_signal() -> None:
    clocks = TwoClocks(VP(), (1, 1), 1, low=0.01)
    t = torch.tensor([[0.0, 0.5]], dtype=F64)
    assert clocks.logsnr(t).tolist() == [[float(VP().logsnr(0.01)), float(VP().logsnr(0.5))]]
    assert float(clocks.element_logsnr(t)[0, 0]) == float("inf") and float(clocks.sigma(t)[0, 0]) == 0


@pytest.mark.parametrize("t", [0.5, torch.tensor(0.5), torch.tensor([0.5, 0.5]), torch.zeros(2, 3)])
def test_a_single_time_is_refused(t: Tensor | float) -> None:
    _, clocks = EACH[0]
    for ask in (
        clocks.alpha,
        clocks.sigma,
        clocks.logsnr,
        clocks.time,
        lambda t: clocks.noise(some((5,), "x"), t, Rng(0, 3)),
    ):
        with pytest.raises(ValueError, match="it has one for x and one for y"):
            ask(t)
    for grid in (clocks.grid, lambda n: few(clocks, n)):
        with pytest.raises(ValueError, match="it has one for x and one for y"):
            grid(4)


def test_clocks_that_cannot_be_are_refused() -> None:
    for sizes, axes, low in (((0, 1), 3, 0.0), ((1, 1), 4, 0.0), ((1, 1), 3, 1.0)):
        with pytest.raises(ValueError, match="two clocks need two numbers of channels"):
            TwoClocks(VP(), sizes, axes, low)
    with pytest.raises(ValueError, match="PerElement is not"):
        TwoClocks(PerElement(VP(), torch.ones(2)), (1, 1), 1)


# paths


@pytest.mark.parametrize(
    ("corners", "sentence"),
    [
        (((1, 1),), "two corners"),
        (((1, 1), (0, -0.1)), "times in"),
        (((1, 1.5), (0, 0)), "times in"),
        (((1, 0.5), (0, 0.6)), "times fall"),
        (((1, 1), (1, 1)), "at least one does"),
        (((1, 0.5), (0.2, 0)), "one of them becomes clean"),
        (((1, 1), (0.5, 0.5), (0, 0.2)), "one of them becomes clean"),
    ],
)
def test_a_path_that_cannot_be_walked_is_refused(corners: tuple[tuple[float, float], ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TimePath(corners)


def test_the_paths_of_the_tasks() -> None:
    assert [leg.moving for path in (CONTROL, ESTIMATION, JOINT) for leg in path.legs] == [(0,), (1,), (0, 1)]
    path = TimePath(((1.0, 1.0), (0.6, 1.0), (0.6, 0.3), (0.2, 0.1), (0.0, 0.0)))
    assert [leg.moving for leg in path.legs] == [(0,), (1,), (0, 1), (0, 1)] and path.start == (1.0, 1.0)


@pytest.mark.parametrize(
    "leg", [Leg((1, 1), (0, 0)), Leg((0.9, 0.3), (0.9, 0.1)), Leg((0.4, 0.7), (0.2, 0.6)), Leg((1, 0), (0, 0))], ids=str
)
def test_a_leg_is_straight_and_exact_at_its_ends(leg: Leg) -> None:
    grid = leg.grid(torch.linspace(1, 0, 5, dtype=F64))
    times = leg.times(grid)
    assert tuple(times[0].tolist()) == leg.first and tuple(times[-1].tolist()) == pytest.approx(leg.last, abs=1e-15)
    assert torch.allclose(times.diff(dim=0), times.diff(dim=0)[:1].expand(4, 2), atol=1e-12)
    assert torch.equal(times[:, leg.leader], grid), "the time of the leg is that of its leader"
    for held in {0, 1} - {*leg.moving}:
        assert set(times[:, held].tolist()) == {leg.first[held]}
    assert torch.allclose(leg.times(0.5 * float(grid[0] + grid[-1])), times[2:3])


def test_the_process_of_a_leg_is_the_base_unless_the_times_differ() -> None:
    _, clocks = EACH[0]
    for leg in (Leg((1, 0.3), (0.5, 0.3)), Leg((0.2, 1), (0.2, 0)), Leg((0.8, 0.8), (0.1, 0.1))):
        assert leg.process(clocks) is clocks.base
    assert Leg((1, 0.5), (0, 0)).process(clocks) == OnLeg(clocks, Leg((1, 0.5), (0, 0)))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("u", "v"), [(1.0, 0.6), (0.5, 0.0)])
def test_a_step_on_a_leg_is_a_step_of_each_signal_between_its_own_times(u: float, v: float, eta: float) -> None:
    shape, clocks = EACH[2]
    leg = Leg((1.0, 0.4), (0.0, 0.0))
    process = leg.process(clocks)
    x, x0 = some(shape, "x"), some(shape, "x0")
    mean, fresh = process.kernel(x, x0, u, v, eta)
    for stream, share in ((0, 1.0), (1, 0.4)):
        own = (clocks.part(each, stream) for each in (x, x0))
        right, sd = clocks.base.kernel(*own, share * u, share * v, eta)
        assert torch.allclose(clocks.part(mean, stream), right, rtol=1e-10, atol=1e-10)
        assert isinstance(fresh, Tensor)
        assert torch.allclose(clocks.part(fresh.expand_as(x), stream), torch.as_tensor(sd, dtype=F64), atol=1e-10)


def test_the_clock_of_a_leg_is_that_of_its_leader() -> None:
    _, clocks = EACH[0]
    process = OnLeg(clocks, Leg((0.3, 0.8), (0.0, 0.0)))
    assert float(process.logsnr(0.8)) == float(VP().logsnr(0.8)) and float(process.time(process.logsnr(0.4))) == 0.4
    level = process.element_logsnr(0.8)
    assert float(level[0, 4]) == float(VP().logsnr(0.8)) and float(level[0, 0]) == float(VP().logsnr(0.3))


# speeds


@pytest.mark.parametrize("base", [VP(), VE(), Flow()], ids=str)
def test_a_slower_condition_has_a_share_of_the_noise(base: Gaussian) -> None:
    t = torch.linspace(0, 1, 11, dtype=F64)
    for ratio in (0.0, 0.1, 1.0):
        own = slower(base, ratio, t)
        right = ratio * base.sigma(t) / base.alpha(t)
        assert torch.allclose(base.sigma(own) / base.alpha(own), right, rtol=1e-6, atol=1e-9)
        assert float(own[0]) == 0 and bool((own <= t).all())
    with pytest.raises(ValueError, match="a ratio from 0 to 1"):
        slower(base, 1.5, t)


def test_the_clocks_are_computed_on_the_device_of_the_state(device: torch.device) -> None:
    for shape, clocks in EACH:
        x0 = some(shape, "x0").to(device).float()
        t = torch.tensor([[0.2, 0.9], [0.7, 0.0], [1.0, 0.4]], device=device)
        noised = clocks.noise(x0, t, Rng(0, 3, device=device))
        assert noised.xt.device.type == device.type and noised.logsnr.device.type == device.type
        assert slower(clocks.base, 0.3, t[:, 0]).device.type == device.type
