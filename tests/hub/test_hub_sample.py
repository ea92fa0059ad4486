"""`softmix sample FOLDER` for folders that diffusers wrote."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

from softmix.cli import main  # noqa: E402
from softmix.cli.sample import Sample  # noqa: E402
from softmix.cli.sample_diffusers import guide  # noqa: E402
from softmix.data import to_uint8  # noqa: E402
from softmix.denoiser import guided, within  # noqa: E402
from softmix.hub import drawing  # noqa: E402
from softmix.posterior import Point  # noqa: E402
from softmix.process import VP  # noqa: E402
from softmix.sampler import adams, ancestral, ddim, dpm_solver_2m, sample  # noqa: E402


@pytest.fixture(scope="module")
def plain(tmp_path_factory: Any) -> Path:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    net = diffusers.UNet2DModel(sample_size=8, in_channels=3, out_channels=3, norm_num_groups=4, **blocks)
    place = tmp_path_factory.mktemp("plain") / "shapes"
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler()).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def classes(tmp_path_factory: Any) -> Path:
    """A latent model with three named classes; latents of four channels at half the size."""
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=3, norm_num_groups=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("classes") / "animals"
    diffusers.DiTPipeline(net, vae, diffusers.DDIMScheduler()).save_pretrained(place)
    # as in the released DiT
    index = place / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": {"0": "cat", "1": "dog", "2": "fox"}}))
    return place


def run(*words: object) -> None:
    main(list(map(str, words)))


def refused(capsys: Any, *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 2
    return str(capsys.readouterr().err)


def opened(place: Path, **more: Any) -> Any:
    """The drawing of a folder, with its model on the device on which the command runs."""
    found = drawing(place, **more)
    found.denoiser.to(torch.zeros(()).device)
    return found


def pixels(x: torch.Tensor) -> np.ndarray:
    return to_uint8(x.clamp(-1, 1)).permute(0, 2, 3, 1).cpu().numpy()


def test_the_command_gives_the_same_images_as_python(plain: Path, tmp_path: Path) -> None:
    options = ["--n", 3, "--steps", 4, "--seed", 2, "--first", 5, "--sampler", "dpm-solver-2m"]
    run("sample", plain, "--out", tmp_path / "x.npy", *options)
    right = sample(opened(plain).denoiser, 3, 4, sampler=dpm_solver_2m, seed=2, first=5)
    assert np.array_equal(np.load(tmp_path / "x.npy"), pixels(right))


def test_eta_reaches_the_sampler(plain: Path, tmp_path: Path) -> None:
    run("sample", plain, "--out", tmp_path / "x.npy", "--n", 2, "--sampler", "ancestral", "--eta", 0.5)
    right = sample(opened(plain).denoiser, 2, 4, sampler=partial(ancestral, eta=0.5))
    assert np.array_equal(np.load(tmp_path / "x.npy"), pixels(right))


def test_precision_reaches_the_network(plain: Path, tmp_path: Path) -> None:
    run("sample", plain, "--out", tmp_path / "x.npy", "--n", 2, "--steps", 2, "--precision", "bf16")
    rough, fine = (sample(opened(plain).denoiser, 2, 2, sampler=adams, precision=each) for each in ("bf16", "fp32"))
    assert np.array_equal(np.load(tmp_path / "x.npy"), pixels(rough))
    assert not np.array_equal(pixels(rough), pixels(fine))


def test_guidance_by_a_prompt_uses_the_unconditional_embedding() -> None:
    """The embedding of the empty prompt is a condition, not a label of -1."""
    process = VP()

    class Echo:
        """A denoiser whose posterior mean is its condition."""

        def __init__(self) -> None:
            self.process = process

        def __call__(self, xt: torch.Tensor, t: Any, cond: torch.Tensor) -> Point:
            return Point(cond)

    condition, unconditional = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    found: Any = SimpleNamespace(denoiser=Echo(), shape=(2,), unconditional=unconditional, name="words", what="text")
    for interval, logsnr, right in (
        (None, 0.0, unconditional + 3 * (condition - unconditional)),
        ((-4.0, 2.0), 0.0, unconditional + 3 * (condition - unconditional)),
        ((-4.0, 2.0), 5.0, condition),
    ):
        asked = Sample(run=Path("x"), out=Path("y.png"), n=1, steps=2, guidance=3.0, interval=interval, prompt="a boat")
        belief = guide(asked, found, condition, ddim)(torch.zeros(1, 2), process.time(logsnr), condition)
        assert torch.equal(belief.mean, right)


def test_a_class_by_name_with_guidance_in_an_interval(classes: Path, tmp_path: Path) -> None:
    words = ["--n", 2, "--steps", 3, "--label", "fox", "--guidance", 3, "--interval", -4, 2]
    run("sample", classes, "--out", tmp_path / "x.npz", *words)
    found = opened(classes, label=2)
    z = sample(within(-4, 2, guided(3.0))(found.denoiser), 2, 3, sampler=adams, cond=found.cond(2, 0))
    kept = np.load(tmp_path / "x.npz")
    assert np.array_equal(kept["arr_0"], pixels(found.pixels(z)))
    assert kept["arr_1"].tolist() == [2, 2]


def test_an_interval_between_two_steps_is_refused(classes: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["--n", 2, "--steps", 3, "--guidance", 3, "--out", tmp_path / "x.npz", "--interval"]
    for low, high in ((3.1, 3.2), (60, 90)):
        error = refused(capsys, "sample", classes, *words, low, high)
        assert f"--interval {low:g} {high:g} was asked for, and nothing would be guided" in error
    assert not list(tmp_path.iterdir())


def test_classes_take_turns(classes: Path, tmp_path: Path) -> None:
    run("sample", classes, "--out", tmp_path / "x.npz", "--n", 4, "--first", 1, "--steps", 1)
    assert np.load(tmp_path / "x.npz")["arr_1"].tolist() == [1, 2, 0, 1]


def test_an_image_carries_its_recipe(plain: Path, tmp_path: Path, capsys: Any) -> None:
    run("sample", plain, "--out", tmp_path / "x.png", "--n", 1, "--steps", 2)
    with Image.open(tmp_path / "x.png") as image:
        recipe = json.loads(image.info["softmix"])
    assert recipe["run"] == "shapes" and recipe["arguments"]["steps"] == 2
    assert "Table(1000 steps" in recipe["what"]
    capsys.readouterr()
    assert "was drawn from a folder of diffusers" in refused(capsys, "repeat", tmp_path / "x.png")


def test_a_dry_run_writes_nothing(plain: Path, tmp_path: Path, capsys: Any) -> None:
    run("sample", plain, "--out", tmp_path / "x.png", "--dry-run")
    assert json.loads(capsys.readouterr().out)["run"] == "shapes"
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weights", "ema-0.050"], "--weights ema-0.050"),
        (["--average", 2], "--average 2"),
        (["--prompt", "a boat"], "takes no condition"),
        (["--label", "fox"], "class fox was asked for"),
        (["--guidance", 2], "--guidance needs classes or a prompt"),
        (["--sampler", "none"], "'none'"),
        (["--eta", 0.5], "only ancestral and ddim"),
    ],
)
def test_an_option_without_effect_is_refused(
    plain: Path, tmp_path: Path, capsys: Any, words: list[object], says: str
) -> None:
    assert says in refused(capsys, "sample", plain, "--out", tmp_path / "x.png", *words)
    assert not list(tmp_path.iterdir())


def test_a_prompt_is_refused_for_a_run_of_softmix(tmp_path: Path, capsys: Any) -> None:
    assert "--prompt" in refused(capsys, "sample", "fashion", "--prompt", "a boat", "--out", tmp_path / "x.png")
