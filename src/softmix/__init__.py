"""softmix: diffusion models that predict the whole denoising posterior q(x0 | xt), not only its mean.

    model = softmix.load("runs/digits")
    images = softmix.sample(model.denoiser, n=64, steps=4)

A name is imported at its first use, because the import of torch takes seconds and `softmix --help` needs no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from . import data, denoiser, evaluate, loss, net, posterior, process, sampler
    from .cond import Cond, CondSpec
    from .rng import Rng
    from .sampler import restore, sample
    from .train import Config, load, preset, train, training

__all__ = [
    "Cond",
    "CondSpec",
    "Config",
    "Rng",
    "__version__",
    "data",
    "denoiser",
    "evaluate",
    "load",
    "loss",
    "net",
    "posterior",
    "preset",
    "process",
    "restore",
    "sample",
    "sampler",
    "train",
    "training",
]

# The module of each name that is not a module itself.
_FROM = {
    "Cond": "cond",
    "CondSpec": "cond",
    "Rng": "rng",
    "restore": "sampler",
    "sample": "sampler",
    **dict.fromkeys(("Config", "load", "preset", "train", "training"), "train"),
}
_ROOMS = (
    "codec",
    "data",
    "denoiser",
    "evaluate",
    "hub",
    "info",
    "loss",
    "measure",
    "net",
    "oracle",
    "posterior",
    "process",
    "sampler",
)
_GROUND = ("bibliography", "cond", "config", "picture", "rng", "shape")


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # softmix.train is the function. The import system would replace it by the room with the same name.
        if name == "train" and isinstance(value, ModuleType):
            value = value.train
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _ROOMS + _GROUND:
        return import_module(f".{name}", __name__)
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_FROM[name]}", __name__), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS, *_GROUND})
