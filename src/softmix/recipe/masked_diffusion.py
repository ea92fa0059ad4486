"""Masked diffusion: how tight its bound is, and in how many steps its samples reach the law of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from ..cond import Cond
from ..data import Report
from ..data.store import make
from ..denoiser import CategoricalHead, Network
from ..info import bits_per_token
from ..loss import MaskedCrossEntropy
from ..net import TokenSpec
from ..oracle import TokenProblem, tokens
from ..posterior import Categorical
from ..process import Masked
from ..rng import Rng
from ..sampler import Sampler, ancestral, sample, unmask
from ..train import Config, Denoise, Optimiser
from .frame import Arms, Numbers, Results, Study
from .in_memory import averaged_on_cpu
from .paper import Paper, Role

PAPER = Paper.of(
    "masked_diffusion",
    "The weighted cross-entropy of masked tokens is a tight bound on the likelihood in continuous time, and the "
    "samples of masked diffusion reach the law of the data in enough steps.",
)
RESULT = ""

SYMBOLS, LENGTH = 3, 5
LAW = f"a chain of {LENGTH} tokens with {SYMBOLS} symbols"
COUNTS = (4, 8, 16, 64)
WAYS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "random order, fixed counts": partial(unmask, confidence="random"),
    "by confidence": unmask,
    "by entropy": partial(unmask, confidence="entropy"),
}
ROLES: dict[str, Role] = {
    "ancestral": "ours",
    "random order, fixed counts": "control",
    "by confidence": "rival",
    "by entropy": "rival",
}
EXACT, LEARNED, APART = "exact posterior", "learned", "places apart, ancestral"
DRAWS, ENTROPY, BOUND, STEPS = "exact draws", "entropy", "bound in continuous time", "bound of n steps"


def problem() -> TokenProblem:
    return tokens(Masked(SYMBOLS), SYMBOLS, LENGTH)


def rows(base: int) -> Tensor:
    """All rows of LENGTH tokens below `base`, in the order of their `code`, [base^L, L]."""
    return torch.cartesian_prod(*[torch.arange(base)] * LENGTH)


def code(x: Tensor, base: int) -> Tensor:
    """The number of each row of tokens [..., L]."""
    return (x * base ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)


@cache
def law() -> Tensor:
    """The probability of each clean row, [243]."""
    return problem().log_prob(rows(SYMBOLS)).exp()


class Tabled:
    """A denoiser that is asked once for all 1,024 states at each time, and then read from a table."""

    def __init__(self, denoiser: object):
        self.process, self.shape, self._denoiser = Masked(SYMBOLS), (LENGTH,), denoiser
        self._tables: dict[float, Tensor] = {}

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Categorical:
        number = float(t)
        if number not in self._tables:
            with torch.no_grad():
                found = self._denoiser(rows(SYMBOLS + 1), torch.tensor(number, dtype=torch.float64))  # type: ignore[operator]
            self._tables[number] = found.log_probabilities
        return Categorical(self._tables[number][code(xt, SYMBOLS + 1)])


@cache
def exact() -> Tabled:
    return Tabled(problem().denoiser())


def apart(xt: Tensor, t: Tensor | float) -> Categorical:
    """The posterior of each masked place without its neighbours: the marginal of the place."""
    alone = exact()(torch.full((1, LENGTH), SYMBOLS), t).log_probabilities
    own = exact()(xt, t).log_probabilities
    return Categorical(torch.where((xt == SYMBOLS)[:, None], alone, own))


@lru_cache(maxsize=8)
def learned(seed: int, steps: int) -> Network:
    """A network of two blocks after so many steps of 128 items."""
    count = 50_000
    x0, _ = problem().draw(count, Rng(seed, count, "train"))
    data = make("chain", x0.int(), None, (), Report(read=count), vocabulary=SYMBOLS)
    task = Denoise(Masked(), TokenSpec(64, 2), CategoricalHead(), MaskedCrossEntropy(), output="x0")
    optimiser = Optimiser(rate=3e-3, warmup=100, decay=0.6)
    config = Config(task, steps=steps, batch=128, seed=seed, precision="fp32", optimiser=optimiser)
    return cast(Network, averaged_on_cpu(data, config)).eval()


def distance(x: Tensor) -> float:
    """Total variation between the frequencies of rows [N, L] and the law."""
    found = code(x, SYMBOLS).bincount(minlength=SYMBOLS**LENGTH).double() / len(x)
    return 0.5 * float((found - law()).abs().sum())


def bound_of_steps(n: int) -> float:
    """The bound of the sampler with n steps for the exact posterior, in nats per token, by enumeration.

        (1 / L) sum_i (alpha_s - alpha_t) / (1 - alpha_t) E sum_(l masked) -log q(x0_l | x_t)

    over the steps from t to s. Source: Sahoo et al., NeurIPS 2024, section 3.3.
    """
    process, clean, total = Masked(SYMBOLS), rows(SYMBOLS), 0.0
    hidden = torch.cartesian_prod(*[torch.tensor([False, True])] * LENGTH)
    for t, s in pairwise(process.grid(n).tolist()):
        lifted = (t - s) / t
        for masks in hidden:
            xt = torch.where(masks, SYMBOLS, clean)
            nats = -exact()(xt, 0.5).log_prob_each(clean)[:, masks].sum(1)
            chance = t ** int(masks.sum()) * (1 - t) ** int((~masks).sum())
            total += lifted * chance * float((law() * nats).sum())
    return total / LENGTH


def bounds(seed: int, n: int, steps: int) -> Results:
    """The bounds in nats per token, each as its excess over the entropy, and that of a learned network."""
    x0, _ = problem().draw(n, Rng(seed, n, "held out"))
    own = -problem().log_prob(x0) / LENGTH
    results: dict[tuple[str, str], float] = {}
    results[ENTROPY, "nats"] = float(-(law() * law().log()).sum()) / LENGTH
    for name, model in ((EXACT, problem().denoiser()), (LEARNED, learned(seed, steps))):
        bits = bits_per_token(model, x0, Rng(seed, n, name), draws=LENGTH, batch=4096)
        # the same items in both terms: their own spread is not that of the bound
        results[f"{name}, {BOUND}", "excess"] = float((bits * math.log(2) - own).mean())
    for count in COUNTS:
        results[f"{EXACT}, {STEPS}", f"excess@{count}"] = bound_of_steps(count) - results[ENTROPY, "nats"]
    return results


def samples(seed: int, n: int, steps: int) -> Results:
    """The total variation of samples from the law, for each way and number of steps."""
    results: dict[tuple[str, str], float] = {}
    results[DRAWS, "tv"] = distance(problem().draw(n, Rng(seed, n, "floor"))[0])
    blind = Tabled(apart)
    for count in COUNTS:
        for name, model in ((EXACT, exact()), (LEARNED, Tabled(learned(seed, steps)))):
            for way, sampler in WAYS.items():
                x = sample(model, n, count, sampler=sampler, seed=seed, batch=n)
                results[f"{name}, {way}", f"tv@{count}"] = distance(x)
        results[APART, f"tv@{count}"] = distance(sample(blind, n, count, seed=seed, batch=n))
    return results


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.3f}" for each in values)


def checks(value: Numbers) -> Mapping[str, bool]:
    """The bound, the law at 64 steps, and the orders of unmasking."""
    line = {name: value.line(name, "tv", COUNTS) for name in [*_ROLES_OF_SAMPLES] if name != DRAWS}
    own, learned_own = line[f"{EXACT}, ancestral"], line[f"{LEARNED}, ancestral"]
    counted = line[f"{EXACT}, random order, fixed counts"]
    sure, calm = line[f"{EXACT}, by confidence"], line[f"{EXACT}, by entropy"]
    tight, above = value[f"{EXACT}, {BOUND}", "excess"], value[f"{LEARNED}, {BOUND}", "excess"]
    few = value.line(f"{EXACT}, {STEPS}", "excess", COUNTS)
    least = value[DRAWS, "tv"]
    fewer = all(a < b for a, b in zip(counted, own, strict=True))
    return {
        f"for the exact posterior the bound is the entropy to within 0.005 nats per token ({tight:+.4f}), and samples "
        f"of 64 steps have a total variation of at most 0.02 ({own[-1]:.3f}; exact draws {least:.3f})": abs(tight)
        < 0.005
        and own[-1] <= 0.02,
        f"the bound of n steps is looser, and falls to it ({_text(few)})": few[0] > 0.05
        and all(a > b for a, b in pairwise(few))
        and few[-1] < 0.02,
        f"without the neighbours of a place no number of steps helps ({_text(line[APART])})": line[APART][-1] > 0.2,
        f"a learned network is within 0.02 nats of the entropy ({above:+.4f})": -0.005 < above < 0.02,
        f"and its samples of 64 steps are within 0.05 of the law ({_text(learned_own)})": learned_own[-1] <= 0.05,
        f"a random order with fixed counts needs fewer steps than ancestral ({_text(counted)}; {_text(own)})": fewer,
        f"an order by confidence in drawn tokens leaves the law, with the exact posterior too ({_text(sure)})": sure[-1]
        > 0.1,
        f"an order by entropy does not ({_text(calm)})": calm[-1] < least + 0.01,
    }


_ROLES_OF_SAMPLES: dict[str, Role] = {
    **{f"{model}, {way}": role for model in (EXACT, LEARNED) for way, role in ROLES.items()},
    APART: "baseline",
    DRAWS: "floor",
}
_ROLES_OF_BOUNDS: dict[str, Role] = {
    f"{EXACT}, {BOUND}": "ours",
    f"{LEARNED}, {BOUND}": "ours",
    f"{EXACT}, {STEPS}": "baseline",
    ENTROPY: "oracle",
}
QUICK = {"n": 100_000, "steps": 900}
FULL = {"n": 200_000, "steps": 6000}

run = Study(
    PAPER,
    checks,
    [
        Arms(_ROLES_OF_BOUNDS, bounds, LAW, QUICK | {"n": 20_000}, FULL | {"n": 50_000}),
        Arms(_ROLES_OF_SAMPLES, samples, LAW, QUICK, FULL),
    ],
)
