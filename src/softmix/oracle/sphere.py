"""Patterns of bits on a sphere with a rotation-invariant rule: a law of X and Y that is small enough to enumerate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

F64 = torch.float64


@dataclass(frozen=True)
class SpherePatterns:
    """All 4,096 patterns of 12 bits, equally likely, with the probability of their label.

    bits : [4096, 12], 0 or 1, float64: the patterns in the order of their numbers, the first bit highest.
    given : p(y | x), [4096, 2], float64.
    powers : of the degrees 0 to 5, [4096, 6]. They tell 64 classes of patterns apart.
    """

    bits: Tensor
    given: Tensor
    powers: Tensor

    @property
    def joint(self) -> Tensor:
        """p(x, y), [4096, 2]."""
        return self.given / len(self.bits)


def sphere_patterns(information: float = 0.99, degrees: int = 2) -> SpherePatterns:
    """A task whose label does not change when the pattern is turned:

        f(x) = sum_(l <= degrees) sum_m |a_lm|^2,   a_lm = sum_i x_i Y_lm(v_i)
        p(y = 1 | x) = sigmoid( gamma (f(x) - theta) )

    x has a point at some of the 12 corners v_i of an icosahedron. The power of a degree l needs no harmonics:
    sum_m |a_lm|^2 = (2 l + 1) / (4 pi) sum_ij x_i x_j P_l(v_i . v_j), with the Legendre polynomial P_l. theta lies
    between two values of f, with about half of the patterns on each side. gamma gives I(X; Y) = `information`.

    information : in bits, above 0 and below 0.999.
    degrees : the last degree of the rule, at most 5.

    This is our own rule. The paper's text says harmonics, a threshold and a sigmoid, and its data have the labels only.
    Raises ValueError for numbers out of range.
    Source: after Shwartz-Ziv & Tishby, "Opening the black box of deep neural networks via information", 2017.
    """
    if not 0 < information < 0.999 or not 0 <= degrees <= 5:
        raise ValueError(
            f"an information between 0 and 0.999 bits and degrees from 0 to 5 were expected; found {information} and "
            f"{degrees}"
        )
    bits = (torch.arange(1 << 12, device="cpu")[:, None] >> torch.arange(11, -1, -1, device="cpu") & 1).to(F64)
    powers = _powers(bits, 5)
    score = powers[:, : degrees + 1].sum(1)
    # equal values differ by rounding
    values = torch.unique((score * 1e8).round()) / 1e8
    middles = (values[1:] + values[:-1]) / 2
    above = torch.stack([(score > middle).to(F64).mean() for middle in middles])
    off = score - middles[(above - 0.5).abs().argmin()]
    low, high = 1e-6, 1e9
    for _ in range(200):
        gamma = math.sqrt(low * high)
        low, high = (gamma, high) if _information(torch.sigmoid(gamma * off)) < information else (low, gamma)
    return SpherePatterns(bits, torch.stack([torch.sigmoid(-low * off), torch.sigmoid(low * off)], 1), powers)


def corners() -> Tensor:
    """The corners of an icosahedron on the unit sphere, [12, 3]."""
    golden = (1 + math.sqrt(5)) / 2
    pairs = [(a, b) for a in (-1.0, 1.0) for b in (-golden, golden)]
    places = [place for a, b in pairs for place in ((0.0, a, b), (a, b, 0.0), (b, 0.0, a))]
    return torch.nn.functional.normalize(torch.tensor(places, dtype=F64, device="cpu"), dim=1)


def _powers(bits: Tensor, last: int) -> Tensor:
    """sum_m |a_lm|^2 of the degrees 0 to `last`, [N, last + 1]."""
    v = corners()
    cosine = v @ v.T
    before, legendre = torch.zeros_like(cosine), torch.ones_like(cosine)
    found = []
    for l in range(last + 1):  # noqa: E741
        found.append((2 * l + 1) / (4 * math.pi) * ((bits @ legendre) * bits).sum(1))
        before, legendre = legendre, ((2 * l + 1) * cosine * legendre - l * before) / (l + 1)
    return torch.stack(found, 1)


def _information(one: Tensor) -> float:
    """I(X; Y) of p(y = 1 | x) under even patterns, in bits."""

    def entropy(p: Tensor) -> Tensor:
        return (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)

    return float(entropy(one.mean()) - entropy(one).mean())
