"""Subspace clustering by denoising: how many items a low-rank mixture needs, and what its choices of form cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from ..denoiser.low_rank import answers
from ..process import VP
from ..rng import Rng
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role
from .subspace_jacobian import JACOBIAN_ARMS, jacobian_checks

PAPER = Paper.of(
    "subspace",
    "A denoiser that fits low-rank data learns it by clustering its items into subspaces, and needs as many items of "
    "each subspace as the subspace has dimensions.",
)
RESULT = ""

F64 = torch.float64
# the ambient dimensions, and the trials of a cell
SIZE, TRIALS = 48, 20
# the items of each subspace beyond its dimensions
EXTRA = (-2, -1, 0, 1, 2, 3)
RESTARTS, STEPS, COPIES, RATE = 3, 250, 4, 5.0
# the times of training: little noise, and all
LITTLE, ALL_TIMES = (0.02, 0.1), (0.02, 0.98)
# a trial succeeds if each basis holds this share of its subspace
SHARE = 0.95
SOFT, HARD, NOISY = "denoising", "denoising, hard choice", "denoising, all noise levels"
CLUSTERED, PRINCIPAL = "K-subspaces", "principal components"
ANGLES = (15.0, 30.0, 60.0, 90.0)


@dataclass(frozen=True)
class Cell:
    """K subspaces of d dimensions, with `items` items each."""

    components: int
    rank: int
    items: int


def subspaces(cell: Cell, seed: int, angle: float | None = None) -> Tensor:
    """Orthonormal bases for each trial, [T, K, D, d]: random ones, or with all angles to the first equal.

    angle : in degrees.
    """
    shape = (TRIALS, SIZE, cell.components * cell.rank)
    whole = torch.linalg.qr(Rng(seed, TRIALS, "bases").normal(shape, F64))[0].mT
    apart = whole.reshape(TRIALS, cell.components, cell.rank, SIZE).mT
    if angle is None:
        loose = Rng(seed, TRIALS, "bases").normal((TRIALS, cell.components, SIZE, cell.rank), F64)
        return torch.linalg.qr(loose)[0]
    turn = torch.tensor(angle, dtype=F64).deg2rad()
    first = apart[:, :1].expand_as(apart[:, 1:])
    return torch.cat([apart[:, :1], first * turn.cos() + apart[:, 1:] * turn.sin()], 1)


def drawn(bases: Tensor, items: int, seed: int) -> Tensor:
    """x0 = U_k a with standard normal a, [T, K * items, D]."""
    trials, components, _, rank = bases.shape
    a = Rng(seed, trials, "items").normal((trials, components, items, rank), F64)
    return torch.einsum("tkde,tkie->tkid", bases, a).flatten(1, 2)


def held(found: Tensor, right: Tensor) -> Tensor:
    """The least share of a right subspace that its found one holds, by the best order of the found ones, [T]."""
    share = torch.einsum("tkde,tjdf->tkjef", found, right).square().sum((3, 4)) / right.shape[-1]
    orders = [torch.stack([share[:, order[j], j] for j in range(len(order))], 1) for order in _orders(found.shape[1])]
    return torch.stack([order.amin(1) for order in orders], 1).amax(1)


def _orders(count: int) -> Sequence[tuple[int, ...]]:
    return list(permutations(range(count)))


def by_denoising(
    x0: Tensor,
    components: int,
    rank: int,
    seed: int,
    hard: bool = False,
    times: tuple[float, float] = LITTLE,
) -> Tensor:
    """The bases of `LowRankMixture` after training by the squared error at some times, [T, K, D, d].

    All trials and restarts are trained at once; each trial keeps its restart of the least error.
    """
    trials, runs = len(x0), len(x0) * RESTARTS
    # half the time of double precision, and the noise is larger than its rounding
    x0 = x0.float()
    many = x0.repeat_interleave(RESTARTS, 0)
    bases = torch.linalg.qr(Rng(seed, runs, "first").normal((runs, components, SIZE, rank)))[0]
    for step in range(STEPS):
        bases.requires_grad_()
        loss = _errors(bases, many.repeat(1, COPIES, 1), Rng(seed, runs, f"step {step}"), hard, times)
        (slope,) = torch.autograd.grad(loss.sum(), bases)
        # gradient descent with a retraction by QR; a basis of few items has a small slope
        rate = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        bases = torch.linalg.qr((bases - rate * slope).detach())[0]
    restarts, many = bases.unflatten(0, (trials, RESTARTS)), x0.repeat(1, 8, 1)
    # the same noise for all restarts of a trial
    each = [_errors(one, many, Rng(seed, trials, "last"), hard, times) for one in restarts.unbind(1)]
    error = torch.stack(each, 1)
    best = error.argmin(1)
    return restarts[torch.arange(trials), best].double()


def _errors(bases: Tensor, x0: Tensor, rng: Rng, hard: bool, times: tuple[float, float]) -> Tensor:
    """The mean squared error of each run over its items, [T]. Each item has a time of its own."""
    size = x0.shape[:2]
    low, high = times
    t = low + (high - low) * rng.uniform(size)
    alpha, sigma = (part(t.flatten()).to(x0).reshape(*size, 1, 1) for part in (VP().alpha, VP().sigma))
    xt = alpha[..., 0] * x0 + sigma[..., 0] * rng.normal(x0.shape)
    means, log_weights = x0.new_zeros(bases.shape[1:3]), x0.new_zeros(bases.shape[1])

    def error(one: Tensor, x: Tensor, a: Tensor, s: Tensor, clean: Tensor) -> Tensor:
        logs, each = answers(x, a, s, one, means, log_weights, hard)
        return ((logs.softmax(1)[..., None] * each).sum(1) - clean).square().sum(1).mean()

    return torch.func.vmap(error)(bases, xt, alpha, sigma, x0)


def by_clustering(x0: Tensor, components: int, rank: int, seed: int, rounds: int = 30) -> Tensor:
    """K-subspaces: items go to the subspace that holds most of them, and subspaces are principal components of their
    items, in turns. The best of as many starts as denoising has."""
    found = []
    for trial, items in enumerate(x0):
        best: tuple[float, Tensor] | None = None
        for restart in range(RESTARTS):
            start = Rng(seed, components, f"start {trial} {restart}").normal((components, SIZE, rank), F64)
            bases = torch.linalg.qr(start)[0]
            for _ in range(rounds):
                own = torch.einsum("id,kde->kie", items, bases).square().sum(2).argmax(0)
                bases = torch.stack([_principal(items[own == k], rank, bases[k]) for k in range(components)])
            kept = float(torch.einsum("id,kde->kie", items, bases).square().sum(2).amax(0).sum())
            if best is None or kept > best[0]:
                best = (kept, bases)
        assert best is not None
        found.append(best[1])
    return torch.stack(found)


def _principal(items: Tensor, rank: int, before: Tensor) -> Tensor:
    """The first principal components about 0; those before for an empty cluster."""
    if len(items) == 0:
        return before
    return torch.linalg.svd(items, full_matrices=True)[2][:rank].mT


def transition(seed: int, cells: Sequence[tuple[int, int]]) -> Results:
    """The share of trials that succeed, for each number of items beyond d."""
    results: dict[tuple[str, str], float] = {}
    for components, rank in cells:
        for extra in EXTRA:
            cell = Cell(components, rank, rank + extra)
            right = subspaces(cell, seed)
            x0 = drawn(right, cell.items, seed)
            found = {
                SOFT: by_denoising(x0, components, rank, seed),
                HARD: by_denoising(x0, components, rank, seed, hard=True),
                NOISY: by_denoising(x0, components, rank, seed, times=ALL_TIMES),
                CLUSTERED: by_clustering(x0, components, rank, seed),
            }
            if components == 1:
                found[PRINCIPAL] = torch.stack([_principal(each, rank, each.mT) for each in x0])[:, None]
            for name, bases in found.items():
                share = float((held(bases, right) > SHARE).double().mean())
                results[f"{name}, {components} of {rank}", f"success@{extra}"] = share
    return results


def at_angles(seed: int, components: int, rank: int) -> Results:
    """The share of success with three times d items, for subspaces at each angle to the first."""
    results: dict[tuple[str, str], float] = {}
    for angle in ANGLES:
        right = subspaces(Cell(components, rank, 3 * rank), seed, angle)
        x0 = drawn(right, 3 * rank, seed)
        for name, bases in (
            (SOFT, by_denoising(x0, components, rank, seed)),
            (CLUSTERED, by_clustering(x0, components, rank, seed)),
        ):
            results[f"{name}, at an angle", f"success@{angle:g}"] = float((held(bases, right) > SHARE).double().mean())
    return results


def checks(value: Numbers) -> Mapping[str, bool]:
    """The number of items at which each way succeeds, hard and soft choices, angles, and ranks."""
    cells = [cell for cell in ALL if (f"{SOFT}, {cell[0]} of {cell[1]}", f"success@{EXTRA[0]}") in value]

    def begins(name: str, cell: tuple[int, int]) -> int:
        """The first number of items beyond d with at least half of the trials; one more than all if there is none."""
        line = value.line(f"{name}, {cell[0]} of {cell[1]}", "success", EXTRA)
        return next((extra for extra, share in zip(EXTRA, line, strict=True) if share >= 0.5), EXTRA[-1] + 1)

    def text(found: Sequence[float]) -> str:
        return ", ".join(f"{each:g}" for each in found)

    shown = " and ".join(f"{k} of {d}" for k, d in cells)
    soft, hard, noisy, other = ([begins(name, cell) for cell in cells] for name in (SOFT, HARD, NOISY, CLUSTERED))
    single = [cell for cell in cells if cell[0] == 1]
    gaps = [
        abs(a - b)
        for cell in single
        for a, b in zip(
            *(value.line(f"{name}, 1 of {cell[1]}", "success", EXTRA) for name in (SOFT, PRINCIPAL)), strict=True
        )
    ]
    clustered, denoised = (value.line(f"{name}, at an angle", "success", ANGLES) for name in (CLUSTERED, SOFT))
    found = {
        f"subspaces are found from d items on, to within one ({shown} dimensions: from d + {text(soft)})": all(
            abs(each) <= 1 for each in soft
        ),
        f"one subspace as by principal components (shares of success apart by {max(gaps):.2f} at most)": max(gaps)
        <= 0.1,
        f"K-subspaces, which knows no noise, needs as many, to within one (from d + {text(other)})": all(
            abs(a - b) <= 1 for a, b in zip(soft, other, strict=True)
        ),
        f"the hard choice of the theorem does too (from d + {text(hard)})": all(
            abs(a - b) <= 1 for a, b in zip(soft, hard, strict=True)
        ),
        f"trained at all noise levels it needs more (from d + {text(noisy)})": all(
            a > b for a, b in zip(noisy, soft, strict=True)
        ),
        f"at small angles denoising finds them as often as K-subspaces (at {text(ANGLES)} degrees {text(denoised)}; "
        f"{text(clustered)})": all(a >= b - 0.1 for a, b in zip(denoised, clustered, strict=True)),
    }
    return found | dict(jacobian_checks(value))


QUICK = ((1, 4), (2, 3))
ALL = ((1, 4), (2, 3), (1, 8), (3, 6))


def _roles(cells: Sequence[tuple[int, int]]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for components, rank in cells:
        ways: dict[str, Role] = {SOFT: "ours", HARD: "control", NOISY: "control", CLUSTERED: "baseline"}
        roles |= {f"{name}, {components} of {rank}": role for name, role in ways.items()}
        if components == 1:
            roles[f"{PRINCIPAL}, {components} of {rank}"] = "oracle"
    return roles


run = Study(
    PAPER,
    checks,
    [
        Arms(
            _roles(ALL),
            transition,
            f"low-rank items in {SIZE} dimensions, {TRIALS} trials",
            {"cells": QUICK},
            {"cells": ALL},
        ),
        Arms(
            {f"{SOFT}, at an angle": "ours", f"{CLUSTERED}, at an angle": "baseline"},
            at_angles,
            f"two subspaces of 3 of {SIZE} dimensions at an angle, {TRIALS} trials",
            {"components": 2, "rank": 3},
            {"components": 2, "rank": 3},
        ),
        *JACOBIAN_ARMS,
    ],
)
