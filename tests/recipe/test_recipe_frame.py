"""The frame of recipes: arms are measured once for each seed, saved, and judged by checks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from softmix.data import DataError
from softmix.recipe import Paper, Scale, Verdict, VerdictRow, frame
from softmix.recipe.frame import (
    Arms,
    ArmsRun,
    Numbers,
    Results,
    Study,
    arm,
    in_processes,
    judged,
    one_by_one,
    rows_in,
    rows_of,
)

PAPER = Paper("made_up", "A title", "Somebody", "ICML", 2030, "3001.00001", "It is better.")


def quiet(line: str) -> None:
    pass


class Counter:
    """Measures two arms together and records every call. cut_at : the call that is interrupted."""

    def __init__(self, cut_at: int | None = None):
        self.calls: list[tuple[int, int]] = []
        self.cut_at = cut_at

    def __call__(self, seed: int, n: int) -> Results:
        if self.cut_at is not None and len(self.calls) == self.cut_at:
            raise KeyboardInterrupt
        self.calls.append((seed, n))
        return {("new", "error"): n / 10 + seed**2, ("old", "error"): 20.0, ("new", "other"): 1 / 3}


def counted(measure: Counter) -> Arms:
    return Arms({"new": "ours", "old": "baseline"}, measure, "some data", {"n": 5}, {"n": 50}, seeds=3)


def better(value: Numbers) -> Mapping[str, bool]:
    return {"it is better": value["new", "error"] < value["old", "error"], "by far": value["new", "error"] < 1}


# rows


def test_full_scale_takes_every_seed_with_the_full_settings() -> None:
    measure = Counter()
    Study(PAPER, better, [counted(measure)])(Scale.full, quiet)
    assert measure.calls == [(0, 50), (1, 50), (2, 50)]


def test_quick_scale_takes_one_seed_with_the_quick_settings() -> None:
    measure = Counter()
    Study(PAPER, better, [counted(measure)])(Scale.quick, quiet)
    assert measure.calls == [(0, 5)]


def test_arms_without_settings_at_a_scale_do_not_run_there() -> None:
    only_full = arm("slow", "ours", lambda seed: pytest.fail("it ran"), full={})
    assert only_full.runs(Scale.quick) == [] and len(only_full.runs(Scale.full)) == 5


def test_a_row_has_the_mean_and_the_standard_deviation_over_seeds() -> None:
    """Of 5, 6 and 9: the mean is 20/3, the variance (25 + 4 + 49) / 9 / 2."""
    rows = rows_of(counted(Counter()).runs(Scale.full), quiet)
    first = rows[0]
    assert (first.name, first.role, first.metric, first.data, first.seeds) == ("new", "ours", "error", "some data", 3)
    assert first.value == pytest.approx(5 + 5 / 3) and first.spread == pytest.approx((13 / 3) ** 0.5)


def test_one_seed_has_no_spread() -> None:
    assert [row.spread for row in rows_of(counted(Counter()).runs(Scale.quick), quiet)] == [0, 0, 0]


def test_rows_are_in_the_order_of_measurement() -> None:
    last = arm("truth", "oracle", lambda seed: {"error": 0.0}, quick={})
    rows = rows_of([run for arms in (counted(Counter()), last) for run in arms.runs(Scale.quick)], quiet)
    assert [(row.name, row.metric) for row in rows] == [
        *(("new", "error"), ("old", "error"), ("new", "other")),
        ("truth", "error"),
    ]


def test_an_arm_without_a_role_is_refused() -> None:
    strange = Arms({"new": "ours"}, lambda seed: {("nobody", "error"): 1.0}, quick={})
    with pytest.raises(ValueError, match=r"nobody: measured, but among the roles are \['new'\]"):
        rows_of(strange.runs(Scale.quick), quiet)


def test_arms_without_their_data_are_left_out_and_progress_says_so_once() -> None:
    calls, lines = [], []

    def absent() -> None:
        calls.append(1)
        raise DataError("there are no images here")

    def never(seed: int) -> Mapping[str, float]:
        return pytest.fail("it ran")

    images = [arm(name, "ours", never, "images", {}, needs=absent) for name in ("a", "b")]
    rows = rows_of([run for arms in (*images, counted(Counter())) for run in arms.runs(Scale.quick)], lines.append)
    assert {row.data for row in rows} == {"some data"}
    assert calls == [1] and lines[0] == "some arms are left out: there are no images here"


def test_a_data_error_of_a_measurement_is_not_taken_for_missing_data() -> None:
    def broken(seed: int) -> Mapping[str, float]:
        raise DataError("a damaged file")

    with pytest.raises(DataError, match="a damaged file"):
        rows_of(arm("a", "ours", broken, quick={}).runs(Scale.quick), quiet)


# saved numbers


def test_saved_numbers_are_not_measured_again(tmp_path: Path) -> None:
    first, second = Counter(), Counter()
    before = Study(PAPER, better, [counted(first)])(Scale.full, quiet, tmp_path)
    after = Study(PAPER, better, [counted(second)])(Scale.full, quiet, tmp_path)
    assert len(first.calls) == 3 and second.calls == []
    assert after.rows == before.rows and after.why == before.why


def test_an_interrupted_study_measures_only_the_missing_runs(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Study(PAPER, better, [counted(Counter(cut_at=2))])(Scale.full, quiet, tmp_path)
    rest = Counter()
    resumed = Study(PAPER, better, [counted(rest)])(Scale.full, quiet, tmp_path)
    assert rest.calls == [(2, 50)]
    assert resumed.rows == Study(PAPER, better, [counted(Counter())])(Scale.full, quiet).rows


@pytest.mark.parametrize("change", ["settings", "seed", "role", "data", "version", "paper"])
def test_numbers_of_another_run_are_not_used(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Study(PAPER, better, [counted(Counter())])(Scale.quick, quiet, tmp_path)
    measure = Counter()
    arms, paper = counted(measure), PAPER
    run = ArmsRun(arms, 0, {"n": 5})
    assert run.saved(tmp_path / "made_up") is not None
    if change == "settings":
        run = ArmsRun(arms, 0, {"n": 6})
    elif change == "seed":
        run = ArmsRun(arms, 1, {"n": 5})
    elif change == "role":
        run = ArmsRun(Arms({"new": "ours", "old": "rival"}, measure, "some data"), 0, {"n": 5})
    elif change == "data":
        run = ArmsRun(Arms(arms.roles, measure, "other data"), 0, {"n": 5})
    elif change == "version":
        monkeypatch.setattr(frame, "__version__", "99")
    else:
        paper = Paper(**{**vars(PAPER), "name": "another"})
        Study(paper, better, [arms])(Scale.quick, quiet, tmp_path)
        assert measure.calls == [(0, 5)]
    assert change == "paper" or run.saved(tmp_path / "made_up") is None


def test_each_seed_has_a_file_of_its_own_also_if_the_name_is_long(tmp_path: Path) -> None:
    runs = Arms({"new": "ours", "old": "baseline"}, Counter(), "a long name of data " * 9, full={"n": 5}).runs(
        Scale.full
    )
    rows_of(runs, quiet, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5 and [run.saved(tmp_path) for run in runs] == [run() for run in runs]


def test_an_interrupted_write_is_never_read(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves a file of another name."""
    (run,) = counted(Counter()).runs(Scale.quick)
    run.save(tmp_path, {("new", "error"): 1.0})
    (file,) = tmp_path.iterdir()
    file.rename(file.with_suffix(".77.part"))
    assert run.saved(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", '{"values": [{"arm": "new"}]}', '{"values": 3}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (run,) = counted(Counter()).runs(Scale.quick)
    run.save(tmp_path, run())
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    with pytest.raises(DataError, match=rf"{file.name}.*no numbers of `some data, seed 0` can be read.*delete"):
        run.saved(tmp_path)


def test_saved_numbers_are_read_without_loss(tmp_path: Path) -> None:
    (run,) = counted(Counter()).runs(Scale.quick)
    values = {("new", "error"): 0.1 + 0.2, ("new", "other"): 5e-324, ("old", "error"): float("inf")}
    run.save(tmp_path, values)
    assert run.saved(tmp_path) == values


def test_rows_in_a_folder_are_those_of_its_runs(tmp_path: Path) -> None:
    rows = rows_of(counted(Counter()).runs(Scale.full), quiet, tmp_path)
    assert rows_in(tmp_path) == rows


def test_the_newer_file_counts_for_a_run_saved_by_two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = counted(Counter()).runs(Scale.quick)
    run.save(tmp_path, {("new", "error"): 1.0})
    monkeypatch.setattr(frame, "__version__", "99")
    run.save(tmp_path, {("new", "error"): 2.0})
    os.utime(run.file(tmp_path), (2e9, 2e9))
    assert [row.value for row in rows_in(tmp_path)] == [2.0]


# processes


def threads(seed: int) -> Mapping[str, float]:
    return {"threads": torch.get_num_threads(), "seed": seed}


def third_fails(seed: int) -> Mapping[str, float]:
    if seed == 2:
        raise ArithmeticError("the third")
    return {"seed": seed}


def test_processes_have_one_thread_each_and_the_numbers_of_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    runs = arm("a", "ours", threads, full={}, seeds=3).runs(Scale.full)
    here = torch.get_num_threads()
    rows = {row.metric: row.value for row in rows_of(runs, quiet, execute=in_processes)}
    assert rows == {"threads": 1, "seed": 1} and torch.get_num_threads() == here


def test_processes_may_have_several_threads() -> None:
    runs = arm("a", "ours", threads, full={}, seeds=1).runs(Scale.full)
    rows = rows_of(runs, quiet, execute=lambda work, jobs, say: in_processes(work, jobs, say, workers=1, threads=2))
    assert {row.metric: row.value for row in rows}["threads"] == 2


def test_runs_that_ended_before_a_failure_are_saved(tmp_path: Path) -> None:
    runs = arm("a", "ours", third_fails, full={}, seeds=4).runs(Scale.full)
    with pytest.raises(ArithmeticError, match="the third"):
        rows_of(runs, quiet, tmp_path, lambda work, jobs, say: in_processes(work, jobs, say, workers=1))
    assert [run.saved(tmp_path) is not None for run in runs][:2] == [True, True]


def test_each_run_is_saved_before_the_next_begins(tmp_path: Path) -> None:
    """Else a process that is killed would lose more than its present run."""
    seen = []

    def measure(seed: int) -> Mapping[str, float]:
        seen.append(len(list(tmp_path.glob("*.json"))))
        return {"error": 1.0}

    rows_of(arm("a", "ours", measure, full={}, seeds=3).runs(Scale.full), quiet, tmp_path)
    assert seen == [0, 1, 2]


def test_progress_comes_with_each_run() -> None:
    lines: list[str] = []
    jobs: Iterator[tuple[str, int]] = one_by_one(len, ["ab", "c"], lines.append)
    assert next(jobs) == ("ab", 2) and lines == ["ab: done"]


# the verdict


def verdict(*true: bool) -> Verdict:
    return judged(PAPER, [], lambda value: {f"check {k}": each for k, each in enumerate(true)}, 0.0)


@pytest.mark.parametrize(
    ("true", "outcome"),
    [
        ((True, True, True), "holds"),
        ((True,), "holds"),
        ((True, False, True), "holds in part"),
        ((True, True, False), "holds in part"),
        ((False, True, True), "does not hold here"),
        ((False,), "does not hold here"),
    ],
)
def test_the_first_check_is_the_claim(true: tuple[bool, ...], outcome: str) -> None:
    assert verdict(*true).verdict == outcome


def test_a_check_that_fails_is_marked() -> None:
    assert verdict(True, False, True).why == "check 0; NOT: check 1; check 2"


def test_a_study_judges_by_its_rows() -> None:
    """At quick scale the new error is 0.5 and the old 20; at full scale 5 + 5/3."""
    study = Study(PAPER, better, [counted(Counter())])
    quick, full = study(Scale.quick, quiet), study(Scale.full, quiet)
    assert (quick.verdict, full.verdict) == ("holds", "holds in part")
    assert quick.claim == PAPER.claim and len(full.rows) == 3


def test_a_study_may_decide_by_its_own_function() -> None:
    study = Study(PAPER, better, [counted(Counter())], decide=lambda value, outcomes: "does not hold here")
    assert study(Scale.quick, quiet).verdict == "does not hold here"


ROWS = [
    VerdictRow("a", "ours", "rmse@-10", 3.0, 0.3, 5),
    VerdictRow("a", "ours", "rmse@0.5", 2.0, 0.2, 5),
    VerdictRow("b", "ours", "rmse@0.5", 1.0, 0.1, 5),
]


def test_numbers_are_means_with_spreads_and_lines() -> None:
    value = Numbers(ROWS)
    assert value["b", "rmse@0.5"] == 1.0 and value.spread("a", "rmse@-10") == 0.3
    assert value.line("a", "rmse", (-10.0, 0.5)) == [3.0, 2.0]
    assert ("b", "rmse@-10") not in value and len(value) == 3


def test_a_number_with_two_rows_is_refused() -> None:
    other = VerdictRow("a", "ours", "rmse@0.5", 9.0, 0.2, 5, "elsewhere")
    with pytest.raises(ValueError, match=r"a: rmse@0.5 is on '' and on 'elsewhere'"):
        Numbers([*ROWS, other])


def test_a_saved_file_is_plain_json(tmp_path: Path) -> None:
    Study(PAPER, better, [counted(Counter())])(Scale.quick, quiet, tmp_path)
    (file,) = (tmp_path / "made_up").iterdir()
    assert json.loads(file.read_text()) == {
        "run": "some data, seed 0",
        "data": "some data",
        "roles": {"new": "ours", "old": "baseline"},
        "settings": {"n": 5},
        "values": [
            {"arm": "new", "metric": "error", "value": 0.5},
            {"arm": "old", "metric": "error", "value": 20.0},
            {"arm": "new", "metric": "other", "value": 1 / 3},
        ],
    }
