"""The configuration of softmix's schedulers: diffusers' keys, defaults and `from_config`."""

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
from .beta_timesteps import PREDICTION_TYPES, BetaTimesteps
from .config_keys import PROCESS_KEYS, process_keys, unknown_keys
from .flow_timesteps import FlowTimesteps
from .timestep_schedule import TimestepSchedule


class ConfiguredScheduler(SchedulerMixin, ConfigMixin):
    """The base of softmix's schedulers: diffusers' configuration keys, and the sampler and times that they choose.

    sampler : the name of the softmix sampler.
    spaced_like : the family of the timestep spacing, "ddim" or "dpm", see `BetaTimesteps`.
    spacing : the default of timestep_spacing, None for the default of the family.
    solver_keys : keys about the solver in diffusers' scheduler of the same name.
    """

    sampler: ClassVar[str] = "ddim"
    spaced_like: ClassVar[str] = "ddim"
    spacing: ClassVar[str | None] = None
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
        self._fill_defaults(timestep_spacing, set_alpha_to_one, final_sigmas_type)
        self.schedule = self._timestep_schedule()
        self.process = self.schedule.process
        if isinstance(self.schedule, BetaTimesteps):
            table = self.schedule.diffusers_table
            self.betas, self.alphas, self.alphas_cumprod = table.betas, table.alphas, table.alphas_cumprod
        self.sampler_function = self._checked_sampler(dict(options or {}))
        # model evaluations of one step, as pipelines count them
        self.order = round(traits(BY_NAME[self.sampler]).evaluations(1000) / 1000)
        self.timesteps = self.schedule.training_timesteps()
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self._reset()

    def _reset(self) -> None:
        """Forget the current run."""

    def _fill_defaults(self, spacing: str | None, to_one: bool, final: str | None) -> None:
        """Fill in the defaults of diffusers' scheduler of the family.

        Keys of the process count as given, even at their default: another class made from this configuration may have
        another default.
        """
        if final not in (None, "zero", "sigma_min"):
            raise ValueError(f"final_sigmas_type {final!r} was asked for; there are zero and sigma_min")
        dpm = self.spaced_like == "dpm"
        self.register_to_config(
            timestep_spacing=spacing or self.spacing or ("linspace" if dpm else "leading"),
            final_sigmas_type=final or ("zero" if dpm or to_one else "sigma_min"),
        )
        if "_use_default_values" in self.config:
            defaults = [
                each
                for each in self.config["_use_default_values"]
                if each not in PROCESS_KEYS or self.config[each] is None
            ]
            self.register_to_config(_use_default_values=defaults)

    def _timestep_schedule(self) -> TimestepSchedule:
        config = self.config
        flow = config.shift is not None or config.use_flow_sigmas
        supported = flow or config.prediction_type in PREDICTION_TYPES
        if flow != (config.prediction_type == "flow_prediction") or not supported:
            process = " with flow matching" if flow else ""
            raise ValueError(
                f"prediction_type {config.prediction_type!r} was asked for{process}; a table of betas supports "
                f"{', '.join(PREDICTION_TYPES)}, and shift or use_flow_sigmas needs flow_prediction"
            )
        return FlowTimesteps(config, self.spaced_like) if flow else BetaTimesteps(config, self.spaced_like)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the process and the settings of another scheduler's configuration.

        It is stricter than diffusers'. The process is that of the class in the configuration, with the defaults of
        this class. Keys of the same solver are followed. Keys of another solver and options of another sampler are
        dropped.

        Raises ValueError for an unsupported process or setting, and for a keyword without effect.
        """
        given = dict(config or {})
        accepted = set(inspect.signature(cls.__init__).parameters) - {"self"}
        wrong = unknown_keys(kwargs, accepted | set(cls.solver_keys))
        if wrong and not return_unused_kwargs:
            raise ValueError(f"{cls.__name__} knows no {', '.join(wrong)}: it would change nothing")
        solver = {name: kwargs.pop(name) for name in cls.solver_keys if name in kwargs}
        defaults = set(given.get("_use_default_values", []))
        solver = {name: given[name] for name in cls.solver_keys if name in given and name not in defaults} | solver
        options = {name: value for name, value in (given.get("options") or {}).items() if name in cls._option_names()}
        options = cls._read_solver(solver) | options
        option_key = {"options": options or None} if options or given.get("options") else {}
        return super().from_config(
            given, return_unused_kwargs=return_unused_kwargs, **(option_key | process_keys(given) | kwargs)
        )

    @classmethod
    def _read_solver(cls, keys: dict[str, Any]) -> dict[str, Any]:
        """The sampler options for these `solver_keys`. Raises ValueError for keys that ask for another solver."""
        return {}

    @classmethod
    def _option_names(cls) -> list[str]:
        """The options of the sampler: its keywords after process, x, grid and rng."""
        return list(inspect.signature(BY_NAME[cls.sampler]).parameters)[4:]

    def _checked_sampler(self, options: dict[str, Any]) -> Sampler:
        """The sampler with its options. Raises ValueError for an unknown option."""
        names = self._option_names()
        wrong = [name for name in options if name not in names]
        if wrong:
            raise ValueError(f"{self.sampler} has no option {', '.join(wrong)}; it has {', '.join(names) or 'none'}")
        return self._with_options(options)

    def _with_options(self, options: dict[str, Any]) -> Sampler:
        function = BY_NAME[self.sampler]
        if "settles" in self._option_names():
            options.setdefault("settles", self.config.lower_order_final)
        return partial(function, **options) if options else function
