"""Frozen encoders: their grid, their weights by seed and file; and the contrastive loss against its sum."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from softmix.loss import RandomEncoder, SavedEncoder, image_encoder, nt_xent
from softmix.loss.encoder import file_fingerprint
from softmix.rng import Rng

pytestmark = pytest.mark.usefixtures("on_device")

F64 = torch.float64


def images(count: int, *shape: int) -> torch.Tensor:
    return Rng(0, count, "x0").normal((count, *shape), F64).tanh()


@pytest.mark.parametrize(
    ("side", "grid"), [(8, 4), (14, 7), (15, 8), (16, 4), (28, 7), (32, 8), (39, 10), (40, 5), (64, 8)]
)
def test_the_grid_of_features(side: int, grid: int) -> None:
    features = image_encoder((3, side, side), 4, 0).double()(images(2, 3, side, side))
    assert features.shape == (2, 8, grid, grid)


def test_features_have_mean_0_and_variance_1_at_each_place() -> None:
    features = image_encoder((1, 9, 12), 16, 0).double()(images(3, 1, 9, 12))
    assert torch.allclose(features.mean(1), torch.zeros(3, 5, 6, dtype=F64), atol=1e-12)
    assert torch.allclose(features.var(1, correction=0), torch.ones(3, 5, 6, dtype=F64), atol=1e-2)


def test_an_image_does_not_depend_on_its_batch() -> None:
    encoder, x0 = image_encoder((1, 8, 8), 8, 0).double(), images(4, 1, 8, 8)
    assert torch.allclose(encoder(x0), torch.cat([encoder(each[None]) for each in x0]), atol=1e-12)


def test_a_random_encoder_depends_on_its_seed_alone() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (RandomEncoder(4, seed).build((1, 8, 8)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    x0 = images(2, 1, 8, 8).float()
    assert torch.equal(one(x0), same(x0)) and not torch.allclose(one(x0), other(x0))
    assert RandomEncoder(4).channels == one(x0).shape[1] == 8


def test_a_saved_encoder_has_the_weights_of_its_file(tmp_path: Path) -> None:
    right, x0 = image_encoder((1, 8, 8), 4, 5), images(2, 1, 8, 8).float()
    content = save(right.cpu().state_dict())
    right.to(x0.device)
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(content)
    spec = SavedEncoder(str(file), file_fingerprint(content), 4)
    state = torch.random.get_rng_state()
    assert torch.equal(spec.build((1, 8, 8))(x0), right(x0)) and spec.channels == 8
    assert torch.equal(torch.random.get_rng_state(), state)
    # another file under this name, and none: it can be built, for a trained model, and not used
    file.write_bytes(save(image_encoder((1, 8, 8), 4, 6).cpu().state_dict()))
    with pytest.raises(ValueError, match=f"has the fingerprint [0-9a-f]{{12}}, and {spec.fingerprint} was asked for"):
        spec.build((1, 8, 8))(x0)
    file.unlink()
    with pytest.raises(ValueError, match=r"encoder\.safetensors cannot be read \(No such file.*put the file back"):
        spec.build((1, 8, 8))(x0)


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    content = save(image_encoder((1, 8, 8), 4, 5).cpu().state_dict())
    (tmp_path / "encoder").write_bytes(content)
    with pytest.raises(RuntimeError, match="size mismatch"):
        SavedEncoder(str(tmp_path / "encoder"), file_fingerprint(content), 5).build((1, 8, 8))


def test_other_items_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the items have shape \(3,\)"):
        RandomEncoder().build((3,))
    for bad in (lambda: RandomEncoder(0), lambda: SavedEncoder("file", "", 0)):
        with pytest.raises(ValueError, match="the width of an encoder is at least 1; found 0"):
            bad()


# the contrastive loss


def test_the_contrastive_loss_is_its_sum() -> None:
    n, tau = 4, 0.3
    a, b = (Rng(k, n, "z").normal((n, 3), F64) for k in range(2))
    z = [*a, *b]

    def one(i: int, j: int) -> torch.Tensor:
        likeness = [((z[i] @ z[k]) / (z[i].norm() * z[k].norm()) / tau).exp() for k in range(2 * n)]
        return -(likeness[j] / sum(likeness[k] for k in range(2 * n) if k != i)).log()

    right = torch.stack([(one(i, i + n) + one(i + n, i)) / 2 for i in range(n)])
    assert torch.allclose(nt_xent(a, b, tau), right, atol=1e-12)


def test_the_contrastive_loss_is_small_for_apart_items_and_log_of_the_others_for_equal_ones() -> None:
    apart = torch.eye(4, dtype=F64)
    # the other 6 views have the cosine 0, its own has 1
    right = math.log(1 + 6 * math.exp(-1 / 0.2))
    assert torch.allclose(nt_xent(apart, apart), torch.full((4,), right, dtype=F64))
    same = torch.ones(4, 3, dtype=F64)
    assert torch.allclose(nt_xent(same, 2 * same), torch.full((4,), math.log(7), dtype=F64))


def test_the_contrastive_loss_of_one_item_is_refused() -> None:
    with pytest.raises(ValueError, match="compares the items of a batch, and found one"):
        nt_xent(torch.ones(1, 2), torch.ones(1, 2))


def test_the_contrastive_loss_computes_in_float32() -> None:
    a, b = (Rng(k, 50, "z").normal((50, 8)) for k in range(2))
    right = nt_xent(a.bfloat16().double(), b.bfloat16().double()).float()
    with torch.autocast(a.device.type, torch.bfloat16):
        found = nt_xent(a.bfloat16(), b.bfloat16())
    assert found.dtype == torch.float32 and torch.allclose(found, right, rtol=1e-5)
