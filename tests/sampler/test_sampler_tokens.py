"""Tokens: a process that masks them, with exact categorical posteriors of a Markov chain, under the samplers.

The process and the denoisers are written here. All laws of the chain, and of the sampler itself, are enumerated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.posterior import Categorical, Empirical, HasMean, Joint, Mixture, Posterior
from softmix.process import Flow, Noised
from softmix.process.grid import uniform
from softmix.rng import Rng
from softmix.sampler import SamplerError, ancestral, drive, noised, sample
from softmix.sampler.drive import finish
from softmix.shape import column

F64 = torch.float64
SYMBOLS, LENGTH = 3, 4
MASK = SYMBOLS
DRAWN = 20_000


@dataclass(frozen=True)
class Masking:
    """A token stays until time t with probability alpha = 1 - t; else it is a mask, and remains one."""

    mask: int = MASK

    def alpha(self, t: Tensor | float) -> Tensor:
        return 1 - torch.as_tensor(t, dtype=F64)

    def noise(self, x0: Tensor, t: Tensor | float, rng: Rng, cond: Tensor | None = None) -> Noised:
        t = torch.as_tensor(t, dtype=F64).expand(len(x0))
        hidden = rng.uniform(x0.shape, F64) >= column(self.alpha(t), x0)
        return Noised(x0, x0.masked_fill(hidden, self.mask), t, hidden, self, cond)

    def prior(self, shape: Sequence[int], rng: Rng, cond: Tensor | None = None) -> Tensor:
        return torch.full(tuple(shape), self.mask)

    def bridge(
        self,
        xt: Tensor,
        x0: Tensor,
        t: Tensor | float,
        s: Tensor | float,
        rng: Rng,
        cond: Tensor | None = None,
        eta: float = 1.0,
    ) -> Tensor:
        shown = (self.alpha(s) - self.alpha(t)) / (1 - self.alpha(t))
        return torch.where((xt == self.mask) & (rng.uniform(xt.shape, F64) < column(shown, xt)), x0, xt)

    def logsnr(self, t: Tensor | float) -> Tensor:
        return self.alpha(t).logit()

    def time(self, logsnr: Tensor | float) -> Tensor:
        return torch.sigmoid(-torch.as_tensor(logsnr, dtype=F64))

    def grid(self, n: int) -> Tensor:
        return uniform(self, n)


# the chain, and everything that can be enumerated


def code(x: Tensor, base: int) -> Tensor:
    """The number of each row of tokens [..., L]."""
    return (x * base ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)


def rows(base: int) -> Tensor:
    """All rows of tokens, in the order of their `code`, [base^L, L]."""
    return torch.cartesian_prod(*[torch.arange(base)] * LENGTH)


def chain() -> Tensor:
    """The joint law of four tokens, [81]: each is likely to be the successor of the one before it."""
    first = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    step = torch.tensor([[0.1, 0.8, 0.1], [0.05, 0.15, 0.8], [0.7, 0.1, 0.2]], dtype=F64)
    x = rows(SYMBOLS)
    law = first[x[:, 0]]
    for place in range(1, LENGTH):
        law = law * step[x[:, place - 1], x[:, place]]
    return law


@cache
def whole() -> Tensor:
    """log q(x0 | x_t) for each masked row and each clean one, up to a constant of the row, [256, 81]."""
    seen, x0 = rows(SYMBOLS + 1)[:, None], rows(SYMBOLS)[None]
    agrees = ((seen == x0) | (seen == MASK)).all(-1)
    return torch.where(agrees, chain().log()[None], -torch.inf)


@cache
def each_place() -> Tensor:
    """q(x0_l = k | x_t) for each masked row, [256, K, L]."""
    is_one = torch.nn.functional.one_hot(rows(SYMBOLS), SYMBOLS).to(F64)
    return torch.einsum("zx,xlk->zkl", whole().softmax(1), is_one)


@cache
def blind() -> Tensor:
    """The posterior of each hidden place without its neighbours, [256, K, L]."""
    alone = each_place()[-1]
    seen = rows(SYMBOLS + 1)
    one = torch.nn.functional.one_hot(seen, SYMBOLS + 1)[..., :SYMBOLS].to(F64).mT
    return torch.where((seen == MASK)[:, None], alone[None], one)


def law_of_steps(n: int, belief: Tensor) -> Tensor:
    """The law of the sampler with n steps, [81]: each mask is lifted at random, and its token drawn, place by place."""
    seen, process = rows(SYMBOLS + 1), Masking()
    law = torch.zeros(len(seen), dtype=F64)
    law[-1] = 1
    for t, s in pairwise(process.grid(n)):
        shown = float((t - s) / t)
        stays = (seen[:, None] == seen[None]).to(F64)
        becomes = torch.cat([shown * belief, torch.full_like(belief[:, :1], 1 - shown)], 1)
        chance = torch.stack([becomes[:, seen[:, place], place] for place in range(LENGTH)], -1)
        law = law @ torch.where((seen == MASK)[:, None], chance, stays).prod(-1)
    clean = law[(seen != MASK).all(1)]
    assert float(clean.sum()) == pytest.approx(1)
    return clean


class TableDenoiser:
    """Looks its posterior up in a table of all masked rows."""

    process, shape = Masking(), (LENGTH,)

    def __init__(self, table: Tensor):
        self.table = table

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        assert xt.dtype == torch.int64
        return Categorical(self.table[code(xt, SYMBOLS + 1)].log())


class WholeRows(TableDenoiser):
    """The joint posterior of whole rows."""

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Posterior:
        return Empirical(self.table[code(xt, SYMBOLS + 1)], rows(SYMBOLS))


def distance(x: Tensor, law: Tensor) -> float:
    """Total variation between the frequencies of the rows x [N, L] and a law [81]."""
    found = code(x, SYMBOLS).bincount(minlength=len(law)).double() / len(x)
    return 0.5 * float((found - law).abs().sum())


def drawn_rows(law: Tensor, n: int, seed: int) -> Tensor:
    """The numbers of n rows drawn from a law, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(law.cpu(), n, replacement=True, generator=generator).to(law.device)


