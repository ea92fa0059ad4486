"""Codecs map items to latents and back. `Codec` is the contract, `VAE` an autoencoder of diffusers."""

from .contract import Codec
from .vae import VAE

__all__ = ["VAE", "Codec"]
