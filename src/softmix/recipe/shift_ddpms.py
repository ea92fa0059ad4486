"""ShiftDDPMs: the condition moves the path of the diffusion, and the network sees it by the path alone.

The exact rows have ten classes, each a Gaussian fitted to one digit. A network that sees x_t, and not the class, can at
best answer E[x0 | x_t] under the law of all shifted paths:

    p(c | x_t) ~ p(c) N(x_t; alpha mu_c + k u_c, alpha^2 S_c + sigma^2 I)

The baseline sees the class. The control has the path of the shift and no shift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..cond import Cond
from ..data.toys import ToyMixture
from ..denoiser import Denoiser, ExactMixture, mean_only
from ..evaluate import energy_distance
from ..loss import Square
from ..oracle import digits
from ..posterior import FullMixture
from ..process import VP, Gaussian, LabelShift, ShiftDDPM
from ..process.shift import ShiftPath
from ..rng import Rng
from ..sampler import Sampler, adams, ancestral, ddim, sample
from .contest import steps_for
from .frame import Arms, Numbers, Results, TrainedStudy
from .images import trained
from .paper import Paper, Role
from .trainings import Sampling, Training, change

PAPER = Paper.of(
    "shift_ddpms",
    "A condition that shifts the path of the diffusion, which the network sees by its state alone, serves at least as "
    "well as a condition that the network is given.",
)
RESULT = (
    "with exact answers a shift serves as well as a given class if it parts the classes widely, and the "
    "published path, which is 0 at both ends, loses the class by class means; trained on images with a learned shift "
    "27 % of the samples have their class, and 83 % if the network is given it"
)

COUNTS = (5, 20)
LAW = "ten Gaussians fitted to the digits, 8 x 8, one for each class, exact means"


@lru_cache(maxsize=1)
def law() -> ToyMixture:
    return digits().law


class _Table(nn.Module):
    """E(c): the shift of each class."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows = rows

    def forward(self, cond: Cond | Tensor) -> Tensor:
        label = cond if isinstance(cond, Tensor) else cond.label
        assert label is not None
        return self.rows[label]


class Blind:
    """q(x0 | x_t) for all shifted paths together: the best answer without the class. It does not read cond.

    path : of the shift.
    u    : E(c) of each class, [10, D].
    """

    def __init__(self, path: ShiftPath, u: Tensor):
        self.process = ShiftDDPM(path).with_shift(_Table(u.reshape(-1, *digits().shape)))
        self.shape, self.u = digits().shape, u

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        base = self.process.base
        # alpha x0 + k u = alpha (x0 + k u / alpha)
        away = float(self.process.k(t)) / float(base.alpha(t)) * self.u
        whole = law()
        found = ExactMixture(base, whole.weights, whole.means + away, whole.covariances)(xt.double(), t)
        return FullMixture(found.log_weights, found._means - away, found._factors, self.shape)


class Told:
    """q(x0 | x_t, c): the best answer of a network that is given the class, [B]."""

    def __init__(self, process: Gaussian):
        self.process, self.shape, whole = process, digits().shape, law()
        pairs = zip(whole.means, whole.covariances, strict=True)
        self.each = [ExactMixture(process, whole.weights.new_ones(1), mean[None], own[None]) for mean, own in pairs]

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> FullMixture:
        assert isinstance(cond, Tensor)
        parts = [each(xt.double(), t) for each in self.each]
        item = torch.arange(len(xt))
        means = torch.stack([part._means[:, 0] for part in parts], 1)[item, cond][:, None]
        factors = torch.cat([part._factors for part in parts], 1).expand(len(xt), -1, -1, -1)[item, cond][:, None]
        return FullMixture(xt.new_zeros(len(xt), 1), means, factors, self.shape)


def _centred(times: float) -> Tensor:
    """E(c): the mean of a class without that of all, times a number."""
    whole = law()
    return times * (whole.means - whole.means.mean(0))


def _levels() -> Tensor:
    """E(c) of the published code without learning: an even level for each class."""
    return torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None].expand(10, law().dim)


@dataclass(frozen=True)
class ClassRow:
    """A denoiser of the ten classes."""

    role: Role
    make: Callable[[], Denoiser]
    draws: bool = False


