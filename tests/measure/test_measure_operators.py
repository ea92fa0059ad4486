"""Each operator keeps the contract: adjoint, batches, dtype and device, derivatives, solutions, pictures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from operator_list import F64, LINEAR, OPERATORS, dense, numbers
from torch import Tensor

from softmix.measure import DecomposedOperator, LinearOperator, Mask, MatrixOperator, blur, crop, grey, smaller

DECOMPOSED = [name for name, make in LINEAR.items() if isinstance(make(), DecomposedOperator)]
TOLERANCE = {torch.float32: 1e-6, F64: 1e-12}
each_operator = pytest.mark.parametrize("name", OPERATORS)
each_linear = pytest.mark.parametrize("name", LINEAR)
each_decomposed = pytest.mark.parametrize("name", DECOMPOSED)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


def items(operator: Any, n: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return numbers(n, *operator.shape, seed=seed, dtype=dtype)


def measurements(operator: Any, n: int, seed: int = 1, dtype: torch.dtype = F64) -> Tensor:
    return numbers(n, *operator.measured, seed=seed, dtype=dtype)


@each_dtype
@each_linear
def test_the_adjoint_is_the_adjoint(name: str, dtype: torch.dtype) -> None:
    operator = LINEAR[name]()
    x, y = items(operator, 3, dtype=dtype), measurements(operator, 3, dtype=dtype)
    clean = operator(x)
    left, right = (clean * y).flatten(1).sum(1), (x * operator.adjoint(y)).flatten(1).sum(1)
    scale = clean.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1) + 1
    assert float(((left - right).abs() / scale).max()) < TOLERANCE[dtype]


@each_linear
def test_the_adjoint_is_the_transposed_matrix(name: str) -> None:
    operator = LINEAR[name]()
    matrix = dense(operator)
    unit = torch.eye(len(matrix), dtype=F64).reshape(-1, *operator.measured)
    assert torch.allclose(operator.adjoint(unit).flatten(1), matrix, atol=1e-12)


@each_linear
def test_the_normal_operator_is_the_adjoint_after_it(name: str) -> None:
    operator = LINEAR[name]()
    matrix, x = dense(operator), items(operator, 4)
    assert torch.allclose(operator.normal(x).flatten(1), x.flatten(1) @ matrix.T @ matrix, atol=1e-12)


@each_operator
def test_a_batch_of_k_is_k_batches_of_one(name: str) -> None:
    """Also for as many items as channels, rows, columns or measured elements."""
    operator = OPERATORS[name]()
    for n in {1, *operator.shape, *operator.measured}:
        x = items(operator, n)
        whole, alone = operator(x), torch.cat([operator(one) for one in x.split(1)])
        assert whole.shape == (n, *operator.measured)
        assert torch.allclose(whole, alone, rtol=1e-12, atol=1e-12)


@each_linear
def test_solutions_of_a_batch_are_those_of_its_items(name: str) -> None:
    operator = LINEAR[name]()
    for n in {2, *operator.shape, *operator.measured}:
        b, y = items(operator, n), measurements(operator, n)
        for whole, alone in (
            (operator.adjoint(y), [operator.adjoint(one) for one in y.split(1)]),
            (operator.solve(b, 0.3), [operator.solve(one, 0.3) for one in b.split(1)]),
            (operator.pseudo_inverse(y), [operator.pseudo_inverse(one) for one in y.split(1)]),
        ):
            assert whole.shape == b.shape and torch.allclose(whole, torch.cat(alone), rtol=1e-7, atol=1e-9)


@each_dtype
@each_operator
def test_dtype_and_device_are_kept(name: str, dtype: torch.dtype) -> None:
    operator = OPERATORS[name]()
    x = items(operator, 2, dtype=dtype)
    y = operator(x)
    found = [y, operator.picture(y)]
    if isinstance(operator, LinearOperator):
        found += [operator.adjoint(y), operator.normal(x), operator.solve(x, 1.0), operator.pseudo_inverse(y)]
    assert {(each.dtype, each.device) for each in found if each is not None} == {(dtype, x.device)}


@each_operator
def test_the_derivative_is_that_of_differences(name: str) -> None:
    operator = OPERATORS[name]()
    x = items(operator, 2, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(operator, x)


@each_linear
def test_the_adjoint_and_a_solution_have_derivatives(name: str) -> None:
    operator = LINEAR[name]()
    matrix = dense(operator)
    y, b = measurements(operator, 1).requires_grad_(), items(operator, 1).requires_grad_()
    (slope,) = torch.autograd.grad(operator.adjoint(y).square().sum(), y)
    assert torch.allclose(slope.flatten(1), 2 * y.flatten(1) @ matrix @ matrix.T, atol=1e-11)
    weights = items(operator, 1, seed=4)
    (slope,) = torch.autograd.grad((operator.solve(b, 0.5) * weights).sum(), b)
    inverse = torch.linalg.inv(matrix.T @ matrix + 0.5 * torch.eye(matrix.shape[1], dtype=F64))
    assert torch.allclose(slope.flatten(1), weights.flatten(1) @ inverse, atol=1e-6)


@each_linear
def test_a_solution_is_that_of_dense_algebra(name: str) -> None:
    """With one ridge, and with a ridge for each item."""
    operator = LINEAR[name]()
    matrix, b = dense(operator), items(operator, 3)
    square = matrix.T @ matrix
    eye = torch.eye(len(square), dtype=F64)
    ridges = torch.tensor([0.01, 1.0, 7.0], dtype=F64)
    exact = torch.stack(
        [torch.linalg.solve(square + r * eye, one) for r, one in zip(ridges, b.flatten(1), strict=True)]
    )
    assert torch.allclose(operator.solve(b, ridges).flatten(1), exact, rtol=1e-6, atol=1e-7)
    one = torch.linalg.solve(square + 0.2 * eye, b.flatten(1).T).T
    assert torch.allclose(operator.solve(b, 0.2).flatten(1), one, rtol=1e-6, atol=1e-7)


@each_linear
def test_the_pseudo_inverse_is_that_of_dense_algebra(name: str) -> None:
    operator = LINEAR[name]()
    y = measurements(operator, 3)
    exact = y.flatten(1) @ torch.linalg.pinv(dense(operator), rtol=1e-6).T
    assert torch.allclose(operator.pseudo_inverse(y).flatten(1), exact, rtol=1e-5, atol=1e-6 * float(exact.abs().max()))


@each_decomposed
def test_the_decomposition_is_one(name: str) -> None:
    """V is orthogonal, s is not negative, and U^T U = I where s > 0."""
    operator = LINEAR[name]()
    assert isinstance(operator, DecomposedOperator)
    x = items(operator, 3)
    c, s = operator.into(x), operator.s_like(x)
    assert torch.allclose(operator.back(c), x, atol=1e-12)
    assert torch.allclose(c.abs().square().flatten(1).sum(1), x.square().flatten(1).sum(1))
    assert bool((s >= 0).all())
    lost = s.expand_as(c.real) <= 1e-9 * s.max()
    known = torch.where(lost, 0, c)
    assert torch.allclose(
        torch.where(lost, 0, operator.into_measured(operator.back_measured(known))), known, atol=1e-10
    )


@each_decomposed
def test_the_singular_values_are_those_of_the_matrix(name: str) -> None:
    operator = LINEAR[name]()
    assert isinstance(operator, DecomposedOperator)
    x = items(operator, 1)
    own = operator.s_like(x).expand_as(operator.into(x).real).flatten().sort(descending=True).values
    exact = torch.linalg.svdvals(dense(operator))
    # a complex coefficient of a complex image stands for two real ones
    own = own.repeat_interleave(x.numel() // len(own))
    kept = min(len(own), len(exact))
    assert torch.allclose(own[:kept], exact[:kept], atol=1e-7) and float(own[kept:].sum()) < 1e-7


@each_operator
def test_a_picture_has_the_grid_of_the_item(name: str) -> None:
    operator = OPERATORS[name]()
    picture = operator.picture(operator(items(operator, 2)))
    if picture is not None:
        assert picture.ndim == 4 and picture.shape[2:] == operator.shape[1:]
    assert (picture is None) <= (len(operator.shape) != 3 or not isinstance(operator, LinearOperator))


@each_operator
def test_elements_that_do_not_exist_are_0_and_play_no_part(name: str) -> None:
    operator = OPERATORS[name]()
    clean, seen = operator(items(operator, 3)), operator.seen
    if seen is None:
        assert bool((clean != 0).flatten(1).any(1).all())
        return
    hidden = (seen.to(clean) == 0).expand_as(clean)
    # of a real image, the imaginary part at frequency 0 exists and is 0
    assert bool((clean[hidden] == 0).all()) and float((clean[~hidden] != 0).double().mean()) > 0.8
    if isinstance(operator, LinearOperator):
        y = measurements(operator, 3)
        assert torch.allclose(operator.adjoint(y), operator.adjoint(torch.where(hidden, 1e3, y)), atol=1e-9)


@each_operator
def test_another_shape_or_dtype_is_refused(name: str) -> None:
    operator = OPERATORS[name]()
    with pytest.raises(ValueError, match="was expected, and found"):
        operator(numbers(2, *operator.shape[:-1], operator.shape[-1] + 1))
    with pytest.raises(TypeError, match="float32 or float64"):
        operator(items(operator, 2).half())
    if isinstance(operator, LinearOperator):
        with pytest.raises(ValueError, match="was expected, and found"):
            operator.adjoint(numbers(2, *operator.measured[:-1], operator.measured[-1] + 1))
        with pytest.raises(ValueError, match="ridge above 0"):
            operator.solve(items(operator, 2), 0.0)
        with pytest.raises(ValueError, match="ridge above 0"):
            operator.solve(items(operator, 2), torch.tensor([1.0, float("nan")], device="cpu"))


@each_operator
def test_autocast_rounds_nothing(name: str) -> None:
    operator = OPERATORS[name]()
    x = items(operator, 2, dtype=torch.float32)
    plain = operator(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        assert torch.equal(operator(x), plain)


@each_operator
def test_a_copy_is_the_same_operator(name: str) -> None:
    operator = OPERATORS[name]()
    x = items(operator, 2)
    plain = operator(x)
    for copied in (copy.copy(operator), copy.deepcopy(operator)):
        assert "_converted" not in vars(copied) and torch.equal(copied(x), plain)


# The constants of an operator.


def test_a_constant_is_converted_once_for_each_precision() -> None:
    operator = MatrixOperator(numbers(4, 6), (6,))
    single, double = numbers(1, dtype=torch.float32), numbers(1)
    first = operator.constant("_left", single)
    assert first.dtype == torch.float32 and operator.constant("_left", single) is first
    assert operator.constant("_left", double).dtype == F64 and operator.constant("_left", single) is first
    assert operator.constant("_left", single.to(torch.complex64)) is first


def test_a_constant_of_inference_mode_is_not_kept() -> None:
    """It could not take part in a derivative later."""
    operator = MatrixOperator(numbers(4, 6), (6,))
    with torch.inference_mode():
        operator(numbers(2, 6, dtype=torch.float32))
    x = numbers(2, 6, dtype=torch.float32).requires_grad_()
    operator(x).sum().backward()
    assert x.grad is not None and bool(x.grad.any())


def test_a_matrix_that_learns_has_a_new_graph_at_each_call() -> None:
    class Scaled(Mask):
        factor = torch.tensor(2.0, dtype=F64, requires_grad=True)

        def __call__(self, x0: Tensor) -> Tensor:
            return super().__call__(x0) * self.constant("factor", x0)

    operator = Scaled(torch.ones(3), (3,))
    for _ in range(2):
        operator(numbers(2, 3, dtype=torch.float32)).sum().backward()
    assert Scaled.factor.grad is not None


# Composition.


def test_a_composition_is_the_product_of_the_matrices() -> None:
    inner, outer = blur(0.6, (1, 4, 4)), smaller(2, (1, 4, 4))
    assert torch.allclose(dense(outer @ inner), dense(outer) @ dense(inner), atol=1e-12)


def test_the_picture_of_a_composition_is_on_the_grid_of_the_item() -> None:
    twice = crop(0, 0, 2, 2, (3, 3, 3)) @ smaller(2, (3, 6, 6))
    x = items(twice, 2)
    expected = twice.inner.pseudo_inverse(twice.outer.pseudo_inverse(twice(x)))  # type: ignore[attr-defined]
    assert torch.allclose(twice.picture(twice(x)), expected)  # type: ignore[arg-type]


def test_the_picture_of_a_grey_image_after_another_operator_has_the_colours_of_that_one() -> None:
    """Its picture is grey, and the inner operator needs its own channels."""
    composed = grey((3, 2, 2)) @ smaller(2, (3, 4, 4))
    picture = composed.picture(composed(items(composed, 2)))
    assert picture is not None and picture.shape == (2, 3, 4, 4)


def test_operators_that_do_not_fit_are_not_composed() -> None:
    with pytest.raises(ValueError, match=r"measures items \[1, 4, 4\], and Channels gives \[1, 3, 3\]"):
        _ = smaller(2, (1, 4, 4)) @ grey((3, 3, 3))
    first, second = (Mask(torch.ones(n, 2, 2, 2), (2, 2, 2)) for n in (2, 3))
    with pytest.raises(ValueError, match="serves 2 items, and the other one 3"):
        _ = first @ second
    assert (first @ Mask(torch.ones(2, 2, 2), (2, 2, 2))).items == 2
    with pytest.raises(TypeError):
        _ = first @ torch.ones(2)  # type: ignore[operator]
