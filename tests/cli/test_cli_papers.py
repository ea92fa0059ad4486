"""Tests of `softmix reproduce` and `softmix papers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import call

from softmix import recipe
from softmix.recipe import Paper, Scale, Verdict, VerdictRow

PAPER = Paper("ours", "A title", "Somebody", "ICML", 2030, "3001.00001", "It is better.")
VERDICT = Verdict(
    PAPER.claim, "holds in part", "one of two", (VerdictRow("ours", "ours", "error", 0.125, 0.0, 1),), 3.0, {"cores": 2}
)


@dataclass
class Recipe:
    """A recipe that records its calls."""

    error: BaseException | None = None
    asked: list[Any] = field(default_factory=list)

    def run(self, scale: Scale, say: Callable[[str], None], out: Path | None = None) -> Verdict:
        self.asked.append((scale, out))
        say("a line as it comes")
        if self.error:
            raise self.error
        return VERDICT


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    made = Recipe()
    monkeypatch.setattr(recipe, "PAPERS", {"ours": SimpleNamespace(PAPER=PAPER, RESULT="in part", run=made.run)})
    return made


def test_a_claim_runs_at_the_chosen_scale(ours: Recipe, tmp_path: Path) -> None:
    code, out, _ = call("reproduce", "ours")
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    for said in ("A title (ICML 2030, arXiv 3001.00001)", "claim: It is better.", "a line as it comes", "0.125"):
        assert said in out
    assert "holds in part: one of two\n(3 s)" in out
    code, out, _ = call("reproduce", "ours", "--quick", "--out", tmp_path / "a" / "b")
    assert code == 0
    assert ours.asked == [(Scale.full, None), (Scale.quick, tmp_path / "a" / "b")]
    kept = json.loads((tmp_path / "a" / "b" / "verdict.json").read_text())
    assert kept["verdict"] == "holds in part"
    assert kept["rows"][0]["value"] == 0.125
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["verdict.json"]


def test_a_dry_run_runs_nothing(ours: Recipe) -> None:
    code, out, _ = call("reproduce", "ours", "--dry-run")
    assert code == 0
    assert "claim: It is better." in out
    assert ours.asked == []


@pytest.mark.parametrize("name", ["file", "file/x", "n" * 300])
def test_the_folder_is_checked_before_the_work(name: str, ours: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "verdict.json").mkdir(parents=True)
    for place in (tmp_path / name, tmp_path / "taken", Path("/proc/x")):
        code, out, err = call("reproduce", "ours", "--out", place)
        assert code == 2
        assert err.startswith("softmix: --out ")
        assert out == ""
    assert ours.asked == []


def test_ctrl_c_says_which_results_are_saved(ours: Recipe, tmp_path: Path) -> None:
    ours.error = KeyboardInterrupt()
    code, _, err = call("reproduce", "ours")
    assert code == 130
    assert "nothing was kept. With --out FOLDER" in err
    code, _, err = call("reproduce", "ours", "--out", tmp_path)
    assert code == 130
    assert f"what is in {tmp_path} by now is not computed again" in err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_paper_is_refused(ours: Recipe) -> None:
    for verb in ("reproduce", "papers"):
        code, _, err = call(verb, "nobody")
        assert code == 2
        assert "there is no paper 'nobody'; softmix has ours" in err


def test_papers_lists_all_or_shows_one(tmp_path: Path) -> None:
    code, out, _ = call("papers")
    assert code == 0
    assert all(f"\n{name} " in f"\n{out}" for name in recipe.PAPERS)
    code, out, _ = call("papers", "smd")
    assert code == 0
    assert out.startswith("smd ")
    assert [name for name in recipe.PAPERS if f"\n{name} " in out] == []
    verdict = recipe.last_verdict("smd")
    assert verdict is not None
    assert verdict.table() in out


@pytest.mark.parametrize("name", ["file/x.md", "folder", "n" * 300])
def test_an_impossible_place_for_the_page_of_papers_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    code, out, err = call("papers", "--out", tmp_path / name)
    assert code == 2
    assert err.startswith("softmix: --out ")
    assert out == ""
