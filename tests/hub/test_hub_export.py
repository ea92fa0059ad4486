"""Exported folders: generators, labels, a replaced scheduler; and the command `softmix export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

import softmix  # noqa: E402
from softmix.cli import main  # noqa: E402
from softmix.data import load  # noqa: E402
from softmix.hub import AdamsScheduler, HubError, SoftmixPipeline, export, from_diffusers  # noqa: E402
from softmix.rng import Rng  # noqa: E402
from softmix.sampler import BY_NAME, adams, drive, sample  # noqa: E402
from softmix.sampler.drive import finish  # noqa: E402
from softmix.train import Model, preset  # noqa: E402

Trained = Callable[..., Model]


@pytest.fixture(scope="module")
def soft(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(trained("smd"), tmp_path_factory.mktemp("soft") / "folder")


def opened(folder: Path) -> Any:
    pipe = SoftmixPipeline.from_pretrained(folder).to(torch.zeros(()).device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_list_of_generators_seeds_each_image(soft: Path) -> None:
    pipe = opened(soft)
    several = pipe(3, 2, generator=seeded(1, 2, 1), output_type="pt").images
    alone = [pipe(1, 2, generator=seeded(k)[0], output_type="pt").images[0] for k in (1, 2)]
    assert (several[0] - alone[0]).abs().max() < 1e-5 and (several[1] - alone[1]).abs().max() < 1e-5
    assert torch.equal(several[0], several[2]) and not torch.allclose(several[0], several[1], atol=1e-2)
    with pytest.raises(HubError, match="2 generators were given for 3 images"):
        pipe(3, 2, generator=seeded(1, 2))


def test_a_list_of_generators_and_labels_go_together(trained: Trained, tmp_path: Path) -> None:
    pipe = opened(export(trained("smd", True), tmp_path / "classes"))
    several = pipe(2, 2, generator=seeded(1, 1), class_labels=[3, 8], output_type="pt").images
    for k, label in enumerate((3, 8)):
        alone = pipe(1, 2, generator=seeded(1)[0], class_labels=[label], output_type="pt").images[0]
        assert (several[k] - alone).abs().max() < 1e-5
    assert not torch.allclose(several[0], several[1], atol=1e-3)


def test_a_replaced_scheduler_takes_the_steps(trained: Trained, soft: Path) -> None:
    """It runs on the posterior mean, from the noise of the seed."""
    model, pipe = trained("smd"), opened(soft)
    model.denoiser.to(pipe.device)
    usual = pipe(2, 6, seed=5, output_type="pt").images
    assert (usual - sample(model.denoiser, 2, 6, sampler=model.sampler, seed=5)).abs().max() < 1e-5
    exported = pipe.scheduler
    pipe.scheduler = AdamsScheduler.from_config(exported.config)
    found = pipe(2, 6, seed=5, output_type="pt").images
    x = Rng(5, 2, "sample").child("prior").normal((2, 1, 8, 8))
    right = finish(drive(from_diffusers(pipe.unet, pipe.scheduler), adams, x, pipe.scheduler._grid, Rng(0, 2)))
    assert (found - right).abs().max() < 1e-4 and (found - usual).abs().max() > 1e-2
    with pytest.raises(HubError, match="AdamsScheduler is in the place of the exported"):
        pipe(2, 6, sampler="adams")
    # the same class with another configuration counts as replaced
    pipe.scheduler = type(exported).from_config(exported.config, timestep_spacing="leading")
    assert (pipe(2, 6, seed=5, output_type="pt").images - usual).abs().max() > 1e-2
    # a scheduler with fresh noise follows the seed
    pipe.scheduler = diffusers.DDPMScheduler.from_config(exported.config)
    drawn = [pipe(2, 6, seed=seed, output_type="pt").images for seed in (5, 5, 6)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(HubError, match="FlowMatchEulerDiscreteScheduler is for another process"):
        pipe(2, 6)
    # an equal scheduler counts as the exported one
    pipe.scheduler = type(exported).from_config(exported.config)
    assert torch.equal(pipe(2, 6, seed=5, output_type="pt").images, usual)
    assert (pipe(2, 6, sampler="ddim", seed=5, output_type="pt").images
            - sample(model.denoiser, 2, 6, sampler=BY_NAME["ddim"], seed=5)).abs().max() < 1e-5  # fmt: skip


def test_softmix_export_writes_a_folder_that_gives_the_same_images(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = str(trained("smd").path), tmp_path / "there"
    main(["export", run, str(folder), "--dry-run"])
    assert "would write" in capsys.readouterr().out and not folder.exists()
    main(["export", run, str(folder), "--weights", "model"])
    assert "wrote" in capsys.readouterr().out and [each.name for each in tmp_path.iterdir()] == ["there"]
    x = opened(folder)(2, 2, seed=4, output_type="pt").images
    model = trained("smd")
    right = sample(softmix.load(run, "model").denoiser.to(x.device), 2, 2, sampler=model.sampler, seed=4)
    assert (x - right).abs().max() < 1e-5


@pytest.mark.parametrize("there", ["a file", "a folder with something"])
def test_softmix_export_overwrites_nothing(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    folder = tmp_path / "there"
    kept = folder if there == "a file" else folder / "kept"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["export", str(trained("smd").path), str(folder)])
    assert end.value.code == 2 and "is there already" in capsys.readouterr().err and kept.read_text() == "mine"


def test_softmix_export_refuses_points_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = softmix.train(load("toy:grid"), preset("plain", (2,)).but(steps=2), tmp_path / "run")
    with pytest.raises(SystemExit) as end:
        main(["export", str(few.path), str(tmp_path / "points")])
    assert end.value.code == 2 and "square images" in capsys.readouterr().err
    assert not (tmp_path / "points").exists()
