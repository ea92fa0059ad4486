"""Instruments of deepinv: by objects with its interface, and by deepinv itself if it can be imported."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import fake_deepinv
import pytest
import torch
from fake_deepinv import Halves, LinearPhysics, Physics, Plain
from operator_list import F64, dense, numbers, pattern

from softmix.measure import (
    GaussianNoise,
    Instrument,
    LinearOperator,
    LowLight,
    Mask,
    MaskedFourier,
    PoissonNoise,
    RoundingNoise,
    blur,
    from_deepinv,
    gaussian_matrix,
    smaller,
    to_deepinv,
)
from softmix.measure.noise import Noise

SHAPE = (2, 3, 4)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The classes of the tests in place of deepinv."""
    package = ModuleType("deepinv")
    package.physics = fake_deepinv  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepinv", package)
    monkeypatch.setitem(sys.modules, "deepinv.physics", fake_deepinv)
    return fake_deepinv


# From deepinv.


def test_a_linear_physics_has_its_adjoint_its_solutions_and_its_noise() -> None:
    instrument = from_deepinv(Halves(SHAPE, noise_model=fake_deepinv.GaussianNoise(0.25)))
    operator = instrument.operator
    assert isinstance(operator, LinearOperator) and instrument.noise == GaussianNoise(0.25)
    assert operator.shape == SHAPE and operator.measured == (2, 3, 2) and operator.seen is None
    x, y = numbers(3, *SHAPE), numbers(3, 2, 3, 2, seed=1)
    assert torch.allclose(operator(x), 2 * x[..., :2], atol=1e-6)
    assert torch.allclose(operator.adjoint(y)[..., :2], 2 * y, atol=1e-6) and not operator.adjoint(y)[..., 2:].any()
    assert torch.allclose(operator.pseudo_inverse(y)[..., :2], y / 2, atol=1e-6)
    assert torch.allclose(operator.picture(y)[..., :2], y / 2, atol=1e-6)  # type: ignore[index]


def test_a_physics_is_computed_in_its_own_precision_and_gives_that_of_the_data() -> None:
    physics = Halves(SHAPE, noise_model=fake_deepinv.GaussianNoise(0.1))
    seen = []
    original = physics.A
    physics.A = lambda x, **_: seen.append(x.dtype) or original(x)  # type: ignore[method-assign, func-returns-value]
    operator = from_deepinv(physics).operator
    assert operator(numbers(1, *SHAPE)).dtype == F64 and set(seen) == {torch.float32}


def test_elements_that_are_0_for_every_item_do_not_exist() -> None:
    instrument = from_deepinv(Plain(SHAPE))
    assert instrument.operator.seen is not None
    assert instrument.operator.seen[0, 0, 0].tolist() == [1, 0, 1, 0]
    y = instrument.observe(numbers(2, *SHAPE), _rng(2))
    assert not y[..., 1::2].any() and bool((y[..., ::2] != 0).all())


def test_the_picture_of_a_measurement_on_the_grid_is_the_adjoint() -> None:
    """Also for k-space, which has the size of the image."""
    operator, y = from_deepinv(Plain(SHAPE)).operator, numbers(2, *SHAPE)
    assert isinstance(operator, LinearOperator)
    assert torch.equal(operator.picture(y), operator.adjoint(y))  # type: ignore[arg-type]


def test_poisson_noise_counts_light() -> None:
    """The physics sees (1 + x0) / 2, and y = 2 y' - 1: the counts of y' / gain are those of y."""
    physics = LinearPhysics(lambda x, **_: 0.5 * x, lambda y, **_: 0.5 * y, SHAPE)
    physics.noise_model = fake_deepinv.PoissonNoise(gain=0.1)
    instrument = from_deepinv(physics)
    x0 = numbers(2, *SHAPE).tanh()
    assert isinstance(instrument.noise, PoissonNoise) and not isinstance(instrument.operator, LinearOperator)
    assert instrument.noise.peak == pytest.approx(10) and instrument.noise.dark == 0
    assert torch.allclose(instrument.operator(x0), 2 * physics.A((1 + x0) / 2) - 1)
    torch.manual_seed(0)
    y = 2 * physics((1 + x0) / 2) - 1
    count, mean = (1 + y) * 5, physics.A((1 + x0) / 2) / 0.1
    expected = torch.distributions.Poisson(mean).log_prob(count.round()).flatten(1).sum(1)
    assert torch.allclose(instrument.log_lik(y, x0), expected, atol=1e-5)


def test_a_physics_that_is_not_linear_has_no_adjoint() -> None:
    physics = Physics(lambda x, **_: x.square(), fake_deepinv.GaussianNoise(0.1))
    operator = from_deepinv(physics, SHAPE).operator
    assert not isinstance(operator, LinearOperator)
    x = numbers(2, *SHAPE)
    assert torch.equal(operator(x), x.square())


