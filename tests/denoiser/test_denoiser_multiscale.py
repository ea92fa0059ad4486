"""A model of several networks: its law is that of the cascade, and each network is asked at its own times."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from softmix.cond import Cond, CondSpec
from softmix.data.toys import ToyMixture
from softmix.denoiser import CallCounter, Denoiser, MultiScale, Network, PointHead, from_frame, in_frame
from softmix.net import UNetSpec
from softmix.oracle import FramedProblem, MixtureProblem, correlated, gaussian, ks, standardised
from softmix.posterior import HasMean, Implicit, Point, Posterior
from softmix.process import VP, NonUniform, from_pyramid, pyramid
from softmix.rng import Rng
from softmix.sampler import adams, ancestral, ddim, drive, sample
from softmix.sampler.drive import finish

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
PROCESS = NonUniform((4, 4), 2)
TIMES = (1 / 3, 2 / 3)


def problem(process: NonUniform = PROCESS, many: bool = False) -> FramedProblem:
    return FramedProblem((correlated if many else gaussian)((1, *process.size)), process)


def coarse_problem(whole: FramedProblem, levels: int) -> FramedProblem:
    """The law of the means of 2^levels x 2^levels pixels, through the coarse process."""
    law, shape, side = whole.problem.law, whole.shape, 2**levels
    assert isinstance(whole.process, NonUniform)
    process = whole.process.coarse(levels)
    if not levels:
        return whole

    def small(x: Tensor) -> Tensor:
        return avg_pool2d(x.reshape(-1, *shape), side).flatten(1)

    half = torch.stack([small(each.mT).mT for each in law.factors])
    own = ToyMixture("coarse", law.weights, small(law.means), torch.linalg.cholesky(half @ half.mT))
    return FramedProblem(MixtureProblem("coarse", own, VP(), (1, *process.size)), process)


def exact(whole: FramedProblem, stages: int) -> list[CallCounter]:
    return [CallCounter(coarse_problem(whole, level).denoiser()) for level in range(stages)]


def start(n: int, process: NonUniform = PROCESS) -> Tensor:
    return process.prior((n, 1, *process.size), Rng(7, n)).double()


def mean(posterior: Posterior) -> Tensor:
    assert isinstance(posterior, HasMean)
    return posterior.mean


# the posterior


def test_below_the_first_end_it_is_the_first_model() -> None:
    whole = problem()
    x = start(5)
    for t in (0.05, 1 / 3):
        assert torch.equal(mean(MultiScale(exact(whole, 3))(x, t)), mean(whole.denoiser()(x, t)))


@pytest.mark.parametrize("last", [-6.0, -8.0, -10.0])
def test_above_an_end_its_coarse_mean_is_exact_up_to_the_signal_of_the_dropped_bands(last: float) -> None:
    """The signal left in a coefficient is e^(last / 2); measured at most 1.1 of it."""
    process = replace(PROCESS, last=last)
    whole = problem(process)
    x0, _ = whole.draw(50, Rng(0, 50))
    for t, side in ((0.34, 2), (0.5, 2), (0.67, 4), (0.9, 4)):
        xt = process.noise(x0.to(start(1)), t, Rng(1, 50)).xt
        found, right = (avg_pool2d(mean(each(xt, t)), side) for each in (MultiScale(exact(whole, 3)), whole.denoiser()))
        assert float((found - right).abs().max()) < 2 * math.exp(last / 2)
    # one step is enough to see that it is not the same
    assert not torch.equal(found, right)


def test_the_details_that_nobody_knows_are_those_of_the_mean_image() -> None:
    whole, image = problem(), torch.arange(16, dtype=F64).reshape(1, 4, 4) ** 2
    x = start(3)
    plain, filled = (mean(MultiScale(exact(whole, 3), each)(x, 0.5)) for each in (None, image))
    assert torch.equal(plain, avg_pool2d(plain, 2).repeat_interleave(2, -1).repeat_interleave(2, -2))
    off = pyramid(filled - plain, 1)
    assert torch.allclose(off[..., :2, :2], torch.zeros((), dtype=F64), atol=1e-12)
    assert torch.allclose(off[0], pyramid(image, 1) * (off[0] != 0), atol=1e-12) and float(off.abs().max()) > 1


def test_draws_of_a_coarse_posterior_are_enlarged() -> None:
    class Soft:
        def __init__(self, process: NonUniform):
            self.process = process

        def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
            return Implicit(lambda eta: eta, len(xt), tuple(xt.shape[1:]), xt)

    posterior = MultiScale([Soft(PROCESS), Soft(PROCESS.coarse(1))])(start(3), 0.5)
    assert not isinstance(posterior, HasMean)
    draws = posterior.draws(4, Rng(0, 3))
    small = avg_pool2d(draws.flatten(0, 1), 2)
    assert draws.shape == (4, 3, 1, 4, 4) and float(draws[0].sub(draws[1]).abs().min()) > 0
    assert torch.allclose(draws.flatten(0, 1), small.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert posterior.sample(Rng(0, 3)).shape == (3, 1, 4, 4)


# the cascade


def joined(coarse: Tensor, details: Tensor) -> Tensor:
    """The image with these means of 2 x 2 pixels, and the other coefficients of `details`."""
    y = details.clone()
    y[..., : coarse.shape[-2], : coarse.shape[-1]] = 2 * coarse
    return from_pyramid(y, 1)


def test_ddim_takes_the_steps_of_the_cascade() -> None:
    """The coarse image alone from t = 1 to 2/3; then with noise of the middle band to 1/3; then with the finest."""
    whole, n = problem(many=True), 20
    grid = torch.tensor([1.0, 0.8, 2 / 3, 0.5, 1 / 3, 0.2, 0.1, 0.0], dtype=F64, device="cpu")
    x = start(n)
    found = finish(drive(MultiScale(exact(whole, 3)), ddim, x, grid, Rng(0, n)))
    z = PROCESS.enter(x, 1.0) / PROCESS.base.sigma(1.0).to(x)
    state = avg_pool2d(x, 4)
    for level, first, end in ((2, 0, 2), (1, 2, 4), (0, 4, 7)):
        own = coarse_problem(whole, level)
        assert isinstance(own.process, NonUniform)
        if first:
            height, width = own.process.size
            state = joined(state, own.process.base.sigma(grid[first]).to(z) * z[..., :height, :width])
        state = finish(drive(own.denoiser(), ddim, state, grid[first : end + 1], Rng(0, n)))
    assert torch.allclose(found, state, atol=1e-9)


def test_ancestral_steps_reach_independent_noise_in_a_dropped_band() -> None:
    """At T_1 from t = 1: the finest band is N(0, sigma^2) and knows nothing of the coarse image. The largest of 12
    variances and 48 products over 4,000 items, in standard errors."""
    whole, n = problem(many=True), 4000
    grid = torch.tensor([1.0, 2 / 3, 0.5, 1 / 3], dtype=F64, device="cpu")
    y = pyramid(finish(drive(MultiScale(exact(whole, 3)), ancestral, start(n), grid, Rng(0, n))), 1)[:, 0]
    corner = y[:, :2, :2].flatten(1)
    details = torch.cat([y[:, :2, 2:].flatten(1), y[:, 2:].flatten(1)], 1) / PROCESS.base.sigma(1 / 3)[0, 0, 3, 3].to(y)
    products = torch.cat([details**2 - 1, (details[:, :, None] * (corner - corner.mean(0))[:, None]).flatten(1)], 1)
    assert float((products.mean(0) / products.std(0)).abs().max()) * math.sqrt(n) < 4.3


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("steps", [3, 12])
def test_draws_of_exact_models_have_the_law_of_the_data(stages: int, steps: int) -> None:
    """sqrt(N) KS and moments of 1000 items. The signal that is lost is 1e-4 nats."""
    whole = problem(many=True)
    models = exact(whole, stages)
    x = sample(MultiScale(models), 1000, steps, sampler=ancestral, shape=whole.shape, seed=steps, batch=1000)
    assert ks(x, whole.problem.law) < 2.2 and standardised(x, whole.problem.law) < 4.9
    # each model is asked in its own stage alone
    grid = PROCESS.grid(steps)[:-1]
    asked = [
        int(sum(sum(end < float(t) - 1e-6 for end in TIMES[: stages - 1]) == level for t in grid)) for level in range(3)
    ]
    assert [model.calls for model in models] == asked[:stages] and sum(asked) == steps


def test_bands_dropped_too_early_fail_the_comparison() -> None:
    whole = problem(NonUniform((4, 4), 1, (0.2, 1.0), last=2.0), many=True)
    x = sample(MultiScale(exact(whole, 2)), 1000, 12, sampler=ancestral, shape=whole.shape, batch=1000)
    assert ks(x, whole.problem.law) > 3


def test_a_step_over_an_end_loses_the_details(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps, one of which leads from 0.5 to 0.05. With the ends among the times the law is right."""
    whole = problem(many=True)
    right, model = multi(whole), multi(whole)
    monkeypatch.setattr(model, "check_grid", lambda grid: None)
    times = torch.tensor([1.0, 0.8, 0.5, 0.05, 0.0], dtype=F64, device="cpu")
    runs = [
        sample(each, 1000, sampler=ancestral, shape=whole.shape, batch=1000, grid=grid)
        for each, grid in ((right, right.fitted(times)), (model, times))
    ]
    assert ks(runs[0], whole.problem.law) < 2.2 and standardised(runs[0], whole.problem.law) < 4.9
    assert ks(runs[1], whole.problem.law) > 3 or standardised(runs[1], whole.problem.law) > 6


