"""Soft Mixture Denoising: a latent eta turns one network into a continuous mixture.

z = g(eta, x_t, t), and f(z, t) modulates some blocks of the net: x0 = D(x_t, t; f(g(eta, x_t, t), t)). The blocks
before the first modulated one do not depend on eta and run once for all draws. Source: Li, van Breugel & van der
Schaar, "Soft mixture denoising", ICLR 2024, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from ..net import MLPSpec, Net, NetSpec, TwoStreamsSpec, channels_of
from ..net.base import SideInputs, State, Where, at_least_one, repeat
from ..posterior import Implicit, ImplicitMean, Posterior
from .contract import Suits
from .network import Inputs


@dataclass(frozen=True)
class SoftHead:
    """A soft mixture by modulation of blocks: the default of softmix.

    where : the blocks that the latent modulates: only the last ("head"), the second half ("decoder"), or "all".
    latent : the size of the part of eta that is shared by the whole item.
    local : the size of eta at each place of the state, for details of images and sequences that are not shared.
    mean : "own" gives the posterior a mean: the modulated blocks run once more with a learned vector in place of
        f(z, t), to be trained by squared error. "none" gives no mean.
    scale : the standard deviation of eta. With 0 the latent carries nothing: the control with the same parameters and
        operations.

    When to choose: for four evaluations and fewer. mean = "own" for `FeatureEnergy` and ODE samplers.
    """

    where: Where = "decoder"
    latent: int = 32
    local: int = 4
    mean: Literal["own", "none"] = "own"
    scale: float = 1.0
    suits: ClassVar[Suits] = ("ancestral", {"eta": 0.0})
    cites: ClassVar[tuple[str, ...]] = ("smd",)

    def __post_init__(self) -> None:
        if self.latent < 1 or self.local < 0 or self.scale < 0:
            raise ValueError(
                "a SoftHead needs latent >= 1, local >= 0 and scale >= 0; "
                f"found {self.latent}, {self.local}, {self.scale}"
            )

    def channels(self, channels: int) -> int:
        return channels

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _Soft(self, net, shape)


class _Soft(nn.Module):
    """g and f: from eta, the state and the embedding to the terms added to both."""

    def __init__(self, spec: SoftHead, net: Net, shape: tuple[int, ...]):
        super().__init__()
        self.spec, self.split = spec, net.splits[spec.where]
        entering = net.state_shape(shape, self.split)
        self.tokens = len(entering) == 2
        width = entering[1] if self.tokens else entering[0]
        self.size = () if len(entering) == 1 else entering[:1] if self.tokens else entering[1:]
        self.local = spec.local if self.size else 0
        self.fixed_size = bool(self.local)
        self.g = nn.Sequential(
            nn.Linear(spec.latent + width + net.embed_width, net.embed_width),
            nn.SiLU(),
            nn.Linear(net.embed_width, net.embed_width),
        )
        self.f = nn.Linear(net.embed_width, net.embed_width)
        self.off = nn.Parameter(torch.zeros(net.embed_width))
        if self.local:
            self.g_local = nn.Sequential(nn.Linear(width + self.local, width), nn.SiLU(), nn.Linear(width, width))
        # with torch's initial weights eta would change x0 by a thousandth: nearly collapsed, and slow to train
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.orthogonal_(parameter, gain=2.0)
        self.latent_shape = (spec.latent + self.local * torch.Size(self.size).numel(),)

    def forward(self, net: Net, given: Inputs) -> Posterior:
        state = net.run(net.start(given.x, given.side), given.side, 0, self.split)
        # only the stem uses the image; without this every draw would hold a copy of it
        return self._posterior(net, replace(given, side=replace(given.side, image=None)), state)

    def _posterior(self, net: Net, given: Inputs, state: State) -> Implicit:
        """The posterior after the trunk. Each draw and the mean run the other blocks.

        state : the state at the block that eta enters.
        """
        side, size = given.side, net.size(given.x)

        def finish(state: State, side: SideInputs) -> Tensor:
            return given.x0(net.out(net.run(state, side, self.split, len(net.body)), side, size))

        def head(eta: Tensor) -> Tensor:
            m = len(eta)
            shared, local = (self.spec.scale * eta).split([self.spec.latent, eta.shape[-1] - self.spec.latent], dim=2)
            emb = side.emb + self.f(nn.functional.silu(self._z(shared, state[0], side.emb)))
            entering = self._placed(state[0], local) if self.local else repeat(state[:1], m)[0]
            return finish((entering, *repeat(state[1:], m)), side.repeat(m).with_emb(emb.flatten(0, 1))).unflatten(
                0, (m, -1)
            )

        def mean() -> Tensor:
            return finish(state, side.with_emb(side.emb + self.off))

        def parts(sizes: Sequence[int]) -> tuple[Implicit, ...]:
            states = zip(*(tensor.split(list(sizes)) for tensor in state), strict=True)
            return tuple(
                self._posterior(net, inputs, each) for inputs, each in zip(given.split(sizes), states, strict=True)
            )

        if self.spec.mean == "none":
            return Implicit(head, len(given.xt), self.latent_shape, given.xt, parts)
        return ImplicitMean(head, len(given.xt), self.latent_shape, given.xt, mean, parts)

    def _z(self, shared: Tensor, h: Tensor, emb: Tensor) -> Tensor:
        """z = g(eta, mean of the state over places, emb), [m, B, E], for shared latents [m, B, latent]."""
        pooled = h if not self.size else h.mean(1) if self.tokens else h.mean((2, 3))
        given = torch.cat([pooled.to(emb.dtype), emb], dim=1)
        z: Tensor = self.g(torch.cat([shared.to(emb.dtype), given.expand(len(shared), *given.shape)], dim=2))
        return z

    def _placed(self, h: Tensor, local: Tensor) -> Tensor:
        """The state of m draws [m B, ...]: h with their local latents [m, B, ...] mixed in, place by place.

            h + g_local(h, local),   g_local = W_2 silu(W_h h + W_local local + b) + b_2

        W_h h is one product for all draws.
        """
        first, act, second = cast(nn.Linear, self.g_local[0]), self.g_local[1], self.g_local[2]
        width = first.weight.shape[1] - self.local
        last = h if self.tokens else h.permute(0, 2, 3, 1)
        noise = local.unflatten(2, (*self.size, self.local)).to(h.dtype)
        hidden = nn.functional.linear(last, first.weight[:, :width], first.bias)
        hidden = hidden + nn.functional.linear(noise, first.weight[:, width:])
        mixed = (last + second(act(hidden))).flatten(0, 1)
        return mixed if self.tokens else mixed.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class PublishedSMD:
    """A soft mixture as published, and as in the authors' code.

    eta has the shape of x_t. g is a small net of the main net's kind on (x_t, eta), a quarter as wide. Its features
    give z with `latent` numbers at each place. f is a hypernetwork at two places, after the stem and before the output
    layer. Each is a residual x + W_out M_2 M_1 W_in x with M_l = v_l v_l^T + softplus(s_l) I, v_l = A_l z + b_l: a
    rank-one layer for every place.

    latent : the size of z at each place.

    When to choose: only to test the paper.
    """

    latent: int = 100
    cites: ClassVar[tuple[str, ...]] = ("smd",)

    def __post_init__(self) -> None:
        at_least_one(latent=self.latent)

    def channels(self, channels: int) -> int:
        return channels

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        return _Published(self.latent, net, spec, shape)


class _Hyper(nn.Module):
    """x + W_out M_2 M_1 W_in x, place by place, for x [..., C] and z [..., L]. The matrices M are never formed."""

    def __init__(self, width: int, latent: int):
        super().__init__()
        self.enter, self.leave = nn.Linear(width, latent), nn.Linear(latent, width)
        self.vector = nn.ModuleList(nn.Linear(latent, latent) for _ in range(2))
        self.scale = nn.ParameterList(nn.Parameter(torch.randn(())) for _ in range(2))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.enter(x)
        for vector, scale in zip(self.vector, self.scale, strict=True):
            v = vector(z)
            h = v * (v * h).sum(-1, keepdim=True) + nn.functional.softplus(scale) * h
        leave: Tensor = self.leave(h)
        return x + leave


class _Published(nn.Module):
    def __init__(self, latent: int, net: Net, spec: NetSpec, shape: tuple[int, ...]):
        super().__init__()
        if isinstance(spec, TwoStreamsSpec):
            raise ValueError("PublishedSMD has one small net, and two streams were asked for: take SoftHead")
        small = (
            replace(spec, width=max(spec.width // 4, 8), depth=1)
            if not isinstance(spec, MLPSpec)
            else replace(spec, width=max(spec.width // 4, 8), depth=2)
        )
        channels, _ = channels_of(spec, shape)
        self.g = small.build(2 * channels, channels)
        self.z = nn.Linear(self.g.width, latent)
        self.first, self.last = _Hyper(net.width, latent), _Hyper(net.width, latent)
        self.latent_shape, self.fixed_size = shape, True

    def forward(self, net: Net, given: Inputs) -> Posterior:
        def head(eta: Tensor) -> Tensor:
            m = len(eta)
            (x,), side = repeat((given.x,), m), given.side.repeat(m)
            both = torch.cat([x, eta.flatten(0, 1).to(x.dtype)], dim=given.axis)
            small = self.g.side(both, side.logsnr)
            features = self.g.run(self.g.start(both, small), small, 0, len(self.g.body))
            z = self.z(_channels_last(features[0]))
            state = _on_first(net.start(x, side), lambda h: self.first(h, z))
            state = _on_first(net.run(state, side, 0, len(net.body)), lambda h: self.last(h, z))
            return given.x0(net.out(state, side, net.size(x))).unflatten(0, (m, -1))

        return Implicit(head, len(given.xt), self.latent_shape, given.xt)


def _channels_last(h: Tensor) -> Tensor:
    return h.permute(0, 2, 3, 1) if h.ndim == 4 else h


def _on_first(state: State, change: Callable[[Tensor], Tensor]) -> State:
    h = change(_channels_last(state[0]))
    return (h.permute(0, 3, 1, 2) if h.ndim == 4 else h, *state[1:])