def floor(law: Tensor) -> float:
    """The distance of as many exact draws: mean and four spreads of 20 sets (0.017 + 4 0.0018 for the chain)."""
    drawn = drawn_rows(law, 20 * DRAWN, seed=0)
    apart = torch.tensor([distance(rows(SYMBOLS)[part], law) for part in drawn.reshape(20, DRAWN)])
    return float(apart.mean() + 4 * apart.std())


tokens = partial(sample, batch=DRAWN)


# tests


def test_the_chain_is_a_law_and_its_neighbours_depend_on_each_other() -> None:
    law = chain()
    apart = each_place()[-1]
    product = torch.stack([apart[rows(SYMBOLS)[:, place], place] for place in range(LENGTH)]).prod(0)
    assert float(law.sum()) == pytest.approx(1)
    assert 0.5 * float((law - product).abs().sum()) > 0.4


def test_the_share_of_masks_is_that_of_the_time() -> None:
    """Over 80,000 tokens, within 5 standard errors. Visible tokens are clean."""
    x0 = rows(SYMBOLS)[torch.multinomial(chain(), DRAWN, replacement=True)]
    noised = Masking().noise(x0, 0.3, Rng(0, DRAWN))
    hidden = noised.xt == MASK
    assert torch.equal(noised.xt[~hidden], x0[~hidden])
    assert abs(float(hidden.double().mean()) - 0.3) < 5 * (0.21 / hidden.numel()) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 3, 8, 32])
def test_ancestral_with_n_steps_has_the_enumerated_law_of_n_steps(n: int) -> None:
    """The exact law of n steps, which is wrong for few, to within the floor of sampling."""
    law = law_of_steps(n, each_place())
    x = tokens(TableDenoiser(each_place()), DRAWN, n)  # type: ignore[arg-type]
    assert x.dtype == torch.int64 and x.shape == (DRAWN, LENGTH)
    assert distance(x, law) < floor(law)


