"""The configuration of a hosted sampler, as diffusers' schedulers have theirs."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any, ClassVar

import diffusers
import numpy as np
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from diffusers.utils.import_utils import DummyObject

from ..sampler import BY_NAME, Sampler, traits
from .flow import Flows
from .keys import PROCESS, process_keys, unknown
from .spacing import SAYS, Betas, Schedule


class Configured(SchedulerMixin, ConfigMixin):
    """The configuration of a hosted sampler: diffusers' keys, and what they come to."""

    sampler: ClassVar[str] = "ddim"
    # whose integer times for n steps: those of DDIM (n points) or of diffusers' DPM-Solver (n + 1 with the end)
    spaced_like: ClassVar[str] = "ddim"
    # the default of timestep_spacing where it is not that of the family
    spacing: ClassVar[str | None] = None
    # keys of diffusers' scheduler of the same name that say something of its solver
    solver_keys: ClassVar[tuple[str, ...]] = ()
    order = 1
    _compatibles: ClassVar[list[str]] = [
        each.name
        for each in KarrasDiffusionSchedulers
        if not isinstance(getattr(diffusers, each.name), DummyObject) and not each.name.startswith("EDM")
    ]

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        prediction_type: str = "epsilon",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: str | None = None,
        steps_offset: int = 0,
        set_alpha_to_one: bool = True,
        final_sigmas_type: str | None = None,
        lambda_min_clipped: float = -math.inf,
        rescale_betas_zero_snr: bool = False,
        snr_shift_scale: float | None = None,
        lower_order_final: bool = True,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_lu_lambdas: bool = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        shift: float | None = None,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        shift_terminal: float | None = None,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        options: dict[str, Any] | None = None,
    ):
        self._settle(timestep_spacing, set_alpha_to_one, final_sigmas_type)
        self.schedule = self._read_schedule()
        self.process = self.schedule.process
        if isinstance(self.schedule, Betas):
            known = self.schedule.known
            self.betas, self.alphas, self.alphas_cumprod = known.betas, known.alphas, known.alphas_cumprod
        self.chosen = self._chosen(dict(options or {}))
        # evaluations for each step, as pipelines count them
        self.order = round(traits(BY_NAME[self.sampler]).evaluations(1000) / 1000)
        self.timesteps = self.schedule.whole()
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self._reset()

    def _reset(self) -> None:
        """Nothing of a run is known."""

    def _settle(self, spacing: str | None, to_one: bool, final: str | None) -> None:
        """What was not said is as in diffusers' scheduler of the family. What says the process stays when another class
        is made of the configuration, also where it was left at our default."""
        if final not in (None, "zero", "sigma_min"):
            raise ValueError(f"final_sigmas_type {final!r} was asked for; there are zero and sigma_min")
        dpm = self.spaced_like == "dpm"
        self.register_to_config(
            timestep_spacing=spacing or self.spacing or ("linspace" if dpm else "leading"),
            final_sigmas_type=final or ("zero" if dpm or to_one else "sigma_min"),
        )
        if "_use_default_values" in self.config:
            left = [
                each for each in self.config["_use_default_values"] if each not in PROCESS or self.config[each] is None
            ]
            self.register_to_config(_use_default_values=left)

    def _read_schedule(self) -> Schedule:
        config = self.config
        flow = config.shift is not None or config.use_flow_sigmas
        if flow != (config.prediction_type == "flow_prediction") or not (flow or config.prediction_type in SAYS):
            what = " with flow matching" if flow else ""
            raise ValueError(
                f"prediction_type {config.prediction_type!r} was asked for{what}; betas go with {', '.join(SAYS)}, "
                "shift or use_flow_sigmas goes flow_prediction"
            )
        return Flows(config, self.spaced_like) if flow else Betas(config, self.spaced_like)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As everywhere in diffusers, and stricter. The process is that of the class that the configuration is of, its
        defaults included. Keys of the same solver are followed; of another solver, and options of another sampler, are
        left behind. Raises ValueError for a process or a setting that is not known here, and for a keyword that
        nothing reads."""
        known = dict(config or {})
        takes = set(inspect.signature(cls.__init__).parameters) - {"self"}
        wrong = unknown(kwargs, takes | set(cls.solver_keys))
        if wrong and not return_unused_kwargs:
            raise ValueError(f"{cls.__name__} knows no {', '.join(wrong)}: it would change nothing")
        solver = {name: kwargs.pop(name) for name in cls.solver_keys if name in kwargs}
        left = set(known.get("_use_default_values", []))
        solver = {name: known[name] for name in cls.solver_keys if name in known and name not in left} | solver
        options = {name: each for name, each in (known.get("options") or {}).items() if name in cls._takes()}
        options = cls._read_solver(solver) | options
        return super().from_config(
            known,
            return_unused_kwargs=return_unused_kwargs,
            **(
                ({"options": options or None} if options or known.get("options") else {}) | process_keys(known) | kwargs
            ),
        )

    @classmethod
    def _read_solver(cls, keys: dict[str, Any]) -> dict[str, Any]:
        """The options that these of `solver_keys` come to. Raises ValueError for those that are another solver's."""
        return {}

    @classmethod
    def _takes(cls) -> list[str]:
        """The options of its sampler."""
        return list(inspect.signature(BY_NAME[cls.sampler]).parameters)[4:]

    def _chosen(self, options: dict[str, Any]) -> Sampler:
        """The sampler with its options. Raises ValueError for one that it has not."""
        takes = self._takes()
        wrong = [name for name in options if name not in takes]
        if wrong:
            raise ValueError(f"{self.sampler} has no option {', '.join(wrong)}; it has {', '.join(takes) or 'none'}")
        return self._made(options)

    def _made(self, options: dict[str, Any]) -> Sampler:
        found = BY_NAME[self.sampler]
        if "settles" in self._takes():
            options.setdefault("settles", self.config.lower_order_final)
        return partial(found, **options) if options else found