def test_a_solver_of_the_mean_runs_unchanged() -> None:
    """60 steps of adams, by one exact model and by three, to the signal that is lost, e^-5 of a coefficient."""
    whole, x, grid = problem(), start(20), PROCESS.grid(60)
    one, three = (finish(drive(each, adams, x, grid, Rng(0, 20))) for each in (whole.denoiser(), multi(whole)))
    assert 0 < float((one - three).square().mean().sqrt()) < math.exp(-5)


def multi(whole: FramedProblem) -> MultiScale:
    return MultiScale(exact(whole, 3))


def test_the_ends_of_the_stages_take_the_place_of_the_nearest_times() -> None:
    whole = multi(problem())

    def fitted(*times: float) -> list[float]:
        return whole.fitted(torch.tensor(times, dtype=F64, device="cpu")).tolist()

    assert fitted(1.0, 0.7, 0.5, 0.3, 0.1, 0.0) == [1.0, 2 / 3, 0.5, 1 / 3, 0.1, 0.0]
    assert fitted(1.0, 0.99, 0.98, 0.97, 0.0) == [1.0, 0.99, 2 / 3, 1 / 3, 0.0]
    assert fitted(1.0, 0.1, 0.05, 0.0) == [1.0, 2 / 3, 1 / 3, 0.0]
    assert fitted(0.5, 0.2, 0.1) == [0.5, 1 / 3, 0.1]
    # a fitted grid stays
    assert fitted(*fitted(1.0, 0.7, 0.4, 0.2, 0.0)) == fitted(1.0, 0.7, 0.4, 0.2, 0.0)
    with pytest.raises(ValueError, match=r"2 steps were asked for, and a model of 3 stages .* take at least 3"):
        sample(whole, 2, 2, sampler=ddim, shape=(1, 4, 4))