ROWS: dict[str, ClassRow] = {
    "class given": ClassRow("baseline", lambda: Told(VP("linear"))),
    "class given, draws": ClassRow("baseline", lambda: Told(VP("linear")), draws=True),
    "quadratic shift by class means": ClassRow("ours", lambda: Blind("quadratic", _centred(1.0))),
    "quadratic shift by 5 class means": ClassRow("ours", lambda: Blind("quadratic", _centred(5.0))),
    "quadratic shift by levels": ClassRow("ours", lambda: Blind("quadratic", _levels())),
    "prior shift by class means": ClassRow("ours", lambda: Blind("prior", _centred(1.0))),
    "prior shift by 5 class means": ClassRow("ours", lambda: Blind("prior", _centred(5.0))),
    "data shift by class means": ClassRow("ours", lambda: Blind("data", _centred(1.0))),
    "early shift by 5 class means": ClassRow("ours", lambda: Blind("early", _centred(5.0))),
    "prior shift by 5 class means, draws": ClassRow("ours", lambda: Blind("prior", _centred(5.0)), draws=True),
    "no shift": ClassRow("control", lambda: Blind("prior", _centred(0.0))),
}
SAMPLERS: dict[str, Sampler] = {"ancestral": ancestral, "adams": adams}


def recognised(x: Tensor, label: Tensor) -> float:
    """The share of items that the law takes for their class."""
    whole = law()
    each = [
        torch.distributions.MultivariateNormal(mean, scale_tril=factor).log_prob(x.flatten(1)) + weight.log()
        for mean, factor, weight in zip(whole.means, whole.factors, whole.weights, strict=True)
    ]
    return float(torch.stack(each, 1).argmax(1).eq(label).double().mean())


def belief(denoiser: Denoiser, label: Tensor, x0: Tensor, seed: int) -> float:
    """The mean probability of the true class given x_t, where half of the signal is left."""
    t = float(VP("linear").time(torch.tensor(1 / 3, dtype=torch.float64).log()))
    xt = denoiser.process.noise(x0, t, Rng(seed, len(x0), "belief"), label).xt
    found = denoiser(xt, t, label)
    assert isinstance(found, FullMixture)
    return float(found.log_weights.exp()[torch.arange(len(label)), label].mean())


def measure(seed: int, n: int, counts: Sequence[int]) -> Results:
    """The energy distance to each class, by the better sampler, and the share of items that are of their class."""
    whole, label = law(), torch.arange(n) % 10
    rng = Rng(seed, n, "classes")
    exact, other = (
        whole.means[label]
        + torch.einsum("bde,be->bd", whole.factors[label], rng.child(role).normal((n, 64), torch.float64))
        for role in ("exact", "other")
    )

    def apart(x: Tensor) -> float:
        return sum(energy_distance(x.flatten(1)[label == c], exact[label == c]) for c in range(10)) / 10

    results: dict[tuple[str, str], float] = {}
    for name, row in ROWS.items():
        denoiser = row.make()
        if not isinstance(denoiser, Told):
            results[name, "belief"] = belief(denoiser, label, other.reshape(n, *digits().shape), seed)
        answers = denoiser if row.draws else mean_only(denoiser)
        for count in counts:
            ends = [
                sample(answers, n, steps_for(each, count), sampler=each, seed=seed, cond=label, batch=n).double()
                for kind, each in SAMPLERS.items()
                if kind == "ancestral" or not row.draws
            ]
            end = min(ends, key=apart)
            results[name, f"distance@{count}"] = apart(end)
            results[name, f"accuracy@{count}"] = recognised(end, label)
    for count in counts:
        results["exact samples", f"distance@{count}"] = apart(other)
        results["exact samples", f"accuracy@{count}"] = recognised(other, label)
    return results


# trained on images

IMAGES = "Fashion-MNIST, 14 x 14, ten classes, trained"
FEW = (5, 20)
WAYS = (Sampling("ancestral", ancestral), Sampling("ddim", ddim), Sampling("adams", adams))


def _shifted(path: ShiftPath, learned: bool = True) -> Training:
    process = ShiftDDPM(path, LabelShift(learned))
    own = change(process=process, output="eps", loss=Square("eps"), classes=True, drop=0.0)
    return Training("ours", own, WAYS)


