"""CDCD: a contrastive term in the loss of token diffusion, and whether guidance does the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from ..cond import Cond
from ..data import Data, load
from ..data.store import make
from ..denoiser import CategoricalHead, Denoiser, Network, guided
from ..info import bits_per_token
from ..loss import Contrastive, MaskedCrossEntropy, Stage
from ..net import TokenSpec
from ..posterior import Categorical
from ..process import Masked
from ..rng import Rng
from ..sampler import sample
from ..train import Config, Denoise, Optimiser
from .frame import Arms, Numbers, Results, Study
from .in_memory import averaged_on_cpu
from .paper import Paper, Role

PAPER = Paper.of(
    "cdcd",
    "A contrastive term in the loss of discrete diffusion raises the information between samples and their condition, "
    "and fewer steps give the same correspondence.",
)
RESULT = ""

F64 = torch.float64
# p(c) and p(z | c) of a class and one token. The joint probabilities are whole thousandths.
CLASSES = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
GIVEN = torch.tensor([[0.45, 0.25, 0.2, 0.1], [0.15, 0.5, 0.2, 0.15], [0.2, 0.2, 0.2, 0.4]], dtype=F64)
JOINT = "one token of four given a class of three"
WEIGHTS = (0.1, 0.2, 0.3)
PLAIN, TERM, CLOSED, FREE = "without the term", "contrastive", "closed form", "negatives without the condition"
GUIDED = "without the term, guided"


def minimiser(weight: float) -> Tensor:
    """q*(z | c) = (p(z | c) - weight p(z)) / (1 - weight), [C, K]."""
    return (GIVEN - weight * CLASSES @ GIVEN) / (1 - weight)


def sharpened(scale: float) -> Tensor:
    """The law of guidance, p(z) (p(z | c) / p(z))^scale, normalised, [C, K]."""
    marginal = (CLASSES @ GIVEN).log()
    return (marginal + scale * (GIVEN.log() - marginal)).softmax(1)


def information(q: Tensor) -> float:
    """I(z; c) of q(z | c) with the classes of the data, in bits."""
    ratio = q.log2() - (CLASSES @ q).log2()
    return float((CLASSES[:, None] * q * ratio).sum())


def divergence(q: Tensor) -> float:
    """KL(p(z | c) || q(z | c)), the mean over classes, in bits."""
    return float((CLASSES[:, None] * GIVEN * (GIVEN.log2() - q.log2())).sum())


def named(q: Tensor) -> float:
    """The share of samples of q that the classifier of the data, argmax_c p(c | z), gives their class."""
    best = (CLASSES[:, None] * GIVEN).argmax(0)
    return float((CLASSES[:, None] * q * (best == torch.arange(len(CLASSES))[:, None])).sum())


def scale_for(measure: Callable[[Tensor], float], value: float) -> float:
    """The scale of guidance with this measure, by bisection; at most 8."""
    low, high = 1.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(sharpened(middle)) < value else (low, middle)
    return (low + high) / 2


class TokenTable(nn.Module):
    """A model with a free number for each class and token. The last row is that of no class."""

    shape = (1,)

    def __init__(self) -> None:
        super().__init__()
        self.process = Masked(GIVEN.shape[1])
        self.logits = nn.Parameter(torch.zeros(len(GIVEN) + 1, GIVEN.shape[1], dtype=F64))

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | None = None) -> Categorical:
        label = torch.full((len(xt),), -1) if cond is None or cond.label is None else cond.label
        return Categorical(self.logits[label][..., None])

    def laws(self) -> Tensor:
        """q(z | c), [C, K]."""
        return self.logits.detach()[:-1].softmax(1)


def population() -> tuple[Tensor, Tensor]:
    """1,000 items with exactly the joint law: tokens [1000, 1] and classes [1000]."""
    counts = (1000 * CLASSES[:, None] * GIVEN).round().long().flatten()
    index = torch.arange(counts.numel()).repeat_interleave(counts)
    return (index % GIVEN.shape[1])[:, None], index // GIVEN.shape[1]


def fitted(loss: Contrastive, seed: int, steps: int) -> Tensor:
    """q(z | c) of a table after gradient descent (Adam) on the loss at t = 1, [C, K].

    Each step has three copies of the population with its classes, and one without.
    """
    model, (tokens, labels) = TokenTable(), population()
    x0, label = tokens.repeat(4, 1), torch.cat([labels.repeat(3), torch.full_like(labels, -1)])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * step / steps))
        rng = Rng(seed, len(x0), f"step {step}")
        noised = model.process.noise(x0, 1.0, rng, Cond(label=label))
        optimiser.zero_grad()
        loss.ask(model, noised, rng.child("loss"), Stage()).mean().backward()
        optimiser.step()
    return model.laws()


def exact(seed: int, steps: int) -> Results:
    """Information, divergence and named share of each way, at each weight of the term."""
    results: dict[tuple[str, str], float] = {}

    def note(name: str, weight: float, q: Tensor) -> None:
        for metric, measure in (("bits", information), ("kl", divergence), ("named", named)):
            results[name, f"{metric}@{weight:g}"] = measure(q)

    plain = fitted(_term(0.0), seed, steps)
    for weight in WEIGHTS:
        note(PLAIN, weight, plain)
        found = fitted(_term(weight), seed, steps)
        note(TERM, weight, found)
        results[TERM, f"error@{weight:g}"] = float((found - minimiser(weight)).abs().max())
        note(CLOSED, weight, minimiser(weight))
        note(FREE, weight, fitted(_term(weight, given=False), seed, steps))
        for metric, measure in (("bits", information), ("named", named)):
            scale = scale_for(measure, measure(found))
            results[GUIDED, f"kl at equal {metric}@{weight:g}"] = divergence(sharpened(scale))
            results[GUIDED, f"scale at equal {metric}@{weight:g}"] = scale
    return results


def _term(weight: float, given: bool = True) -> Contrastive:
    """The form with a known minimiser: other items of the batch, with the weight of the bound."""
    return Contrastive(weight=weight, negatives=4, of="others", form="step", given="condition" if given else "nothing")


# digits as tokens

LEVELS, DIGITS = 4, "digits, 8 x 8 tokens of four levels"
COUNTS = (4, 8, 16, 64)
SCALES = (1.25, 1.5, 2.0)
LOSSES: dict[str, tuple[Role, MaskedCrossEntropy | Contrastive]] = {
    "digits, without the term": ("baseline", MaskedCrossEntropy()),
    "digits, other items": ("ours", Contrastive(weight=0.1, negatives=4, of="others", form="sample")),
    "digits, own tokens": ("ours", Contrastive(weight=0.1, negatives=4, of="own", form="step")),
    "digits, negatives without the condition": (
        "control",
        Contrastive(weight=0.1, negatives=4, of="others", form="sample", given="nothing"),
    ),
}


def guided_name(scale: float) -> str:
    return f"digits, without the term, guidance {scale:g}"


@cache
def levels() -> tuple[Data, Data]:
    """Training and held-out digits, with grey values in four equal parts."""
    return _as_tokens(load("digits")), _as_tokens(load("digits", split="test"))


def _as_tokens(data: Data) -> Data:
    values = ((data.x0().flatten(1) + 1) / 2 * LEVELS).long().clamp(0, LEVELS - 1).int()
    return make("digits4", values, data.labels, data.classes, data.report, vocabulary=LEVELS)


@lru_cache(maxsize=8)
def trained(name: str, seed: int, steps: int) -> Network:
    data, loss = levels()[0], LOSSES[name][1]
    task = Denoise(Masked(), TokenSpec(64, 3), CategoricalHead(), loss, output="x0", classes=True)
    optimiser = Optimiser(rate=2e-3, warmup=100, decay=0.6)
    config = Config(task, steps=steps, batch=64, seed=seed, precision="fp32", optimiser=optimiser)
    return cast(Network, averaged_on_cpu(data, config)).eval()


def nearest_label(x: Tensor) -> Tensor:
    """The class of the nearest real training item in levels, [N]."""
    data = levels()[0]
    assert data.labels is not None
    return data.labels[torch.cdist(x.double(), data.x0().double()).argmin(1)]


def on_digits(seed: int, steps: int, n: int) -> Results:
    """The named share at each number of steps and the bits of held-out tokens, for each training and each guidance."""
    held_out = levels()[1]
    assert held_out.labels is not None
    models: dict[str, Denoiser] = {name: trained(name, seed, steps) for name in LOSSES}
    models |= {guided_name(scale): guided(scale)(models["digits, without the term"]) for scale in SCALES}
    x0, label = held_out.x0()[:n], held_out.labels[:n]
    asked = torch.arange(n) % 10
    results: dict[tuple[str, str], float] = {}
    results["digits, held out", "named"] = float((nearest_label(x0) == label).double().mean())
    for name, model in models.items():
        found = bits_per_token(model, x0, Rng(seed, len(x0), "bits"), 16, Cond(label=label))
        results[name, "bits per token"] = float(found.mean())
        for count in COUNTS:
            x = sample(model, n, count, seed=seed, cond=Cond(label=asked))
            results[name, f"named@{count}"] = float((nearest_label(x) == asked).double().mean())
    return results


def _text(values: list[float]) -> str:
    return ", ".join(f"{each:.4f}" for each in values)


def checks(value: Numbers) -> Mapping[str, bool]:
    """The information of the small joint, its price, and guidance; then the digits."""
    bits = {name: value.line(name, "bits", WEIGHTS) for name in (PLAIN, TERM, CLOSED, FREE)}
    price, error = value.line(TERM, "kl", WEIGHTS), value.line(TERM, "error", WEIGHTS)
    equal = value.line(GUIDED, "kl at equal bits", WEIGHTS)
    share = value.line(GUIDED, "kl at equal named", WEIGHTS)
    found = {
        f"the term raises I(z; c) at weights {', '.join(f'{each:g}' for each in WEIGHTS)} ({_text(bits[TERM])} bits; "
        f"{bits[PLAIN][0]:.4f} without)": all(a > b + 0.01 for a, b in zip(bits[TERM], bits[PLAIN], strict=True)),
        f"it reaches its minimiser (errors {_text(error)}; {_text(bits[CLOSED])} bits)": max(error) < 0.01,
        f"the same negatives without the condition do not raise it ({_text(bits[FREE])})": all(
            abs(a - b) < 0.002 for a, b in zip(bits[FREE], bits[PLAIN], strict=True)
        ),
        f"it costs calibration (KL {_text(price)} bits)": price[-1] > price[0] > 1e-4,
        f"guidance at equal information costs more ({_text(equal)})": all(
            a < b for a, b in zip(price, equal, strict=True)
        ),
        f"guidance at an equal share of right classes costs more ({_text(share)})": all(
            a < b for a, b in zip(price, share, strict=True)
        ),
    }
    if ("digits, other items", "bits per token") in value:
        found |= _on_digits(value)
    return found


def _on_digits(value: Numbers) -> Mapping[str, bool]:
    plain = value.line("digits, without the term", "named", COUNTS)
    ours = {name: value.line(name, "named", COUNTS) for name, (role, _) in LOSSES.items() if role == "ours"}
    bits = {name: value[name, "bits per token"] for name in [*LOSSES, *map(guided_name, SCALES)]}
    best = max(ours, key=lambda name: ours[name][-1])
    rivals = {guided_name(scale): value.line(guided_name(scale), "named", COUNTS) for scale in SCALES}
    rivals["digits, without the term"] = plain
    as_good = [name for name, line in rivals.items() if line[-1] >= ours[best][-1]]
    loss = bits[best] / bits["digits, without the term"] - 1
    return {
        f"on digits samples are named right more often by two points at 64 steps ({best}: {_text(ours[best])}; without "
        f"the term {_text(plain)})": ours[best][-1] > plain[-1] + 0.02,
        f"with less than 1 % more bits of held-out tokens ({100 * loss:+.1f} %)": loss < 0.01,
        f"its 16 steps are named right as often as 64 without the term ({ours[best][2]:.3f})": ours[best][2]
        >= plain[-1],
        f"the model without the term, guided with {', '.join(f'{scale:g}' for scale in SCALES)} or not, does not reach "
        "it at as few bits": not any(bits[name] <= bits[best] for name in as_good),
    }


_EXACT: dict[str, Role] = {PLAIN: "baseline", TERM: "ours", CLOSED: "oracle", FREE: "control", GUIDED: "control"}
_DIGITS: dict[str, Role] = {
    **{name: role for name, (role, _) in LOSSES.items()},
    **{guided_name(scale): "control" for scale in SCALES},
    "digits, held out": "floor",
}

run = Study(
    PAPER,
    checks,
    [
        Arms(_EXACT, exact, JOINT, {"steps": 150}, {"steps": 400}),
        Arms(_DIGITS, on_digits, DIGITS, None, {"steps": 1000, "n": 1000}, seeds=3),
    ],
)
