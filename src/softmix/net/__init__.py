"""The room of networks: bodies that a denoiser gives a meaning to. A net knows no diffusion.

Every net is a stem, a list of blocks and an output layer over a state of tensors, modulated by an
embedding of the noise level (`time`). Because the blocks are a list, a latent can enter anywhere and
what comes before it is run once for all draws (`Net.splits`).
"""

from .base import Embedding, Net
from .dit import DiT, DiTSpec
from .mlp import MLP, MLPSpec
from .unet import UNet, UNetSpec

NetSpec = MLPSpec | UNetSpec | DiTSpec

__all__ = ["MLP", "DiT", "DiTSpec", "Embedding", "MLPSpec", "Net", "NetSpec", "UNet", "UNetSpec"]
