"""ShiftDDPMs: its four paths, its reverse step, and a network that knows the condition by the path alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from softmix import Cond
from softmix.cond import CondError, CondSpec, class_label
from softmix.denoiser import Network, PointHead, autoguided
from softmix.loss import Square
from softmix.net import MLPSpec, UNetSpec
from softmix.process import VP, ImageShift, LabelShift, ShiftDDPM
from softmix.process.shift import ShiftPath
from softmix.rng import Rng
from softmix.sampler import ancestral, ddim, sample

F64 = torch.float64
PATHS: tuple[ShiftPath, ...] = ("prior", "data", "quadratic", "early")
EACH = pytest.mark.parametrize("path", PATHS)
TEN = class_label(10)


class Table(nn.Module):
    """u of each label, in float64."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows = rows

    def forward(self, cond: Cond | Tensor) -> Tensor:
        return self.rows[cond if isinstance(cond, Tensor) else cond.label]


@pytest.mark.parametrize(
    ("path", "at"), [("prior", 0.5), ("data", -0.5), ("quadratic", 0.25), ("early", (0.36826 - 0.4) / 0.6)]
)
def test_the_size_of_the_shift_where_half_of_the_signal_is_left(path: ShiftPath, at: float) -> None:
    t = VP("linear").time(math.log(1 / 3))
    assert float(ShiftDDPM(path).k(t)) == pytest.approx(max(at, 0.0) if path == "early" else at, abs=1e-6)
    assert float(ShiftDDPM(path).k(0.0)) == 0
    assert float(ShiftDDPM(path).k(1.0)) == pytest.approx({"prior": 1, "early": 1}.get(path, 0), abs=0.007)


@EACH
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.999), (0.7, 0.3), (0.2, 0.0)])
def test_the_step_is_the_published_one(path: ShiftPath, t: float, s: float) -> None:
    """(x_t - beta / sigma_t eps) / sqrt(alpha_t) + d u, d = k_s - k_t / sqrt(alpha_t), for the steps of a chain."""
    u, x0, x = (Rng(0, 4, name).normal((4, 3), F64) for name in ("u", "x0", "x"))
    process = ShiftDDPM(path).with_shift(Table(u))
    cond, base = torch.arange(4), process.base
    root, sigma = base.alpha(t) / base.alpha(s), base.sigma(t)
    eps = (x - base.alpha(t) * x0 - process.k(t) * u) / sigma
    right = (x - (1 - root**2) / sigma * eps) / root + (process.k(s) - process.k(t) / root) * u
    mean, sd = base.kernel(process.enter(x, t, cond), x0, t, s)
    if s == 0:
        # the published chain ends at its last mean, which is x0 up to the part beta of the noise
        assert torch.allclose(process.leave(mean, s, cond), x0, atol=1e-12)
        return
    assert torch.allclose(process.leave(mean, s, cond), right, rtol=1e-8, atol=1e-8)
    assert float(sd) ** 2 == pytest.approx(float((1 - root**2) * base.sigma(s) ** 2 / sigma**2), rel=1e-9)


def network(process: ShiftDDPM, output: str = "eps", cond: CondSpec = TEN) -> Network:
    torch.manual_seed(0)
    return Network(process, MLPSpec(width=16, depth=2), PointHead(), (3,), cond, output)  # type: ignore[arg-type]


@EACH
@pytest.mark.parametrize("output", ["eps", "v", "x0"])
def test_the_table_of_outputs_holds_for_the_state_itself(path: ShiftPath, output: str) -> None:
    """With eps, x0 = (x_t - sigma F) / alpha for the output F of the net, whatever the label."""
    model = network(ShiftDDPM(path), output).double()
    model.shift.table.data.normal_()
    x, t = Rng(0, 4).normal((4, 3), F64), torch.tensor([0.9, 0.5, 0.3, 0.1], dtype=F64)
    means = [model(x, t, torch.full((4,), label)).mean for label in (0, 7)]
    assert torch.equal(*means)
    if output == "eps":
        alpha, sigma = VP("linear").alpha(t)[:, None], VP("linear").sigma(t)[:, None]
        side = model.net.side(x, VP("linear").logsnr(t))
        unit = (alpha**2 + sigma**2).rsqrt()
        assert torch.allclose(means[0], (x - sigma * model.net.through(x * unit, side)) / alpha, rtol=1e-9)


def test_samples_know_the_label_by_the_path_alone() -> None:
    model = network(ShiftDDPM("prior"))
    model.shift.table.data += torch.arange(10.0)[:, None]
    for sampler in (ddim, ancestral):
        a, b = (sample(model, 8, 4, sampler=sampler, cond=torch.full((8,), label)) for label in (0, 9))
        assert float((a - b).abs().min()) > 0.1


def test_the_shift_learns_by_the_state_and_the_net_sees_no_condition() -> None:
    model = network(ShiftDDPM("quadratic"))
    labels = torch.tensor([3, 3, 5, -1])
    noised = model.process.noise(torch.ones(4, 3), 0.5, Rng(0, 4), labels)
    Square(weight="eps")(model(noised.xt, noised.t, labels), noised, Rng(0, 4)).sum().backward()
    slope = model.shift.table.grad
    assert slope is not None
    moved = slope.abs().sum(1) > 0
    assert moved.tolist() == [k in (3, 5) for k in range(10)]
    assert not any("label" in name for name, _ in model.net.named_parameters())