def test_a_physics_with_tensors_is_copied_to_the_device_of_the_data_once() -> None:
    """The copy is made by the method of deepinv."""
    physics, copies = Halves(SHAPE, noise_model=fake_deepinv.GaussianNoise(0.1)), []

    def clone() -> Any:
        copies.append(Halves(SHAPE))
        return copies[-1]

    operator = from_deepinv(physics).operator
    physics.clone = clone
    for _ in range(2):
        # the device meta computes shapes only
        assert operator(torch.zeros(2, *SHAPE, device="meta")).device.type == "meta"
    assert len(copies) == 1 and physics.factor.device.type != "meta"


def test_the_noise_may_be_given() -> None:
    physics = LinearPhysics(img_size=SHAPE)
    with pytest.raises(TypeError, match="no counterpart of the noise model ZeroNoise"):
        from_deepinv(physics)
    assert from_deepinv(physics, noise=RoundingNoise(0.1, 0.1)).noise == RoundingNoise(0.1, 0.1)
    physics.noise_model = fake_deepinv.PoissonNoise(0.1)
    given = from_deepinv(physics, noise=GaussianNoise(0.3))
    assert isinstance(given.operator, LinearOperator) and given.noise == GaussianNoise(0.3)


@pytest.mark.parametrize(
    ("physics", "error", "match"),
    [
        (LinearPhysics(noise_model=fake_deepinv.GaussianNoise()), ValueError, r"give shape=\(C, H, W\)"),
        (LinearPhysics(img_size=(3, 4), noise_model=fake_deepinv.GaussianNoise()), ValueError, "give shape"),
        (
            LinearPhysics(img_size=SHAPE, noise_model=fake_deepinv.GaussianNoise([0.1, 0.2])),
            ValueError,
            "sigma of the noise model has 2 values",
        ),
        (
            LinearPhysics(img_size=SHAPE, noise_model=fake_deepinv.PoissonNoise(0.1, normalize=False)),
            TypeError,
            "normalize=True",
        ),
        (
            LinearPhysics(lambda x, **_: [x, x], img_size=SHAPE, noise_model=fake_deepinv.GaussianNoise()),
            TypeError,
            "measures a list",
        ),
        (
            LinearPhysics(lambda x, **_: x + 0j, img_size=SHAPE, noise_model=fake_deepinv.GaussianNoise()),
            TypeError,
            "measures complex numbers",
        ),
        (
            LinearPhysics(
                lambda x, **_: 2 * x, lambda y, **_: 2.01 * y, SHAPE, noise_model=fake_deepinv.GaussianNoise()
            ),
            ValueError,
            "not the adjoint of A",
        ),
        (
            LinearPhysics(
                img_size=SHAPE, noise_model=fake_deepinv.GaussianNoise(), sensor_model=lambda y: y.clamp(-2, 2)
            ),
            TypeError,
            "the sensor of LinearPhysics changes y",
        ),
    ],
)
def test_a_physics_without_a_counterpart_is_refused(physics: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        from_deepinv(physics)


# To deepinv.


def _rng(n: int) -> Any:
    from softmix.rng import Rng

    return Rng(0, n)


OPERATORS = {
    "mask": lambda: Mask(pattern(1, 3, 4), SHAPE),
    "smaller": lambda: smaller(2, (1, 4, 4)),
    "Fourier": lambda: MaskedFourier(pattern(1, 3, 4), (1, 3, 4)),
    "composed": lambda: smaller(2, (1, 4, 4)) @ blur(0.6, (1, 4, 4)),
    "matrix": lambda: gaussian_matrix(5, SHAPE, 0),
}
each_operator = pytest.mark.parametrize("name", OPERATORS)


@each_operator
def test_a_linear_instrument_keeps_its_solutions(fake: ModuleType, name: str) -> None:
    operator = OPERATORS[name]()
    physics = to_deepinv(Instrument(operator, GaussianNoise(0.1)))
    assert isinstance(physics, fake.LinearPhysics) and physics.img_size == operator.shape
    x, y = numbers(2, *operator.shape), numbers(2, *operator.measured, seed=1)
    assert torch.equal(physics.A(x, sigma=0.2), operator(x))
    assert torch.equal(physics.A_adjoint(y, sigma=0.2), operator.adjoint(y))
    assert torch.equal(physics.A_adjoint_A(x), operator.normal(x))
    assert torch.equal(physics.A_dagger(y, solver="CG"), operator.pseudo_inverse(y))
    # argmin of gamma / 2 |A x - y|^2 + 1/2 |x - z|^2
    matrix, z = dense(operator), numbers(2, *operator.shape, seed=3)
    exact = torch.linalg.solve(
        0.7 * matrix.T @ matrix + torch.eye(matrix.shape[1], dtype=F64), (0.7 * y.flatten(1) @ matrix + z.flatten(1)).T
    ).T
    assert torch.allclose(physics.prox_l2(z, y, 0.7, solver="CG").flatten(1), exact, atol=1e-7)


def test_elements_that_do_not_exist_get_no_noise(fake: ModuleType) -> None:
    seen = pattern(1, 3, 4)
    physics = to_deepinv(Instrument(Mask(seen, SHAPE), GaussianNoise(0.1)))
    y = physics(numbers(2, *SHAPE))
    assert not y[:, :, seen[0] == 0].any() and bool((y[:, :, seen[0] == 1] != 0).all())


def test_rounding_is_the_sensor(fake: ModuleType) -> None:
    physics = to_deepinv(Instrument(blur(0.5, SHAPE), RoundingNoise(0.25, 0.05)))
    y = physics(numbers(2, *SHAPE))
    assert torch.equal(y, (y * 4).round() / 4) and float(physics.noise_model.sigma) == pytest.approx(0.05)


def test_counted_light_has_the_same_law_in_deepinv(fake: ModuleType) -> None:
    """y of softmix is 2 (y' - dark / peak) - 1, with the mean count of both."""
    noise, operator = PoissonNoise(50.0, dark=2.0), LowLight(2.0, 0.5, SHAPE)
    physics = to_deepinv(Instrument(operator, noise))
    x0 = numbers(2, *SHAPE).tanh()
    mean = physics.A((1 + x0) / 2) / physics.noise_model.gain
    assert torch.allclose(mean, noise._mean(operator(x0)), rtol=1e-6)
    back = 2 * (physics.A((1 + x0) / 2) - 2.0 / 50) - 1
    assert torch.allclose(back, operator(x0)) and not isinstance(physics, fake.LinearPhysics)
    # light cannot be negative
    assert bool((to_deepinv(Instrument(Mask(torch.ones(2), (2,)), noise)).A(torch.full((1, 2), -3.0)) >= 0).all())


@each_operator
def test_there_and_back_is_the_same_instrument(fake: ModuleType, name: str) -> None:
    first = Instrument(OPERATORS[name](), GaussianNoise(0.3))
    second = from_deepinv(to_deepinv(first), first.operator.shape)
    x, y = numbers(2, *first.operator.shape), numbers(2, *first.operator.measured, seed=1)
    assert torch.allclose(second.operator(x), first.operator(x), atol=1e-12)
    exist = first._existing(torch.ones_like(y))
    assert torch.equal(second._existing(exist), second._existing(torch.ones_like(y)))
    assert isinstance(second.noise, GaussianNoise) and second.noise.scale == pytest.approx(0.3)


def test_another_noise_has_no_counterpart(fake: ModuleType) -> None:
    class Other:
        def draw(self, *_: Any) -> Any: ...

        log_prob = sd = draw

    noise: Noise = Other()
    with pytest.raises(TypeError, match="no counterpart of Other"):
        to_deepinv(Instrument(blur(1.0, SHAPE), noise))


def test_without_deepinv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(ImportError, match=r'pip install "softmix\[deepinv\]"'):
        to_deepinv(Instrument(blur(1.0, SHAPE), GaussianNoise(0.1)))


# With deepinv itself.


def test_deepinv_itself_agrees_in_both_directions() -> None:
    physics = pytest.importorskip("deepinv.physics", exc_type=ImportError)
    mask = pattern(1, 4, 6).float()
    theirs = physics.Inpainting((2, 4, 6), mask=mask.expand(2, -1, -1), noise_model=physics.GaussianNoise(0.1))
    own = Instrument(Mask(mask, (2, 4, 6)), GaussianNoise(0.1))
    found = from_deepinv(theirs)
    x = numbers(2, 2, 4, 6).float()
    y = own.operator(x)
    assert torch.allclose(found.operator(x), y) and torch.allclose(found.log_lik(y, x), own.log_lik(y, x), rtol=1e-5)
    back = to_deepinv(own)
    assert isinstance(back, physics.LinearPhysics) and torch.allclose(back.A_dagger(y), theirs.A_dagger(y), atol=1e-6)
    assert abs(float(back.adjointness_test(x))) < 1e-4
    scan = physics.MRI(mask=mask[0], img_size=(2, 4, 6), noise_model=physics.GaussianNoise(0.1))
    assert torch.allclose(from_deepinv(scan).operator(x), MaskedFourier(mask, (2, 4, 6))(x), atol=1e-5)
    z = numbers(2, 2, 4, 6, seed=2).float()
    assert torch.allclose(back.prox_l2(z, y, 0.7), theirs.prox_l2(z, y, 0.7), atol=1e-5)
