"""Text at the command line: train, sample to a file, bits per token, and the options that make no sense for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import call, refused

from softmix.data import load
from softmix.train import load as load_run

LINES = "".join(f"{k} bottles of beer on the wall,\n{k} bottles of beer.\n" for k in range(120, 0, -1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("text")
    (place / "song.txt").write_text(LINES, encoding="utf-8")
    code, out, err = call(
        *("train", place / "song.txt", "--tokens", "characters", "--length", 16, "--hold-out", 0.2),
        *("--out", place / "run", "--steps", 4, "--set", "net.width=32", "net.depth=1", "batch=8"),
    )
    assert code == 0, err
    assert f"softmix sample {place / 'run'} --n 64 --steps 16 --out samples.txt" in out
    yield place / "run"


def test_a_text_takes_masked_diffusion_with_its_own_symbols(run: Path) -> None:
    model = load_run(run)
    data = load(run.parent / "song.txt", tokens="characters", length=16, hold_out=0.2)
    assert model.process.symbols == data.vocabulary and model.facts.alphabet == data.alphabet  # type: ignore[attr-defined]
    assert type(model.config.task.loss).__name__ == "MaskedCrossEntropy"  # type: ignore[union-attr]
    assert "masked_diffusion2024" in (run / "README.md").read_text()


def test_samples_are_text_of_the_symbols_of_the_data(run: Path) -> None:
    out = run.parent / "samples.txt"
    code, shown, err = call("sample", run, "--n", 3, "--steps", 8, "--out", out)
    assert code == 0, err
    text = out.read_text(encoding="utf-8")
    parts = text.split("--- ")[1:]
    assert [part[: part.index("\n")] for part in parts] == ["0", "1", "2"]
    items = [part[part.index("\n") + 1 : -1] for part in parts]
    assert all(len(item) == 16 and set(item) <= set(LINES) for item in items)
    assert items[0] in shown and f"wrote {out}" in shown


def test_the_tokens_of_an_array_are_those_of_the_text(run: Path) -> None:
    array, text = run.parent / "s.npy", run.parent / "s.txt"
    for out in (array, text):
        code, _, err = call("sample", run, "--n", 2, "--steps", 5, "--sampler", "unmask", "--out", out)
        assert code == 0, err
    alphabet = load_run(run).facts.alphabet
    written = "".join(
        f"--- {k}\n{''.join(alphabet[token] for token in row)}\n" for k, row in enumerate(np.load(array).tolist())
    )
    assert text.read_text(encoding="utf-8") == written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "x.png"), "makes text: give a name that ends in .txt"),
        (("--out", "x.txt", "--sampler", "ddim"), "the states of Masked are tokens: take ancestral, renoise, unmask"),
        (("--out", "x.txt", "--average", 4), "makes tokens, which have no mean"),
        (("--out", "x.txt", "--eta", 0.5), "no share of fresh noise"),
        (("--out", "x.txt", "--grid", "uniform-logsnr"), "infinite for this model"),
    ],
)
def test_options_that_make_no_sense_for_text_are_refused(
    run: Path, options: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call("sample", run, "--n", 2, *options)
    assert code == 2 and message in err and "Traceback" not in err and not list(tmp_path.iterdir())


def test_a_model_of_images_writes_no_text(tmp_path: Path) -> None:
    assert "makes no text" in refused("sample", "fashion", "--out", tmp_path / "x.txt")


def test_evaluate_prints_the_bits_of_held_out_text(run: Path) -> None:
    code, out, err = call("evaluate", run)
    assert code == 0, err
    line = next(line for line in out.splitlines() if "bits per token" in line)
    bits = float(line.split("at most ")[1].split()[0])
    # a network after four steps knows little of 25 symbols
    assert 2 < bits < 7 and "the share held out" in line and not (run / "report.html").exists()
    for option in (("--steps", 4), ("--sampler", "unmask"), ("--features", "pca")):
        assert "leave it out" in refused("evaluate", run, *option)
    assert "with 16 masked versions" in call("evaluate", run, "--n", 5, "--dry-run")[1]


def test_bytes_and_arrays_of_tokens_are_trained_too(tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_text(LINES, encoding="utf-8")
    np.save(tmp_path / "codes.npy", np.arange(60).reshape(10, 6) % 5)
    plan = ("--out", tmp_path / "run", "--steps", 2, "--dry-run")
    code, out, err = call("train", tmp_path / "song.txt", "--tokens", "bytes", "--length", 8, *plan)
    assert code == 0, err
    facts = json.loads(out[out.index("{") : out.rindex("}") + 1])["facts"]
    assert (facts["vocabulary"], facts["alphabet"], facts["shape"]) == (256, "", [8])
    code, out, err = call("train", tmp_path / "codes.npy", "--tokens", 5, *plan[:-1])
    assert code == 0, err
    assert "--out samples.npy" in out
    assert "makes no text" in refused("sample", tmp_path / "run", "--out", tmp_path / "x.txt")


def test_the_loss_of_cdcd_is_set_by_its_name(run: Path, tmp_path: Path) -> None:
    code, out, err = call(
        *("train", run.parent / "song.txt", "--tokens", "characters", "--length", 16, "--out", tmp_path / "x"),
        *("--steps", 2, "--set", "loss.kind=Contrastive", "loss.weight=0.05", "loss.of=own", "--dry-run"),
    )
    assert code == 0, err
    loss = json.loads(out[out.index("{") : out.rindex("}") + 1])["config"]["task"]["loss"]
    assert (loss["kind"], loss["weight"], loss["of"]) == ("Contrastive", 0.05, "own")


def test_models_of_numbers_refuse_text(run: Path, tmp_path: Path) -> None:
    text = (run.parent / "song.txt", "--tokens", "characters", "--length", 16, "--out", tmp_path / "x", "--steps", 2)
    assert "holds tokens, and VP" in call("train", *text, "--model", "smd")[2]
    assert (
        "Masked is for tokens in a row"
        in call("train", "toy:ring", "--model", "masked", "--out", tmp_path / "y", "--steps", 2)[2]
    )
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()
