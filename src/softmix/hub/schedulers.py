"""One scheduler class for each softmix sampler that needs only posterior means."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from ..sampler import MultistepRule, Sampler, multistep
from .sampler_run import NeutralMean, neutral_for_noise, neutral_for_velocity
from .softmix_scheduler import SoftmixScheduler
from .solver_statistics import SchedulerWithStatistics

LINES = {"midpoint": "bh2", "heun": "exact"}


class NoiseHistoryScheduler(SoftmixScheduler):
    """The base for samplers that store noise estimates."""

    def _neutral_mean(self) -> NeutralMean:
        return neutral_for_noise(self.process)


class DPMSolverScheduler(SoftmixScheduler):
    """The base for samplers that diffusers' DPM-Solver schedulers have too.

    A configuration that asks for another solver of this family is refused, with the name of the right class.

    solves : the values of `solver_keys` that mean this solver.
    named : the classes for other values of these keys.
    """

    spaced_like = "dpm"
    solver_keys = ("solver_order", "algorithm_type", "solver_type")
    solves: ClassVar[tuple[object, ...]] = (2, "dpmsolver++", "midpoint")
    named: ClassVar[dict[object, str]] = {
        1: "TransferScheduler",
        2: "DPMSolver2MScheduler or DPMSolver2SScheduler",
        3: "DPMSolver3MScheduler or DPMSolver3SScheduler",
        "dpmsolver++": "DPMSolver2MScheduler",
        "sde-dpmsolver++": "SDEDPMSolver2MScheduler",
        "heun": "DPMSolver2MScheduler or SDEDPMSolver2MScheduler",
    }

    @classmethod
    def _read_solver(cls, keys: dict[str, Any]) -> dict[str, Any]:
        """No options. A solver_type of UniPC and diffusers' own defaults are accepted without effect."""
        plain = (2, "dpmsolver++", "midpoint", "deis", "bh1", "bh2", "logrho", *cls.solves)
        for name, value in keys.items():
            if value not in plain:
                other = cls.named.get(value)
                raise ValueError(
                    f"{name} {value!r} is another solver than {cls.__name__}: "
                    + (f"take {other}, or " if other else "softmix does not have it; take ")
                    + f"{cls.__name__}.from_config(config, {name}={cls._own(name)!r})"
                )
        return {}

    @classmethod
    def _own(cls, name: str) -> object:
        return cls.solves[cls.solver_keys.index(name)]


class DPMSolver2Scheduler(DPMSolverScheduler):
    """The base for DPM-Solver++(2M) and its SDE version.

    options={"line": "exact"}, or solver_type="heun", takes exact integrals.

    eta : 0 for the ODE, 1 for the SDE.
    """

    eta: ClassVar[float] = 0.0

    @classmethod
    def _option_names(cls) -> list[str]:
        return ["line"]

    @classmethod
    def _read_solver(cls, keys: dict[str, Any]) -> dict[str, Any]:
        heun = keys.get("solver_type") == "heun"
        super()._read_solver({name: each for name, each in keys.items() if each != "heun"})
        return {"line": "exact"} if heun else {}

    def _with_options(self, options: dict[str, Any]) -> Sampler:
        self._line = options.get("line", "bh2")
        if self._line not in LINES.values():
            raise ValueError(f"line {self._line!r} was asked for; there are {', '.join(LINES.values())}")
        return super()._with_options({}) if self._line == "bh2" else self._with_rule(settles=False)

    def _with_rule(self, settles: bool) -> Sampler:
        return partial(multistep, rule=MultistepRule(line=self._line, eta=self.eta, settles=settles))

    def _sampler_for(self, n: int, clean: bool) -> Sampler:
        """As in diffusers the last step is of first order if a key says so, or for few steps; to t = 0 always."""
        first = self.config.get("euler_at_final") or (self.config.lower_order_final and n < 15)
        return self._with_rule(settles=True) if first and not clean else self.sampler_function


class AncestralScheduler(SoftmixScheduler):
    """`ancestral`. With means alone this is DDPM's sampler with the smaller of its two variances."""

    sampler = "ancestral"


class RenoiseScheduler(SoftmixScheduler):
    """`renoise`: each step adds fresh noise to the mean of x0."""

    sampler = "renoise"


class TransferScheduler(SoftmixScheduler):
    """`ddim`. options={"eta": 1.0} adds fresh noise."""

    sampler = "ddim"


class HeunScheduler(SoftmixScheduler):
    """`heun`: two evaluations a step."""

    sampler = "heun"
    spacing = "linspace"


