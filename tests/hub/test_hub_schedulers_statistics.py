"""The statistics of DPM-Solver-v3 are saved and loaded with the scheduler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

from diffusers import DDPMPipeline, UNet2DModel  # noqa: E402

from softmix.hub import AdamsScheduler, DPMSolverV3Scheduler  # noqa: E402
from softmix.sampler import Statistics  # noqa: E402


def statistics() -> Statistics:
    generator = torch.Generator().manual_seed(0)
    shape = (7, 1, 8, 8)
    l, s, b = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(3))  # noqa: E741
    return Statistics(torch.linspace(-4, 4, 7, dtype=torch.float64), l, s - 0.5, b - 0.5)


def ended(scheduler: DPMSolverV3Scheduler) -> torch.Tensor:
    scheduler.set_timesteps(6)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for k in scheduler.timesteps:
        x = scheduler.step(0.5 * x, k, x).prev_sample  # type: ignore[union-attr]
    return x


@pytest.mark.parametrize("given", ["object", "path", "str"])
def test_statistics_are_saved_and_loaded_with_the_scheduler(given: str, tmp_path: Path) -> None:
    """From another folder, after the original file is deleted."""
    kept = tmp_path / "made" / "statistics.safetensors"
    kept.parent.mkdir()
    statistics().save(kept)
    option = {"object": statistics(), "path": kept, "str": str(kept)}[given]
    scheduler = DPMSolverV3Scheduler(options={"statistics": option, "order": 3})
    right = ended(scheduler)
    assert (right - ended(DPMSolverV3Scheduler(options={"order": 3}))).abs().max() > 0.01
    kept.unlink()
    scheduler.save_pretrained(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "second")
    again = DPMSolverV3Scheduler.from_pretrained(tmp_path / "second")
    assert torch.equal(ended(again), right)
    assert str(tmp_path) not in (tmp_path / "second" / "scheduler_config.json").read_text()
    # and once more: from the loaded scheduler, and from its configuration
    again.save_pretrained(tmp_path / "third" / "scheduler")
    third = DPMSolverV3Scheduler.from_pretrained(tmp_path / "third", subfolder="scheduler")
    assert torch.equal(ended(third), right)
    assert torch.equal(ended(DPMSolverV3Scheduler.from_config(third.config)), right)
    assert AdamsScheduler.from_config(third.config).config.options is None
    assert "statistics" in repr(scheduler)


def test_statistics_are_saved_with_a_pipeline(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    pipe = DDPMPipeline(unet, DPMSolverV3Scheduler(options={"statistics": statistics()}))
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    again = DDPMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    images = [
        each(num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="np").images
        for each in (pipe, again)
    ]
    assert again.scheduler.statistics is not None and (images[0] == images[1]).all()


def test_a_missing_statistics_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.safetensors, which is no file"):
        DPMSolverV3Scheduler(options={"statistics": tmp_path / "gone.safetensors"})
