"""The optimisers of a run's modules, and the order of their turns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..loss import Group
from ..memory import NotEnoughMemoryError
from .config import Optimiser
from .processes import gathered, local_part, sharded_like

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
# the name of a module is also the name of its file in a checkpoint, so the names of other files are taken
_NAME, _TAKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*"), re.compile(r"kept|optimizer.*|ema-.*")


@dataclass(frozen=True)
class _Saved:
    """A copy of weights and moments."""

    weights: list[Tensor]
    state: list[dict[str, Tensor]]


class Optimisers:
    """AdamW for each module of a run. Rival modules (`Group.rival`) take their turns before the model.

    In a checkpoint the moments of "model" are the entry "optimizer", and those of another module "optimizer-NAME".

    modules : all modules of the run, by name.
    settings : the optimiser settings of "model".
    groups : the settings of each other module.

    Raises ValueError for modules that cannot be trained together, or stored in one checkpoint.
    """

    def __init__(self, modules: nn.ModuleDict, settings: Optimiser, groups: Mapping[str, Group]):
        _require(modules, groups)
        self._modules = modules
        # the rate of the model is an argument of each step
        own = Group(None, settings.betas, settings.weight_decay, settings.clip)
        self._groups = {"model": own, **groups}
        rivals = [name for name, group in groups.items() if group.rival]
        self.turns = (*rivals, "model")
        # a module without trained parameters is left out
        beside = [name for name, group in groups.items() if not group.rival and self._trained(name)]
        self._names = {turn: [turn] for turn in rivals} | {"model": ["model", *beside]}
        self._parameters: dict[str, list[nn.Parameter]] = {}
        # the number of times that moments were replaced by others: a recorded step writes into the old ones
        self.generation = 0
        self._made: dict[str, torch.optim.AdamW] = {}

    def begin(self) -> None:
        """Make the optimisers, for the present weights."""
        self._parameters = {
            turn: [p for name in names for p in self._trained(name)] for turn, names in self._names.items()
        }
        self._made = {
            name: torch.optim.AdamW(
                self._trained(name),
                betas=group.betas,
                weight_decay=group.weight_decay,
                fused=True,
                # a fused step is capturable anyway; torch refuses to record one without this setting
                capturable=self._trained(name)[0].device.type == "cuda",
            )
            for name, group in self._groups.items()
            if self._trained(name)
        }

    def _trained(self, name: str) -> list[nn.Parameter]:
        """The parameters of a module that require a gradient."""
        return [parameter for parameter in self._modules[name].parameters() if parameter.requires_grad]

    def parameters(self, turn: str = "model") -> list[nn.Parameter]:
        """The trained parameters of this turn."""
        return self._parameters[turn]

    def modules(self, turn: str) -> list[nn.Module]:
        """The trained modules of this turn."""
        return [self._modules[name] for name in self._names[turn]]

    def add(self, turn: str, gradient: Sequence[Tensor | None]) -> None:
        """Add a gradient to the gradients of this turn."""
        for parameter, part in zip(self.parameters(turn), gradient, strict=True):
            if part is not None:
                parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)

    def unscale(self, turn: str, scale: float | Tensor) -> None:
        """Divide the gradients of this turn by a power of two."""
        gradients = [p.grad for p in self.parameters(turn) if p.grad is not None]
        with torch.no_grad():
            torch._foreach_mul_(gradients, 1 / scale)

    def clip(self, turn: str) -> float:
        """Clip the gradient of each module. Returns the norm before, of the first module of the turn.

        If the norm of any module is not finite, it is returned instead.
        """
        numbers = [float(norm) for norm in self._clipped(turn)]
        return next((number for number in numbers if not number < float("inf")), numbers[0])

    def clip_unread(self, turn: str) -> Tensor:
        """The same. The norm stays on its device, as a float64 without axes."""
        norms = torch.stack(self._clipped(turn)).double()
        # argmax gives the first of equal values: the first norm that is not finite, or the first of all
        first = (~(norms < float("inf"))).byte().argmax(0, keepdim=True)
        return norms.gather(0, first)[0]

    def _clipped(self, turn: str) -> list[Tensor]:
        """Clip the gradient of each module of the turn. Returns the norms before."""
        return [
            gathered(torch.nn.utils.clip_grad_norm_(self._trained(name), self._groups[name].clip))
            for name in self._names[turn]
        ]

    def step(self, turn: str, rate: float, peak: float) -> None:
        """Update the modules of this turn.

        rate : learning rate of the model in this step.
        peak : the highest rate of the model. A module with a rate of its own uses rate_own rate / peak.
        """
        for name, own in self.rates(turn, rate, peak).items():
            for group in self._made[name].param_groups:
                group["lr"] = own
            self._made[name].step()
        self.clear_gradients()

    def step_unless(self, failed: Tensor, turn: str, rates: Mapping[str, Tensor]) -> None:
        """Update the modules of this turn on their device if `failed` is 0. If it is 1 nothing changes.

        failed : float32 without axes.
        rates : the learning rate of each module of the turn, a tensor without axes.
        """
        for name in self._names[turn]:
            optimiser = self._made[name]
            for group in optimiser.param_groups:
                group["lr"] = rates[name]
            # torch's fused step reads this attribute, as GradScaler sets it
            optimiser.found_inf = failed  # type: ignore[attr-defined]
            optimiser.step()
            del optimiser.found_inf  # type: ignore[attr-defined]
        self.clear_gradients()

    def rates(self, turn: str, rate: float, peak: float) -> dict[str, float]:
        """The learning rate of each module of this turn; the arguments are those of `step`."""
        rates = {}
        for name in self._names[turn]:
            own = self._groups[name].rate
            rates[name] = rate if own is None or own == peak else own * rate / peak
        return rates

    def clear_gradients(self) -> None:
        for optimiser in self._made.values():
            optimiser.zero_grad(set_to_none=True)

    def clear_moments(self) -> None:
        self.generation += 1
        for optimiser in self._made.values():
            optimiser.state.clear()

    def drop_unused_moments(self) -> None:
        """Remove the moments that no step has updated. A step that was not taken on an accelerator has made them."""
        for optimiser in self._made.values():
            unused = [p for p, state in optimiser.state.items() if float(local_part(state["step"])) == 0]
            for parameter in unused:
                del optimiser.state[parameter]
            self.generation += bool(unused)

    @contextmanager
    def undoable(self) -> Iterator[Callable[[], None]]:
        """Gives a function that undoes the finished turns of a step. NotEnoughMemoryError undoes them too."""
        before = {turn: self._saved(turn) for turn in self.turns[:-1]}
        buffers = buffers_of(self._modules)

        def undo() -> None:
            self.clear_gradients()
            restore_buffers(self._modules, buffers)
            for turn, saved in before.items():
                self._restore(turn, saved)

        try:
            yield undo
        except NotEnoughMemoryError:
            undo()
            raise

    def _saved(self, turn: str) -> _Saved:
        optimisers = [self._made[name] for name in self._names[turn]]
        states = {p: state for optimiser in optimisers for p, state in optimiser.state.items()}
        state = [{k: v.clone() for k, v in states.get(p, {}).items()} for p in self.parameters(turn)]
        return _Saved([p.detach().clone() for p in self.parameters(turn)], state)

    @torch.no_grad()
    def _restore(self, turn: str, saved: _Saved) -> None:
        for name in self._names[turn]:
            self._made[name].state.clear()
        owner = {p: self._made[name] for name in self._names[turn] for p in self._trained(name)}
        for parameter, weights, state in zip(self.parameters(turn), saved.weights, saved.state, strict=True):
            parameter.copy_(weights)
            if state:
                owner[parameter].state[parameter] = state

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The moments for a checkpoint: {"optimizer": {"exp_avg/NAME OF A WEIGHT": ...}, ...}."""
        entries: dict[str, dict[str, Tensor]] = {}
        for name, optimiser in self._made.items():
            entry = entries.setdefault(_entry(name), {})
            for weight, parameter in self._modules[name].named_parameters():
                for key, value in optimiser.state.get(parameter, {}).items():
                    entry[f"{key}/{weight}"] = value
        return entries

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from the result of `state`."""
        self.generation += 1
        for name, optimiser in self._made.items():
            entry = tensors[_entry(name)]
            optimiser.state.clear()
            for weight, parameter in self._modules[name].named_parameters():
                saved = {key: entry[f"{key}/{weight}"] for key in _MOMENTS if f"{key}/{weight}" in entry}
                if saved:
                    optimiser.state[parameter] = {key: _laid_out(value, parameter) for key, value in saved.items()}


def buffers_of(modules: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers. A loss without an update may change them: running means, the vectors of a norm."""
    return {name: buffer.clone() for name, buffer in modules.named_buffers()}


