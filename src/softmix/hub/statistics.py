"""The statistics of DPM-Solver-v3, which travel in the scheduler's own folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from ..sampler import Sampler, Statistics
from .configured import Configured
from .hosted import Nothing, no_mean, no_residue

FILE = "dpm_solver_v3_statistics.safetensors"
# what says where a file of the hub is
WHERE = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")


class WithStatistics(Configured):
    """options["statistics"] is a `Statistics`, or the path of a file that `Statistics.save` wrote. A saved scheduler
    has a copy beside its configuration, and its configuration names that."""

    statistics: Statistics | None = None
    _internal_dict: Any

    def _made(self, options: dict[str, Any]) -> Sampler:
        given = options.get("statistics")
        if given is not None:
            options["statistics"] = given if isinstance(given, Statistics) else _read(Path(given))
        self.statistics = options.get("statistics")
        return super()._made(options)

    def _nothing(self) -> Nothing:
        return no_mean(self.process) if self.statistics is None else no_residue(self.process, self.statistics)

    def _items(self) -> tuple[int, ...]:
        return (1,) if self.statistics is None else tuple(self.statistics.l.shape[1:])

    def to_json_string(self) -> str:
        kept = self._internal_dict
        if self.statistics is not None:
            self.register_to_config(options=dict(self.config.options) | {"statistics": FILE})
        try:
            return str(super().to_json_string())
        finally:
            self._internal_dict = kept

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes the statistics first, so that what is pushed has them."""
        if self.statistics is not None:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.statistics.save(Path(save_directory) / FILE)
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As everywhere in diffusers; the statistics beside the configuration are found, or fetched with it."""
        where, subfolder = {name: kwargs[name] for name in WHERE if name in kwargs}, kwargs.get("subfolder")
        found = super().load_config(pretrained_model_name_or_path, *args, **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        options = config.get("options") or {}
        if options.get("statistics") == FILE:
            folder = Path(pretrained_model_name_or_path) / (subfolder or "")
            inside = folder.is_dir() and (folder / "scheduler_config.json").is_file()
            path = (
                folder / FILE
                if inside
                else hf_hub_download(str(pretrained_model_name_or_path), FILE, subfolder=subfolder, **where)
            )
            config["options"] = options | {"statistics": str(path)}
        return found


def _read(path: Path) -> Statistics:
    if not path.is_file():
        raise ValueError(f"the statistics of dpm-solver-v3 are to be in {path}, which is no file")
    return Statistics.load(path)
