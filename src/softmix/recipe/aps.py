"""APS: masked tokens given a measurement, by logits that are fitted to it, and by an order that follows them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..measure import anchored, token_particles
from ..oracle import MeasuredTokens, measured_tokens
from ..process import Masked
from ..rng import Rng
from ..sampler import Sampler, WeightedSamples, sample, unmask
from . import aps_digits
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role

PAPER = Paper.of(
    "aps",
    "Gradients through a quantised expected token, and an order of unmasking by the guided probabilities, sample "
    "tokens given a measurement better than the same guidance in the usual order.",
)
RESULT = ""

SYMBOLS, LENGTH = 4, 6
LAW = f"a chain of {LENGTH} tokens with {SYMBOLS} symbols, y with noise of 1"
# measured numbers of y: several sequences fit 3, and mostly one fits 12
COUNTS = (3, 12)
FREE, DRAWS, BEST, PARTICLES = "without y", "exact draws", "best of 256", "256 particles"
# the coupling of the two halves of split Gibbs
COUPLINGS = (1.0, 3.0)
OURS, USUAL, SOFT = "quantised, anchored order", "quantised, usual order", "expected, anchored order"
LOOSE = "quantised, anchored order, without the KL"
# name: the role, and how it differs from the published method with its KL
FITTED: dict[str, tuple[Role, dict[str, Any]]] = {
    OURS: ("ours", {}),
    USUAL: ("baseline", {"confidence": "prior"}),
    "quantised, random order": ("control", {"confidence": "random"}),
    SOFT: ("ours", {"at": "expected"}),
    "expected, usual order": ("baseline", {"at": "expected", "confidence": "prior"}),
    "expected, random order": ("control", {"at": "expected", "confidence": "random"}),
    LOOSE: ("control", {"prior": 0.0}),
    "expected, anchored order, without the KL": ("control", {"at": "expected", "prior": 0.0}),
    "quantised, anchored order, 10 inner steps": ("control", {"inner": 10}),
    "quantised, anchored order, 30 inner steps": ("control", {"inner": 30}),
}


def gibbs_name(coupling: float) -> str:
    return f"split Gibbs, coupling {coupling:g}"


def split_gibbs(measured: MeasuredTokens, fits: Tensor, coupling: float, sweeps: int) -> Tensor:
    """The law of x after so many sweeps from the prior, exact, [K^L].

        z ~ p(y | z) exp(-coupling D(x, z)),   x ~ p(x) exp(-coupling D(x, z)),   D : the number of different tokens

    fits : p(y | z) of every sequence. The stationary law is p(x) sum_z p(y | z) exp(-coupling D(x, z)), and p(x | y)
    for a large coupling; but the larger it is, the less a sweep moves.
    Source: Vono, Dobigeon & Chainais, "Split-and-augmented Gibbs sampler", IEEE TSP 2019, for the method.
    """
    values = measured.problem.mask
    kernel = torch.full((values, values), -coupling, dtype=torch.float64).exp().fill_diagonal_(1)

    def near(law: Tensor) -> Tensor:
        """sum_x exp(-coupling D(x, z)) law(x): one axis for each token."""
        table = law.reshape([values] * measured.problem.length)
        for _ in range(measured.problem.length):
            # the first axis leaves, and its sum comes back as the last
            table = torch.tensordot(table, kernel, ([0], [0]))
        return table.flatten()

    prior = measured.problem.log_prob(measured.sequences).exp()
    law, around, of_y = prior, near(prior), near(fits)
    for _ in range(sweeps):
        law = prior * near(fits * near(law / of_y) / around)
    return law


def of_particles(measured: MeasuredTokens, y: Tensor, seed: int, runs: int, threshold: float) -> Tensor:
    """The mean of the weighted frequencies of several runs of 256 particles: the law of a draw of one run, [K^L]."""
    model, likelihood = measured.problem.denoiser(), measured.likelihood(y)
    law = torch.zeros(len(measured.sequences), dtype=torch.float64)
    for run in range(runs):
        rng = Rng(seed, 256, f"run {run}")
        found = token_particles(model, likelihood, _codes(), 256, LENGTH, rng, threshold=threshold)
        law.index_add_(0, measured.number(found.x), found.probability / runs)
    return law


def _codes() -> Tensor:
    return torch.eye(SYMBOLS, dtype=torch.float64)


def one_item(measured: MeasuredTokens, y: Tensor, seed: int, n: int, inner: int, runs: int) -> Results:
    """The distance of each arm to p(x | y) and its share of the most probable sequence, for one y [1, M]."""
    right, model = measured.given(y).probabilities[0], measured.problem.denoiser()
    results: dict[tuple[str, str], float] = {}

    def note(name: str, law: Tensor) -> None:
        results[name, "tv"] = 0.5 * float((law - right).abs().sum())
        results[name, "map"] = float(law[right.argmax()])

    def shares(x: Tensor) -> Tensor:
        return measured.number(x).bincount(minlength=len(right)).double() / len(x)

    def drawn(sampler: Sampler) -> Tensor:
        return shares(sample(model, n, LENGTH, sampler=sampler, seed=seed, batch=n))

    exact = WeightedSamples(measured.sequences, right.log(), 0).resampled(n, Rng(seed, n, "exact"))
    note(DRAWS, shares(exact))
    note(FREE, drawn(partial(unmask, confidence="random")))
    for name, (_, changed) in FITTED.items():
        note(name, drawn(anchored(measured.likelihood(y), _codes(), **{"inner": inner, **changed})))
    note(BEST, of_particles(measured, y, seed, runs, 0.0))
    note(PARTICLES, of_particles(measured, y, seed, runs, 0.5))
    fits = measured.likelihood(y)(measured.vectors(measured.sequences)).exp()
    for coupling in COUPLINGS:
        note(gibbs_name(coupling), split_gibbs(measured, fits, coupling, 100))
    return results


def on_chain(seed: int, n: int, items: int, inner: int, runs: int) -> Results:
    """The means of `one_item` over several y, for each number of measured numbers."""
    results: dict[tuple[str, str], float] = {}
    for count in COUNTS:
        measured = measured_tokens(Masked(SYMBOLS), SYMBOLS, LENGTH, count, sd=1.0)
        for item in range(items):
            y = measured.draw(1, Rng(seed, [item], "y"))[1].value
            assert y is not None
            for (name, kind), value in one_item(measured, y, 1000 * seed + item, n, inner, runs).items():
                results[name, f"{kind}@{count}"] = results.get((name, f"{kind}@{count}"), 0.0) + value / items
    return results


def _text(values: list[float]) -> str:
    return ", ".join(f"{each:.3f}" for each in values)


def _below(a: list[float], b: list[float]) -> bool:
    return all(x < y for x, y in zip(a, b, strict=True))


def checks(value: Numbers) -> Mapping[str, bool]:
    """The order, the quantised code, the parts of the inner loop, and particles; then the digits."""
    tv = {name: value.line(name, "tv", COUNTS) for name in ROLES}
    inner = [tv[f"{OURS}, {steps} inner steps"] for steps in (10, 30)]
    soft, random = tv[SOFT], tv["expected, random order"]
    usual = tv["expected, usual order"]
    found = {
        f"with quantised codes the anchored order is nearer to p(x | y) than the usual order with the same guidance, "
        f"at 3 and 12 measured numbers (total variation {_text(tv[OURS])}; {_text(tv[USUAL])})": _below(
            tv[OURS], tv[USUAL]
        ),
        f"and at half the distance of the model without y at most ({_text(tv[FREE])})": _below(
            tv[OURS], [each / 2 for each in tv[FREE]]
        ),
        f"with expected codes it is nearer than in both other orders ({_text(soft)}; {_text(usual)}; "
        f"{_text(random)})": _below(soft, usual) and _below(soft, random),
        "quantised codes are nearer than expected ones": _below(tv[OURS], soft),
        f"more inner steps are nearer (10: {_text(inner[0])}; 30: {_text(inner[1])})": _below(tv[OURS], inner[1])
        and _below(inner[1], inner[0]),
        f"the divergence from the model helps ({_text(tv[LOOSE])} without)": _below(tv[OURS], tv[LOOSE]),
        f"256 particles, with 256 times the evaluations, are no nearer ({_text(tv[PARTICLES])}; exact draws "
        f"{_text(tv[DRAWS])})": _below(tv[OURS], tv[PARTICLES]),
    }
    if (aps_digits.OURS, "wrong@half") in value:
        found |= aps_digits.checks(value)
    return found


ROLES: dict[str, Role] = {
    **{name: role for name, (role, _) in FITTED.items()},
    FREE: "baseline",
    BEST: "rival",
    PARTICLES: "oracle",
    **{gibbs_name(coupling): "rival" for coupling in COUPLINGS},
    DRAWS: "floor",
}

run = Study(
    PAPER,
    checks,
    [
        Arms(
            ROLES,
            on_chain,
            LAW,
            {"n": 500, "items": 1, "inner": 100, "runs": 20},
            {"n": 4000, "items": 8, "inner": 100, "runs": 200},
            seeds=3,
        ),
        aps_digits.ARMS,
    ],
)
