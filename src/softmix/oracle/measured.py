"""Tokens of a Markov chain of which a measurement y = B onehot(x0) + n is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..cond import Cond
from ..posterior import Categorical
from ..posterior.normal import gaussian_log_prob
from ..process import Process
from ..rng import Rng
from .tokens import TokenProblem, tokens

# the most sequences that are enumerated
_MOST = 1 << 16


@dataclass(frozen=True, eq=False)
class MeasuredTokens:
    """x0 of a chain of tokens, with y = B e(x0) + sd z as its condition; e is 1 for each token that stands there.

        e(x0)[l, k] = 1 if x0_l = k, else 0,   z ~ N(0, I)

    matrix : B [M, L K], float64, over the flattened e.
    sd     : of the noise, above 0.

    Every answer is a sum over all K^L sequences. Raises ValueError for a matrix of another shape, for sd of 0 or below,
    and for more than 65,536 sequences.
    When to choose: to test methods for measured tokens.
    """

    problem: TokenProblem
    matrix: Tensor
    sd: float

    def __post_init__(self) -> None:
        values, length = self.problem.mask, self.problem.length
        if self.matrix.ndim != 2 or self.matrix.shape[1] != values * length or not self.sd > 0:
            raise ValueError(
                f"for {length} tokens of {values} values a matrix [M, {values * length}] and a noise above 0 were "
                f"expected, not {list(self.matrix.shape)} and {self.sd}"
            )
        if values**length > _MOST:
            raise ValueError(f"{values}^{length} sequences cannot be enumerated: take at most {_MOST}")

    @property
    def name(self) -> str:
        return f"{self.problem.name}, {len(self.matrix)} measured"

    @property
    def process(self) -> Process:
        return self.problem.process

    @property
    def shape(self) -> tuple[int, ...]:
        return self.problem.shape

    @property
    def sequences(self) -> Tensor:
        """All x0, int64 [K^L, L], in the order of `number`."""
        values = torch.arange(self.problem.mask, device=self.matrix.device)
        return torch.cartesian_prod(*[values] * self.problem.length).reshape(-1, self.problem.length)

    def number(self, x0: Tensor) -> Tensor:
        """The place of each x0 [B, L] among the `sequences`, [B]."""
        powers = self.problem.mask ** torch.arange(self.problem.length - 1, -1, -1, device=x0.device)
        return (x0 * powers).sum(1)

    def draw(self, n: int, rng: Rng) -> tuple[Tensor, Cond]:
        """n sequences, int64 [n, L], each with its y as the condition's value."""
        x0, _ = self.problem.draw(n, rng)
        return x0, Cond(value=self.observe(x0, rng.child("y")))

    def observe(self, x0: Tensor, rng: Rng) -> Tensor:
        """y [B, M] of sequences [B, L]."""
        clean = self.measure(self.vectors(x0))
        return clean + self.sd * rng.normal(clean.shape, clean.dtype).to(clean)

    def vectors(self, x0: Tensor) -> Tensor:
        """e(x0), [B, L, K] float64."""
        return one_hot(x0, self.problem.mask).to(torch.float64)

    def measure(self, vectors: Tensor) -> Tensor:
        """B e, [B, M], of vectors [B, L, K], which may be probabilities. Differentiable."""
        return vectors.flatten(1) @ self.matrix.to(vectors).T

    def likelihood(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """log p(y | e) in nats, [B], as a function of vectors e [B, L, K]. y : [1 or B, M]."""

        def log_prob(vectors: Tensor) -> Tensor:
            clean = self.measure(vectors)
            return gaussian_log_prob(y.to(clean), clean, clean.new_tensor(self.sd**2), 1)

        return log_prob

    def given(self, y: Tensor) -> Categorical:
        """p(x0 | y) over the numbers of all `sequences`, for y [B, M]. Its `mode` is the most probable one."""
        return Categorical(self._joint(y))

    def log_evidence(self, y: Tensor) -> Tensor:
        """log p(y) in nats, [B], for y [B, M]."""
        return self._joint(y).logsumexp(1)

    def denoiser(self) -> _MeasuredPosterior:
        """q(x0_l | x_t, y) of each token, a `Categorical`, for y as the condition's value [B, M]: exact marginals. A
        sampler is exact only if it unmasks one token a step, in an order without the drawn values."""
        return _MeasuredPosterior(self)

    def _joint(self, y: Tensor) -> Tensor:
        """log p(x0) + log p(y | x0) of all sequences, [B, K^L]."""
        x0 = self.sequences.to(y.device)
        clean = self.measure(self.vectors(x0))
        fits = gaussian_log_prob(y.to(clean)[:, None], clean[None], clean.new_tensor(self.sd**2), 1)
        return self.problem.log_prob(x0) + fits


class _MeasuredPosterior:
    """The denoiser of a `MeasuredTokens`."""

    def __init__(self, measured: MeasuredTokens):
        self.measured, self.process, self.shape = measured, measured.process, measured.shape

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Categorical:
        """Raises ValueError without y, and for tokens that the chain cannot produce."""
        measured, y = self.measured, cond.value if isinstance(cond, Cond) else None
        if y is None or y.shape[1:] != (len(measured.matrix),):
            raise ValueError(
                f"{measured.name}: the condition must be y, {len(measured.matrix)} numbers an item, as Cond(value=y); "
                f"found {'none' if y is None else f'one of {list(y.shape)}'}"
            )
        x0 = measured.sequences.to(xt.device)
        agrees = (xt[:, None] == x0) | (xt[:, None] == measured.problem.mask)
        logs = measured._joint(y).masked_fill(~agrees.all(2), -torch.inf)
        if bool(logs.amax(1).isneginf().any()):
            raise ValueError(f"{measured.name}: x_t has probability 0; give a state of this chain")
        each = logs.softmax(1) @ measured.vectors(x0).flatten(1)
        return Categorical(each.log().reshape(len(xt), measured.problem.length, -1).mT)


def measured_tokens(
    process: Process, values: int = 4, length: int = 6, count: int = 3, sd: float = 0.5
) -> MeasuredTokens:
    """The chain of `tokens` with a matrix of independent N(0, 1) numbers, always the same for these sizes."""
    matrix = Rng(0, count, "measured tokens").normal((count, values * length), torch.float64)
    return MeasuredTokens(tokens(process, values, length), matrix, sd)
