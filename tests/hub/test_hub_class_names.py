"""Class names go out with `softmix export` and come back with `from_diffusers` and `softmix sample`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

import softmix  # noqa: E402
from softmix.cli import main  # noqa: E402
from softmix.data import load  # noqa: E402
from softmix.data.store import make  # noqa: E402
from softmix.denoiser import guided  # noqa: E402
from softmix.hub import HubError, SoftmixPipeline, drawing, export, from_diffusers  # noqa: E402
from softmix.train import Model, preset  # noqa: E402

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ID2LABEL = {str(k): name for k, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Preset name -> a model of digits with class names, after a few steps."""
    digits = load("digits")
    data = make("named", digits.values, digits.labels, NAMES, digits.report)
    trained: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in trained:
            config = preset(name, data.shape).but(steps=4, batch=32, classes=True)  # type: ignore[arg-type]
            trained[name] = softmix.train(data, config, tmp_path_factory.mktemp(name) / "run")
        return trained[name]

    return get


@pytest.fixture(scope="module")
def folders(models: Callable[[str], Model], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Preset name -> the exported folder, written by the command line."""
    written: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp(name) / "folder"
            main(["export", str(models(name).path), str(written[name])])
        return written[name]

    return get


BOTH = pytest.mark.parametrize("name", ["plain", "smd"])


@BOTH
def test_an_exported_unet_has_the_class_names_in_its_configuration(folders: Callable[[str], Path], name: str) -> None:
    config = json.loads((folders(name) / "unet" / "config.json").read_text())
    assert config["id2label"] == ID2LABEL


def test_a_softmix_pipeline_has_the_class_names_in_its_index(folders: Callable[[str], Path]) -> None:
    assert json.loads((folders("smd") / "model_index.json").read_text())["id2label"] == ID2LABEL


@BOTH
def test_diffusers_loads_the_class_names(folders: Callable[[str], Path], name: str) -> None:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders(name))
    assert dict(pipe.unet.config.id2label) == ID2LABEL


@BOTH
def test_diffusers_loads_the_folder_without_a_warning(
    folders: Callable[[str], Path], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    diffusers.utils.logging.enable_propagation()
    with caplog.at_level("WARNING"):
        diffusers.DiffusionPipeline.from_pretrained(folders(name), low_cpu_mem_usage=False)
    assert [record.getMessage() for record in caplog.records if "id2label" in record.getMessage()] == []


@BOTH
def test_from_diffusers_has_the_class_names_again(folders: Callable[[str], Path], name: str) -> None:
    assert from_diffusers(folders(name)).class_names == NAMES


def test_the_folder_of_the_unet_alone_has_the_class_names(folders: Callable[[str], Path]) -> None:
    assert from_diffusers(folders("plain") / "unet").class_names == NAMES


@BOTH
def test_a_pipeline_saved_again_by_diffusers_keeps_the_class_names(
    folders: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    diffusers.DiffusionPipeline.from_pretrained(folders(name)).save_pretrained(tmp_path / "again")
    assert from_diffusers(tmp_path / "again").class_names == NAMES


@BOTH
def test_a_folder_written_before_id2label_has_the_class_names(
    folders: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """The record of the run in the configuration has them."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders(name))
    pipe.save_pretrained(tmp_path / "old")
    for file in (tmp_path / "old" / "unet" / "config.json", tmp_path / "old" / "model_index.json"):
        config = json.loads(file.read_text())
        config.pop("id2label", None)
        file.write_text(json.dumps(config))
    assert from_diffusers(tmp_path / "old").class_names == NAMES


def test_a_class_by_name_and_by_number_give_the_same_images(folders: Callable[[str], Path]) -> None:
    pipe = SoftmixPipeline.from_pretrained(folders("smd"))
    pipe.set_progress_bar_config(disable=True)
    assert pipe.labels == {name: k for k, name in enumerate(NAMES)}
    by_name = pipe(2, 2, class_labels=["three", "eight"], output_type="pt").images
    assert torch.equal(by_name, pipe(2, 2, class_labels=[3, 8], output_type="pt").images)
    assert not torch.equal(by_name, pipe(2, 2, class_labels=[3, 7], output_type="pt").images)
    with pytest.raises(HubError, match=r"class ten was asked for; its classes are 0 to 9 \(zero, one, "):
        pipe(1, 2, class_labels=["ten"])


def test_softmix_sample_takes_a_class_of_an_exported_folder_by_name(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    for label in ("seven", "7", "8"):
        words = ["--n", "2", "--steps", "2", "--label", label, "--out", str(tmp_path / f"{label}.npz")]
        main(["sample", str(folders("plain")), *words])
    files: Any = {label: np.load(tmp_path / f"{label}.npz") for label in ("seven", "7", "8")}
    assert files["seven"]["arr_1"].tolist() == [7, 7]
    assert np.array_equal(files["seven"]["arr_0"], files["7"]["arr_0"])
    assert not np.array_equal(files["seven"]["arr_0"], files["8"]["arr_0"])


@BOTH
def test_class_labels_and_no_class_mean_the_same_as_in_softmix(
    models: Callable[[str], Model], folders: Callable[[str], Path], name: str
) -> None:
    """So guidance works on an exported folder as it stands. At t = 0.4 the soft mixture is its mean alone too."""
    x, labels = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 9, -1])
    native, read = models(name).denoiser.to(x.device), from_diffusers(folders(name)).to(x.device)
    right: Any = native(x, 0.4, labels)
    # measured: 3e-7 here and 1e-6 with guidance
    assert (read(x, 0.4, labels).mean - right.mean).abs().max() < 1e-5
    right = guided(3.0)(native)(x[:2], 0.4, labels[:2])
    by_guidance: Any = guided(3.0)(read)(x[:2], 0.4, labels[:2])
    assert (by_guidance.mean - right.mean).abs().max() < 3e-5


def test_a_model_without_classes_has_no_class_names(tmp_path: Path) -> None:
    """Also if its data had some."""
    digits = load("digits")
    data = make("named", digits.values, digits.labels, NAMES, digits.report)
    model = softmix.train(data, preset("plain", data.shape).but(steps=2, batch=16), tmp_path / "run")
    folder = export(model, tmp_path / "folder")
    assert from_diffusers(folder).class_names == ()
    assert json.loads((folder / "unet" / "config.json").read_text()).get("id2label") is None


def test_names_of_a_dit_are_read_and_missing_ones_are_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=1, sample_size=8, num_embeds_ada_norm=3,
        norm_num_groups=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8)
    named = diffusers.DiTPipeline(dit, vae, diffusers.DDIMScheduler(), id2label={0: "cat", 1: "dog, hound", 2: "fox"})
    assert from_diffusers(named).class_names == ("cat", "dog, hound", "fox")
    # diffusers does not save the names
    named.save_pretrained(tmp_path)
    assert from_diffusers(tmp_path).class_names == ()
    assert drawing(tmp_path).class_names == ("0", "1", "2")
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": {"0": "cat", "2": "vixen, fox"}}))
    assert from_diffusers(tmp_path).class_names == drawing(tmp_path).class_names == ("cat", "1", "vixen, fox")
