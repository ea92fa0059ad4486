"""`softmix bits`: its numbers, its file, other data, and what it refuses."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call, refused

import softmix
from softmix.cli.bits import area_above, compressed_nats
from softmix.data import load
from softmix.info import EvenLevels, GaussianReference, Grid, Levels, density, discrete
from softmix.rng import Rng

SMALL = ("--n", 6, "--steps", 50)


def works(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bits") / "digits"
    small = ("--set", "net.width=8", "net.depth=1", "--batch", 16)
    works("train", "digits", "--model", "plain", "--steps", 20, "--out", out, *small)
    works("train", "digits", "--model", "plain", "--classes", "--steps", 20, "--out", f"{out}-classes", *small)
    return out


def test_the_numbers_are_those_of_the_room(run: Path, tmp_path: Path) -> None:
    classes = Path(f"{run}-classes")
    out = works("bits", classes, *SMALL, "--levels", 24, "--seed", 3, "--out", tmp_path / "nats.npz")
    found = np.load(tmp_path / "nats.npz")
    model, train, held_out = softmix.load(classes), load("digits"), load("digits", split="test")
    own = GaussianReference.fit(train.x0(), Grid().step ** 2 / 12)
    levels = Levels.of(own.variances).inside(-math.inf, float(model.process.logsnr(1e-3)))
    rng = Rng(3, 6, "bits")
    labels = held_out.labels[:6]  # type: ignore[index]
    right = discrete(model.denoiser, held_out.x0(slice(6)), rng, own, levels=levels, n=24, cond=labels)
    assert np.allclose(found["itd"], right.each.numpy(), rtol=1e-4)
    assert set(found) == {"itd", "gaussian", "variational"}
    assert f"{right.mean:.2f} ± {right.standard_error:.2f} nats" in out
    assert f"{right.bits_per_dim:.4f} ± " in out and "whole numbers of 8 bits" in out
    low, high = right.ends
    assert f"logsnr {low:.1f} to {high:.1f}" in out


def test_points_have_a_density(tmp_path: Path) -> None:
    run = tmp_path / "ring"
    works(
        *("train", "toy:ring", "--model", "plain", "--steps", 20, "--out", run, "--batch", 16),
        *("--set", "net.width=8", "net.depth=1"),
    )
    out = works("bits", run, "--n", 5, "--levels", 4, "--out", tmp_path / "nats.npz")
    assert "have no such chain" in refused("bits", run, "--steps", 50)
    assert "real numbers, a density" in out and set(np.load(tmp_path / "nats.npz")) == {"itd", "gaussian"}
    model, held_out = softmix.load(run), load("toy:ring", split="test")
    own = GaussianReference.fit(load("toy:ring").x0(slice(20_000)))
    levels = Levels.of(own.variances).inside(-math.inf, float(model.process.logsnr(1e-3)))
    right = density(model.denoiser, held_out.x0(slice(5)), Rng(0, 5, "bits"), own, levels, n=4)
    assert len(right.each) == 5 and isinstance(levels, Levels | EvenLevels)


def test_images_of_real_numbers_have_a_density(tmp_path: Path) -> None:
    """Their values lie on no grid. A model of pairs has bits given its image, which are not measured."""
    noise = 0.3 * torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "real.npy", noise.numpy())
    np.save(tmp_path / "few.npy", noise[:60].numpy())
    small = ("--steps", 3, "--batch", 8, "--set", "net.width=8", "net.depth=1", "--model", "plain")
    reading = ("--values", "as-is", "--layout", "channels-first", "--hold-out", 0.2)
    works("train", tmp_path / "real.npy", *reading, *small, "--out", tmp_path / "run")
    works("train", tmp_path / "few.npy", *reading, *small, "--out", tmp_path / "few")
    assert "do not vary along every axis" in refused("bits", tmp_path / "few")
    out = works("bits", tmp_path / "run", "--n", 4, "--levels", 4)
    assert "real numbers, a density" in out and "variational" not in out
    np.save(tmp_path / "whole.npy", np.zeros((20, 8, 8), dtype=np.uint8))
    works("train", tmp_path / "whole.npy", "--pairs", tmp_path / "whole.npy", *small, "--out", tmp_path / "pairs")
    assert "a condition" in refused("bits", tmp_path / "pairs")


def test_other_data_are_told_apart(run: Path, tmp_path: Path) -> None:
    """Grey squares are far from digits for the Gaussian."""
    noise = torch.randint(0, 256, (20, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    np.save(tmp_path / "noise.npy", noise.numpy())
    out = works("bits", run, *SMALL, "--levels", 4, "--against", tmp_path / "noise.npy")
    shares = {name: float(share) for name, share in re.findall(r"  (\S.*?)\s+names the other .* in (\S+) of", out)}
    assert set(shares) == {"itd", "gaussian", "compressed size", "itd less compressed size"}
    assert shares["gaussian"] == 1 and shares["compressed size"] == 1
    model, train, held_out = softmix.load(run), load("digits"), load("digits", split="test")
    own = GaussianReference.fit(train.x0(), Grid().step ** 2 / 12)
    levels, rng = Levels.of(own.variances).inside(-math.inf, float(model.process.logsnr(1e-3))), Rng(0, 6, "bits")
    here, there = (
        discrete(model.denoiser, data.x0(slice(6)), rng, own, levels=levels, n=4).each
        - compressed_nats(data.values[:6])
        for data in (held_out, load(tmp_path / "noise.npy", size=8, channels=1))
    )
    assert shares["itd less compressed size"] == pytest.approx(area_above(here, there), abs=1e-3)
    assert area_above(here, there) != shares["itd"]


def test_the_share_of_pairs_is_the_area_under_the_curve() -> None:
    here, there = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])
    assert area_above(here, there) == pytest.approx((1 + 0.5 + 0 + 3) / 6)


def test_compressed_sizes_are_in_nats() -> None:
    pixels = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    pixels[1] = torch.randint(0, 256, (1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    flat, rough = compressed_nats(pixels).tolist()
    assert flat < 30 * 8 * math.log(2) and 1000 * 8 * math.log(2) < rough < 1060 * 8 * math.log(2)


def test_what_has_no_bits_is_refused(run: Path, tmp_path: Path) -> None:
    assert "at least 2" in refused("bits", run, "--repeats", 1)
    assert "ends in .npz" in refused("bits", run, "--out", tmp_path / "a.txt")
    assert "holds points, not images" in refused("bits", run, *SMALL, "--against", "toy:ring")
    assert "has none" in refused("bits", f"{run}-classes", *SMALL, "--against", _unlabelled(tmp_path))
    assert "bits of 6 items" in works("bits", run, *SMALL, "--dry-run")


def _unlabelled(folder: Path) -> Path:
    place = folder / "unlabelled.npy"
    np.save(place, np.zeros((12, 8, 8), dtype=np.uint8))
    return place