class PLMSScheduler(NoiseHistoryScheduler):
    """`plms`. options={"order": 2} gives S-PNDM."""

    sampler = "plms"


class FPNDMScheduler(NoiseHistoryScheduler):
    """`f_pndm`: nine more evaluations than steps."""

    sampler = "f-pndm"


class FONScheduler(SoftmixScheduler):
    """`fon`: the classical rule, the baseline of PNDM's paper."""

    sampler = "fon"

    def _neutral_mean(self) -> NeutralMean:
        return neutral_for_velocity(self.process)


class DPMSolver2MScheduler(DPMSolver2Scheduler):
    """`dpm_solver_2m`."""

    sampler = "dpm-solver-2m"


class DPMSolver3MScheduler(DPMSolverScheduler):
    """`dpm_solver_3m`, of third order."""

    sampler = "dpm-solver-3m"
    solves = (3, "dpmsolver++", "midpoint")


class DPMSolver2SScheduler(DPMSolverScheduler):
    """`dpm_solver_2s`: two evaluations a step."""

    sampler = "dpm-solver-2s"


class DPMSolver3SScheduler(DPMSolverScheduler):
    """`dpm_solver_3s`: three evaluations a step."""

    sampler = "dpm-solver-3s"
    solves = (3, "dpmsolver++", "midpoint")


class SDEDPMSolver2MScheduler(DPMSolver2Scheduler):
    """`sde_dpm_solver_2m`: fresh noise in each step."""

    sampler = "sde-dpm-solver-2m"
    eta = 1.0
    solves = (2, "sde-dpmsolver++", "midpoint")


class UniPCScheduler(SoftmixScheduler):
    """`unipc`; {"order": 3} or {"line": "bh1"} among the options, or diffusers' solver_order and solver_type."""

    sampler = "unipc"
    spaced_like = "dpm"
    solver_keys = ("solver_order", "solver_type", "predict_x0", "disable_corrector", "solver_p")

    @classmethod
    def _read_solver(cls, keys: dict[str, Any]) -> dict[str, Any]:
        """As diffusers, the line of another solver's solver_type is bh2."""
        for name, only in (("predict_x0", True), ("disable_corrector", []), ("solver_p", None)):
            if keys.get(name, only) != only:
                raise ValueError(f"{name} = {keys[name]!r} is not supported: unipc predicts x0 and corrects every step")
        found: dict[str, Any] = {}
        if keys.get("solver_order", 2) != 2:
            found["order"] = keys["solver_order"]
        if keys.get("solver_type") == "bh1":
            found["line"] = "bh1"
        return found


class AdamsScheduler(SoftmixScheduler):
    """`adams`: predictor and corrector with exact integrals. The usual choice from 8 steps on."""

    sampler = "adams"
    spaced_like = "dpm"


class DPMSolverV3Scheduler(SchedulerWithStatistics, SoftmixScheduler):
    """`dpm_solver_v3`.

    options={"statistics": ...} is a `Statistics`, or the path of a file that it wrote; it is saved and loaded with the
    scheduler. Without statistics this is the exponential rule.
    """

    sampler = "dpm-solver-v3"
    spaced_like = "dpm"


class EVODiffScheduler(SoftmixScheduler):
    """`evodiff`. A saved {"form": "consistent"} among the options is read; the authors' own form is refused."""

    sampler = "evodiff"
    spaced_like = "dpm"

    @classmethod
    def _option_names(cls) -> list[str]:
        # an option of 0.1, so that it is not dropped without a word
        return [*super()._option_names(), "form"]

    def _with_options(self, options: dict[str, Any]) -> Sampler:
        form = options.pop("form", "consistent")
        if form != "consistent":
            raise ValueError(
                f"form {form!r} of evodiff was asked for, and the scheduler has the consistent form alone: leave the "
                "option out. The authors' form is softmix.recipe.evodiff.released, for softmix.sample(sampler=...)"
            )
        return super()._with_options(options)


SCHEDULERS: tuple[type[SoftmixScheduler], ...] = (
    *(AncestralScheduler, RenoiseScheduler, TransferScheduler, HeunScheduler, PLMSScheduler, FPNDMScheduler),
    *(FONScheduler, DPMSolver2MScheduler, DPMSolver3MScheduler, DPMSolver2SScheduler, DPMSolver3SScheduler),
    *(SDEDPMSolver2MScheduler, UniPCScheduler, AdamsScheduler, DPMSolverV3Scheduler, EVODiffScheduler),
)

# a saved pipeline names the module of its classes: the room, not the file
for _each in (SoftmixScheduler, *SCHEDULERS):
    _each.__module__ = "softmix.hub"
