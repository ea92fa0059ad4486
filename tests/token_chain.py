"""A small chain of tokens whose laws are enumerated, for tests of masked diffusion."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from softmix.oracle import TokenProblem, tokens
from softmix.posterior import Categorical
from softmix.process import Masked

SYMBOLS, LENGTH = 3, 4


def problem(process: Masked | None = None) -> TokenProblem:
    return tokens(process or Masked(SYMBOLS), SYMBOLS, LENGTH)


def rows(base: int) -> Tensor:
    """All rows of LENGTH tokens below `base`, in the order of their `code`."""
    return torch.cartesian_prod(*[torch.arange(base)] * LENGTH)


def code(x: Tensor, base: int) -> Tensor:
    return (x * base ** torch.arange(LENGTH - 1, -1, -1, device=x.device)).sum(-1)


@cache
def law() -> Tensor:
    """The probability of each clean row, [81]."""
    return problem().log_prob(rows(SYMBOLS)).exp()


def drawn_rows(n: int) -> Tensor:
    """The numbers of n rows drawn from the law, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(law().cpu(), n, replacement=True, generator=generator).to(law().device)


@cache
def table() -> Tensor:
    """The exact log-probabilities of each place given each masked row, [256, K, L]."""
    states = rows(SYMBOLS + 1)
    # a chain without impossible steps: every state has a posterior
    return problem().denoiser()(states, 0.5).log_probabilities


class TableDenoiser:
    """A denoiser that reads its posterior from a table [256, K, L]."""

    shape = (LENGTH,)

    def __init__(self, logits: Tensor | None = None, process: Masked | None = None):
        self.process = process or Masked(SYMBOLS)
        self.logits = table() if logits is None else logits

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Any = None) -> Categorical:
        return Categorical(self.logits.to(xt.device)[code(xt, SYMBOLS + 1)])


def distance(x: Tensor, right: Tensor) -> float:
    """Total variation between the frequencies of rows x [N, L] and a law [81]."""
    found = code(x, SYMBOLS).bincount(minlength=len(right)).double() / len(x)
    return 0.5 * float((found.cpu() - right.cpu()).abs().sum())


def floor(right: Tensor, n: int) -> float:
    """The distance of n exact draws: mean and four standard deviations of 20 sets."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(right.cpu(), 20 * n, replacement=True, generator=generator).to(right.device)
    apart = torch.tensor([distance(rows(SYMBOLS)[part], right) for part in drawn.reshape(20, n)])
    return float(apart.mean() + 4 * apart.std())
