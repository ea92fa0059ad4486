"""The statistics of DPM-Solver-v3, saved in the scheduler's own folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from ..sampler import Sampler, Statistics
from .sampler_run import NeutralMean, neutral_for_means, neutral_for_residual
from .scheduler_config import ConfiguredScheduler

FILE = "dpm_solver_v3_statistics.safetensors"
# arguments of from_pretrained that say how a file of the hub is fetched
HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")


class SchedulerWithStatistics(ConfiguredScheduler):
    """A scheduler with options["statistics"]: a `Statistics`, or the path of a file that `Statistics.save` wrote.

    A saved scheduler has a copy of the file beside its configuration, and the configuration names this copy.
    """

    statistics: Statistics | None = None
    _internal_dict: Any

    def _with_options(self, options: dict[str, Any]) -> Sampler:
        given = options.get("statistics")
        if given is not None:
            options["statistics"] = given if isinstance(given, Statistics) else _load(Path(given))
        self.statistics = options.get("statistics")
        return super()._with_options(options)

    def _neutral_mean(self) -> NeutralMean:
        if self.statistics is None:
            return neutral_for_means(self.process)
        return neutral_for_residual(self.process, self.statistics)

    def _trial_shape(self) -> tuple[int, ...]:
        return (1,) if self.statistics is None else tuple(self.statistics.l.shape[1:])

    def to_json_string(self) -> str:
        """The configuration with the name of the statistics file in place of the statistics."""
        original = self._internal_dict
        if self.statistics is not None:
            self.register_to_config(options=dict(self.config.options) | {"statistics": FILE})
        try:
            return str(super().to_json_string())
        finally:
            self._internal_dict = original

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the statistics first, so that a push to the hub contains them."""
        if self.statistics is not None:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.statistics.save(Path(save_directory) / FILE)
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As in diffusers. The statistics beside the configuration are found in the folder, or fetched from the hub."""
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        subfolder = kwargs.get("subfolder")
        result = super().load_config(pretrained_model_name_or_path, *args, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        options = config.get("options") or {}
        if options.get("statistics") == FILE:
            folder = Path(pretrained_model_name_or_path) / (subfolder or "")
            inside = folder.is_dir() and (folder / "scheduler_config.json").is_file()
            path = (
                folder / FILE
                if inside
                else hf_hub_download(str(pretrained_model_name_or_path), FILE, subfolder=subfolder, **hub)
            )
            config["options"] = options | {"statistics": str(path)}
        return result


def _load(path: Path) -> Statistics:
    if not path.is_file():
        raise ValueError(f"the statistics of dpm-solver-v3 are expected in {path}, which is no file")
    return Statistics.load(path)