def test_a_step_over_the_end_of_a_stage_is_refused() -> None:
    whole = multi(problem())

    def run(*times: float, model: MultiScale = whole) -> Tensor:
        return finish(drive(model, ddim, start(2), torch.tensor(times, dtype=F64, device="cpu"), Rng(0, 2)))

    with pytest.raises(ValueError, match=r"from t = 0.5 to 0.3 .* details that begin at 0.333: give .*model.fitted"):
        run(1.0, 2 / 3, 0.5, 0.3, 0.0)
    with pytest.raises(ValueError, match=r"from t = 0.9 to 0.66 .* begin at 0.667"):
        run(1.0, 0.9, 0.66, 1 / 3, 0.0)
    run(1.0, 2 / 3, 1 / 3)
    run(1.0, 2 / 3, 1 / 3, 0.0)
    run(1.0, 0.0, model=MultiScale(exact(problem(), 1)))


# networks


def networks(device: torch.device, cond: CondSpec = CondSpec()) -> list[Network]:  # noqa: B008
    net = UNetSpec(width=8, mults=(1,), depth=1, patch=1, attention=False)
    processes = [PROCESS.coarse(level) for level in range(3)]
    return [Network(each, net, PointHead(), (1, *each.size), cond, "x0").to(device) for each in processes]