def test_the_law_of_n_steps_nears_the_joint_law_as_1_over_n() -> None:
    """Two places lifted in one step are drawn independently. The number of such pairs is proportional to the step."""
    counts = (16, 32, 64, 128, 256)
    errors = [0.5 * float((law_of_steps(n, each_place()) - chain()).abs().sum()) for n in counts]
    orders = [float(torch.tensor(a / b).log2()) for a, b in pairwise(errors)]
    assert orders == pytest.approx([1] * 4, abs=0.15)


@pytest.mark.parametrize("n", [64, 256])
def test_ancestral_reaches_the_joint_law_in_many_steps(n: int) -> None:
    x = tokens(TableDenoiser(each_place()), DRAWN, n)  # type: ignore[arg-type]
    assert distance(x, chain()) < floor(chain())


def test_ancestral_does_not_reach_the_joint_law_in_one_step() -> None:
    """The control: the same posteriors, all places at once."""
    assert distance(tokens(TableDenoiser(each_place()), DRAWN, 1), chain()) > 10 * floor(chain())  # type: ignore[arg-type]


def test_without_the_neighbours_many_steps_do_not_help() -> None:
    """The control: as many steps with posteriors that ignore the neighbours."""
    assert distance(tokens(TableDenoiser(blind()), DRAWN, 64), chain()) > 10 * floor(chain())  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 3, 20])
def test_whole_rows_are_exact_in_any_number_of_steps(n: int) -> None:
    """The bridge is exact: few steps lack only the dependence between places."""
    x = tokens(WholeRows(whole()), DRAWN, n)  # type: ignore[arg-type]
    assert distance(x, chain()) < floor(chain())


@pytest.mark.parametrize("at", [0.25, 0.75])
def test_ancestral_from_half_hidden_rows_ends_at_the_joint_law(at: float) -> None:
    """Exact rows, masked up to a time and then sampled: each row changes, and all have the law again."""
    x0 = rows(SYMBOLS)[drawn_rows(chain(), DRAWN, seed=1)]
    believer = WholeRows(whole())
    x = tokens(believer, DRAWN, grid=torch.tensor([at, at / 2, 0], dtype=F64), start=noised(x0), at=at)  # type: ignore[arg-type]
    assert x.dtype == torch.int64 and distance(x, chain()) < floor(chain())
    alike = float((x == x0).double().mean())
    assert 1 - at < alike < 1


def test_a_start_of_masks_at_another_time_than_1_is_refused() -> None:
    with pytest.raises(SamplerError, match=r"start at t = 0.5.*Masking has no pure noise.*start=noised"):
        sample(TableDenoiser(each_place()), 2, grid=torch.tensor([0.5, 0]))  # type: ignore[arg-type]


def test_an_empty_batch_has_the_type_of_integers() -> None:
    none = sample(TableDenoiser(each_place()), 0, 3)  # type: ignore[arg-type]
    assert none.dtype == torch.int64 and none.shape == (0, LENGTH)


def test_a_row_does_not_depend_on_its_batch() -> None:
    several = sample(TableDenoiser(each_place()), 7, 5, seed=3)  # type: ignore[arg-type]
    for k in range(7):
        assert torch.equal(sample(TableDenoiser(each_place()), 1, 5, seed=3, first=k)[0], several[k])  # type: ignore[arg-type]


def test_the_preview_of_tokens_is_the_present_row() -> None:
    """Categorical posteriors of integers have no mean. A visible token does not change."""
    process, before = Masking(), torch.full((50, LENGTH), MASK)
    run = drive(TableDenoiser(each_place()), ancestral, before, process.grid(6), Rng(0, 50))  # type: ignore[arg-type]
    for step in run:
        assert torch.equal(step.preview(), step.x) and step.x.dtype == torch.int64
        assert torch.equal(step.x[before != MASK], before[before != MASK])
        before = step.x
    assert (before == MASK).any()


# a signal and its label at once


