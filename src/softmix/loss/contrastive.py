"""The contrastive term of CDCD: tokens of another item are made improbable given this item's condition."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..posterior import Posterior
from ..process import Masked, Noised
from ..rng import Rng
from .contract import Stage
from .masked import MaskedCrossEntropy, masked_nats

Negatives = Literal["own", "others"]
Form = Literal["step", "sample"]
Given = Literal["condition", "nothing"]
# the pieces of an item that are put into another order
_CHUNKS = 8


@dataclass(frozen=True)
class Contrastive:
    """A base loss less the same loss of negatives z' at the same x_t and condition.

        L(z) = base(z) - weight (1 / N) sum_z' w(t) (1 / L) sum_(l masked) min(-log q(z'_l | x_t, c), cap)

    base : the loss of the item itself.
    weight : lambda, from 0 to below 1. The papers' code has 5e-5 and 5e-6 beside a bound in nats per item.
    negatives : N, for each item.
    of : "own", the tokens of the item in another order: eight pieces, permuted, never all in their place; "others",
        the tokens of other items of the batch.
    form : "step" with the weight of the bound, w = -alpha' / (1 - alpha); "sample" with w = 1 + t, a cross-entropy of
        x_0. The paper takes "own" step by step, and "others" sample by sample.
    cap : the largest cross-entropy of a token of a negative, in nats. Beyond it the token is not pushed away.
    given : "condition", or "nothing" for the control: the negatives are made improbable for the model without its
        condition, which then needs `drop` above 0 in training.

    Masked places alone count: at a visible place all negatives have the same step back as the item. "others" compares
    the items of a batch, which is then never divided (`whole`).

    If z' is drawn from p(z), and all is masked, the minimiser is

        q*(z | c) = (p(z | c) - v p(z)) / (1 - v),   v = weight w(t) / r(t) at t = 1

    where this is positive. r = -alpha' / (1 - alpha) is the weight of the base. With "step" v is the weight itself.
    With "sample" it depends on t, and is at most twice the weight for the linear schedule. q* is sharper in c than the
    data, as guidance is, and no longer calibrated. Where p(z | c) < v p(z) the loss has no minimum without the cap;
    with it q falls to e^-cap.

    Raises ValueError for numbers out of range, for v of 1 or more at some time, and for parts or a batch that have no
    negatives. "sample" needs the linear schedule: the cosine's r falls to 0, and negatives would outweigh the item.
    Source: Zhu et al., "Discrete contrastive diffusion for cross-modal music and image generation", ICLR 2023, sections
    3.2 and 3.3, and the authors' code; q* is derived here.
    When to choose: to test the paper. `guided` sharpens a trained model without a training of its own.
    """

    base: MaskedCrossEntropy = field(default_factory=MaskedCrossEntropy)
    weight: float = 0.1
    negatives: int = 10
    of: Negatives = "others"
    form: Form = "sample"
    cap: float = 10.0
    given: Given = "condition"
    cites: ClassVar[tuple[str, ...]] = ("cdcd",)

    def __post_init__(self) -> None:
        if not (0 <= self.weight < 1 and self.negatives >= 1 and 0 < self.cap < math.inf):
            raise ValueError(
                "Contrastive has a weight in [0, 1), at least 1 negative and a finite cap above 0; found "
                f"{self.weight}, {self.negatives} and {self.cap}"
            )
        for value, kinds in ((self.of, Negatives), (self.form, Form), (self.given, Given)):
            if value not in get_args(kinds):
                raise ValueError(f"{value!r} was asked for; there are {', '.join(get_args(kinds))}")

    @property
    def needs_drop(self) -> bool:
        """Whether items without their condition are needed in training."""
        return self.given == "nothing" and self.weight > 0

    @property
    def whole(self) -> bool:
        return self.of == "others"

    def fits(self, head: object, process: object) -> None:
        self.base.fits(head, process)
        if self.form == "sample" and self.weight:
            schedule = getattr(process, "schedule", "linear")
            if schedule != "linear":
                raise ValueError(
                    f'form = "sample" weighs negatives by 1 + t, and the bound of the {schedule} schedule weighs items '
                    'by less near t = 1: take Masked(schedule="linear"), or form="step"'
                )
            if self.weight >= 0.5:
                raise ValueError(
                    f'form = "sample" weighs negatives by up to twice the weight {self.weight:g} of an item: take a '
                    'weight below 0.5, or form="step"'
                )

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        posterior = denoiser(noised.xt, noised.t, noised.cond)
        positive = self.base(posterior, noised, rng.child("base"))
        if not self.weight:
            return positive
        if self.given == "nothing":
            if noised.cond is None:
                raise ValueError('given="nothing" leaves out the condition, and these items have none')
            posterior = denoiser(noised.xt, noised.t, None)
        return positive - self.weight * self._negative(posterior, noised, rng)

    def _negative(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        """The mean loss of the negatives, [B]."""
        process: Masked = noised.process  # type: ignore[assignment]
        total = torch.zeros(len(noised.x0), device=noised.x0.device)
        for k in range(self.negatives):
            other = self._other(noised.x0, rng.child(f"negative {k}"))
            total = total + masked_nats(posterior, noised, other, self.cap)
        weight = process.unmasking_rate(noised.t) if self.form == "step" else 1 + noised.t
        return weight.to(total) * total / self.negatives

    def _other(self, x0: Tensor, rng: Rng) -> Tensor:
        """A negative for each item, in the shape of x0."""
        if self.of == "own":
            return x0.gather(1, reordered(x0.shape[1], rng).to(x0.device))
        if len(x0) < 2:
            raise ValueError("negatives of other items were asked for, and the batch has one item: take a larger batch")
        step = 1 + rng.integers(len(x0) - 1, (len(x0),)).to(x0.device)
        return x0[(torch.arange(len(x0), device=x0.device) + step) % len(x0)]


def reordered(places: int, rng: Rng) -> Tensor:
    """For each item the places of 0 .. L - 1 in another order: contiguous pieces, permuted, [B, L].

    Raises ValueError for one place, which has no other order.
    """
    if places < 2:
        raise ValueError('negatives of "own" tokens in another order were asked for, and an item has one token')
    count = min(_CHUNKS, places)
    rank = rng.uniform((len(rng), count), torch.float64).argsort(1)
    straight = torch.arange(count, device=rank.device)
    # the identity would push the item itself away
    rank = torch.where((rank == straight).all(1, keepdim=True), rank.roll(1, 1), rank)
    place = torch.arange(places, device=rank.device)
    return (rank[:, place * count // places] * places + place).argsort(1)
