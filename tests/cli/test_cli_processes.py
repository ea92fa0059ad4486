"""The commands with runs of other processes: pairs, coupled noise, frequencies. Each works, or says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softmix.cli import main
from softmix.cli.run_data import training_data, with_held_out
from softmix.evaluate import evaluate_model
from softmix.process import RDDM, Immiscible, Interpolant
from softmix.rng import Rng
from softmix.sampler import ddim, sample
from softmix.train import load, read_run

TINY = [
    "--model",
    "plain",
    "--steps",
    "3",
    "--hold-out",
    "0.3",
    "--set",
    "net.width=8",
    "batch=8",
    "optimiser.warmup=1",
    "net.attention=false",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of 40 pictures, sharp and dim, and a run of each process."""
    folder = tmp_path_factory.mktemp("processes")
    rng = np.random.default_rng(0)
    for name in ("sharp", "dim"):
        (folder / name).mkdir()
    for k in range(40):
        picture = rng.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "sharp" / f"{k:02}.png")
        Image.fromarray(picture // 2).save(folder / "dim" / f"{k:02}.png")
    sharp, dim = str(folder / "sharp"), str(folder / "dim")
    main(
        [
            "train",
            sharp,
            "--beside",
            dim,
            "--process",
            "rddm",
            "--out",
            str(folder / "rddm"),
            *TINY,
        ]
    )
    for name in ("immiscible", "spd"):
        main(["train", sharp, "--process", name, "--out", str(folder / name), *TINY])
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence of a command that ends with exit code 1 or 2, and not as a fault of the program."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code in (1, 2) and "in the program itself" not in said
    return said


def test_a_process_by_name_is_in_the_configuration_and_the_same_command_resumes(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_run(place / "rddm").config.task.process == RDDM()
    assert read_run(place / "immiscible").config.task.process == Immiscible()
    sharp, dim = str(place / "sharp"), str(place / "dim")
    same = [
        "train",
        sharp,
        "--beside",
        dim,
        "--process",
        "rddm",
        "--out",
        str(place / "rddm"),
        *TINY,
    ]
    main(same)
    assert "nothing was trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "head"), [((), "PointHead"), (("--model", "smd"), "SoftHead"), (("--process", "immiscible"), "SoftHead")]
)
def test_a_process_of_pairs_has_a_mean_by_default(
    place: Path, tmp_path: Path, words: tuple[str, ...], head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = ["train", str(place / "sharp"), "--beside", str(place / "dim")]
    process = [] if "--process" in words else ["--process", "rddm"]
    main([*pairs, *process, *words, "--steps", "1", "--out", str(tmp_path / "run"), "--dry-run"])
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{") : shown.rindex("}") + 1])["config"]["task"]["head"]["kind"] == head


def test_settings_of_the_process_may_be_given(place: Path, tmp_path: Path) -> None:
    sharp, dim = str(place / "sharp"), str(place / "dim")
    own = [*TINY, "process.sd=0.1", "process.fade=1"]
    main(["train", sharp, "--beside", dim, "--process", "rddm", "--out", str(tmp_path / "run"), *own])
    assert read_run(tmp_path / "run").config.task.process == RDDM(1.0, 1.0, 0.1)


def test_a_picture_is_restored(place: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "a.npy", tmp_path / "b.npy"
    for out, name in ((one, "00.png"), (other, "01.png")):
        beside = str(place / "dim" / name)
        main(["sample", str(place / "rddm"), "--beside", beside, "--n", "2", "--steps", "2", "--out", str(out)])
    assert np.load(one).shape == (2, 8, 8) and not np.array_equal(np.load(one), np.load(other))


def test_a_model_of_pairs_asks_for_a_picture(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(place / "rddm")
    assert "give the picture to start from" in refused(["sample", run, "--out", str(tmp_path / "x.png")], capsys)
    guided = ["sample", run, "--beside", str(place / "dim"), "--guidance", "2", "--out", str(tmp_path / "x.png")]
    assert "trained with drop = 0" in refused(guided, capsys)


@pytest.mark.parametrize("name", ["rddm", "immiscible", "spd"])
def test_each_is_evaluated(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(place / name), "--n", "10", "--steps", "1", "2"])
    said = capsys.readouterr().out
    assert ("psnr" in said.lower()) == (name == "rddm")
    assert ("condition of a held-out item" in said) == (name == "rddm")


@pytest.mark.parametrize("name", ["rddm", "immiscible", "spd"])
@pytest.mark.parametrize("verb", ["edit", "statistics", "export"])
def test_what_needs_a_plain_process_says_so(
    name: str, verb: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    run, picture = str(place / name), str(place / "sharp" / "00.png")
    rest = {"edit": [picture, "--shift", "1", "0", "--out", str(tmp_path / "e.png")], "statistics": []}
    said = refused([verb, run, *rest.get(verb, [str(tmp_path / "exported")])], capsys)
    assert type(read_run(place / name).config.task.process).__name__ in said


@pytest.mark.parametrize("sampler", [["renoise"], ["ancestral", "--eta", "1"], ["sde-dpm-solver-2m"]])
def test_coupled_noise_refuses_samplers_with_fresh_noise(
    sampler: list[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--n", "2", "--steps", "3", "--out", str(tmp_path / "x.png")]
    said = refused(["sample", str(place / "immiscible"), "--sampler", *sampler, *out], capsys)
    assert "take a sampler with eta = 0" in said


def test_the_psnr_is_that_of_each_pair(place: Path, tmp_path: Path) -> None:
    """Of a row of the report, against samples drawn by hand from the same conditions."""

    model = load(place / "rddm")
    train, held_out, _ = with_held_out(training_data(place / "rddm", None, "evaluate"))
    result = evaluate_model(model.denoiser, train, held_out, title="t", steps=(2,), sampler=ddim, n=12, cache=tmp_path)
    index = torch.arange(12) % len(held_out)
    x0, cond = held_out.batch(index, Rng(0, 12))
    x = sample(model.denoiser, 12, 2, sampler=ddim, cond=cond).clamp(-1, 1)
    right = 10 * np.log10(4 / float((x - x0).square().mean()))
    assert result.rows[-1].values["psnr"] == pytest.approx(right, abs=0.05)


def test_an_interpolant_is_trained_sampled_and_evaluated(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts at the picture of the condition, by its own sampler and by draws; a Gaussian sampler is refused."""
    sharp, dim, run = str(place / "sharp"), str(place / "dim"), str(tmp_path / "run")
    main(["train", sharp, "--beside", dim, "--process", "interpolant", "--out", run, *TINY, "process.latent=smooth"])
    assert read_run(Path(run)).config.task.process == Interpolant("linear", "smooth")
    out = str(tmp_path / "x.npy")
    for sampler in ([], ["--sampler", "ancestral"], ["--sampler", "interpolant-heun"]):
        main(["sample", run, "--beside", dim, "--n", "3", "--steps", "2", "--out", out, *sampler])
        assert np.load(out).shape == (3, 8, 8)
    main(["evaluate", run, "--n", "10", "--steps", "1", "2"])
    assert "condition of a held-out item" in capsys.readouterr().out
    assert "give the picture to start from" in refused(["sample", run, "--out", out], capsys)
    said = refused(["sample", run, "--beside", dim, "--n", "2", "--sampler", "heun", "--out", out], capsys)
    assert "heun uses x_t = alpha x0 + sigma z, and Interpolant leads to other data" in said