@torch.no_grad()
def restore_buffers(modules: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Restore the buffers. One that has grown since is a table, and stays."""
    for name, buffer in modules.named_buffers():
        if name in before and before[name].shape == buffer.shape:
            buffer.copy_(before[name])


def _require(modules: nn.ModuleDict, groups: Mapping[str, Group]) -> None:
    """Raises ValueError for modules that cannot be trained together, or stored in one checkpoint."""
    if "model" not in modules:
        raise ValueError(f'a run needs the module "model"; the task has built {sorted(modules)}')
    others = set(modules) - {"model"}
    if set(groups) != others:
        raise ValueError(
            f'each module other than "model" needs a group with its optimiser settings: there are the modules '
            f"{sorted(others)} and the groups {sorted(groups)}"
        )
    for name in sorted(others):
        if not _NAME.fullmatch(name) or _TAKEN.fullmatch(name):
            raise ValueError(
                f"a module is named {name!r}, which is no name for its file in a checkpoint: use letters, digits, "
                "dashes and underscores, and neither kept nor optimizer nor what begins with ema-"
            )
    for name in ("model", *(name for name, group in groups.items() if group.rival)):
        if not any(parameter.requires_grad for parameter in modules[name].parameters()):
            raise ValueError(f"the module {name} is to be trained, and none of its parameters requires a gradient")
    for one, other in itertools.combinations(modules, 2):
        theirs = {id(parameter) for parameter in modules[other].parameters()}
        if any(id(parameter) in theirs for parameter in modules[one].parameters()):
            raise ValueError(
                f"the modules {one} and {other} have a parameter in common, which would be updated twice in a step: "
                "put it into one of them"
            )


def _entry(name: str) -> str:
    return "optimizer" if name == "model" else f"optimizer-{name}"


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment in the memory layout of its parameter.

    The fused step pairs the two by their place in memory, and a file does not store the channels-last layout of a
    convolution.
    """
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(sharded_like(value, parameter))
