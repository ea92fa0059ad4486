"""Kernels and the unbiased discrepancy: closed forms of Gaussians, unbiasedness, and what the cubic kernel misses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.evaluate import energy_distance, kernel_distance
from softmix.loss import (
    CubicKernel,
    EnergyKernel,
    GaussianKernel,
    Kernel,
    LaplaceKernel,
    median_distance,
    unbiased_mmd,
)
from softmix.rng import Rng

pytestmark = pytest.mark.usefixtures("on_device")

F64 = torch.float64
KERNELS: tuple[Kernel, ...] = (CubicKernel(), GaussianKernel(), LaplaceKernel(), EnergyKernel())
EACH = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)


def normal(n: int, *shape: int, role: str = "") -> Tensor:
    return Rng(0, n, role).normal((n, *shape), F64)


def batches(role: str, count: int, n: int) -> Tensor:
    return normal(count, n, role=role)[..., None]


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def discrepancies(a: Tensor, b: Tensor, kernel: Kernel, scale: float = 1.0) -> Tensor:
    """One number for each pair of batches a, b [count, n, D]."""
    return torch.stack([unbiased_mmd(x, y, kernel, scale).mean() for x, y in zip(a, b, strict=True)])


def by_hand(kernel: Kernel, a: float, b: float, scale: float) -> float:
    """The kernels in one dimension, with the constants that the package leaves out."""
    apart = abs(a - b) / scale
    if isinstance(kernel, CubicKernel):
        return (a * b + 1) ** 3
    if isinstance(kernel, EnergyKernel):
        return -apart
    assert isinstance(kernel, GaussianKernel | LaplaceKernel)
    power = (lambda q: apart**2 / (2 * q**2)) if isinstance(kernel, GaussianKernel) else (lambda q: apart / q)
    return sum(math.exp(-power(q)) for q in kernel.widths) / len(kernel.widths)


# the estimate


@EACH
@pytest.mark.parametrize("n", [2, 3, 7])
def test_it_is_the_sum_over_pairs_and_the_mean_of_the_shares(kernel: Kernel, n: int) -> None:
    x, y = normal(n, 1, role="x"), 0.5 + normal(n, 1, role="y")
    k = lambda a, b: by_hand(kernel, float(a), float(b), 1.7)  # noqa: E731
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    right = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / (n * (n - 1))
    right -= 2 * sum(k(a, b) for a in x for b in y) / n**2
    found = unbiased_mmd(x, y, kernel, 1.7)
    assert found.shape == (n,)
    assert float(found.mean()) == pytest.approx(right, rel=1e-9, abs=1e-12)


@EACH
def test_a_share_belongs_to_its_item(kernel: Kernel) -> None:
    x, y, order = normal(5, 3, role="x"), normal(5, 3, role="y"), torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(unbiased_mmd(x[order], y[order], kernel), unbiased_mmd(x, y, kernel)[order])


@EACH
def test_it_is_unbiased_for_equal_laws_and_not_clamped(kernel: Kernel) -> None:
    """2,000 pairs of batches of 8: within 4 standard errors of 0, and about half of the numbers are below it."""
    values = discrepancies(batches("x", 2000, 8), batches("y", 2000, 8), kernel)
    mean, error = mean_and_error(values)
    assert abs(mean) < 4 * error
    # a discrepancy has a long right tail
    assert 0.4 < float((values < 0).double().mean()) < 0.8


@pytest.mark.parametrize("width", [0.3, 1.0, 3.0])
def test_the_gaussian_kernel_meets_its_closed_form(width: float) -> None:
    """E k(x, y) = w / sqrt(w^2 + v) exp(-m^2 / (2 (w^2 + v))) for x - y ~ N(m, v). Laws: N(0, 1) and N(0.5, 0.6^2)."""

    def expected(m: float, v: float) -> float:
        return width / math.sqrt(width**2 + v) * math.exp(-(m**2) / (2 * (width**2 + v)))

    right = expected(0, 2) + expected(0, 2 * 0.36) - 2 * expected(0.5, 1.36)
    # the scale is the unit of the width
    kernel, scale = GaussianKernel((width / 2,)), 2.0
    values = discrepancies(batches("x", 1500, 16), 0.5 + 0.6 * batches("y", 1500, 16), kernel, scale)
    mean, error = mean_and_error(values)
    assert abs(mean - right) < 4 * error and right > 5 * error


def test_the_cubic_kernel_meets_its_closed_form() -> None:
    """In one dimension: the sum over p of binom(3, p) times the squared difference of the p-th moments."""
    a, b = (0.0, 1.0, 0.0), (0.5, 0.25 + 0.36, 0.125 + 3 * 0.5 * 0.36)
    right = sum(c * (x - y) ** 2 for c, x, y in zip((3, 3, 1), a, b, strict=True))
    values = discrepancies(batches("x", 4000, 32), 0.5 + 0.6 * batches("y", 4000, 32), CubicKernel())
    mean, error = mean_and_error(values)
    assert abs(mean - right) < 4 * error and right > 5 * error


def test_a_cubic_kernel_divides_by_the_number_of_elements() -> None:
    a, b = normal(3, 4, role="a"), normal(2, 4, role="b")
    right = [[(sum(float(x * y) for x, y in zip(i, j, strict=True)) / 4 + 1) ** 3 for j in b] for i in a]
    assert torch.allclose(CubicKernel()(a, b), torch.tensor(right, dtype=F64))


def test_the_energy_kernel_is_the_energy_distance_of_the_package() -> None:
    x, y = normal(40, 3, role="x"), 0.3 + normal(40, 3, role="y")
    assert float(unbiased_mmd(x, y, EnergyKernel(), 2.0).mean()) == pytest.approx(energy_distance(x, y) / 2, rel=1e-9)


def test_the_cubic_kernel_is_that_of_the_kernel_distance() -> None:
    """Two blocks of 15 of 30 items, in any order: the two estimates have one expectation, and one value on copies."""
    x, y = normal(1, 3, role="x").expand(30, 3), normal(1, 3, role="y").expand(30, 3)
    found = kernel_distance(x, y, 0, subsets=2, size=15).value
    assert float(unbiased_mmd(x, y, CubicKernel()).mean()) == pytest.approx(found, rel=1e-9)


@EACH
def test_only_a_characteristic_kernel_tells_a_normal_law_from_coin_flips(kernel: Kernel) -> None:
    """N(0, 1) and +-1 have equal moments up to the third, and a fourth of 3 and 1. Measured in standard errors of 400
    batches of 64: 1.3 for the cubic kernel, 92 to 199 for the others."""
    flips = 2.0 * Rng(1, 400).integers(2, (400, 64, 1)).to(F64) - 1
    mean, error = mean_and_error(discrepancies(batches("x", 400, 64), flips, kernel))
    assert abs(mean) < 4 * error if not kernel.characteristic else mean > 20 * error


def test_which_kernels_are_characteristic() -> None:
    assert [kernel.characteristic for kernel in KERNELS] == [False, True, True, True]


# digits of small numbers, gradients, labels


@pytest.mark.parametrize("kernel", [GaussianKernel(), LaplaceKernel()], ids=lambda kernel: type(kernel).__name__)
def test_a_kernel_near_1_keeps_its_digits_in_float32(kernel: Kernel) -> None:
    """Items that are a hundredth of the scale apart. Measured: 5e-6 at most."""
    x, y = 1e-2 * normal(30, 784, role="x") / 28, 1e-2 * normal(30, 784, role="y") / 20
    right = float(unbiased_mmd(x, y, kernel).mean())
    found = float(unbiased_mmd(x.float(), y.float(), kernel).mean())
    assert found == pytest.approx(right, rel=5e-5)


@EACH
def test_the_gradient_is_that_of_finite_differences_and_finite_for_equal_items(kernel: Kernel) -> None:
    x, y = normal(4, 2, role="x").requires_grad_(), normal(4, 2, role="y")
    assert torch.autograd.gradcheck(lambda x: unbiased_mmd(x, y, kernel, 1.3), (x,))
    same = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(unbiased_mmd(same, y, kernel).mean(), same)
    assert bool(slope.isfinite().all())


def test_with_labels_pairs_of_one_label_count_and_an_item_is_not_compared_with_its_own() -> None:
    n, kernel = 7, GaussianKernel()
    x, y = normal(n, 1, role="x"), normal(n, 1, role="y")
    labels = torch.tensor([0, 1, 0, -1, 1, -1, 0])
    k = lambda a, b: by_hand(kernel, float(a), float(b), 1.0)  # noqa: E731
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and labels[i] == labels[j]]
    right = sum(k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs) / (n * (n - 1))
    assert float(unbiased_mmd(x, y, kernel, labels=labels).mean()) == pytest.approx(right, rel=1e-9)
    # of several labels all have to be equal
    two = torch.stack([labels, torch.tensor([0, 0, 0, 0, 0, 0, 1])], 1)
    fewer = [(i, j) for i, j in pairs if 6 not in (i, j)]
    right = sum(k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in fewer) / (n * (n - 1))
    assert float(unbiased_mmd(x, y, kernel, labels=two).mean()) == pytest.approx(right, rel=1e-9)


def test_with_labels_exchanged_classes_are_seen_and_equal_laws_are_0() -> None:
    """x | c ~ N(c, 0.1^2) for two classes; the drawn classes exchanged, in 300 batches of 16."""
    right, wrong = [], []
    for batch in range(300):
        rng = Rng(batch, 16)
        label = rng.integers(2, (16,))
        real, drawn = (label[:, None] + 0.1 * rng.child(role).normal((16, 1), F64) for role in ("real", "drawn"))
        right.append(unbiased_mmd(drawn, real, GaussianKernel(), labels=label).mean())
        wrong.append(unbiased_mmd(1 - drawn, real, GaussianKernel(), labels=label).mean())
    mean, error = mean_and_error(torch.stack(right))
    assert abs(mean) < 4 * error
    mean, error = mean_and_error(torch.stack(wrong))
    assert mean > 20 * error


def test_the_median_distance_is_that_of_all_pairs() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]], dtype=F64)
    # 1, sqrt(18), 5
    assert float(median_distance(x)) == pytest.approx(math.sqrt(18))
    assert float(median_distance(x[:, :, None].expand(3, 2, 4))) == pytest.approx(2 * math.sqrt(18))


def test_the_median_distance_leaves_out_equal_items() -> None:
    """More than half of the pairs are equal; a scale of 0 would make the loss NaN."""
    coins = torch.tensor([-1.0] * 2 + [1.0] * 6)[:, None]
    assert float(median_distance(coins)) == 2.0 and float(median_distance(torch.zeros(4, 3))) == 1.0


def test_half_precision_is_summed_in_float32() -> None:
    x, y = normal(6, 2, role="x").to(torch.bfloat16), normal(6, 2, role="y").to(torch.bfloat16)
    found = unbiased_mmd(x, y, CubicKernel())
    assert found.dtype == torch.float32
    assert torch.allclose(found, unbiased_mmd(x.double(), y.double(), CubicKernel()).float(), atol=1e-4)
    with torch.autocast(x.device.type, torch.bfloat16):
        assert torch.equal(unbiased_mmd(x.float(), y.float(), CubicKernel()), found)


# refusals


@pytest.mark.parametrize("kind", [GaussianKernel, LaplaceKernel])
@pytest.mark.parametrize("widths", [(), (0.0,), (1.0, -1.0)])
def test_widths_are_above_0(kind: type, widths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="widths above 0"):
        kind(widths)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 4)])
def test_sets_that_cannot_be_compared_are_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="two sets of one size"):
        unbiased_mmd(normal(n, 2), normal(m, 2), GaussianKernel())
