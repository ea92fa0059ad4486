"""The information of two conditions on each element: exact laws, sums, parts, exchange, and conformance.

The exact laws are measured by quadrature in the noise and in logsnr, so that no tolerance is of random numbers.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmix.cond import Cond, CondError, CondSpec
from softmix.info import (
    Decomposition,
    EvenLevels,
    InformationMaps,
    Levels,
    TwoSources,
    decompose,
    decompose_pointwise,
    label_information,
    pointwise_decomposition,
    pointwise_information,
)
from softmix.oracle import LabelledProblem, two_labels
from softmix.process import VP, Flow, Gaussian
from softmix.recipe.exact_information import ENDS, AtNodes, by_rule, exact_parts, linear, rule
from softmix.rng import Rng

F64 = torch.float64
NAMES = ("first", "second", "both", "first_given_second", "second_given_first")
PARTS = ("redundant", "first", "second", "synergy")
LEVELS = Levels(1.0, 2.0)


def sources_of(problem: LabelledProblem, cond: Cond) -> TwoSources:
    return TwoSources.of(cond, problem.cond, "label 0", "label 1")


def drawn(n: int, device: torch.device, shape: tuple[int, ...] = (2,), process: Gaussian | None = None) -> tuple:  # type: ignore[type-arg]
    """A problem, n items, and the two sources."""
    problem = two_labels(shape, process)
    x, cond = problem.draw(n, Rng(7, n, "items", device))
    return problem, x, sources_of(problem, cond)


def maps_of(first: Tensor, second: Tensor, both: Tensor) -> InformationMaps:
    return InformationMaps(first, second, both, both - second, both - first, "standard")


# exact laws


def test_two_labels_say_what_their_probabilities_say(device: torch.device) -> None:
    """Each information of six items, and each of its parts, to 1e-3 nats; the error is 2e-5."""
    problem, x, sources = drawn(6, device)
    known, parts = exact_parts(problem, x, sources.both)
    standard, orthogonal = by_rule(lambda process: two_labels(process=process).denoiser(), x, sources, 14, 60)
    for name in NAMES:
        assert torch.allclose(getattr(standard.total, name), known[name], rtol=0, atol=1e-3)
    prior = problem.surprisal(sources.first), problem.surprisal(sources.second)
    found = standard.parts(prior)
    for name in PARTS:
        assert torch.allclose(getattr(found, name).sum(1), getattr(parts, name), rtol=0, atol=1e-3)
    # the orthogonal estimator is something else at a point
    assert float((orthogonal.total.both - known["both"]).abs().max()) > 0.1
    assert standard.estimator == "standard" and orthogonal.estimator == "orthogonal"


def test_a_linear_gaussian_has_its_known_redundancy_and_synergy() -> None:
    """x = y1 + y2 + n, correlation 0.6: .6783 and .3568 bits."""
    found, known = linear(0.6, 80)
    assert float(known.redundant) == pytest.approx(0.6783, abs=1e-4)
    assert float(known.synergy) == pytest.approx(0.3568, abs=1e-4)
    for name in PARTS:
        assert float(getattr(found, name)) == pytest.approx(float(getattr(known, name)), abs=1e-3)


def test_the_mean_of_pointwise_parts_is_the_decomposition_of_the_joint_law(device: torch.device) -> None:
    """Over a line of 400 points with their exact probabilities: the measure "pm" of `decompose`, in nats."""
    problem = two_labels((1,))
    x = torch.linspace(-4, 4, 400, dtype=F64, device=device)[:, None]
    labels = problem.labels.to(device)
    weight = torch.stack([problem.log_prob(x, Cond(label=each.expand(400, 2))) for each in labels]).exp()
    joint = weight * problem.law.weights.to(device)[:, None]
    joint = joint / joint.sum()
    whole = decompose(joint.reshape(3, 2, 400), "pm")
    pieces = []
    a, b, t = joint.reshape(3, 2, 400).sum((1, 2)), joint.reshape(3, 2, 400).sum((0, 2)), joint.sum(0)
    for (i, j), each in zip(labels.tolist(), joint, strict=True):
        at, bt = joint.reshape(3, 2, 400)[i].sum(0), joint.reshape(3, 2, 400)[:, j].sum(0)
        parts = maps_of(
            *((own / total / t).log()[:, None] for own, total in ((at, a[i]), (bt, b[j]), (each, each.sum())))
        ).parts((-a[i].log(), -b[j].log()))
        pieces.append([(each * getattr(parts, name)[:, 0]).sum() for name in PARTS])
    for name, total in zip(PARTS, torch.tensor(pieces).sum(0), strict=True):
        assert float(total) == pytest.approx(float(getattr(whole, name)) * math.log(2), abs=1e-9)


# the four evaluations


def test_each_map_is_that_of_pointwise_information(device: torch.device) -> None:
    """With the same noise: equal up to the channels, for i_s and i_o, with and without a context."""
    problem, x, sources = drawn(5, device, (2, 2, 2))
    pairs = (
        ("first", sources.first, sources.context),
        ("second", sources.second, sources.context),
        ("both", sources.both, sources.context),
        ("first_given_second", sources.both, sources.second),
        ("second_given_first", sources.both, sources.first),
    )
    rng = Rng(3, 5, device=device)
    found = pointwise_decomposition(problem.denoiser(), x, rng, LEVELS, sources, 6, 3)
    for name, given, context in pairs:
        one = pointwise_information(problem.denoiser(), x, rng, LEVELS, given, context, 6, 3)
        for maps, right in zip(found, one, strict=True):
            assert torch.allclose(getattr(maps, name), right.sum(1), rtol=1e-12, atol=1e-12)


def test_the_chain_rule_holds_in_each_element_for_the_standard_estimator(device: torch.device) -> None:
    problem, x, sources = drawn(20, device)
    standard, orthogonal = pointwise_decomposition(problem.denoiser(), x, Rng(0, 20, device=device), LEVELS, sources, 8)
    assert torch.allclose(standard.both, standard.first + standard.second_given_first, atol=1e-12)
    assert torch.allclose(standard.both, standard.second + standard.first_given_second, atol=1e-12)
    assert float((orthogonal.both - orthogonal.first - orthogonal.second_given_first).abs().max()) > 0.05
    assert all(bool((getattr(orthogonal, name) >= 0).all()) for name in NAMES)


def test_exchanged_sources_exchange_maps_and_unique_parts(device: torch.device) -> None:
    problem, x, sources = drawn(7, device)
    rng, prior = Rng(0, 7, device=device), (0.4, 1.3)
    for one, two in zip(
        pointwise_decomposition(problem.denoiser(), x, rng, LEVELS, sources, 5),
        pointwise_decomposition(problem.denoiser(), x, rng, LEVELS, sources.exchanged, 5),
        strict=True,
    ):
        for name, other in zip(
            NAMES, ("second", "first", "both", "second_given_first", "first_given_second"), strict=True
        ):
            assert torch.equal(getattr(one, name), getattr(two, other))
        for made in (InformationMaps.parts, InformationMaps.parts_of_elements):
            left, right = made(one, prior), made(two, prior[::-1])
            for name, other in zip(PARTS, ("redundant", "second", "first", "synergy"), strict=True):
                assert torch.allclose(getattr(left, name), getattr(right, other), atol=1e-14)


def test_a_context_is_known_in_all_four(device: torch.device) -> None:
    """Three labels, of which the third decides which of two laws holds: the information given it is that of the law
    alone, with the same noise."""
    plain = two_labels()
    other = LabelledProblem(
        "both",
        type(plain.law)(
            "both",
            plain.law.weights.repeat(2) / 2,
            torch.cat([plain.law.means, plain.law.means + 3]),
            plain.law.factors.repeat(2, 1, 1),
        ),
        torch.cat([torch.cat([plain.labels, torch.full((6, 1), k, device="cpu")], 1) for k in range(2)]),
        VP(),
        (2,),
    )
    x, cond = plain.draw(9, Rng(2, 9, device=device))
    assert cond.label is not None
    third = Cond(label=torch.cat([cond.label, torch.zeros_like(cond.label[:, :1])], 1))
    sources = sources_of(other, third)
    assert isinstance(sources.context, Cond) and sources.context.label is not None
    assert sources.context.label.tolist() == [[-1, -1, 0]] * 9
    rng = Rng(5, 9, device=device)
    with_context, _ = pointwise_decomposition(other.denoiser(), x, rng, LEVELS, sources, 6)
    alone, _ = pointwise_decomposition(plain.denoiser(), x, rng, LEVELS, sources_of(plain, cond), 6)
    for name in NAMES:
        assert torch.allclose(getattr(with_context, name), getattr(alone, name), atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    ("shape", "grid"), [((2,), (2,)), ((3, 2), (3,)), ((2, 2, 2), (2, 2)), ((2, 1, 2, 1), (1, 2, 1))]
)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_item_is_a_batch_and_channels_are_summed(
    device: torch.device, n: int, shape: tuple[int, ...], grid: tuple[int, ...], dtype: torch.dtype
) -> None:
    problem, x, sources = drawn(n, device, shape, Flow())
    x, rng, close = x.to(dtype), Rng(4, n, device=device), 1e-3 if dtype == torch.float32 else 1e-10
    whole = pointwise_decomposition(problem.denoiser(), x, rng, LEVELS, sources, 4, 1)
    small = pointwise_decomposition(problem.denoiser(), x, rng, LEVELS, sources, 4, 1, batch=2)
    last = slice(n - 1, n)
    own = TwoSources(*(each.take(last) for each in (sources.first, sources.second, sources.both, sources.context)))
    one = pointwise_decomposition(problem.denoiser(), x[last], rng.take(last), LEVELS, own, 4, 1)
    for k in range(2):
        for name in NAMES:
            maps = getattr(whole[k], name)
            assert maps.dtype == F64 and maps.shape == (n, *grid)
            assert torch.allclose(maps, getattr(small[k], name), rtol=close, atol=close)
            assert torch.allclose(maps[last], getattr(one[k], name), rtol=close, atol=close)


# parts


def some_maps(n: int = 6, device: torch.device | str = "cpu") -> InformationMaps:
    rng = Rng(1, n, "maps", device)
    return maps_of(*(rng.normal((n, 3, 4), F64) / 3 for _ in range(3)))


@pytest.mark.parametrize("prior", [(2.0, 2.0), (0.2, 3.0), (1.5, 1.2)])
def test_the_sum_of_a_map_is_the_value_of_its_item(device: torch.device, prior: tuple[float, float]) -> None:
    maps = some_maps(40, device)
    found, total = maps.parts(prior), maps.total
    known = decompose_pointwise(total.first, total.second, total.both, prior)
    for name in PARTS:
        assert getattr(found, name).shape == (40, 3, 4)
        assert torch.allclose(getattr(found, name).sum((1, 2)), getattr(known, name), atol=1e-12)
        assert torch.allclose(getattr(total.parts(prior), name), getattr(known, name), atol=1e-12)
    assert torch.allclose(found.redundant + found.first, maps.first, atol=1e-14)
    assert torch.allclose(found.redundant + found.first + found.second + found.synergy, maps.both, atol=1e-13)
    # both choices of the source occur, so that the sum tests each
    left = prior[0] - total.first < prior[1] - total.second
    assert prior != (2.0, 2.0) or (bool(left.any()) and not bool(left.all()))


def test_the_redundant_map_is_that_of_one_source(device: torch.device) -> None:
    """By item, with equal priors: that of the larger total; with unequal ones, less ambiguity decides."""
    maps = some_maps(40, device)
    total = maps.total
    first = (total.first > total.second)[:, None, None]
    assert torch.allclose(maps.parts((2.0, 2.0)).redundant, torch.where(first, maps.first, maps.second), atol=1e-14)
    # h = 1 and 50: the first source has less ambiguity and less surprisal, always
    assert torch.allclose(maps.parts((1.0, 50.0)).redundant, maps.first, atol=1e-14)
    # a prior for each item
    each = torch.full((40,), 50.0, device=device), torch.full((40,), 1.0, device=device)
    assert torch.allclose(maps.parts(each).redundant, maps.second, atol=1e-14)


def test_equal_sources_are_all_redundant_with_the_mean_of_both_maps() -> None:
    one = torch.tensor([[1.0, 2.0, 0.0]], dtype=F64)
    found = maps_of(one, one.flip(1), 3 * torch.ones_like(one)).parts((2.0, 2.0))
    assert found.redundant.tolist() == [[0.5, 2.0, 0.5]]
    assert float(found.first.sum()) == 0 and float(found.second.sum()) == 0


def test_with_equal_priors_no_unique_part_is_above_0_and_independent_bits_are_redundant(device: torch.device) -> None:
    maps = some_maps(40, device)
    found = maps.total.parts((1.7, 1.7))
    assert torch.allclose(found.redundant, torch.maximum(maps.total.first, maps.total.second), atol=1e-12)
    assert float(found.first.max()) < 1e-12 and float(found.second.max()) < 1e-12
    # the left bit says all of the left element, and the right bit of the right one
    bit = math.log(2)
    first, second = torch.tensor([[bit, 0.0]], dtype=F64), torch.tensor([[0.0, bit]], dtype=F64)
    both = maps_of(first, second, first + second)
    copied, by_element = both.parts((bit, bit)), both.parts_of_elements((bit, bit))
    assert float(copied.redundant.sum()) == pytest.approx(bit) and float(copied.synergy.sum()) == pytest.approx(bit)
    # element by element the two bits are redundant, twice as much as the item
    assert by_element.redundant.tolist() == [[bit, bit]]


def test_the_parts_of_elements_are_those_of_each_with_its_share_of_the_prior(device: torch.device) -> None:
    maps = some_maps(5, device)
    found = maps.parts_of_elements((2.4, 3.6))
    known = decompose_pointwise(maps.first, maps.second, maps.both, (0.2, 0.3))
    assert all(torch.allclose(getattr(found, name), getattr(known, name), atol=1e-14) for name in PARTS)
    assert isinstance(found, Decomposition) and found.measure == maps.parts((1.0, 1.0)).measure == "pm"


@pytest.mark.parametrize("prior", [(-0.1, 1.0), (1.0, math.nan), (torch.ones(5), 1.0), (1.0, torch.ones(6, 2))])
def test_a_prior_that_is_none_is_refused(prior: tuple[Tensor | float, Tensor | float]) -> None:
    for made in (InformationMaps.parts, InformationMaps.parts_of_elements):
        with pytest.raises(ValueError, match=r"-log p\(y\) is a number of at least 0, or one for each of 6 items"):
            made(some_maps(), prior)


# sources


def test_sources_are_parts_of_a_condition() -> None:
    spec = CondSpec((("left", 4), ("right", 4), ("kind", 2)), values=1)
    cond = Cond(label=torch.tensor([[1, 2, 0], [3, 0, 1]]), value=torch.tensor([[0.5], [0.6]]))
    two = TwoSources.of(cond, spec, "left", "right")
    assert isinstance(two.first, Cond) and isinstance(two.second, Cond) and isinstance(two.context, Cond)
    labels = [part.label.tolist() for part in (two.first, two.second, two.context) if part.label is not None]
    assert labels == [[[1, -1, 0], [3, -1, 1]], [[-1, 2, 0], [-1, 0, 1]], [[-1, -1, 0], [-1, -1, 1]]]
    assert two.both is cond and two.context.value is cond.value
    other = two.exchanged
    assert (other.first, other.second, other.both, other.context) == (two.second, two.first, cond, two.context)
    mixed = TwoSources.of(cond, spec, "value", "right")
    assert isinstance(mixed.second, Cond) and mixed.second.value is not None and bool(mixed.second.value.isnan().all())
    with pytest.raises(ValueError, match="'left' was given for both"):
        TwoSources.of(cond, spec, "left", "left")
    with pytest.raises(CondError, match="'up' was to be dropped"):
        TwoSources.of(cond, spec, "left", "up")


def test_conditions_of_other_items_are_refused() -> None:
    problem, x, sources = drawn(4, torch.device("cpu"))
    short = TwoSources(sources.first.take(slice(3)), sources.second, sources.both, sources.context)
    with pytest.raises(ValueError, match=r"4 items were given, and conditions of \[3\] items"):
        pointwise_decomposition(problem.denoiser(), x, Rng(0, 4), LEVELS, short)
    with pytest.raises(ValueError, match=r"4 items were given, and conditions of \[3\] items"):
        label_information(problem.denoiser(), x, Rng(0, 4), LEVELS, [short.first])
    with pytest.raises(ValueError, match="at least one candidate"):
        label_information(problem.denoiser(), x, Rng(0, 4), LEVELS, [])


# several labels


def test_the_information_of_all_labels_gives_their_probabilities(device: torch.device) -> None:
    """p(y | x) of three labels at four points, by quadrature, to 1e-3; the orthogonal estimator gives another law."""
    z, weights = (part.to(device) for part in rule(24, 2))
    problem = two_labels(process=AtNodes(nodes=z))
    x, _ = problem.draw(4, Rng(7, 4, "items", device))
    items = x.repeat_interleave(len(z), 0)
    candidates = [Cond(label=torch.tensor([[k, -1]], device=device).expand(len(items), 2)) for k in range(3)]
    found = label_information(
        problem.denoiser(),
        items,
        Rng(0, len(items), device=device),
        EvenLevels(*ENDS),
        candidates,
        None,
        60,
        1,
        len(items),
    )
    standard, orthogonal = (torch.einsum("bzk,z->bk", each.unflatten(0, (4, -1)), weights) for each in found)
    prior = torch.stack([-problem.surprisal(each.take(slice(1)))[0] for each in candidates])
    logs = torch.stack([problem.log_prob(x, each.take(slice(4))) for each in candidates], 1) + prior
    assert torch.allclose((standard + prior).softmax(1), logs.softmax(1), rtol=0, atol=1e-3)
    assert torch.allclose(standard, logs - prior - problem.log_prob(x)[:, None], rtol=0, atol=1e-3)
    assert float(((orthogonal + prior).softmax(1) - logs.softmax(1)).abs().max()) > 0.1


def test_candidates_are_compared_within_a_context(device: torch.device) -> None:
    problem, x, sources = drawn(4, device)
    rng = Rng(0, 4, device=device)
    found, _ = label_information(problem.denoiser(), x, rng, LEVELS, [sources.both], sources.second, 5)
    maps, _ = pointwise_decomposition(problem.denoiser(), x, rng, LEVELS, sources, 5)
    assert torch.allclose(found[:, 0], maps.total.first_given_second, atol=1e-12)


def test_the_rule_is_exact_for_moments() -> None:
    nodes, weights = rule(4, 3)
    assert nodes.shape == (64, 3) and float(weights.sum()) == pytest.approx(1)
    assert torch.allclose((weights[:, None] * nodes**6).sum(0), torch.full((3,), 15.0, dtype=F64, device=nodes.device))
    assert float(weights @ (nodes[:, 0] ** 2 * nodes[:, 1] ** 4 * nodes[:, 2] ** 2)) == pytest.approx(3)