def test_networks_are_sampled_on_their_device(device: torch.device) -> None:
    models = networks(device)
    whole = MultiScale(models)
    assert len(list(whole.parameters())) == sum(len(list(each.parameters())) for each in models)
    assert whole.shape == (1, 4, 4) and whole.classes == 0
    x = sample(whole, 3, 6, sampler=adams, seed=1)
    assert x.device.type == device.type and torch.isfinite(x).all()
    # a batch of three is three batches of one
    one = sample(whole, 1, 6, sampler=adams, seed=1, first=2)
    assert torch.allclose(x[2:], one, atol=1e-5)


def test_an_image_of_the_condition_is_averaged_too(device: torch.device) -> None:
    whole = MultiScale(networks(device, CondSpec(image=1)))
    image = torch.arange(16.0, device=device).reshape(1, 1, 4, 4)
    x = torch.ones(1, 1, 4, 4, device=device)
    found = mean(whole(x, 0.5, Cond(image=image)))
    right = mean(whole.models[1](avg_pool2d(x, 2), 0.5, Cond(image=avg_pool2d(image, 2))))
    assert torch.allclose(avg_pool2d(found, 2), right, atol=1e-6) and whole.cond.image == 1
    other = mean(whole(x, 0.5, Cond(image=image + 1)))
    assert not torch.allclose(found, other)


def test_times_of_one_stage_are_a_batch_and_others_are_refused() -> None:
    whole, x = multi(problem()), start(2)
    together = mean(whole(x, torch.tensor([0.4, 0.6], dtype=F64)))
    alone = torch.cat([mean(whole(x[k : k + 1], t)) for k, t in enumerate((0.4, 0.6))])
    assert torch.allclose(together, alone, atol=1e-12)
    with pytest.raises(ValueError, match="one time for the whole batch, or times in one stage"):
        whole(x, torch.tensor([0.3, 0.4], dtype=F64))


# refusals


def test_models_that_do_not_belong_together_are_refused() -> None:
    models: list[Denoiser] = list(exact(problem(), 3))
    with pytest.raises(ValueError, match="begins with a model of a NonUniform process; found no model"):
        MultiScale([])
    with pytest.raises(ValueError, match="begins with a model of a NonUniform process; found VP"):
        MultiScale([gaussian((1, 4, 4)).denoiser()])
    with pytest.raises(ValueError, match=r"models\[1\] has the process .*train it with .*coarse\(1\)"):
        MultiScale([models[0], models[2]])
    with pytest.raises(ValueError, match="4 models were given, and a process of 2 detail bands has at most 3 stages"):
        MultiScale([*models, models[2]])
    later = coarse_problem(problem(NonUniform((4, 4), 2, last=-9.0)), 1).denoiser()
    with pytest.raises(ValueError, match=r"models\[1\] has the process"):
        MultiScale([models[0], later])
    with pytest.raises(ValueError, match="their ends have to rise"):
        MultiScale(exact(problem(NonUniform((4, 4), 1, (1.0, 0.5))), 1) * 2)


def test_a_flow_map_is_refused() -> None:
    class Maps(nn.Module):
        two_times, process = True, PROCESS.coarse(1)

        def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
            return Point(xt)

    with pytest.raises(ValueError, match=r"models\[1\] is a flow map"):
        MultiScale([exact(problem(), 1)[0], Maps()])


# the way out of a frame


def test_out_of_the_frame_and_in_again_is_the_same_denoiser() -> None:
    inside = problem(many=True).inside().denoiser()
    again = in_frame(from_frame(inside, PROCESS))
    y = PROCESS.enter(start(4), 1.0)
    for t in (0.2, 0.7):
        assert torch.allclose(mean(again(y, t)), mean(inside(y, t)), atol=1e-12)
        draws = [each(y, t).sample(Rng(3, 4)) for each in (again, inside)]
        assert torch.allclose(*draws, atol=1e-12)
