"""Tokens of a Markov chain, some of them masked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import Categorical
from ..process import Process
from ..rng import Rng
from .chain import marginals, paths


@dataclass(frozen=True, eq=False)
class TokenProblem:
    """x0_1 ~ first, x0_(l+1) ~ steps[x0_l], K values; in x_t a token is itself or the mask, the number K.

    first   : [K], float64, sum 1.
    steps   : [K, K], float64, each row with sum 1.
    length  : the number of tokens L.
    process : an absorbing process. Whether a token is masked must not depend on its value; then the posterior depends
        on x_t alone and on no time.

    Raises ValueError for shapes that do not fit, negative probabilities, and sums other than 1.
    When to choose: to test models and samplers of tokens.
    """

    name: str
    first: Tensor
    steps: Tensor
    length: int
    process: Process

    def __post_init__(self) -> None:
        k = len(self.first)
        if self.steps.shape != (k, k) or self.length < 1:
            raise ValueError(
                f"{self.name}: for {k} values steps [{k}, {k}] and a length of 1 or more were expected, not "
                f"{list(self.steps.shape)} and {self.length}"
            )
        for name, part in (("first", self.first), ("steps", self.steps)):
            if bool((part < 0).any()) or not torch.allclose(part.sum(-1), torch.ones_like(part.sum(-1))):
                raise ValueError(f"{self.name}: {name} must be probabilities with sum 1 along its last axis")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def mask(self) -> int:
        """The number of the mask, K."""
        return len(self.first)

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, None]:
        """n sequences, int64 [n, L]."""
        return self.complete(torch.full((n, self.length), self.mask, device=rng.device), rng), None

    def log_prob(self, x0: Tensor) -> Tensor:
        """log p of whole sequences [B, L], in nats, [B]."""
        first, steps = self.first.log().to(x0.device), self.steps.log().to(x0.device)
        return first[x0[:, 0]] + steps[x0[:, :-1], x0[:, 1:]].sum(1)

    def complete(self, xt: Tensor, rng: Rng) -> Tensor:
        """Exact draws of the whole x0 given x_t [B, L]: masked tokens jointly, not each from its own marginal."""
        return paths(*self._chain(xt), rng)

    def log_evidence(self, xt: Tensor) -> Tensor:
        """log p of the tokens that x_t shows, summed over the masked ones, [B]."""
        return marginals(*self._chain(xt))[1]

    def denoiser(self) -> _MaskedPosterior:
        """q(x0_l | x_t) of each token, a `Categorical`: exact marginals. Tokens are not independent given x_t, so that
        a sampler is exact only if it unmasks one token a step."""
        return _MaskedPosterior(self)

    def _chain(self, xt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log first, log steps, and as evidence 0 for each value that x_t allows at a place, else -inf, [B, L, K]."""
        if xt.shape[1:] != self.shape or xt.is_floating_point() or bool(((xt < 0) | (xt > self.mask)).any()):
            raise ValueError(
                f"{self.name}: whole numbers [B, {self.length}] from 0 to {self.mask} (the mask) were expected; found "
                f"{xt.dtype} of shape {list(xt.shape)}"
            )
        allowed = (xt[..., None] == self.mask) | (xt[..., None] == torch.arange(self.mask, device=xt.device))
        evidence = torch.zeros(allowed.shape, dtype=torch.float64, device=xt.device).masked_fill(~allowed, -torch.inf)
        return self.first.log().to(evidence), self.steps.log().to(evidence), evidence


class _MaskedPosterior:
    """The denoiser of a `TokenProblem`."""

    def __init__(self, problem: TokenProblem):
        self.problem, self.process, self.shape = problem, problem.process, problem.shape

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Categorical:
        """Raises ValueError for tokens that the chain cannot produce."""
        problem = self.problem
        each, log_z = marginals(*problem._chain(xt))
        if bool(log_z.isneginf().any()):
            impossible = xt[log_z.isneginf()][0].tolist()
            raise ValueError(f"{problem.name}: the tokens {impossible} have probability 0; give a state of this chain")
        return Categorical(each.mT)


def tokens(process: Process, values: int = 4, length: int = 8) -> TokenProblem:
    """A chain that mostly steps to the next value, cyclically: it stays with 0.05, steps by 1 with 0.8 and by any other
    number with equal shares of the rest. The first token favours small values."""
    jumps = torch.full((values,), 0.15 / max(values - 2, 1), dtype=torch.float64)
    jumps[0], jumps[1] = 0.05, 0.8
    steps = torch.stack([(jumps / jumps.sum()).roll(k) for k in range(values)])
    first = torch.arange(values, 0, -1, dtype=torch.float64)
    return TokenProblem("tokens", first / first.sum(), steps, length, process)
