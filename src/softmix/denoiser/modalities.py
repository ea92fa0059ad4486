"""MT-Diffusion: several modalities in one diffusion, with a decoder for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from ..cond import UNCONDITIONED, Cond, CondSpec
from ..net import Net, NetSpec, SideInputs
from ..net.base import places
from ..posterior import Categorical, HasMean, Joint, Point, Posterior, need
from ..posterior.joint import Parts
from ..process import Gaussian
from ..rng import Rng
from .contract import Denoiser
from .head import HeadSpec
from .network import Inputs, Network
from .parameterise import Output

# the names of the aggregate and of the items themselves among the parts of a `Joint`
AGGREGATE, ITEM = "z", "x"


@dataclass(frozen=True)
class Modality:
    """The share of one modality in a joint diffusion.

    weight : w_i, of its code in z_0. With 0 the forward process does not depend on it.
    scale : lambda_i, of its loss. With 0 its decoder does not learn, and the network does not learn from it.
    """

    weight: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale >= 0 or not abs(self.weight) < float("inf"):
            raise ValueError(
                f"a modality has a real weight and a scale of at least 0; found {self.weight} and {self.scale}"
            )


class Aggregation(nn.Module):
    """z_0 = sum_i w_i E_i(x^i): linear codes of all modalities, added in the space of x.

        E(x) = x,    E(label) = a random pattern for each class,    E(value) = sum_k value_k times a random pattern,
        E(image) = the image itself, or a fixed random mixture of its channels if x has another number of them

    The encoders are fixed. Encoders that learn could make E vanish or grow without a bound, and the loss with it.

    shape : of x.
    spec : the modalities beside x, as a source lists them.
    weights : w_i by the name of the modality: "x", "image", "value", and the name of each label.
    data_sd : the standard deviation of x. A pattern has the same. Values are taken to have the variance 1.
    """

    mixing: Tensor
    patterns: Tensor

    def __init__(self, shape: tuple[int, ...], spec: CondSpec, weights: Mapping[str, float], data_sd: float):
        super().__init__()
        self.spec, self.weights, self.data_sd = spec, dict(weights), data_sd
        self._axis = 2 if len(shape) == 2 else 1
        for number, (name, count) in enumerate(spec.labels):
            drawn = Rng(0, count, f"patterns.{name}").normal((count, *shape), torch.float32)
            self.register_buffer(f"codes{number}", data_sd * drawn)
        if spec.values:
            drawn = Rng(0, spec.values, "patterns.value").normal((spec.values, *shape), torch.float32)
            self.register_buffer("patterns", data_sd * drawn / spec.values**0.5)
        channels = shape[self._axis - 1]
        if spec.image and spec.image != channels:
            drawn = Rng(0, channels, "mixing").normal((channels, spec.image), torch.float32)
            self.register_buffer("mixing", drawn / spec.image**0.5)

    @property
    def sd(self) -> float:
        """The standard deviation of z_0 for modalities that are uncorrelated."""
        return self.data_sd * sum(weight**2 for weight in self.weights.values()) ** 0.5

    def code(self, name: str, part: Tensor) -> Tensor:
        """E_i(x^i), [B, *shape].

        part : of a label the classes [B], -1 for one that is not given, whose code is 0; or probabilities [B, K].
        """
        names = [label for label, _ in self.spec.labels]
        if name in names:
            codes = cast(Tensor, getattr(self, f"codes{names.index(name)}"))
            if part.is_floating_point():
                return torch.tensordot(part.to(codes), codes, dims=1)
            return torch.where(_along(part >= 0, codes), codes[part.clamp(min=0)], codes.new_zeros(()))
        if name == "value":
            return torch.tensordot(part.to(self.patterns), self.patterns, dims=1)
        if name == "image" and "mixing" in self._buffers:
            return torch.tensordot(part.to(self.mixing).movedim(self._axis, -1), self.mixing.T, dims=1).movedim(
                -1, self._axis
            )
        return part

    def forward(self, parts: Parts) -> Tensor:
        """z_0 [B, *shape] of all modalities, by name."""
        return sum(
            (weight * self.code(name, parts[name]) for name, weight in self.weights.items() if weight),
            torch.zeros_like(parts[ITEM]),
        )

    def parts(self, x0: Tensor, cond: Cond | None) -> dict[str, Tensor]:
        """The modalities of items, by name: x0, and each part of the condition."""
        if cond is None:
            raise ValueError(f"a joint diffusion of x and {self.spec} needs both; the items came without a condition")
        parts = {ITEM: x0}
        if self.spec.labels:
            assert cond.label is not None
            columns = cond.label[:, None] if cond.label.ndim == 1 else cond.label
            parts |= {name: columns[:, number] for number, (name, _) in enumerate(self.spec.labels)}
        return parts | {name: getattr(cond, name) for name in ("image", "value") if name in self.spec.parts}


@dataclass(frozen=True)
class _WithOthers:
    """A head of z_0, and decoders of the modalities on the same grid, in further channels: x, and an image if any."""

    z: HeadSpec
    image: int

    def channels(self, channels: int) -> int:
        return self.z.channels(channels) + channels + self.image

    def build(self, net: Net, spec: NetSpec, shape: tuple[int, ...]) -> nn.Module:
        axis = net.channel_axis
        own = self.z.channels(shape[axis - 1])
        return _Parts(self.z.build(net, spec, shape), (own, shape[axis - 1], self.image))


class _Parts(nn.Module):
    def __init__(self, z: nn.Module, sizes: tuple[int, int, int]):
        super().__init__()
        self.z, self.sizes = z, sizes

    def forward(self, net: Net, given: Inputs) -> Joint:
        output = net.through(given.x, given.side).to(given.xt.dtype)
        own, x, image = output.split(list(self.sizes), dim=given.axis)
        found: dict[str, Posterior] = {AGGREGATE: self.z(_Finished(own), given), ITEM: Point(x)}
        return Joint(found | ({"image": Point(image)} if self.sizes[2] else {}))


@dataclass(frozen=True)
class _Finished:
    """Stands for a net whose output is known."""

    output: Tensor

    def through(self, x: Tensor, side: SideInputs) -> Tensor:
        return self.output


class Modalities(nn.Module):
    """q(z_0 | z_t) of an aggregate z_0 = sum_i w_i E_i(x^i), and q(x^i | z_t) of each modality, by one network.

        z_t = alpha z_0 + sigma eps

    It is the denoiser of z_0, so that every sampler serves. `joint` gives the laws of all modalities. `sample` returns
    x, decoded from the end of the path; `softmix.sampler.sample_modalities` returns all modalities.

    The paper's forward process adds w_t E(X) at each step. From z_0 = 0 that is z_t = k_t E(X) + sigma_t eps, which is
    this one on other noise levels: choose them by `process`.

    process, net, output : as in `Network`, for z.
    head : of z_0: any head that reads the output of the net alone (`PointHead`, `NormalHead`, `MixtureHead`).
    shape : of x and of z.
    spec : the modalities beside x: labels, an image, values.
    weights : w_i by name.
    data_sd : of x.
    low : the time at which `decode` asks, the least of the training.

    Sources: Chen et al., "Diffusion models for multi-modal generative modeling", ICLR 2024. No code was published.
    When to choose: `train.DenoiseModalities` makes it.
    """

    cites: ClassVar[tuple[str, ...]] = ("mt_diffusion",)
    cond: ClassVar[CondSpec] = UNCONDITIONED
    classes: ClassVar[int] = 0

    def __init__(
        self,
        process: Gaussian,
        net: NetSpec,
        head: HeadSpec,
        shape: tuple[int, ...],
        spec: CondSpec,
        weights: Mapping[str, float],
        output: Output = "v",
        data_sd: float = 1.0,
        low: float = 1e-3,
    ):
        super().__init__()
        self.aggregation = Aggregation(shape, spec, weights, data_sd)
        own = _WithOthers(head, spec.image)
        self.network = Network(process, net, own, shape, UNCONDITIONED, output, self.aggregation.sd)
        self.spec, self.low = spec, low
        self._block = max(self.network.net.splits["decoder"] - 1, 0)
        # the channels of a state, also for an item of one place
        state = torch.zeros(1, *self.network.net.state_shape(self.network.shape, self._block + 1), device="cpu")
        width = places(state).shape[1]
        sizes = [count for _, count in spec.labels] + [spec.values] * bool(spec.values)
        self.decoders = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size)) for size in sizes)

    @property
    def process(self) -> Gaussian:
        return cast(Gaussian, self.network.process)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.network.shape

    @property
    def stride(self) -> int:
        """0: items have one size, that of the patterns of labels and values, or that of the network."""
        return 0 if self.decoders else self.network.stride

    def joint(self, zt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Joint:
        """The laws of "z", "x" and every other modality given z_t, by name."""
        posterior, side = self.network.with_side(zt, t, cond, hidden=(self._block,))
        state = places(side.hidden[self._block]).mean(2)
        found = dict(cast(Joint, posterior).parts)
        names = [name for name, _ in self.spec.labels] + ["value"] * bool(self.spec.values)
        for name, decoder in zip(names, self.decoders, strict=True):
            output = decoder(state).to(zt.dtype)
            found[name] = Point(output) if name == "value" else Categorical(output)
        return Joint(found)

    def forward(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        return cast(Joint, self.network(xt, t, cond)).parts[AGGREGATE]

    @torch.no_grad()
    def decode(self, z: Tensor) -> dict[str, Tensor]:
        """The modalities of an aggregate at the end of a path, by name: means, and the most probable labels."""
        return decoded_parts(self.joint(z, self.low))

    def x_of(self, z: Tensor) -> Tensor:
        """x, decoded from the end of a path."""
        return self.decode(z)[ITEM]


def decoded_parts(joint: Joint) -> dict[str, Tensor]:
    """The mean of each modality, or the most probable label, by name."""
    return {
        name: each.mode if isinstance(each, Categorical) else need(each, HasMean, "a decoder").mean
        for name, each in joint.parts.items()
        if name != AGGREGATE
    }


class JointDenoiser(Denoiser, Protocol):
    """A denoiser of an aggregate that knows the laws of all modalities: `Modalities`, or the exact one of an oracle."""

    aggregation: Aggregation
    spec: CondSpec
    shape: tuple[int, ...]

    def joint(self, zt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Joint: ...

    def decode(self, z: Tensor) -> dict[str, Tensor]: ...


def modalities_of(denoiser: Denoiser, who: str) -> JointDenoiser:
    """The model of several modalities under wraps. Raises TypeError for a denoiser of one modality."""
    if not hasattr(denoiser, "joint"):
        raise TypeError(
            f"{who} needs a model of several modalities, and found {type(denoiser).__name__}: train one by the task "
            "DenoiseModalities"
        )
    inner: Any = denoiser
    while "inner" in vars(inner):
        inner = inner.inner
    return cast(JointDenoiser, inner)


def _along(x: Tensor, codes: Tensor) -> Tensor:
    """x [B] with an axis of size 1 for each axis of a pattern."""
    return x.reshape(-1, *(1,) * (codes.ndim - 1))
