"""Conjugate gradients."""

from __future__ import annotations

import pytest
import torch
from operator_list import F64, numbers
from torch import Tensor

from softmix.measure import conjugate_gradients


def symmetric(size: int, lowest: float = 0.1) -> Tensor:
    vectors = torch.linalg.qr(numbers(size, size))[0]
    return vectors * torch.linspace(lowest, 3, size, dtype=F64) @ vectors.T


def scaled(x: Tensor) -> Tensor:
    """A diagonal matrix, so that each item has the same bits in every batch."""
    return x * torch.arange(1, x.shape[1] + 1, device=x.device).to(x)


def test_the_solution_is_that_of_dense_algebra() -> None:
    matrix, b = symmetric(12), numbers(4, 12)
    x = conjugate_gradients(lambda v: v @ matrix, b, 50)
    assert torch.allclose(x, torch.linalg.solve(matrix, b.T).T, rtol=1e-8, atol=1e-9)


def test_n_unknowns_need_n_iterations() -> None:
    b = numbers(3, 6)
    assert torch.allclose(scaled(conjugate_gradients(scaled, b, 6)), b, atol=1e-9)
    with pytest.raises(RuntimeError, match="5 iterations"):
        conjugate_gradients(scaled, b, 5)


def test_a_singular_matrix_gives_the_least_solution() -> None:
    matrix = symmetric(8)
    matrix = matrix[:3].T @ matrix[:3]
    b = numbers(2, 8) @ matrix
    x = conjugate_gradients(lambda v: v @ matrix, b, 30)
    assert torch.allclose(x, b @ torch.linalg.pinv(matrix), rtol=1e-6, atol=1e-8)


def test_an_item_does_not_depend_on_the_others() -> None:
    """One is easy, one is 0, one is large."""
    b = numbers(3, 9) * torch.tensor([[1e-8], [0.0], [1e8]], dtype=F64)
    whole = conjugate_gradients(scaled, b, 40)
    assert torch.equal(whole, torch.cat([conjugate_gradients(scaled, one, 40) for one in b.split(1)]))
    assert not whole[1].any()


def test_an_item_that_is_not_finite_gives_nan_and_leaves_the_others() -> None:
    b = numbers(4, 9)
    exact = conjugate_gradients(scaled, b, 40)
    b[1, 2], b[3, 0] = torch.nan, torch.inf
    x = conjugate_gradients(scaled, b, 40)
    assert bool(x[[1, 3]].isnan().all()) and torch.equal(x[[0, 2]], exact[[0, 2]])


def test_what_is_not_solved_is_an_error_with_the_rest_and_the_number_of_items() -> None:
    b = torch.cat([torch.ones(1, 9, dtype=F64), torch.eye(9, dtype=F64)[:1], torch.zeros(1, 9, dtype=F64)])
    with pytest.raises(RuntimeError, match=r"for 1 of 3 items: a share of \d\.\de-0\d is left"):
        conjugate_gradients(scaled, b, 3)
    loose = conjugate_gradients(scaled, b, 3, strict=False)
    left = (scaled(loose) - b).norm(dim=1)
    assert 1e-3 < float(left[0]) < 1 and float(left[1:].max()) < 1e-9


def test_single_precision_reaches_its_accuracy() -> None:
    matrix, b = symmetric(12).float(), numbers(4, 12, dtype=torch.float32)
    x = conjugate_gradients(lambda v: v @ matrix, b, 60)
    assert x.dtype == torch.float32 and float((x @ matrix - b).norm() / b.norm()) < 3e-5


def test_the_derivative_passes_through() -> None:
    matrix, b, weights = symmetric(7), numbers(2, 7).requires_grad_(), numbers(2, 7, seed=2)
    (conjugate_gradients(lambda v: v @ matrix, b, 30) * weights).sum().backward()
    assert b.grad is not None and torch.allclose(b.grad, torch.linalg.solve(matrix, weights.T).T, rtol=1e-5, atol=1e-6)


def test_it_stops_when_all_items_are_solved() -> None:
    calls = []

    def product(x: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    conjugate_gradients(product, numbers(2, 5), 100)
    # an accelerator is asked once in 16 iterations
    assert len(calls) <= 16
