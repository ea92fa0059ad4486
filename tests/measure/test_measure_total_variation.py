"""Total variation by ADMM: adjoints, a convex reference, linear limits; and operators on slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softmix.measure import (
    Convolution,
    EachSlice,
    LinearOperator,
    Mask,
    MatrixOperator,
    TotalVariation,
    admm_tv,
    blur,
    differences,
    differences_adjoint,
    gaussian_matrix,
    roughness,
    shrink_absolute,
    shrink_square,
    smaller,
    spectral_norm,
)
from softmix.measure.total_variation import LeastSquares
from softmix.rng import Rng

F64 = torch.float64
SHAPE = (1, 5, 4, 4)
ALL = (-3, -2, -1)


def normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return Rng(seed, shape[0]).normal(shape, F64)


def stairs() -> Tensor:
    """A volume of constant parts, [1, 1, 5, 4, 4]."""
    z, y = torch.arange(5)[:, None, None], torch.arange(4)[None, :, None]
    return ((z > 2).to(F64) + 0.5 * (y > 1) + torch.zeros(5, 4, 4, dtype=F64))[None, None]


def dense(operator: LinearOperator) -> Tensor:
    """A as a matrix."""
    size = int(np.prod(operator.shape))
    return operator(torch.eye(size, dtype=F64).reshape(size, *operator.shape)).flatten(1).T


def dense_differences(axes: tuple[int, ...]) -> Tensor:
    eye = torch.eye(80, dtype=F64).reshape(80, *SHAPE)
    return torch.cat([differences(eye, axis).flatten(1).T for axis in axes])


@pytest.mark.parametrize("axis", ALL)
def test_the_adjoint_of_the_differences(axis: int) -> None:
    x, v = normal((2, *SHAPE)), normal((2, *SHAPE), 1)
    v = v.narrow(axis, 0, v.shape[axis] - 1)
    left, right = (differences(x, axis) * v).sum(), (x * differences_adjoint(v, axis)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)
    assert differences_adjoint(v, axis).shape == x.shape


def test_the_ends_are_free() -> None:
    """A ramp has equal differences everywhere, and the last slice is not tied to the first."""
    ramp = torch.arange(5, dtype=F64)[None, None, :, None, None].expand(1, 1, 5, 2, 2)
    assert torch.equal(differences(ramp, -3), torch.ones(1, 1, 4, 2, 2, dtype=F64))
    assert float(roughness(ramp, -3)) == 1 and float(roughness(ramp, -1)) == 0


def test_a_single_slice_has_no_differences() -> None:
    x = normal((1, 1, 1, 2, 2))
    assert differences(x, -3).numel() == 0
    assert torch.equal(differences_adjoint(differences(x, -3), -3), torch.zeros_like(x))


@pytest.mark.parametrize(("shrink", "penalty"), [(shrink_absolute, torch.abs), (shrink_square, torch.square)])
def test_the_proximal_maps_are_minima(shrink: Any, penalty: Any) -> None:
    u = torch.tensor([-2.0, -0.3, 0.0, 0.2, 1.5], dtype=F64)
    place = torch.linspace(-3, 3, 60_001, dtype=F64)[:, None]
    best = place[(0.4 * penalty(place) + (place - u).square() / 2).argmin(0)][:, 0]
    assert torch.allclose(shrink(u, 0.4), best, atol=1e-4)


def case(kind: str) -> LinearOperator:
    if kind == "matrix":
        return gaussian_matrix(60, SHAPE, 0)
    return EachSlice(smaller(2, (1, 4, 4)), 5) if kind == "slices" else EachSlice(blur(0.8, (1, 4, 4)), 5)


@pytest.mark.parametrize(
    ("kind", "axes", "rho"),
    [("matrix", (-3,), 0.04), ("matrix", ALL, 0.15), ("slices", (-3,), 0.1), ("blur", ALL, 0.1)],
)
def test_admm_reaches_the_convex_reference_in_200_iterations(kind: str, axes: tuple[int, ...], rho: float) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    operator, weight = case(kind), 0.02
    y = operator(stairs()) + 0.05 * normal((1, *operator.measured), 2)
    matrix, steps = dense(operator).numpy(), dense_differences(axes).numpy()
    x = cvxpy.Variable(80)
    fit = cvxpy.sum_squares(matrix @ x - y.flatten().numpy()) / (2 * np.linalg.norm(matrix, 2) ** 2)
    problem = cvxpy.Problem(cvxpy.Minimize(fit + weight * cvxpy.norm1(steps @ x)))
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    exact = torch.from_numpy(x.value)
    found = admm_tv(operator, y, TotalVariation(weight, rho, axes), 200, 10).flatten()
    assert float((found - exact).norm() / exact.norm()) <= 1e-4
    # the penalty decides: without it the least squares are elsewhere
    plain = operator.pseudo_inverse(y).flatten()
    assert float((plain - exact).norm() / exact.norm()) > 0.02


@pytest.mark.parametrize("axes", [(-3,), ALL])
def test_squares_in_the_place_of_absolute_values_lead_to_a_linear_system(axes: tuple[int, ...]) -> None:
    """(A^T A / |A|^2 + 2 lambda D^T D) x = A^T y / |A|^2."""
    operator = gaussian_matrix(60, SHAPE, 0)
    y = normal((2, 60), 3)
    matrix, steps = dense(operator), dense_differences(axes)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
    right = (y / float(spectral_norm(operator))) @ matrix
    exact = torch.linalg.solve(matrix.T @ matrix + 2 * 0.1 * steps.T @ steps, right.T).T
    variation = TotalVariation(0.1, 0.1, axes, shrink_square)
    assert torch.allclose(admm_tv(operator, y, variation, 60, 20).flatten(1), exact, atol=1e-4)


def test_the_scale_of_an_instrument_does_not_matter() -> None:
    matrix = dense(gaussian_matrix(60, SHAPE, 0))
    y, variation = normal((1, 60), 3), TotalVariation(0.05, 0.1)
    one, other = (admm_tv(MatrixOperator(size * matrix, SHAPE), size * y, variation, 20) for size in (1.0, 30.0))
    assert torch.allclose(one, other, atol=1e-8)


def test_directions_that_nothing_sees_stay_small() -> None:
    """Cells of 2 x 2 pixels along z: half of the directions have no equation. After many iterations of conjugate
    gradients on rounding alone the numbers would be 1e16."""
    operator = EachSlice(smaller(2, (1, 4, 4)), 5)
    y = operator(stairs())
    for dtype in (F64, torch.float32):
        found = admm_tv(operator, y.to(dtype), TotalVariation(0.001, 0.1), 60, 15)
        assert float(found.abs().max()) < 1.7 and float((operator(found) - y).abs().max()) < 0.05


def test_one_iteration_begins_at_x_and_carries_its_variables() -> None:
    """Two iterations by hand, with dense matrices and exact solutions."""
    operator = gaussian_matrix(60, SHAPE, 0)
    y, x = normal((1, 60), 3), normal((1, *SHAPE), 4)
    data, variation = LeastSquares(operator, y), TotalVariation(0.3, 0.7)
    found, split = variation.step(data, x, variation.begin(x), 100)
    found, split = variation.step(data, found, split, 100)
    matrix, steps = dense(operator) / float(spectral_norm(operator)), dense_differences((-3,))
    left, back = matrix.T @ matrix + 0.7 * steps.T @ steps, matrix.T @ y[0] / float(spectral_norm(operator))
    v = w = torch.zeros(len(steps), dtype=F64)
    for _ in range(2):
        z = torch.linalg.solve(left, back + 0.7 * steps.T @ (v - w))
        v = shrink_absolute(steps @ z + w, 0.3 / 0.7)
        w = w + steps @ z - v
    assert torch.allclose(found.flatten(), z, atol=1e-6)
    assert torch.allclose(split.v[0].flatten(), v, atol=1e-6) and torch.allclose(split.w[0].flatten(), w, atol=1e-6)


def test_one_step_of_conjugate_gradients_is_steepest_descent_from_x() -> None:
    operator = gaussian_matrix(20, SHAPE, 0)
    y, x = normal((2, 20), 3), normal((2, *SHAPE), 4)
    variation = TotalVariation(0.3, 0.7)
    found, _ = variation.step(LeastSquares(operator, y), x, variation.begin(x), 1)
    matrix, steps = dense(operator) / float(spectral_norm(operator)), dense_differences((-3,))
    left = matrix.T @ matrix + 0.7 * steps.T @ steps
    flat = x.flatten(1)
    off = y @ matrix / float(spectral_norm(operator)) - flat @ left
    step = off.square().sum(1) / (off * (off @ left)).sum(1)
    assert torch.allclose(found.flatten(1), flat + step[:, None] * off)


def test_without_axes_an_iteration_is_least_squares() -> None:
    operator = gaussian_matrix(20, SHAPE, 0)
    y = normal((1, 20), 3)
    assert torch.allclose(
        admm_tv(operator, y, TotalVariation(0.0, axes=()), 1, 40), operator.pseudo_inverse(y), atol=1e-6
    )


def test_it_serves_images_too() -> None:
    """A constant image with one wrong pixel: the wrong pixel moves towards its neighbours."""
    y = torch.zeros(1, 1, 5, 5, dtype=F64)
    y[0, 0, 2, 2] = 1
    operator = Mask(torch.ones(1, 5, 5), (1, 5, 5))
    found = admm_tv(operator, y, TotalVariation(0.05, 0.3, (-2, -1)), 200)
    # four differences of weight 0.05 at the pixel
    assert float(found[0, 0, 2, 2]) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("kind", ["slices", "blur", "mask", "motion"])
def test_each_slice_is_the_operator_on_every_slice(kind: str) -> None:
    shape = (1, 4, 4)
    inner: LinearOperator = {
        "slices": smaller(2, shape),
        "blur": blur(0.8, shape),
        "mask": Mask(torch.arange(16).reshape(shape) % 3 == 0, shape),
        "motion": Convolution(torch.tensor([[0.5, 0.3, 0.2]]), shape),
    }[kind]
    operator, x = EachSlice(inner, 5), normal((2, *SHAPE))
    y = operator(x)
    assert y.shape == (2, *operator.measured) and torch.allclose(y[1, 3], inner(x[1:2, :, 3])[0])
    u = normal(tuple(y.shape), 1)
    assert float((y * u).sum()) == pytest.approx(float((x * operator.adjoint(u)).sum()), rel=1e-6)
    assert torch.allclose(operator.normal(x), operator.adjoint(y))
    ridge = torch.tensor([0.3, 2.0], dtype=F64)
    solved = operator.solve(x, ridge)
    assert torch.allclose(operator.normal(solved) + ridge.reshape(-1, 1, 1, 1, 1) * solved, x)
    assert torch.allclose(operator(operator.pseudo_inverse(y)), y)
    assert float(spectral_norm(operator)) == pytest.approx(float(inner.singular.amax()))  # type: ignore[attr-defined]


def test_the_mask_of_the_slices_is_that_of_the_volume() -> None:
    seen = torch.arange(16).reshape(1, 4, 4) % 3 == 0
    operator = EachSlice(Mask(seen, (1, 4, 4)), 5)
    assert operator.seen is not None and operator.seen.expand(2, 5, 1, 4, 4)[1, 3].bool().equal(seen)
    assert EachSlice(smaller(2, (1, 4, 4)), 5).seen is None


def test_the_norm_by_the_power_method() -> None:
    """An operator without a decomposition: 1 % from below."""
    operator = smaller(2, (1, 4, 4)) @ blur(0.8, (1, 4, 4))
    exact = float(torch.linalg.matrix_norm(dense(operator), 2))
    assert 0.99 * exact <= float(spectral_norm(operator)) <= 1.0001 * exact


def test_an_operator_that_measures_nothing_leaves_a_finite_answer() -> None:
    nothing = Mask(torch.zeros(SHAPE), SHAPE)
    assert torch.equal(admm_tv(nothing, torch.zeros(1, *SHAPE), TotalVariation(0.1), 3), torch.zeros(1, *SHAPE))


@pytest.mark.parametrize(
    "settings", [{"weight": -1.0}, {"weight": 1.0, "rho": 0.0}, {"weight": float("nan")}, {"weight": 1.0, "axes": (2,)}]
)
def test_a_penalty_without_a_meaning_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="were given"):
        TotalVariation(**settings)


def test_what_does_not_fit_is_refused() -> None:
    operator = Mask(torch.ones(1, 4, 4), (1, 4, 4))
    y = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"axis -3 of x .* is no axis of places"):
        admm_tv(operator, y, TotalVariation(0.1))
    for counts in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="take 1 or more"):
            admm_tv(operator, y, TotalVariation(0.1, axes=(-1,)), *counts)
    with pytest.raises(ValueError, match="an operator on images"):
        EachSlice(gaussian_matrix(3, (5,), 0), 2)
    with pytest.raises(ValueError, match="at least one slice"):
        EachSlice(operator, 0)
    with pytest.raises(ValueError, match="a mask for each of 2 items"):
        EachSlice(Mask(torch.ones(2, 1, 4, 4), (1, 4, 4)), 3)
    with pytest.raises(ValueError, match=r"x0 of shape \[B, 1, 3, 4, 4\]"):
        EachSlice(operator, 3)(torch.zeros(1, 1, 2, 4, 4))


def test_the_solution_is_on_the_device_in_its_precision(device: torch.device) -> None:
    operator = EachSlice(smaller(2, (1, 4, 4)), 5)
    y = torch.zeros(1, *operator.measured, device=device)
    found = admm_tv(operator, y, TotalVariation(0.1), 3, 3)
    assert found.device.type == device.type and found.dtype == torch.float32