class Pair:
    """A point on the line by a Gaussian process, and its label by masks, with the same clock."""

    line, label = Flow(), Masking(2)

    def bridge(self, xt: Any, x0: Any, t: Tensor, s: Tensor, rng: Rng, eta: float = 1.0) -> Mapping[str, Tensor]:
        return {
            "line": self.line.bridge(xt["line"], x0["line"], t, s, rng, eta=eta),
            "label": self.label.bridge(xt["label"], x0["label"], t, s, rng),
        }


class PairDenoiser:
    """x0 is near -1 with label 0 (0.3) or near 1 with label 1 (0.7): the posterior of each, given the state of both."""

    process = Pair()

    def __call__(self, xt: Mapping[str, Tensor], t: Tensor, cond: Tensor | None = None) -> Posterior[Any]:
        centre, var = torch.tensor([-1.0, 1.0], dtype=F64), 0.01
        alpha, sigma = (part(t).to(centre.device) for part in (self.process.line.alpha, self.process.line.sigma))
        total = alpha**2 * var + sigma**2
        weights = torch.tensor([0.3, 0.7], dtype=F64).log() - 0.5 * (xt["line"] - alpha * centre) ** 2 / total
        other = torch.nn.functional.one_hot(1 - xt["label"].clamp(max=1), 2).bool()
        weights = weights.masked_fill(other & (xt["label"] != 2)[:, None], -torch.inf)
        gain = alpha * var / total
        means = centre + gain * (xt["line"] - alpha * centre)
        spread = (var - gain * alpha * var).clamp(min=1e-12)
        return Joint({"line": Mixture(weights, means[..., None], spread), "label": Categorical(weights)})


def pairs(n: int) -> Mapping[str, Tensor]:
    rng = Rng(0, 4000)
    start = {"line": rng.child("prior").normal((4000, 1), F64), "label": torch.full((4000,), 2)}
    walk = drive(PairDenoiser(), ancestral, start, uniform(Flow(), n), rng)  # type: ignore[arg-type]
    return finish(walk)  # type: ignore[arg-type, return-value]


def test_a_signal_and_its_label_agree_in_many_steps_and_not_in_one() -> None:
    """In one step the two are independent and agree by chance, 0.3^2 + 0.7^2 = 0.58, within 5 errors of 0.008."""
    once, often = ((x["line"][:, 0] > 0).long() == x["label"] for x in (pairs(1), pairs(200)))
    assert abs(float(once.double().mean()) - 0.58) < 0.04
    assert float(often.double().mean()) > 0.98


def test_a_signal_and_its_label_have_their_laws_together() -> None:
    """Share, centre and spread of each component of 4000, within 5 standard errors."""
    x = pairs(200)
    share = float(x["label"].double().mean())
    assert abs(share - 0.7) < 5 * (0.21 / 4000) ** 0.5
    inside = x["line"][:, 0][x["label"] == 1]
    inside = inside[inside > 0]
    assert abs(float(inside.mean()) - 1) < 5 * 0.1 / len(inside) ** 0.5
    assert abs(float(inside.std()) - 0.1) < 5 * 0.1 / (2 * len(inside)) ** 0.5


# shares beside integers


def test_a_share_of_integers_stays_a_share() -> None:
    """In the type of int64 tokens 0.3 would be 0, and no mask would be lifted."""
    x = torch.zeros(2, 3, dtype=torch.int64)
    assert column(0.3, x).item() == pytest.approx(0.3)
    assert torch.equal(column(torch.tensor([0.25, 0.5], dtype=F64), x), torch.tensor([[0.25], [0.5]], dtype=F64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64, torch.complex64])
def test_a_share_of_real_and_complex_numbers_has_their_type(dtype: torch.dtype) -> None:
    assert column(torch.tensor([0.25, 0.5], dtype=F64), torch.zeros(2, 3, dtype=dtype)).dtype == dtype


def test_a_categorical_posterior_of_tokens_has_no_mean() -> None:
    xt = torch.full((2, LENGTH), MASK)
    assert not isinstance(TableDenoiser(each_place())(xt, 0.5), HasMean)
