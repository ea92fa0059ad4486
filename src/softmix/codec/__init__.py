"""X0 to latents and back."""

from .contract import Codec
from .vae import VAE

__all__ = ["VAE", "Codec"]
