"""`calibration` against closed forms, exact posteriors, and draws that are wrong in a known way."""

import math

import pytest
import torch
from torch import Tensor

from softmix import Rng, oracle
from softmix.evaluate import Calibration, calibration, crps
from softmix.evaluate.calibration import SHARES, _distances, ranks_among, ranks_of_items, uniformity

pytestmark = pytest.mark.usefixtures("on_device")

M, F64 = 19, torch.float64


def gaussian(n: int, width: float = 1.0, shift: float = 0.0, seed: int = 0, size: int = 6) -> tuple[Tensor, Tensor]:
    """Draws [M, n, size] of N(shift, width^2), and n truths of N(0, 1)."""
    both = torch.randn(M + 1, n, size, generator=torch.Generator(device="cpu").manual_seed(seed), dtype=F64)
    return shift + width * both[1:], both[0]


def measured(draws: Tensor, truth: Tensor, seed: int = 0) -> Calibration:
    return calibration(draws, truth, Rng(seed, len(truth)))


def inside(share: float, width: float) -> float:
    """The share of truths N(0, 1) in the central interval of 19 draws N(0, width^2), by a sum over x."""
    x = torch.linspace(-6, 6, 4001, dtype=F64)
    below, k = torch.special.ndtr(x / width), round((1 - share) * 10)
    counts = torch.arange(M + 1, dtype=F64)
    choose = math.lgamma(M + 1) - (counts + 1).lgamma() - (M + 1 - counts).lgamma()
    chance = (choose + torch.xlogy(counts, below[:, None]) + torch.xlogy(M - counts, 1 - below[:, None])).exp()
    density = (-x.square() / 2).exp()
    return float((chance[:, k : M - k + 1].sum(1) * density).sum() / density.sum())


def test_the_crps_is_that_of_the_normal_law() -> None:
    # E CRPS(N(a, w^2), x), x ~ N(0, 1), is E|X - x| - E|X - X'| / 2 with X - x ~ N(a, 1 + w^2)
    for width, shift in ((1.0, 0.0), (0.5, 0.0), (1.0, 1.0)):
        sd = math.sqrt(1 + width**2)
        near = sd * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * sd**2)) + shift * math.erf(
            shift / sd / math.sqrt(2)
        )
        draws, truth = gaussian(4000, width, shift)
        # the standard error over 24,000 numbers is about 0.004
        assert float(crps(draws, truth).mean()) == pytest.approx(near - width / math.sqrt(math.pi), abs=0.012)


def test_the_crps_and_the_energy_score_are_the_sums_over_all_pairs() -> None:
    draws, truth = gaussian(3, size=4)
    pairs = [(j, k) for j in range(M) for k in range(M) if j != k]
    for item in range(3):
        near = torch.stack([(draws[j, item] - truth[item]).abs().mean() for j in range(M)]).mean()
        apart = torch.stack([(draws[j, item] - draws[k, item]).abs().mean() for j, k in pairs]).mean()
        assert float(crps(draws, truth)[item]) == pytest.approx(float(near - apart / 2), abs=1e-12)
    length = lambda x: float(x.square().mean().sqrt())  # noqa: E731
    near = sum(length(draws[j, i] - truth[i]) for j in range(M) for i in range(3)) / (3 * M)
    apart = sum(length(draws[j, i] - draws[k, i]) for j, k in pairs for i in range(3)) / (3 * len(pairs))
    assert measured(draws, truth).energy == pytest.approx(near - apart / 2, abs=1e-12)


def test_the_crps_of_one_draw_is_its_absolute_error() -> None:
    draws, truth = gaussian(5)
    assert torch.equal(crps(draws[:1], truth), (draws[0] - truth).abs().mean(1))
    assert torch.allclose(crps(draws[:1].expand(4, -1, -1), truth), crps(draws[:1], truth))


def test_draws_of_the_true_law_are_right_in_every_number() -> None:
    found = [measured(*gaussian(600, seed=seed), seed) for seed in range(8)]
    # measured over 40 seeds: inside 0.5 +- 0.008 and 0.9 +- 0.005, spread / error 1 +- 0.012
    assert all(one.inside == pytest.approx(SHARES, abs=0.032) for one in found)
    assert all(one.spread_skill == pytest.approx(1, abs=0.05) for one in found)
    assert min(one.p_value for one in found) > 1e-4 and max(one.p_value for one in found) > 0.1
    expected = 600 * 6 / (M + 1)
    # a count has a standard deviation of 13
    assert all(abs(count - expected) < 65 for one in found for count in one.ranks)
    assert all(sum(one.ranks) == 3600 and len(one.ranks) == M + 1 == one.m + 1 for one in found)


