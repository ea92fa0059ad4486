"""Wraps and closed forms: every option, the calls of the inner denoiser, and both ends of every interval."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from softmix.denoiser import (
    OUTPUTS,
    CallCounter,
    ExactData,
    ExactMixture,
    SoftAtHighNoise,
    adjusted,
    affine,
    autoguided,
    averaged,
    guided,
    mean_only,
    wiener,
    within,
)
from softmix.denoiser.exact import gaussian_flow
from softmix.denoiser.wrap import classifier_free, with_target_time
from softmix.posterior import Categorical, Implicit, ImplicitMean, Joint, Point, Posterior
from softmix.process import VE, VP, Flow, Gaussian
from softmix.rng import Rng

F64 = torch.float64
LABELS = torch.tensor([4, 5, 6])


class Plain(nn.Module):
    """Returns k x + the condition; records its inputs."""

    def __init__(self, k: float = 2.0):
        super().__init__()
        self.process, self.shape, self.classes, self.k = VP(), (2,), 9, k
        self.told: list[tuple[float, Tensor | None]] = []

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        self.told.append((float(torch.as_tensor(t, dtype=F64).flatten()[0]), cond))
        return Point(self.k * xt + (0 if cond is None else cond[:, None]))


class Soft(Plain):
    """Draws k x + eta + the condition; it has no mean."""

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        mean = super().forward(xt, t, cond).mean  # type: ignore[attr-defined]
        return Implicit(lambda eta: mean + eta, len(xt), (2,), xt)


class Maps(Plain):
    two_times = True

    def forward(
        self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None, to: Tensor | float | None = None
    ) -> Posterior:
        mean = super().forward(xt, t, cond).mean  # type: ignore[attr-defined]
        return Point(mean + (100 if to is None else float(to)))


def x() -> Tensor:
    return Rng(0, 3).normal((3, 2), F64)


def mean(denoiser: object, t: float = 0.5, cond: Tensor | None = None, **options: object) -> Tensor:
    return denoiser(x(), t, cond, **options).mean  # type: ignore[operator]


# counting


def test_calls_and_items_are_counted() -> None:
    inner = Plain()
    counted = CallCounter(inner)
    assert torch.equal(mean(counted, cond=LABELS), mean(Plain(), cond=LABELS))
    counted(x()[:2], 0.5)
    assert (counted.calls, counted.items) == (2, 5) and counted.process == VP() and counted.shape == (2,)
    assert inner.told[0] == (0.5, LABELS)


def test_a_wrap_of_a_flow_map_passes_the_second_time_on() -> None:
    for wrap in (CallCounter, averaged(2), adjusted(lambda p, xt, t: p), within(-99, 99, averaged(2))):
        assert torch.allclose(mean(wrap(Maps()), to=0.25), mean(Plain()) + 0.25)  # type: ignore[operator]
    assert torch.allclose(mean(with_target_time(0.25)(Maps()), cond=LABELS), mean(Plain(), cond=LABELS) + 0.25)


# averaging


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("seed", [0, 3])
def test_an_average_is_over_n_latents_of_its_seed(n: int, seed: int) -> None:
    """The same latents for every item and every call, in the dtype of x."""
    eta = Rng(seed, n, "averaged").normal((n, 2), F64)
    right = 2 * x() + LABELS[:, None] + eta.mean(0)
    assert torch.allclose(mean(averaged(n, seed)(Soft()), cond=LABELS), right)
    if seed == 0:
        assert torch.equal(mean(averaged(n)(Soft())), mean(averaged(n, 0)(Soft())))
    else:
        assert not torch.allclose(mean(averaged(n)(Soft())), mean(averaged(n, seed)(Soft())))


def test_averaged_leaves_other_posteriors_unchanged() -> None:
    assert torch.equal(mean(averaged(3)(Plain())), mean(Plain()))
    with pytest.raises(ValueError, match="an average of 0 draws"):
        averaged(0)


# guidance


@pytest.mark.parametrize("scale", [0, 1, 3, 2.5])
def test_guidance_is_unconditional_plus_scale_times_the_difference(scale: float) -> None:
    """unconditional + w (conditional - unconditional), for integer w and for others."""
    told, unconditional = mean(Plain(), cond=LABELS), mean(Plain(), cond=torch.full((3,), -1))
    assert torch.allclose(mean(guided(scale)(Plain()), cond=LABELS), unconditional + scale * (told - unconditional))
    assert float(classifier_free(scale)(torch.tensor(5.0), torch.tensor(3.0))) == 3 + 2 * scale


def test_guidance_by_a_custom_rule_and_a_custom_condition() -> None:
    inner = Plain()
    found = mean(guided(lambda a, b: a - 10 * b, torch.tensor([2]))(inner), cond=LABELS)
    assert torch.allclose(found, mean(Plain(), cond=LABELS) - 10 * mean(Plain(), cond=torch.full((3,), 2)))
    assert inner.told[0][1] is LABELS and inner.told[1][1].tolist() == [2, 2, 2]  # type: ignore[union-attr]


def test_guidance_of_draws_shares_the_latent() -> None:
    found = guided(3.0)(Soft())(x(), 0.5, LABELS)
    eta = Implicit(lambda eta: eta, 3, (2,), x()).draws(4, Rng(1, 3))
    assert isinstance(found, Implicit)
    right = 2 * x() + (-1 + 3 * (LABELS + 1))[:, None] + eta
    assert torch.allclose(found.draws(4, Rng(1, 3)), right)


def test_guidance_without_a_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance needs a condition"):
        mean(guided(2.0)(Plain()))
    with pytest.raises(ValueError, match="needs unconditional"):
        mean(guided(2.0)(Plain()), cond=torch.zeros(3))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_autoguidance_is_weak_plus_scale_times_the_difference(scale: float) -> None:
    """weak + w (strong - weak); both receive the same condition."""
    strong, weak = Plain(5.0), Plain(2.0)
    found = mean(autoguided(weak, scale)(strong), cond=LABELS)
    assert torch.allclose(found, (2 + 3 * scale) * x() + LABELS[:, None])
    assert strong.told == weak.told == [(0.5, LABELS)]
    assert autoguided(weak, scale)(strong).classes == 9  # type: ignore[attr-defined]


def test_autoguidance_of_flow_maps_uses_one_target_time() -> None:
    found = mean(autoguided(Maps(2.0), 2.5)(Maps(5.0)), cond=LABELS, to=0.25)
    assert torch.allclose(found, (2 + 3 * 2.5) * x() + LABELS[:, None] + 0.25)


def test_adjusted_passes_the_posterior_x_and_the_time() -> None:
    seen: list[tuple[Posterior, Tensor, float]] = []

    def change(posterior: Posterior, xt: Tensor, t: Tensor | float) -> Posterior:
        seen.append((posterior, xt, float(t)))
        return Point(0 * xt)

    inner, given = Plain(), x()
    assert not adjusted(change)(inner)(given, 0.3, LABELS).mean.any()  # type: ignore[attr-defined]
    assert torch.equal(seen[0][0].mean, 2 * given + LABELS[:, None])  # type: ignore[attr-defined]
    assert seen[0][1] is given and seen[0][2] == 0.3


# intervals of noise levels


def test_an_interval_includes_both_ends() -> None:
    doubled = adjusted(lambda p, xt, t: Point(2 * p.mean))  # type: ignore[attr-defined]
    levels = {t: float(VP().logsnr(t)) for t in (0.8, 0.5, 0.2)}
    wrapped = within(levels[0.8], levels[0.2], doubled)(Plain())
    for t, inside in ((0.81, False), (0.8, True), (0.5, True), (0.2, True), (0.19, False)):
        right = mean(Plain(), t, LABELS)
        assert torch.allclose(mean(wrapped, t, LABELS), 2 * right if inside else right)


def test_times_on_both_sides_of_a_boundary_are_refused() -> None:
    t = torch.tensor([0.9, 0.9, 0.1])
    with pytest.raises(ValueError, match="one time for the whole batch"):
        within(-2.0, 2.0, averaged(2))(Plain())(x(), torch.tensor([0.5, 0.5, 0.01]))
    with pytest.raises(ValueError, match="one time for the whole batch"):
        SoftAtHighNoise(Soft(), 0.0)(x(), t)  # type: ignore[arg-type]


class Both(Soft):
    """Draws, and a mean of its own, 3 x."""

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        drawn = super().forward(xt, t, cond)
        return ImplicitMean(lambda eta: drawn.averaged(eta).mean[None], len(xt), (2,), xt, lambda: 3 * xt)  # type: ignore[attr-defined]


def test_soft_at_high_noise_is_soft_up_to_its_boundary_and_a_point_above() -> None:
    """At the boundary itself it is soft. The condition is passed in both cases."""
    border = float(VP().logsnr(0.5))
    for t, is_soft in ((0.9, True), (0.5, True), (0.49, False)):
        both = Both(2.0)
        found = SoftAtHighNoise(both, border)(x(), t, LABELS)  # type: ignore[arg-type]
        assert both.told == [(t, LABELS)]
        assert isinstance(found, Implicit if is_soft else Point)
        if not is_soft:
            assert torch.equal(found.mean, 3 * x())  # type: ignore[attr-defined]


def test_soft_at_high_noise_has_the_shape_and_classes_of_its_network() -> None:
    found = SoftAtHighNoise(Soft(), 0.0)  # type: ignore[arg-type]
    assert (found.process, found.shape, found.classes) == (VP(), (2,), 9)


# closed forms


@pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
def test_the_closed_form_of_two_points_is_a_logistic(process: Gaussian) -> None:
    """Weights 0.3 and 0.7 at -1 and 1: E[x0 | x] = tanh(alpha x / sigma^2 + log(7 / 3) / 2)."""
    two = ExactMixture(
        process, torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1, dtype=F64) - 1e-12
    )
    xt = torch.tensor([[-0.6], [0.0], [0.4]], dtype=F64)
    t = float(process.time(-1.0))
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    right = (alpha * xt / sigma**2 + torch.tensor(7 / 3, dtype=F64).log() / 2).tanh()
    assert torch.allclose(two(xt, t).mean, right, atol=1e-6)
    # a variance that is negative by rounding counts as 0
    assert torch.allclose(two(xt, t).var, 1 - right**2, atol=1e-6)
    even = ExactData(process, torch.tensor([[-1.0], [1.0]], dtype=F64))
    assert torch.allclose(even(xt, t).mean, (alpha * xt / sigma**2).tanh(), atol=1e-9)


@pytest.mark.parametrize("process", [VP(), VE(), Flow()], ids=str)
def test_the_flow_of_a_gaussian_keeps_the_standardised_coordinate(process: Gaussian) -> None:
    """(x - alpha m) U / sqrt(alpha^2 l + sigma^2) is constant."""
    m = torch.tensor([0.5, -1.0], dtype=F64)
    l, u = torch.linalg.eigh(torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=F64))  # noqa: E741
    given = Rng(0, 4).normal((4, 2), F64)

    def place(at: Tensor, t: float) -> Tensor:
        return (at - process.alpha(t) * m) @ u / (process.alpha(t) ** 2 * l + process.sigma(t) ** 2).sqrt()

    assert torch.allclose(place(gaussian_flow(process, m, l, u, given, 0.8, 0.3), 0.3), place(given, 0.8))


@pytest.mark.parametrize("sd", [0.3, 1.0, 2.0])
def test_the_table_recovers_x0_from_perfect_outputs(sd: float) -> None:
    """alpha and sigma of no particular process."""
    x0, z, alpha, sigma = (torch.tensor(value, dtype=F64) for value in (0.7, -1.3, 0.8, 0.9))
    xt, norm = alpha * x0 + sigma * z, (alpha * sd) ** 2 + sigma**2
    edm = (x0 - alpha * sd**2 / norm * xt) / (sigma * sd / norm.sqrt())
    said = {"x0": x0, "eps": z, "v": alpha * z - sigma * x0, "flow": z - x0, "edm": edm}
    for name in OUTPUTS:
        a, b = affine(name, alpha, sigma, sd)
        assert float(a * xt + b * said[name]) == pytest.approx(0.7, rel=1e-12)


def test_the_table_has_unit_data_by_default() -> None:
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    assert affine("edm", alpha, sigma) == affine("edm", alpha, sigma, 1.0) != affine("edm", alpha, sigma, 0.5)
    assert inspect.signature(affine).parameters["data_sd"].default == 1.0


# mean_only


def test_mean_only_keeps_the_mean() -> None:
    exact = wiener(VP(), torch.tensor([0.5, -1.0], dtype=F64), torch.eye(2, dtype=F64))
    x = torch.tensor([[0.3, 0.2], [1.0, -2.0]], dtype=F64)
    belief = mean_only(exact)(x, 0.4)
    assert type(belief) is Point and torch.equal(belief.mean, exact(x, 0.4).mean)
    assert mean_only(exact).process is exact.process


def test_mean_only_refuses_a_posterior_without_a_mean() -> None:
    with pytest.raises(TypeError, match=r"mean_only needs a mean of the posterior, and Implicit has none.*averaged"):
        mean_only(Soft())(torch.zeros(3, 2), 0.5)
    assert type(mean_only(averaged(2)(Soft()))(torch.zeros(3, 2), 0.5)) is Point


def test_mean_only_passes_the_target_time_of_a_flow_map() -> None:
    x = torch.ones(3, 2)
    assert torch.equal(mean_only(Maps())(x, 0.5, to=0.2).mean, Maps()(x, 0.5, to=0.2).mean)  # type: ignore[call-arg, attr-defined]
    assert not torch.equal(Maps()(x, 0.5, to=0.2).mean, Maps()(x, 0.5, to=0.4).mean)  # type: ignore[attr-defined]


# guidance of categoricals


class Names(Plain):
    """Logits of a token, different for each label; beside an image with only a mean."""

    def forward(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        label = torch.full((len(xt),), -1) if cond is None else cond
        logits = torch.sin(torch.arange(12.0).reshape(1, 4, 3) * (label + 2)[:, None, None])
        return Joint({"token": Categorical(logits), "image": super().forward(xt, t, label)})  # type: ignore[return-value]


def test_guidance_sharpens_categorical_probabilities() -> None:
    """p ~ p(conditional)^w p(unconditional)^(1 - w), and beside them the means of the image."""
    x = torch.ones(3, 2)
    told, unconditional = (Names()(x, 0.5, label).parts for label in (LABELS, torch.full((3,), -1)))  # type: ignore[attr-defined]
    for scale in (1.0, 2.5):
        both = guided(scale)(Names())(x, 0.5, LABELS).parts  # type: ignore[attr-defined]
        right = told["token"].probabilities ** scale * unconditional["token"].probabilities ** (1 - scale)
        assert torch.allclose(both["token"].probabilities, right / right.sum(1, keepdim=True), rtol=1e-4)
        assert torch.allclose(
            both["image"].mean, unconditional["image"].mean + scale * (told["image"].mean - unconditional["image"].mean)
        )


def test_an_average_reaches_the_parts_of_a_joint() -> None:
    """The implicit part gets the same mean as alone, and the other parts are unchanged."""

    def both(posterior: Posterior, xt: Tensor, t: Tensor | float) -> Posterior:
        return Joint({"image": posterior, "token": Categorical(torch.zeros(3, 4))})  # type: ignore[return-value]

    x = torch.ones(3, 2)
    parts = averaged(4)(adjusted(both)(Soft()))(x, 0.5).parts  # type: ignore[attr-defined]
    assert torch.equal(parts["image"].mean, averaged(4)(Soft())(x, 0.5).mean)  # type: ignore[attr-defined]
    assert type(parts["token"]) is Categorical
