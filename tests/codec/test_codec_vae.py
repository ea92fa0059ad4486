"""The autoencoders of diffusers as codecs, and a source of their latents."""

from __future__ import annotations

import subprocess
import sys

import diffusers
import pytest
import torch

from softmix.codec import VAE, Codec
from softmix.data import Encoded, Report
from softmix.data.store import make
from softmix.rng import Rng

SMALL = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (8, 8), "latent_channels": 4,
    "norm_num_groups": 4, "sample_size": 8,
}  # fmt: skip
X = Rng(0, 5).normal((5, 3, 8, 8)).clamp(-1, 1)


def kl(**more: object) -> diffusers.AutoencoderKL:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.AutoencoderKL(**SMALL, **more)


@pytest.mark.parametrize("shift", [None, 0.25])
def test_latents_are_the_shifted_and_scaled_mode(shift: float | None) -> None:
    module = kl(scaling_factor=0.5, shift_factor=shift)
    codec = VAE(module)
    with torch.no_grad():
        raw = module.eval().encode(X).latent_dist.mode()
        back = module.decode(raw).sample
    z = codec.encode(X)
    assert torch.equal(z, (raw - (shift or 0)) * 0.5)
    assert torch.allclose(codec.decode(z), back, atol=1e-5)
    assert [each.tolist() for each in codec.scale] == [[shift or 0.0], [0.5]]


def test_a_vae_fulfils_the_contract() -> None:
    codec = VAE(kl())
    assert isinstance(codec, Codec) and codec.name == "AutoencoderKL"
    assert codec.latent_shape((3, 8, 8)) == (4, 4, 4) == tuple(codec.encode(X).shape[1:])
    assert not codec.encode(X.requires_grad_()).requires_grad


def test_the_fingerprint_depends_on_the_weights_and_their_type() -> None:
    one, same, other = kl(), kl(), kl()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    assert VAE(one).fingerprint == VAE(same).fingerprint != VAE(other).fingerprint
    assert VAE(kl().to(torch.bfloat16)).fingerprint != VAE(one).fingerprint


def test_the_mode_of_the_module_does_not_change() -> None:
    for training in (True, False):
        module = kl().train(training)
        VAE(module).decode(VAE(module).encode(X))
        assert module.training is training


def test_the_precision_is_that_of_the_argument() -> None:
    codec = VAE(kl().to(torch.bfloat16))
    assert codec.encode(X).dtype == codec.decode(codec.encode(X)).dtype == torch.float32
    assert codec.encode(X.double()).dtype == torch.float64


def test_a_tiny_autoencoder_without_a_distribution_gives_its_latents() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1), latent_channels=4,
        )  # fmt: skip
    codec = VAE(module)
    with torch.no_grad():
        assert torch.equal(codec.encode(X), module.eval().encode(X).latents * module.config.scaling_factor)


def test_a_source_of_latents_keeps_the_scale_of_the_codec() -> None:
    pixels = ((X + 1) * 127.5).round().to(torch.uint8)
    data = make("pictures", pixels, torch.tensor([0, 1, 0, 1, 1]), ("a", "b"), Report(5))
    codec = VAE(kl(scaling_factor=0.5))
    source = Encoded(data, codec)
    z, cond = source.batch(torch.arange(5), Rng(0, 5))
    assert source.scale is None and source.shape == (4, 4, 4)
    assert torch.equal(z, codec.encode(data.x0())) and torch.equal(source.decode(z), codec.decode(z))
    assert cond is not None and cond.label is not None and cond.label.tolist() == [0, 1, 0, 1, 1]
    assert Encoded(data, VAE(kl(scaling_factor=0.5))).fingerprint == source.fingerprint


def test_the_room_needs_no_diffusers() -> None:
    code = "import sys, softmix.codec; print([name for name in sys.modules if 'diffusers' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
