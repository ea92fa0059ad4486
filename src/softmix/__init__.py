"""softmix: diffusion models that believe a whole posterior, not only its mean.

model = softmix.load("runs/digits")
images = softmix.sample(model.denoiser, n=64, steps=4)
"""

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
