"""Networks. They map x, a noise level and conditions to an output, and know nothing else of diffusion.

Every net is a stem, a list of blocks and an output layer. The state is a tuple of tensors. An embedding of the noise
level (`time`) modulates the blocks, and the conditions of the net enter beside it. The blocks are a list, so that a
latent can enter at any of them; the blocks before it run once for all draws (`Net.splits`).

Nets: `MLP` for points, `UNet` and `DiT` for images, `SequenceNet` for sequences, `TokenNet`
for tokens, and `TwoStreams`, two of them for a pair of signals.
"""

from .attention import Attention, CrossAttention
from .base import Net, SideInputs
from .dit import DiT, DiTSpec
from .embedding import Embedding
from .mlp import MLP, MLPSpec
from .sequence import SequenceNet, SequenceSpec
from .spec import channels_of
from .streams import TwoStreams, TwoStreamsSpec
from .token_net import TokenNet, TokenSpec
from .unet import UNet, UNetSpec

NetSpec = MLPSpec | UNetSpec | DiTSpec | SequenceSpec | TwoStreamsSpec | TokenSpec

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
    "TokenNet",
    "TokenSpec",
    "TwoStreams",
    "TwoStreamsSpec",
    "UNet",
    "UNetSpec",
    "channels_of",
]
