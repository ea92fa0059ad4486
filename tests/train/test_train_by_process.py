"""Presets with a process by name: each trains, is saved, read again and sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from softmix import Cond, training
from softmix.data import Coarse, Data, Degraded, load
from softmix.denoiser import MultiScale, Network
from softmix.loss import Energy, SquarePerElement
from softmix.net import UNetSpec
from softmix.process import RDDM, SPD, VP, Immiscible, LabelShift, NonUniform, ShiftDDPM
from softmix.rng import Rng
from softmix.sampler import ddim, sample
from softmix.train import PROCESS_NAMES, ProcessName, Times, TrainingError, preset, with_process
from softmix.train import load as load_run

SMALL = UNetSpec(width=16, mults=(1,), depth=1, patch=1, attention=False)


class Dim:
    """Half of the light, with noise."""

    fingerprint = "half of the light"

    def __call__(self, x0: Tensor, rng: Rng) -> Tensor:
        return 0.5 * x0 + 0.1 * rng.normal(x0.shape, x0.dtype)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=200)


@pytest.mark.parametrize("name", PROCESS_NAMES)
@pytest.mark.parametrize("model", ["plain", "smd"])
def test_each_process_trains_is_read_again_and_sampled(
    name: ProcessName, model: str, digits: Data, tmp_path: Path
) -> None:
    paired = name in ("rddm", "resfusion", "interpolant")
    source = Degraded(digits, Dim()) if paired else digits
    config = preset(model, source.shape, source.cond).but(net=SMALL, steps=4, batch=8)  # type: ignore[arg-type]
    config = with_process(config, name, source)
    losses = [step.loss for step in training(source, config, tmp_path / "run")]
    assert all(loss == loss and loss > 0 for loss in losses)
    run = load_run(tmp_path / "run")
    denoiser = run.denoiser
    cond: Cond | Tensor | None = Cond(image=torch.zeros(3, 1, 8, 8)) if paired else None
    if name == "shift-ddpm":
        cond = torch.tensor([1, 2, 3])
    # an interpolant has samplers of its own
    x = sample(denoiser, 3, 3, cond=cond, sampler=run.sampler if name == "interpolant" else ddim)
    assert x.shape == (3, 1, 8, 8) and bool(x.isfinite().all())


def test_a_trained_shift_is_saved_and_read_again(digits: Data, tmp_path: Path) -> None:
    config = with_process(preset("plain", digits.shape), "shift-ddpm", digits).but(net=SMALL, steps=6, batch=16)
    assert config.task.classes and config.task.output == "eps" and config.task.loss.weight == "eps"
    for _ in training(digits, config, tmp_path / "run"):
        pass
    one, other = (load_run(tmp_path / "run").denoiser for _ in range(2))
    assert isinstance(one, Network)
    assert float(one.shift.table.abs().max()) > 0 and torch.equal(one.shift.table, other.shift.table)


def test_what_a_process_asks_for_goes_with_it(digits: Data) -> None:
    pairs, plain = Degraded(digits, Dim()), preset("plain", digits.shape)
    rddm = with_process(plain, "rddm", pairs).task
    assert (rddm.process, rddm.output, rddm.drop, rddm.loss.weight) == (RDDM(), "residual", 0.0, "x0")
    resfusion = with_process(plain, "resfusion", pairs).task
    assert (resfusion.output, resfusion.loss.weight) == ("resnoise", "v")
    assert with_process(preset("smd", digits.shape, pairs.cond), "rddm", pairs).task.loss.weight == "v"
    again = with_process(with_process(plain, "rddm", pairs), "vp", pairs).task
    assert (again.output, again.loss.weight) == ("v", "v")
    by_image = with_process(plain, "shift-ddpm", pairs).task.process
    assert isinstance(by_image, ShiftDDPM) and not isinstance(by_image.shift, LabelShift)
    spd = with_process(plain, "spd", digits).task
    assert isinstance(spd.process, SPD) and spd.output == "x0" and spd.process.size == 8
    # the middle of an image carries more than its fine structure
    assert spd.process.spectrum[1] > 3 * spd.process.spectrum[4]
    assert with_process(plain, "vp", digits) == plain and isinstance(
        with_process(plain, "immiscible", digits).task.process, Immiscible
    )


def test_bands_are_as_many_as_the_size_has(digits: Data) -> None:
    task = with_process(preset("plain", digits.shape), "non-uniform", digits).task
    assert task.process == NonUniform((8, 8), 2) and task.output == "x0" and task.loss == SquarePerElement()
    once = Coarse(digits, 2)
    assert with_process(preset("plain", once.shape), "non-uniform", once).task.process == NonUniform((2, 2), 1)
    # a soft mixture keeps its loss of draws
    soft = with_process(preset("smd", digits.shape), "non-uniform", digits).task
    assert isinstance(soft.loss, Energy)
    with pytest.raises(TrainingError, match=r"non-uniform halves images, .* have shape \(1, 1, 1\)"):
        with_process(preset("plain", (1, 1, 1)), "non-uniform", Coarse(digits, 3))


def test_the_networks_of_a_multi_scale_model_train_apart_and_sample_together(digits: Data, tmp_path: Path) -> None:
    """Each on its own times and coarse images; they are read from their folders."""
    whole, models = NonUniform((8, 8), 2), []
    for level, (low, high) in enumerate(zip((1e-3, *whole.ends), whole.ends, strict=False)):
        source = Coarse(digits, level)
        config = preset("plain", source.shape).but(
            net=SMALL, steps=4, batch=8, process=whole.coarse(level), output="x0", times=Times(low=low, high=high)
        )
        for _ in training(source, config.but(loss=SquarePerElement()), tmp_path / str(level)):
            pass
        models.append(load_run(tmp_path / str(level)).denoiser)
    x = sample(MultiScale(models), 3, 5, sampler=ddim)
    assert x.shape == (3, 1, 8, 8) and bool(x.isfinite().all())
    with pytest.raises(ValueError, match="was expected"):
        MultiScale([models[0], models[2]])


def test_a_process_that_does_not_fit_is_refused(digits: Data) -> None:
    points = load("toy:grid", limit=100)
    with pytest.raises(TrainingError, match="spd is for square images"):
        with_process(preset("plain", points.shape), "spd", points)
    with pytest.raises(TrainingError, match="has neither"):
        with_process(preset("plain", points.shape), "shift-ddpm", points)
    with pytest.raises(TrainingError, match=r"'ddpm' was asked for; there are vp, .*immiscible"):
        with_process(preset("plain", digits.shape), "ddpm", digits)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="this process does not fit the rest: the loss MeanFlow needs"):
        with_process(preset("meanflow", digits.shape), "rddm", Degraded(digits, Dim()))
    assert VP() == preset("plain", digits.shape).task.process
