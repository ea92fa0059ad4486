"""From (x_t, t) to a posterior over x0.

A denoiser is a network with a parameterisation and a head (`Network`), or a closed form (`ExactMixture`,
`ExactData`), or either of them wrapped (`guided`, `averaged`, `Counted`).
"""

from .contract import Denoiser, Suits, Wrap
from .exact import ExactData, ExactMixture, wiener
from .frame import in_frame
from .head import HeadSpec, MapHead, MixtureHead, NormalHead, PointHead
from .network import Network
from .parameterise import OUTPUTS, Output, affine
from .smd import PublishedSMD, SoftHead
from .wrap import Counted, Staged, adjusted, autoguided, averaged, guided, mean_only, within

__all__ = [
    "OUTPUTS",
    "Counted",
    "Denoiser",
    "ExactData",
    "ExactMixture",
    "HeadSpec",
    "MapHead",
    "MixtureHead",
    "Network",
    "NormalHead",
    "Output",
    "PointHead",
    "PublishedSMD",
    "SoftHead",
    "Staged",
    "Suits",
    "Wrap",
    "adjusted",
    "affine",
    "autoguided",
    "averaged",
    "guided",
    "in_frame",
    "mean_only",
    "wiener",
    "within",
]
