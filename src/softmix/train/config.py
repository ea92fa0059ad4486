"""The configuration of a run: frozen dataclasses that become config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from .denoise import Denoise
from .modalities import DenoiseModalities
from .pair import DenoisePair
from .sample_target import SampleTarget
from .task import demand

# far beyond any training; above them numbers overflow, or no machine has the memory
_BATCH, _STEPS, _MINUTES, _RATE = 2**20, 10**9, 10**7, 10.0


@dataclass(frozen=True)
class Optimiser:
    """AdamW, with a learning rate that rises, stays and falls.

    rate : the highest learning rate.
    betas : decay rates of the two moments.
    weight_decay : decoupled weight decay.
    warmup : steps of the linear rise.
    decay : the last share of the run, in which the rate falls linearly to 0.
    clip : the largest gradient norm; a longer gradient is scaled down to it.
    accumulate : the parts of a batch, computed one after another to save memory. If the memory is too small for a part
        the run takes more parts (`Facts.parts`).
    warmup_share : the largest share of the run for the rise, so that a short run reaches its rate. None: no limit.
    """

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 100
    decay: float = 0.5
    clip: float = 1.0
    accumulate: int = 1
    warmup_share: float | None = None

    def __post_init__(self) -> None:
        demand(0 < self.rate <= _RATE, f"the rate is above 0 and at most {_RATE:g}; found {self.rate}")
        demand(all(0 <= beta < 1 for beta in self.betas), f"each beta is in [0, 1); found {self.betas}")
        demand(
            0 <= self.weight_decay * self.rate < 1,
            f"weight_decay is at least 0 and below 1 / rate, or weights would change their sign in every step; found "
            f"{self.weight_decay} at rate {self.rate}",
        )
        demand(self.warmup >= 0, f"warmup is at least 0; found {self.warmup}")
        demand(0 <= self.decay <= 1, f"decay is a share of the run, from 0 to 1; found {self.decay}")
        demand(self.clip > 0, f"clip is above 0; found {self.clip}")
        demand(1 <= self.accumulate <= _BATCH, f"accumulate is from 1 to {_BATCH:,}; found {self.accumulate}")
        share = self.warmup_share
        demand(share is None or 0 <= share <= 1, f"warmup_share is a share of the run, from 0 to 1; found {share}")


@dataclass(frozen=True)
class Config:
    """The configuration of a run.

    task : the subject of the run. `Denoise` has the process, the network, the head and the loss of a denoiser;
        `SampleTarget` learns to sample a density.
    optimiser : the optimiser of the task's "model".
    batch : batch size, in items.
    steps, minutes : the length of the run: one of the two. With minutes the number of steps is set once, from the speed
        of a few trial steps, and written to config.json, so that a resumed run ends at the same step.
    ema : relative widths of the averages of the weights. Sampling takes the first.
    precision : bf16 or fp16 autocast, or float32. By default bf16 if the machine computes in it; fp16 on a CUDA card
        without bf16. In fp16 the loss is scaled (`softmix.train.scale`).
    compile : use torch.compile.
    graph : on a CUDA card, record a step once as a CUDA graph, and replay it with one launch. "off" saves its memory,
        about that of one more batch. Elsewhere it has no effect.
    seed : of all random numbers of the run.
    save, show : steps between checkpoints and between pictures of samples (0: a tenth of the run).
    keep : the number of checkpoints on disk.
    nonfinite : the policy for a loss that is not finite: stop, skip the step, or roll back to the last checkpoint.
    """

    # the paper of the averages
    cites: ClassVar[tuple[str, ...]] = ("edm2",)

    task: Denoise | DenoisePair | DenoiseModalities | SampleTarget = field(default_factory=Denoise)
    optimiser: Optimiser = field(default_factory=Optimiser)
    batch: int = 128
    steps: int | None = None
    minutes: float | None = None
    ema: tuple[float, ...] = (0.05, 0.1)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    compile: bool = False
    graph: Literal["auto", "off"] = "auto"
    seed: int = 0
    save: int = 0
    show: int = 0
    keep: int = 2
    nonfinite: Literal["stop", "skip", "rollback"] = "stop"

    def __post_init__(self) -> None:
        demand(1 <= self.batch <= _BATCH, f"the batch has at least 1 item and at most {_BATCH:,}; found {self.batch}")
        demand(
            self.steps is None or 1 <= self.steps <= _STEPS,
            f"training takes at least 1 step and at most {_STEPS:,}; found {self.steps}",
        )
        demand(
            self.minutes is None or 0 < self.minutes <= _MINUTES,
            f"minutes are above 0 and at most {_MINUTES:,}; found {self.minutes}",
        )
        demand(-(2**63) <= self.seed < 2**63, f"the seed is a number of 64 bits; found {self.seed}")
        demand(self.save >= 0 and self.show >= 0, f"save and show are at least 0; found {self.save}, {self.show}")
        demand(self.keep >= 1, f"at least 1 checkpoint is stored; found {self.keep}")
        demand(len(self.ema) > 0, "sampling takes the first average of the weights: give at least one width in ema")

    @property
    def denoise(self) -> Denoise:
        """The task, of a run that trains a denoiser. Raises TypeError for another task."""
        if not isinstance(self.task, Denoise):
            raise TypeError(f"a run that trains a denoiser was expected, and its task is {type(self.task).__name__}")
        return self.task

    def but(self, **changes: Any) -> Config:
        """A copy with other settings, of the run or of its task: config.but(batch=64, loss=Square()).

        Raises TypeError for a name that neither has, and ValueError for a bad value.
        """
        own = {field.name for field in fields(self)}
        of_task = {name: value for name, value in changes.items() if name not in own}
        task = changes.pop("task", self.task)
        of_run = {name: value for name, value in changes.items() if name in own}
        return replace(self, task=replace(task, **of_task) if of_task else task, **of_run)


# settings of a denoiser that stood beside the settings of the run in softmix 0.1
_OF_TASK = ("process", "net", "head", "loss", "output", "times", "classes", "drop", "flip")


def up_to_date(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert the JSON of a configuration of an earlier version to that of this version."""
    if "task" in config:
        return config
    task = {"kind": "Denoise"} | {name: config[name] for name in _OF_TASK if name in config}
    if isinstance(task.get("loss"), Mapping) and task["loss"].get("alike") is False:
        # a setting that has been removed; with its default it had no effect
        task["loss"] = {name: value for name, value in task["loss"].items() if name != "alike"}
    return {"task": task} | {name: value for name, value in config.items() if name not in _OF_TASK}
