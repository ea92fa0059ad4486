"""Exponential moving averages of the weights, stored outside the module.

Several averages of different lengths are computed at once. The trained module is only read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .processes import gathered, local_part, sharded_like

WIDEST = 12**-0.5
"""The relative width of the plain mean over the whole run (gamma = 0); nothing wider is offered."""


def width_of(gamma: float) -> float:
    """The relative width of the power-function profile with exponent `gamma` >= 0.

    A profile p(u) = (gamma + 1) u^gamma over the fraction u in [0, 1] of the run has the standard deviation
    sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)). Source: Karras et al., "Analyzing and improving the
    training dynamics of diffusion models" (CVPR 2024), section 3.1.
    """
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def gamma_of(width: float) -> float:
    """The exponent gamma whose profile has the relative width `width`: the inverse of `width_of`.

    With q = width^-2, squaring gives (gamma + 2)^2 (gamma + 3) = q (gamma + 1), the cubic
    gamma^3 + 7 gamma^2 + (16 - q) gamma + (12 - q) = 0. The result is its largest root.
    A width of 0.05 gives 16.97, and 0.10 gives 6.94.

    Raises ValueError for a width outside (0, 12^-1/2].
    """
    if not 0 < width <= WIDEST:
        raise ValueError(
            f"an average of relative width {width} was asked for; give a fraction of the run in (0, {WIDEST:.4f}], "
            "such as 0.05 or 0.10"
        )
    q = width**-2
    return max(0.0, float(np.roots([1.0, 7.0, 16 - q, 12 - q]).real.max()))


def beta(gamma: float, step: int, every: int = 1) -> float:
    """The share of the old average in the new one at `step`: beta = (1 - every / step)^(gamma + 1).

    Steps count from 1. There beta = 0, so the initial weights are forgotten. With `every` > 1 this is the product of
    the betas of the last `every` steps, for an average that is updated at each multiple of `every` only.

    Raises ValueError unless 1 <= every <= step. Source: as `width_of`.
    """
    if not 1 <= every <= step:
        raise ValueError(
            f"an average over the last {every} of {step} steps was asked for; count steps from 1, "
            "and update first at step `every`"
        )
    return float((1 - every / step) ** (gamma + 1))


def name_of(width: float) -> str:
    """The name of the average of this width in a checkpoint, such as "ema-0.050"."""
    return f"ema-{width:.3f}"


class Ema:
    """Averages of a module's parameters over the steps of its training, one for each relative width.

    mean(t) = beta_t mean(t-1) + (1 - beta_t) theta(t) with `beta` above; after T steps theta(i) has the weight
    (i^(gamma+1) - (i-1)^(gamma+1)) / T^(gamma+1). The width is the standard deviation of that profile as a
    fraction of the run, so a width means the same for short and long runs, and no rate has to be chosen.

    Parameters
    ----------
    module : the trained module, on its device already. It is only read.
    widths : relative widths in (0, 12^-1/2], distinct to three decimals.

    The averages are stored in float32, or in the type of the parameters if that is finer: in bfloat16 the small shares
    of late steps would be lost. The averages are the whole state, and no step is stored.
    """

    def __init__(self, module: nn.Module, widths: Iterable[float] = (0.05, 0.10)):
        self.widths = tuple(widths)
        self._gammas = {name_of(width): gamma_of(width) for width in self.widths}
        if len(self._gammas) != len(self.widths):
            raise ValueError(f"the widths {self.widths} were asked for; two of them are equal to three decimals")
        self._module = module
        self._parameters = [each for each in module.parameters() if _averaged(each)]
        self._averages = {name: [_copy(each) for each in self._parameters] for name in self._gammas}

    @torch.no_grad()
    def update(self, step: int, every: int = 1) -> None:
        """Update the averages with the parameters after optimiser step number `step`, counted from 1.

        Call it at each multiple of `every`. Parameters that did not change leave an equal average unchanged, bit
        for bit. Raises ValueError for a step below `every`.
        """
        for name, averages in self._averages.items():
            # lerp adds a multiple of the difference, so a difference of zero changes no bit
            share = 1 - beta(self._gammas[name], step, every)
            current = [local_part(each).to(mean.dtype) for each, mean in zip(self._parameters, averages, strict=True)]
            torch._foreach_lerp_([local_part(mean) for mean in averages], current, share)

    def share(self, width: float, step: int) -> float:
        """The share of the parameters in the average of this width after step `step`: 1 - beta."""
        return 1 - beta(self._gammas[name_of(width)], step)

    def room(self) -> list[Tensor]:
        """Memory for `update_by`, an element for each element of an average. The elements have no value yet."""
        means = [local_part(mean) for mean in next(iter(self._averages.values()), [])]
        room: list[Tensor] = []
        flat, used = dict[torch.dtype, Tensor](), dict[torch.dtype, int]()
        for mean in means:
            kind = mean.dtype
            if kind not in flat:
                flat[kind] = mean.new_empty(sum(each.numel() for each in means if each.dtype == kind))
            at = used.get(kind, 0)
            # the fast step needs equal strides
            room.append(flat[kind].as_strided(mean.shape, mean.stride(), at))
            used[kind] = at + mean.numel()
        return room

    @torch.no_grad()
    def update_by(self, shares: Tensor, room: list[Tensor]) -> None:
        """Update the averages by shares that are on the device. A share of 0 changes nothing.

        The bits are those of `update`. The shares are first spread over `room`, because torch has no fast step for many
        tensors and one share that is on the device.

        shares : one for each width, [widths].
        room : memory from `room()`.
        """
        flats = {id(each._base): each._base for each in room}.values()
        for averages, share in zip(self._averages.values(), shares, strict=True):
            for flat in flats:
                assert flat is not None
                flat.copy_(share)
            current = [local_part(each).to(mean.dtype) for each, mean in zip(self._parameters, averages, strict=True)]
            torch._foreach_lerp_([local_part(mean) for mean in averages], current, room)

    @torch.no_grad()
    def tensors(self, width: float) -> dict[str, Tensor]:
        """Name -> tensor, under the names of the module's state_dict: the averages, and its buffers as they are now.

        All are copies. Raises ValueError for a width without an average, and for a module with a parameter that was
        replaced by another after this object was made.
        """
        averages = self._of(name_of(width))
        tensors = {}
        for name, tensor in self._module.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor):
                if isinstance(tensor, nn.Parameter) and _averaged(tensor) and id(tensor) not in averages:
                    # otherwise the newest weights would be saved under the name of an average
                    raise ValueError(f"the parameter {name} was replaced after its average began; make a new Ema")
                tensors[name] = averages.get(id(tensor), tensor).detach().clone()
        return tensors

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The averages for a checkpoint: {"ema-0.050": tensors(0.05), ...}."""
        return {name_of(width): self.tensors(width) for width in self.widths}

    @torch.no_grad()
    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from the result of `state`. Other entries, such as "model", may stand beside it.

        Buffers are not read: they are restored with the module. Raises ValueError, before any change, if an average is
        missing or does not fit the module.
        """
        pairs = [pair for name in self._gammas for pair in self._matched(name, state)]
        for mean, saved in pairs:
            mean.copy_(sharded_like(saved, mean))

    def copy_to(self, module: nn.Module, width: float) -> None:
        """Copy the averages of this width, and the buffers, into another module of the same kind.

        Raises ValueError for the trained module itself: its weights would be lost.
        """
        if module is self._module:
            raise ValueError(
                "the average was to be copied into the module in training, which would lose its weights; "
                "give a copy of that module (copy.deepcopy)"
            )
        module.load_state_dict({name: gathered(tensor) for name, tensor in self.tensors(width).items()})

    def _of(self, name: str) -> dict[int, Tensor]:
        """The id of each parameter -> its average. Tied weights have several names but one id."""
        if name not in self._averages:
            raise ValueError(f"{name} was asked for; the averages followed are {', '.join(self._averages) or 'none'}")
        return {id(each): mean for each, mean in zip(self._parameters, self._averages[name], strict=True)}

    def _matched(self, name: str, state: Mapping[str, Mapping[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        if name not in state:
            raise ValueError(
                f"{name} was asked for, and only {', '.join(state) or 'nothing'} was found; "
                "continue with the widths that the run began with"
            )
        averages, pairs = self._of(name), []
        for key, parameter in self._module.named_parameters(remove_duplicate=False):
            if id(parameter) in averages:
                saved, mean = state[name].get(key), averages[id(parameter)]
                if saved is None or saved.shape != mean.shape:
                    found = "nothing" if saved is None else f"shape {tuple(saved.shape)}"
                    raise ValueError(
                        f"{name} does not fit the module: {key} needs shape {tuple(mean.shape)}, {found} was found"
                    )
                pairs.append((mean, saved))
        return pairs


def _averaged(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
