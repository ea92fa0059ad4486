"""Bodies that a denoiser gives a meaning to. A net knows no diffusion.

Every net is a stem, a list of blocks and an output layer over a state of tensors, modulated by an
embedding of the noise level (`time`) and told the conditions it was built for. Because the blocks are a list, a latent
can enter anywhere and what comes before it is run once for all draws (`Net.splits`).
"""

from .attention import Attention, CrossAttention
from .base import Net, SideInputs
from .dit import DiT, DiTSpec
from .embedding import Embedding
from .mlp import MLP, MLPSpec
from .sequence import SequenceNet, SequenceSpec
from .spec import channels_of
from .unet import UNet, UNetSpec

NetSpec = MLPSpec | UNetSpec | DiTSpec | SequenceSpec

__all__ = [
    "MLP",
    "Attention",
    "CrossAttention",
    "DiT",
    "DiTSpec",
    "Embedding",
    "MLPSpec",
    "Net",
    "NetSpec",
    "SequenceNet",
    "SequenceSpec",
    "SideInputs",
    "UNet",
    "UNetSpec",
    "channels_of",
]
