"""REPA: hidden states of the network are aligned with the features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..cond import CondSpec
from ..denoiser import Denoiser, Network
from ..process import Noised
from ..rng import Rng
from ..shape import cell_shares
from .contract import Group, Stage
from .element import SquarePerElement
from .encoder import EncoderSpec, RandomEncoder, SavedEncoder
from .energy import Energy
from .interpolant import MeanAndNoise
from .likelihood import Importance, Likelihood
from .residual import ResidualAndNoise
from .square import PublishedSquare, Square

PosteriorLoss = (
    Square | PublishedSquare | Energy | Importance | Likelihood | ResidualAndNoise | SquarePerElement | MeanAndNoise
)


@dataclass(frozen=True)
class Align:
    """A loss of the posterior, and beside it the alignment of a hidden state with a frozen encoder (REPA).

        L = L_base + weight * ( -(1/N) sum_n cos( h_phi(h_n), y_n ) )

    h_n is the state of the network at token n after some blocks, for the noisy x_t. y_n is the feature of the encoder
    at the same place, for the clean x0, without a gradient. h_phi is a projector,
    Linear-SiLU-Linear-SiLU-Linear at each token, trained with the network. The grid of features is resized to that of
    the tokens: each token gets the mean of the cells that it covers. A mirrored image is mirrored for both.

    encoder : `SavedEncoder`, `RandomEncoder` (a control) or your own `EncoderSpec`, by `parts`.
    base : a loss of the posterior.
    block : the number of blocks before the hidden state, counted from 1: the state leaves block number `block`.
    weight : lambda of the paper. 0 trains the network as `base` alone does, and is a control.
    width : of the projector.
    until : the share of training after which the term stops, from then on L = L_base. 1: never.

    The network is a DiT or a U-Net; a feature map of a U-Net has a token for each place. With a `SoftHead` the block is
    one before those of the latent. The projector and the encoder are saved in checkpoints, as "projector" and
    "encoder". Neither is averaged, and the denoiser holds neither.

    Raises ValueError for items that are no images, a block that the network does not have, and a base that calls the
    network itself (an objective).
    Sources: Yu et al., "Representation alignment for generation", ICLR 2025, section 3.3; `until`: Wang et al., "REPA
    works until it doesn't" (HASTE), 2025, its early stop alone.
    When to choose: if an encoder of these images is at hand that knows more than the few images of the training.
    Measure without the features of the encoder: a distance in them favours this loss.
    """

    encoder: RandomEncoder | SavedEncoder
    base: PosteriorLoss = field(default_factory=lambda: Square("v"))
    block: int = 2
    weight: float = 0.5
    width: int = 256
    until: float = 1.0
    groups: ClassVar[Mapping[str, Group]] = {"projector": Group(), "encoder": Group()}

    def __post_init__(self) -> None:
        if self.block < 1 or self.width < 1 or not self.weight >= 0 or not 0 <= self.until <= 1:
            raise ValueError(
                "Align needs block >= 1, width >= 1, weight >= 0 and until from 0 to 1; found "
                f"block = {self.block}, width = {self.width}, weight = {self.weight}, until = {self.until}"
            )
        if any(hasattr(self.base, name) for name in ("ask", "build", "freeze", "made")):
            raise ValueError(
                f"Align takes a loss of one posterior as its base, and {type(self.base).__name__} is an objective, "
                "which calls the network itself: take Square, Energy, Likelihood or another loss"
            )

    @property
    def proper(self) -> bool:
        return self.base.proper

    @property
    def cites(self) -> tuple[str, ...]:
        return ("repa", *(("haste",) if self.until < 1 else ()), *getattr(self.base, "cites", ()))

    @property
    def suits(self) -> Any:
        return getattr(self.base, "suits", None)

    @property
    def whole(self) -> bool:
        return bool(getattr(self.base, "whole", False))

    @property
    def together(self) -> bool:
        return bool(getattr(self.base, "together", False))

    def fits(self, head: object, process: object) -> None:
        fits = getattr(self.base, "fits", None)
        if fits is not None:
            fits(head, process)

    def fits_cond(self, spec: CondSpec) -> None:
        fits = getattr(self.base, "fits_cond", None)
        if fits is not None:
            fits(spec)

    def fits_times(self, by: str, low: float, high: float) -> None:
        fits = getattr(self.base, "fits_times", None)
        if fits is not None:
            fits(by, low, high)

    def phase(self, progress: float) -> bool:
        """Whether the term is a part of the loss."""
        return self.until == 1 or progress < self.until

    def build(self, network: Network) -> Mapping[str, nn.Module]:
        if len(network.shape) != 3:
            raise ValueError(f"Align is for images, and the items have shape {network.shape}")
        depth = len(network.net.body)
        if self.block > depth:
            raise ValueError(f"Align was asked for block {self.block}, and the network has blocks 1 to {depth}")
        own = network.net.state_shape(network.shape, self.block)
        if len(own) < 2:
            raise ValueError(
                f"Align compares tokens, and {type(network.net).__name__} has one state for the item: take DiTSpec or "
                "UNetSpec"
            )
        # tokens [L, C], or a map [C, h, w]
        width = own[1] if len(own) == 2 else own[0]
        spec = cast(EncoderSpec, self.encoder)
        projector = nn.Sequential(
            nn.Linear(width, self.width),
            nn.SiLU(),
            nn.Linear(self.width, self.width),
            nn.SiLU(),
            nn.Linear(self.width, spec.channels),
        )
        return {"projector": projector, "encoder": spec.build(network.shape).requires_grad_(False).eval()}

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        if not isinstance(denoiser, Network):
            raise ValueError(
                f"Align reads hidden states, and {type(denoiser).__name__} shows none: give the Network itself"
            )
        projector, encoder = stage.modules["projector"], stage.modules["encoder"]
        # the progress is read only if the loss depends on it
        if self.until < 1 and not self.phase(stage.progress):
            loss = self.base(denoiser(noised.xt, noised.t, noised.cond), noised, rng)
            # several processes exchange the gradients of all parameters, so that each needs one
            return loss + sum((0.0 * each).sum() for each in projector.parameters())
        number = self.block - 1
        posterior, side = denoiser.with_side(noised.xt, noised.t, noised.cond, hidden=(number,))
        state = side.hidden.get(number)
        if state is None:
            raise ValueError(
                f"Align was asked for block {self.block}, and the head runs it later, for each draw: take a block "
                "before those of the latent"
            )
        with torch.no_grad():
            features = encoder(noised.x0)
        tokens, grid = on_grid(state, noised.x0, denoiser.net.stride)
        target = resized(features, grid).flatten(2).transpose(1, 2)
        return self.base(posterior, noised, rng) + self.weight * -similarity(projector(tokens), target)


def on_grid(state: Tensor, x0: Tensor, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """The tokens [B, L, C] of a state, row by row, and their grid (h, w), h w = L.

    state : tokens [B, L, C], one for each square of `stride` pixels, or a map [B, C, h, w].
    x0 : the images [B, C, H, W].
    """
    if state.ndim == 4:
        return state.flatten(2).transpose(1, 2), (state.shape[2], state.shape[3])
    grid = -(-x0.shape[2] // stride), -(-x0.shape[3] // stride)
    if state.shape[1] != grid[0] * grid[1]:
        raise ValueError(
            f"{state.shape[1]} tokens were found, and squares of {stride} pixels of {list(x0.shape[2:])} are "
            f"{grid[0]} x {grid[1]}: Align needs a token for each square"
        )
    return state, grid


def resized(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features [B, D, h', w'] on another grid (h, w): at each place the mean of the cells that it covers.

    The same grid gives the same features, and constant features stay constant.
    """
    rows, columns = (
        cell_shares(size, cells, features.device, features.dtype)
        for size, cells in zip(features.shape[-2:], grid, strict=True)
    )
    return rows @ features @ columns.T


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """The mean over tokens of the cosine of a and b [B, L, D], in float32 at least; [B]."""
    real = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return nn.functional.cosine_similarity(a.to(real), b.to(real), dim=-1).mean(1)