def test_too_sure_too_wide_and_shifted_draws_are_told() -> None:
    right = measured(*gaussian(600))
    sure, wide, off = (measured(*gaussian(600, *law)) for law in ((0.6, 0.0), (1.6, 0.0), (1.0, 0.7)))
    for found, width in ((sure, 0.6), (wide, 1.6)):
        assert found.inside == pytest.approx([inside(share, width) for share in SHARES], abs=0.03)
    assert sure.spread_skill == pytest.approx(0.6, abs=0.03) and wide.spread_skill == pytest.approx(1.6, abs=0.08)
    assert off.error > 1.15 * right.error and off.spread == pytest.approx(right.spread, rel=1e-9)
    for wrong in (sure, wide, off):
        assert wrong.crps > right.crps and wrong.energy > right.energy and wrong.p_value < 1e-6
    # a U, a hill, and a slope
    ends, middle = (lambda one: one.ranks[0] + one.ranks[-1]), (lambda one: one.ranks[M // 2] + one.ranks[M // 2 + 1])
    assert ends(sure) > 2 * ends(right) and middle(wide) > 1.3 * middle(right)
    assert off.ranks[0] > 2 * off.ranks[-1]


def test_the_psnr_and_the_error_are_of_the_mean_of_the_draws() -> None:
    draws, truth = gaussian(50)
    found = measured(draws, truth)
    error = float((draws.mean(0) - truth).square().mean().sqrt())
    assert found.error == pytest.approx(error) and found.psnr == pytest.approx(20 * math.log10(2 / error))


def test_draws_that_are_the_truth_have_no_error() -> None:
    # of whole numbers the mean of 19 equal draws is exact
    truth = gaussian(5)[1].round()
    found = measured(truth.expand(M, *truth.shape), truth)
    assert found.error == 0 and found.psnr == math.inf and math.isnan(found.spread_skill)
    assert found.crps == 0 and found.energy == pytest.approx(0, abs=1e-3)


def test_the_exact_posterior_of_a_measurement_is_calibrated_and_its_prior_is_not_the_best() -> None:
    problem = oracle.correlated((6,))
    observed = oracle.ObservedProblem(problem, torch.eye(6, dtype=F64)[:3], 0.3)
    n = 500
    x0, cond = observed.draw(n, Rng(1, n))
    given = observed.given(cond.value)
    exact = measured(given.draws(M, Rng(2, n)), x0)
    prior = measured(torch.stack([problem.sample(n, Rng(seed, n)) for seed in range(10, 10 + M)]), x0)
    for one in (exact, prior):
        # neither depends on y alone: calibration is not sharpness
        assert one.inside == pytest.approx(SHARES, abs=0.04) and one.p_value > 1e-4
    assert exact.crps < 0.9 * prior.crps and exact.energy < 0.9 * prior.energy
    narrow = measured(given.mean + 0.5 * (given.draws(M, Rng(2, n)) - given.mean), x0)
    assert narrow.crps > exact.crps and narrow.energy > exact.energy and narrow.p_value < 1e-6


def test_a_wrong_dependence_is_seen_by_whole_items_alone() -> None:
    """Marginals are right, and the draws of one item are equal in all elements."""
    n, size = 800, 6
    generator = torch.Generator(device="cpu").manual_seed(3)
    draws = torch.randn(M, n, 1, generator=generator, dtype=F64).expand(M, n, size)
    truth = torch.randn(n, size, generator=generator, dtype=F64)
    wrong, right = measured(draws, truth), measured(*gaussian(n))
    assert wrong.inside == pytest.approx(SHARES, abs=0.03) and wrong.crps == pytest.approx(right.crps, abs=0.02)
    assert wrong.p_value < 1e-6 and wrong.energy > 1.05 * right.energy


def test_equal_values_are_ranked_at_random() -> None:
    """Rounded draws of the true law: ranks stay flat, and a constant element has flat ranks too."""
    draws, truth = gaussian(4000, size=1)
    for scale in (1.0, 1e-9):
        ranks = ranks_among((scale * draws).round(), (scale * truth).round(), Rng(4, 4000))
        assert uniformity(ranks.flatten().bincount(minlength=M + 1)) > 1e-3
    assert torch.equal(ranks_among(draws, truth, Rng(4, 4000)), (draws < truth).sum(0))


def test_the_rank_of_an_item_that_is_far_from_its_draws_is_m() -> None:
    draws, truth = gaussian(20)
    assert ranks_of_items(_distances(draws, truth + 100), Rng(0, 20)).tolist() == [M] * 20
    assert ranks_of_items(_distances(draws, draws.mean(0)), Rng(0, 20)).float().mean() < 1


def test_uniformity_is_pearsons_test() -> None:
    from scipy.stats import chisquare

    counts = torch.tensor([30, 44, 25, 41, 38])
    assert uniformity(counts) == pytest.approx(chisquare(counts.numpy()).pvalue, rel=1e-9)
    # 40 counts in 20 cells: 8 groups, of 3, 3, 3, 3, 2, 2, 2, 2 cells
    few = torch.tensor([2, 1, 3] * 4 + [4, 0] * 4)
    groups, expected = torch.tensor([6, 6, 6, 6, 4, 4, 4, 4]), 2.0 * torch.tensor([3.0] * 4 + [2.0] * 4)
    assert uniformity(few) == pytest.approx(chisquare(groups.numpy(), expected.numpy()).pvalue, rel=1e-6)


def test_the_test_of_uniformity_rejects_as_often_as_it_says() -> None:
    generator = torch.Generator(device="cpu").manual_seed(0)
    counts = [torch.randint(0, 20, (200,), generator=generator).bincount(minlength=20) for _ in range(1000)]
    values = torch.tensor([uniformity(each) for each in counts])
    # 100 and 500 expected, with standard deviations of 9.5 and 16
    assert 60 < int((values < 0.1).sum()) < 140 and 430 < int((values < 0.5).sum()) < 570


def test_an_item_does_not_depend_on_its_batch() -> None:
    draws, truth = gaussian(6)
    alone = ranks_among(draws[:, 4:5].round(), truth[4:5].round(), Rng(7, [4]))
    assert torch.equal(alone[0], ranks_among(draws.round(), truth.round(), Rng(7, 6))[4])


def test_shares_that_the_number_of_draws_cannot_have_are_named() -> None:
    draws, truth = gaussian(4)
    with pytest.raises(ValueError, match=r"with 4 draws a central interval can have the shares 3/5, 1/5; 0.5 was"):
        calibration(draws[:4], truth, Rng(0, 4))
    assert calibration(draws[:4], truth, Rng(0, 4), shares=(0.6,)).shares == (0.6,)
    for m in (2, 10, 19):
        for k in range(1, m // 2 + 1):
            assert calibration(draws[:m], truth, Rng(0, 4), shares=((m + 1 - 2 * k) / (m + 1),)).m == m
    for share in (0.0, 1.0, 0.51):
        with pytest.raises(ValueError, match="was asked for"):
            calibration(draws, truth, Rng(0, 4), shares=(share,))


def test_other_shapes_and_values_are_refused() -> None:
    draws, truth = gaussian(4)
    for pair in ((draws[:1], truth), (draws[:, :3], truth), (draws[:, :0], truth[:0]), (draws[0], truth)):
        with pytest.raises(ValueError, match="were expected; found"):
            measured(*pair)
    with pytest.raises(ValueError, match="not finite"):
        measured(torch.where(draws > 1, torch.nan, draws), truth)


def test_items_of_one_number_and_images_give_the_same_as_flat_items() -> None:
    draws, truth = gaussian(40)
    flat = measured(draws, truth)
    assert measured(draws.reshape(M, 40, 1, 2, 3), truth.reshape(40, 1, 2, 3)) == flat
    single = measured(draws[:, :, 0], truth[:, 0])
    assert single == measured(draws[:, :, :1], truth[:, :1])
    # of single numbers the ranks of items say how far out the truth is
    assert single.crps == pytest.approx(single.energy, abs=1e-12)
    with pytest.raises(ValueError, match=r"draws \[m, \[1, 3\]\] were expected"):
        crps(draws[:, :5, :3], truth[:1, :3])


def test_few_items_have_no_test() -> None:
    assert math.isnan(uniformity(torch.tensor([4, 5]))) and not math.isnan(uniformity(torch.tensor([4, 6])))