TRAININGS: dict[str, Training] = {
    "trained, class given": Training("baseline", change(classes=True, drop=0.0), WAYS),
    "trained, class given, linear, eps": Training(
        "baseline",
        change(process=VP("linear"), output="eps", loss=Square("eps"), classes=True, drop=0.0),
        WAYS,
    ),
    "trained, quadratic shift": _shifted("quadratic"),
    "trained, prior shift": _shifted("prior"),
    "trained, prior shift by levels": _shifted("prior", learned=False),
}


def training_of(name: str) -> Training:
    """A row of `TRAININGS`."""
    return TRAININGS[name]


def checks(value: Numbers) -> Mapping[str, bool]:
    """Against the class given to the network, by the size of the shift, and against no shift; then on images."""
    given = {kind: value.line("class given", kind, COUNTS) for kind in ("distance", "accuracy")}
    shifts = [name for name, row in ROWS.items() if row.role == "ours" and not row.draws]
    far = max(shifts, key=lambda name: value[name, f"accuracy@{COUNTS[-1]}"])
    near = "quadratic shift by class means"
    own = {kind: value.line(far, kind, COUNTS) for kind in ("distance", "accuracy")}
    known, unknown = value[far, "belief"], value[near, "belief"]
    control = value["no shift", f"accuracy@{COUNTS[-1]}"]
    usual = value[near, f"accuracy@{COUNTS[-1]}"]
    found = {
        f"at its best ({far}) a shift serves as well as a given class: distance at 5 and 20 {_listed(own['distance'])} "
        f"({_listed(given['distance'])}), accuracy {_listed(own['accuracy'])} ({_listed(given['accuracy'])})": all(
            a <= b + 0.01 for a, b in zip(own["distance"], given["distance"], strict=True)
        )
        and all(a >= b - 0.01 for a, b in zip(own["accuracy"], given["accuracy"], strict=True)),
        f"without a shift the class is lost (accuracy {control:.3f})": control < 0.2,
        f"with the published path, quadratic, by class means, it is kept too (accuracy {usual:.3f})": usual > 0.9,
        f"the path decides it: where half of the signal is left the class has the probability {known:.2f} there, and "
        f"{unknown:.2f} here": known > unknown,
    }
    if ("trained, prior shift", f"frechet@{FEW[0]}") in value:
        found |= _on_trained(value)
    return found


def _on_trained(value: Numbers) -> Mapping[str, bool]:
    def better(kind: str, names: Sequence[str], choose: Callable[..., float]) -> list[float]:
        lines = [value.line(name, kind, FEW) for name in names]
        return [choose(each) for each in zip(*lines, strict=True)]

    of = {role: [name for name, each in TRAININGS.items() if each.role == role] for role in ("baseline", "ours")}
    far, usual = (better("frechet", of[role], min) for role in ("ours", "baseline"))
    right, known = (better("accuracy", of[role], max) for role in ("ours", "baseline"))
    fixed, free = (
        value[name, f"accuracy@{FEW[-1]}"] for name in ("trained, prior shift by levels", "trained, prior shift")
    )
    return {
        f"trained on images, the best shift is as near as the best net with the class, at 5 and 20 ({_listed(far)}; "
        f"{_listed(usual)})": all(a <= 1.1 * b for a, b in zip(far, usual, strict=True)),
        f"and as accurate ({_listed(right)}; {_listed(known)})": all(
            a >= b - 0.02 for a, b in zip(right, known, strict=True)
        ),
        f"a learned shift is more accurate than even levels ({free:.3f}, {fixed:.3f})": free > fixed,
    }


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.3f}" for each in values)


EXACT: dict[str, Role] = {name: row.role for name, row in ROWS.items()} | {"exact samples": "floor"}
run = TrainedStudy(
    PAPER,
    checks,
    [Arms(EXACT, measure, LAW, {"n": 400, "counts": COUNTS}, {"n": 1000, "counts": COUNTS})],
    trained=[trained(IMAGES, TRAININGS, training_of, FEW, ("frechet", "accuracy"))],
)
