"""Heads: they turn the output of a network into a posterior. The soft head is in smd.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import nn

from ..net import Net, NetSpec
from ..net.base import at_least_one
from ..net.embedding import Embedding
from ..posterior import Mixture, Normal, Point, Posterior
from ..shape import column
from .contract import Suits
from .network import Inputs


class HeadSpec(Protocol):
    """The specification of a head: the number of output channels of the net, and the module."""

    def channels(self, channels: int) -> int: ...

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module: ...


@dataclass(frozen=True)
class PointHead:
    """The head of a usual diffusion model: all probability at the network's x0.

    When to choose: for plain models, sampled in eight evaluations and more.
    """

    suits: ClassVar[Suits] = ("adams", {})

    def channels(self, channels: int) -> int:
        return channels

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _Point()


class _Point(nn.Module):
    def forward(self, net: Net, given: Inputs) -> Posterior:
        return Point(given.x0(net.through(given.x, given.side)))


@dataclass(frozen=True)
class MapHead:
    """A flow map: the x0 with which DDIM's step from t to a second time s follows the ODE without error.

        x_s = alpha_s x0 + sigma_s (x_t - alpha_t x0) / sigma_t

    This defines x0 for any process and any output of the table. For s = t it is the mean of the posterior. For s = 0 it
    is the end of the path, as in a consistency model. With `Flow`, (x_t - x0) / t is the average velocity of MeanFlow.
    When to choose: for MeanFlow, inductive moment matching, and other flow maps of two times.
    """

    suits: ClassVar[Suits] = ("ddim", {})

    def channels(self, channels: int) -> int:
        return channels

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _Map(net)


class _Map(nn.Module):
    two_times = True

    def __init__(self, net: Net):
        super().__init__()
        self.target = Embedding(net.embed_width)

    def forward(self, net: Net, given: Inputs) -> Posterior:
        side = given.side.with_emb(given.side.emb + self.target(given.target))
        return Point(given.x0(net.through(given.x, side)))


@dataclass(frozen=True)
class NormalHead:
    """A mean, and a variance b^2 exp(2 l).

    per : "item" for one variance for each item, "element" for one for each element (diagonal).

    When to choose: for a density at little cost, if x0 has about one mode given x_t.
    """

    per: Literal["item", "element"] = "item"

    def channels(self, channels: int) -> int:
        return channels + (1 if self.per == "item" else channels)

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _Normal(self.per)


class _Normal(nn.Module):
    def __init__(self, per: Literal["item", "element"]):
        super().__init__()
        self.per = per

    def forward(self, net: Net, given: Inputs) -> Posterior:
        output = net.through(given.x, given.side).to(given.xt.dtype)
        channels = given.xt.shape[given.axis]
        mean, log_sd = output.split([channels, output.shape[given.axis] - channels], dim=given.axis)
        if self.per == "item":
            log_sd = log_sd.flatten(1).mean(1).reshape(-1, *(1,) * (mean.ndim - 1))
        return Normal(given.x0(mean), (column(given.b, given.xt) * log_sd.exp()) ** 2)


@dataclass(frozen=True)
class MixtureHead:
    """k Gaussians: a mean and a weight each, and one variance for the item.

    Component k has mean a x_t + b u_k and variance (b exp(l))^2.

    k : the number of components.
    per : "pixel" chooses a component at every place, as in GMFlow; "item" chooses one for the whole item.

    Source: Chen et al., "Gaussian mixture flow matching", ICML 2025.
    """

    k: int = 8
    per: Literal["item", "pixel"] = "pixel"
    cites: ClassVar[tuple[str, ...]] = ("gmflow",)

    def __post_init__(self) -> None:
        at_least_one(k=self.k)

    def channels(self, channels: int) -> int:
        return self.k * channels + self.k + 1

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _Mixture(self.k, self.per)


class _Mixture(nn.Module):
    def __init__(self, k: int, per: Literal["item", "pixel"]):
        super().__init__()
        self.k, self.per = k, per

    def forward(self, net: Net, given: Inputs) -> Posterior:
        channels, axis = given.xt.shape[given.axis], given.axis
        output = net.through(given.x, given.side).to(given.xt.dtype)
        means, weights, log_sd = output.split([self.k * channels, self.k, 1], dim=axis)
        means = means.unflatten(axis, (self.k, channels)).movedim(axis, 0)
        means = given.x0(means.flatten(0, 1)).unflatten(0, (self.k, -1)).transpose(0, 1)
        sd = column(given.b, given.xt).abs() * log_sd.flatten(1).mean(1).reshape(-1, *(1,) * (given.xt.ndim - 1)).exp()
        # [B, K, ...]: size 1 for the channels ("pixel"), or [B, K] ("item")
        weights = weights.movedim(axis, 1)
        if self.per == "item" or weights.ndim == 2:
            weights = weights.flatten(2).mean(2) if weights.ndim > 2 else weights
        else:
            weights = weights.unsqueeze(axis + 1)
        return Mixture(weights, means, (sd**2)[:, None])
