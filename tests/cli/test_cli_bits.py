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
from softmix.data import load
from softmix.info import (
    EvenLevels,
    GaussianReference,
    Grid,
    Levels,
    area_above,
    best_per_level,
    chain,
    compressed_nats,
    density,
    discrete,
    log_density,
)
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


def test_the_chain_and_the_ode_stand_beside(run: Path, tmp_path: Path) -> None:
    """Each is that of the room with the noise of this command. The ODE in half the steps shows what its steps cost."""
    out = works(
        *("bits", run, "--n", 3, "--steps", 20, "--levels", 4, "--chain", 5, "--draws", 3, "--ode", 4),
        *("--out", tmp_path / "nats.npz"),
    )
    found = np.load(tmp_path / "nats.npz")
    assert set(found) == {"itd", "gaussian", "variational", "chain", "ode", "ode half"}
    assert "chain of whole posteriors, 5 steps" in out and "ODE, 4 steps" in out and "ODE, 2 steps" in out
    model, x = softmix.load(run), load("digits", split="test").x0(slice(3))
    rng = Rng(0, 3, "bits")
    even = torch.linspace(-10, float(model.process.logsnr(1e-3)), 5, dtype=torch.float64)
    times = torch.cat([torch.ones(1, dtype=torch.float64), model.process.time(even)])
    right = chain(model.denoiser, x, rng, times, Grid())
    assert np.allclose(found["chain"], right.each.numpy(), rtol=1e-5)
    ends = 12.5, max(-12.0, float(model.process.logsnr(1.0)) + 1e-3)
    for name, steps in (("ode", 4), ("ode half", 2)):
        times = model.process.time(torch.linspace(*ends, steps + 1, dtype=torch.float64))
        each = []
        for repeat in range(2):
            own = rng.child(f"ode {repeat}")
            noisy = x + Grid().step * (own.child("real").uniform(x.shape) - 0.5)
            nats = -log_density(model.denoiser, noisy, times, probes=(1, own.child("probes"))).double()
            each.append(nats - 64 * math.log(Grid().step))
        assert np.allclose(found[name], torch.stack(each).mean(0).numpy(), rtol=1e-4)
    assert "belong to --chain" in refused("bits", run, "--draws", 3)
    assert "at least 2" in refused("bits", run, "--ode", 1)


def test_points_have_a_chain_and_an_ode_too(tmp_path: Path) -> None:
    run = tmp_path / "ring"
    small = ("--steps", 20, "--batch", 16, "--set", "net.width=8", "net.depth=1")
    works(
        "train", "toy:ring", "--model", "plain", *small, "head.kind=MixtureHead", "loss.kind=Likelihood", "--out", run
    )
    out = works("bits", run, "--n", 5, "--levels", 4, "--chain", 3, "--ode", 4, "--out", tmp_path / "nats.npz")
    assert "uniform noise" not in out
    works("train", "toy:ring", "--model", "plain", *small, "--out", tmp_path / "plain")
    assert "a density" in refused("bits", tmp_path / "plain", "--n", 2, "--levels", 2, "--chain", 3)
    found, x = np.load(tmp_path / "nats.npz"), load("toy:ring", split="test").x0(slice(5))
    process = softmix.load(run).process
    even = torch.linspace(-10, float(process.logsnr(1e-3)), 3, dtype=torch.float64)
    times = torch.cat([torch.ones(1, dtype=torch.float64), process.time(even)])
    right = chain(softmix.load(run).denoiser, x, Rng(0, 5, "bits"), times)
    assert np.allclose(found["chain"], right.each.numpy(), rtol=1e-5)


def test_an_ensemble_takes_the_best_at_each_level(run: Path, tmp_path: Path) -> None:
    """Chosen on training items; in another order it is the same."""
    other = tmp_path / "other"
    small = ("--set", "net.width=8", "net.depth=1", "--batch", 16)
    works("train", "digits", "--model", "plain", "--steps", 3, "--out", other, *small)
    for first, second in ((run, other), (other, run)):
        works("bits", first, "--ensemble", second, *SMALL, "--levels", 4, "--out", tmp_path / f"{first.name}.npz")
    one, two = (np.load(tmp_path / f"{name}.npz")["itd"] for name in (run.name, "other"))
    assert np.allclose(one, two, rtol=1e-5)
    train, held_out = load("digits"), load("digits", split="test")
    own = GaussianReference.fit(train.x0(), Grid().step ** 2 / 12)
    models = [softmix.load(each) for each in (run, other)]
    process = models[0].process
    levels = Levels.of(own.variances).inside(-math.inf, float(process.logsnr(1e-3)))
    low, high = levels.inside(float(process.logsnr(1.0)), math.inf).ends
    logsnr = torch.linspace(low, high, 24, dtype=torch.float64).tolist()
    joined = best_per_level([m.denoiser for m in models], train.x0(slice(200)), Rng(0, 200, "ensemble"), logsnr)
    right = discrete(joined, held_out.x0(slice(6)), Rng(0, 6, "bits"), own, levels=levels, n=4)
    assert np.allclose(one, right.each.numpy(), rtol=1e-4)
    assert "another condition" in refused("bits", run, "--ensemble", f"{run}-classes")


def test_the_page_shows_the_numbers_the_levels_and_the_pixels(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "bits.html"
    out = works("bits", run, *SMALL, "--levels", 4, "--report", page)
    text = page.read_text()
    shown = re.search(r"([\d.]+) ± [\d.]+ nats", out)
    assert shown is not None and shown.group(1) in text and "errors of a Gaussian" in text
    assert text.count("data:image/png;base64,") == 2 and "<svg" in text
    works("bits", run, *SMALL, "--levels", 4, "--report", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == text
    assert "ends in .html" in refused("bits", run, "--report", tmp_path / "bits.txt")


def test_a_folder_of_diffusers_has_bits(tmp_path: Path) -> None:
    """Its items are those of the command: the first n are measured, and the Gaussian is that of the others."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    diffusers.DDPMPipeline(diffusers.UNet2DModel(**(sizes | blocks)), diffusers.DDPMScheduler()).save_pretrained(
        tmp_path / "borrowed"
    )
    out = works("bits", tmp_path / "borrowed", "digits", *SMALL, "--levels", 6, "--out", tmp_path / "nats.npz")
    from softmix.hub import from_diffusers

    denoiser, data = from_diffusers(tmp_path / "borrowed"), load("digits")
    own = GaussianReference.fit(data.x0(slice(6, None)), Grid().step ** 2 / 12)
    levels = Levels.of(own.variances).inside(-math.inf, float(denoiser.process.logsnr(1e-3)))  # type: ignore[attr-defined]
    right = discrete(denoiser, data.x0(slice(6)), Rng(0, 6, "bits"), own, levels=levels, n=6)
    assert np.allclose(np.load(tmp_path / "nats.npz")["itd"], right.each.numpy(), rtol=1e-3)
    assert "the first 6 items" in out
    assert "say which items" in refused("bits", tmp_path / "borrowed")
    assert "as many others" in refused("bits", tmp_path / "borrowed", "digits", "--n", 1500)
    assert "without this option" in refused("bits", tmp_path / "borrowed", "digits", "--average", 2)


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
