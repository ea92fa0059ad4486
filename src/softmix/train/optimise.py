"""The optimisers of a run's modules, and whose turn it is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..loss import Group
from .config import Optimiser
from .memory import MemoryLackError
from .world import shared_like, whole

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
# a name is that of files too: beside those of a checkpoint's own entries, and of moments
_NAME, _TAKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*"), re.compile(r"kept|optimizer.*|ema-.*")


@dataclass(frozen=True)
class _Kept:
    """Weights and moments as they were."""

    weights: list[Tensor]
    state: list[dict[str, Tensor]]


class Optimisers:
    """AdamW for each module of a run, by its name. Modules with a rival take their turns before the model.

    In a checkpoint the moments of "model" are the entry "optimizer", and those of another module "optimizer-NAME".
    """

    def __init__(self, modules: nn.ModuleDict, settings: Optimiser, groups: Mapping[str, Group]):
        _require(modules, groups)
        self._modules = modules
        # the model's own rate is the one that every step is told
        own = Group(None, settings.betas, settings.weight_decay, settings.clip)
        self._groups = {"model": own, **groups}
        rivals = [name for name, group in groups.items() if group.rival]
        self.turns = (*rivals, "model")
        # of a module that is held as it is, nothing is trained
        beside = [name for name, group in groups.items() if not group.rival and self._trained(name)]
        self._names = {turn: [turn] for turn in rivals} | {"model": ["model", *beside]}
        self._parameters: dict[str, list[nn.Parameter]] = {}
        self._made: dict[str, torch.optim.AdamW] = {}

    def begin(self) -> None:
        """Makes the optimisers, of the weights as they are now."""
        self._parameters = {
            turn: [p for name in names for p in self._trained(name)] for turn, names in self._names.items()
        }
        self._made = {
            name: torch.optim.AdamW(
                self._trained(name),
                betas=group.betas,
                weight_decay=group.weight_decay,
                fused=True,
            )
            for name, group in self._groups.items()
            if self._trained(name)
        }

    def _trained(self, name: str) -> list[nn.Parameter]:
        """The parameters of a module without those that are held as they are."""
        return [parameter for parameter in self._modules[name].parameters() if parameter.requires_grad]

    def parameters(self, turn: str = "model") -> list[nn.Parameter]:
        """The parameters that are trained in this turn."""
        return self._parameters[turn]

    def modules(self, turn: str) -> list[nn.Module]:
        """The modules that are trained in this turn."""
        return [self._modules[name] for name in self._names[turn]]

    def add(self, turn: str, gradient: Sequence[Tensor | None]) -> None:
        """Adds a gradient to what the parameters of this turn have."""
        for parameter, part in zip(self.parameters(turn), gradient, strict=True):
            if part is not None:
                parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)

    def clip(self, turn: str) -> float:
        """Clips the gradient of each module; the norm of the first's before that, in the model's turn the model's."""
        norms = [
            torch.nn.utils.clip_grad_norm_(self._trained(name), self._groups[name].clip) for name in self._names[turn]
        ]
        found = [float(whole(norm)) for norm in norms]
        # one that is not finite speaks for all
        return next((norm for norm in found if not norm < float("inf")), found[0])

    def step(self, turn: str, rate: float, peak: float) -> None:
        """An update of the modules of this turn; rate : the model's; peak : the same without its rise and fall."""
        for name in self._names[turn]:
            own = self._groups[name].rate
            for group in self._made[name].param_groups:
                group["lr"] = rate if own is None or own == peak else own * rate / peak
            self._made[name].step()
        self.clear()

    def clear(self) -> None:
        """Forgets all gradients."""
        for optimiser in self._made.values():
            optimiser.zero_grad(set_to_none=True)

    def forget(self) -> None:
        """Forgets all moments."""
        for optimiser in self._made.values():
            optimiser.state.clear()

    @contextmanager
    def as_they_were(self) -> Iterator[Callable[[], None]]:
        """What is given takes back the turns of a step that cannot be finished, and so does MemoryLackError."""
        before = {turn: self._kept(turn) for turn in self.turns[:-1]}
        buffers = buffers_of(self._modules)

        def undo() -> None:
            self.clear()
            restore_buffers(self._modules, buffers)
            for turn, kept in before.items():
                self._restore(turn, kept)

        try:
            yield undo
        except MemoryLackError:
            undo()
            raise

    def _kept(self, turn: str) -> _Kept:
        made = [self._made[name] for name in self._names[turn]]
        states = {p: state for optimiser in made for p, state in optimiser.state.items()}
        state = [{k: v.clone() for k, v in states.get(p, {}).items()} for p in self.parameters(turn)]
        return _Kept([p.detach().clone() for p in self.parameters(turn)], state)

    @torch.no_grad()
    def _restore(self, turn: str, kept: _Kept) -> None:
        for name in self._names[turn]:
            self._made[name].state.clear()
        owner = {p: self._made[name] for name in self._names[turn] for p in self._trained(name)}
        for parameter, weights, state in zip(self.parameters(turn), kept.weights, kept.state, strict=True):
            parameter.copy_(weights)
            if state:
                owner[parameter].state[parameter] = state

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps: {"optimizer": {"exp_avg/NAME OF A WEIGHT": ...}, ...}."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, optimiser in self._made.items():
            entry = found.setdefault(_entry(name), {})
            for weight, parameter in self._modules[name].named_parameters():
                for key, value in optimiser.state.get(parameter, {}).items():
                    entry[f"{key}/{weight}"] = value
        return found

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Goes on from what `state` gave."""
        for name, optimiser in self._made.items():
            entry = tensors[_entry(name)]
            optimiser.state.clear()
            for weight, parameter in self._modules[name].named_parameters():
                saved = {key: entry[f"{key}/{weight}"] for key in _MOMENTS if f"{key}/{weight}" in entry}
                if saved:
                    optimiser.state[parameter] = {key: _laid_out(value, parameter) for key, value in saved.items()}


def buffers_of(modules: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers, which a loss that is only asked for may change: running means, the vectors of a norm."""
    return {name: buffer.clone() for name, buffer in modules.named_buffers()}


@torch.no_grad()
def restore_buffers(modules: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Makes the buffers what they were; one that has grown since is a table, and stays."""
    for name, buffer in modules.named_buffers():
        if name in before and before[name].shape == buffer.shape:
            buffer.copy_(before[name])


def _require(modules: nn.ModuleDict, groups: Mapping[str, Group]) -> None:
    """Raises ValueError for modules that cannot be trained beside each other, or kept in one checkpoint."""
    if "model" not in modules:
        raise ValueError(f'a run makes the module "model"; the task has built {sorted(modules)}')
    beside = set(modules) - {"model"}
    if set(groups) != beside:
        raise ValueError(
            f"each module beside the model needs a group that says how it is trained: there are the modules "
            f"{sorted(beside)} and the groups {sorted(groups)}"
        )
    for name in sorted(beside):
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
    """A moment of the optimiser in memory as its parameter is: the fused step pairs the two by place in memory, and
    a file has lost that a weight of a convolution is stored channels last."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(shared_like(value, parameter))
