"""softmix: diffusion models that believe a whole posterior, not only its mean."""

from . import denoiser, loss, net, posterior, process, sampler
from .rng import Rng
from .sampler.drive import sample

__version__ = "0.1.0"

__all__ = ["Rng", "denoiser", "loss", "net", "posterior", "process", "sample", "sampler"]
