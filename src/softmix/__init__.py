"""softmix: diffusion models that believe a whole posterior, not only its mean.

model = softmix.load("runs/digits")
images = softmix.sample(model.denoiser, n=64, steps=4)
"""

from importlib import import_module
from typing import Any

from . import data, denoiser, evaluate, loss, net, posterior, process, sampler
from .rng import Rng
from .sampler import sample
from .train import Config, load, preset, train, training
from .version import __version__

__all__ = [
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
    "sample",
    "sampler",
    "train",
    "training",
]


def __getattr__(name: str) -> Any:
    # it brings diffusers with it, an extra that takes seconds to import
    if name == "hub":
        return import_module(".hub", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