def test_a_label_that_is_not_given_has_no_shift() -> None:
    model = network(ShiftDDPM("prior"))
    model.shift.table.data += 2.0
    x = Rng(0, 2).normal((2, 3))
    assert torch.equal(model.process.enter(x, 0.7, torch.tensor([-1, 4]))[0], x[0])
    assert torch.equal(model.process.enter(x, 0.7, None), x)


def test_fixed_shifts_are_even_levels() -> None:
    table = LabelShift(learned=False).build((2, 4, 4), TEN)
    levels = table(torch.arange(10))
    assert torch.allclose(levels[:, 0, 0, 0], torch.linspace(-1, 1, 10)) and levels.shape == (10, 2, 4, 4)
    assert not any(each.requires_grad for each in table.parameters())


def test_a_condition_that_the_shift_does_not_use_is_refused() -> None:
    """The net sees none, so that it would have no effect."""
    both = CondSpec((("class", 10),), image=1)
    for shift in (LabelShift(), ImageShift()):
        with pytest.raises(CondError, match="which alone the model knows"):
            Network(ShiftDDPM(shift=shift), UNetSpec(16), PointHead(), (1, 8, 8), both, "eps")
    model = network(ShiftDDPM())
    x = torch.zeros(2, 3)
    with pytest.raises(CondError, match="the condition has value"):
        model(x, 0.5, Cond(value=torch.zeros(2, 3)))
    with pytest.raises(CondError):
        model(x, 0.5, torch.tensor([99, 3]))


def test_a_shift_of_ones_own_is_a_part_of_the_network() -> None:
    own = nn.Embedding(10, 3)
    model = network(ShiftDDPM("prior").with_shift(own))  # type: ignore[arg-type]
    assert any(each is own.weight for each in model.parameters()) and model.double().shift.weight.dtype == F64
    other = copy.deepcopy(model)
    assert other.process.module is other.shift and other.shift is not own


def test_an_image_that_is_not_given_has_no_shift() -> None:
    process = ShiftDDPM("prior", ImageShift(8)).bound((1, 6, 6), CondSpec(image=1))
    image = Rng(0, 2).normal((2, 1, 6, 6))
    image[1] = torch.nan
    u = process.u(Cond(image=image))
    assert float(u[0].detach().abs().max()) > 0 and not u[1].any() and not process.u(None).any()


def test_two_models_with_shifts_of_their_own_are_combined_in_the_frame() -> None:
    strong, weak = network(ShiftDDPM("prior")), network(ShiftDDPM("prior"))
    strong.shift.table.data += 1.0
    weak.shift.table.data -= 1.0
    x, labels = Rng(0, 4).normal((4, 3)), torch.arange(4)
    y = strong.process.enter(x, 0.6, labels)
    right = 2 * strong(x, 0.6, labels).mean - weak(weak.process.leave(y, 0.6, labels), 0.6, labels).mean
    assert torch.allclose(autoguided(weak, 2.0)(strong)(x, 0.6, labels).mean, right, atol=1e-5)


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(ValueError, match="'quadrtic' was asked for; there are prior"):
        ShiftDDPM("quadrtic")  # type: ignore[arg-type]


def test_the_shift_is_on_the_device_of_the_state(device: torch.device) -> None:
    model = network(ShiftDDPM("quadratic")).to(device)
    x = sample(model, 3, 2, cond=torch.arange(3, device=device), device=device)
    assert x.device.type == device.type and bool(x.isfinite().all())


def test_an_image_shifts_by_itself_or_by_a_network_of_it() -> None:
    image = Rng(0, 2).normal((2, 1, 6, 6))
    cond = CondSpec(image=1)
    itself = ShiftDDPM("prior", ImageShift(0)).bound((1, 6, 6), cond)
    assert torch.equal(itself.u(Cond(image=image)), image)
    learned = ShiftDDPM("prior", ImageShift(8)).bound((3, 6, 6), cond)
    assert learned.u(Cond(image=image)).shape == (2, 3, 6, 6)
    with pytest.raises(CondError, match="take a width above 0"):
        ShiftDDPM("prior", ImageShift(0)).bound((3, 6, 6), cond)
    with pytest.raises(CondError, match="give pairs"):
        ShiftDDPM("prior", ImageShift(0)).bound((1, 6, 6), TEN)
    with pytest.raises(CondError, match="train with classes"):
        ShiftDDPM().bound((1, 6, 6), cond)


def test_the_process_of_a_task_has_no_shift_yet() -> None:
    with pytest.raises(ValueError, match="is a part of a network"):
        ShiftDDPM().enter(torch.zeros(1, 3), 0.5, torch.zeros(1).long())


def test_outputs_of_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="'residual' is a function of the other item"):
        Network(ShiftDDPM(), UNetSpec(16), PointHead(), (1, 8, 8), TEN, "residual")
