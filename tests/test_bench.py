"""The programs of bench/: the clock, the tables of bench/gpu.py, and the table of few steps."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parent.parent / "bench"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.fixture
def quick(tmp_path: Path) -> Any:
    from gpu_tables.contract import Bench

    return Bench(CPU, True, 0.01, Path(sys.executable), tmp_path)


def test_the_clock_gives_the_seconds_of_one_call() -> None:
    from clock import seconds_each

    calls: list[float] = []

    def call() -> None:
        time.sleep(0.004)
        calls.append(time.perf_counter())

    took = seconds_each(call, CPU, 0.04, warm=2)
    assert 0.004 <= took <= (calls[-1] - calls[1]) / 4 and len(calls) >= 2 + 5


def test_a_table_ends_with_an_error_and_keeps_its_rows(quick: Any) -> None:
    from gpu_tables.contract import Table, line_of, measured

    def rows(bench: object) -> Iterator[dict[str, Any]]:
        yield {"a": 1, "b": None}
        raise RuntimeError("no such\nkernel")

    said: list[str] = []
    outcome = measured(Table("title", "note", rows), quick, 1.0, lambda now: said.append(line_of(now.rows[-1])))
    assert outcome.problem == "RuntimeError: no such kernel"
    assert outcome.rows == [{"a": 1, "b": None}] and said == ["  a 1"]


def test_a_table_ends_at_its_budget(quick: Any) -> None:
    from gpu_tables.contract import Table, measured

    def rows(bench: object) -> Iterator[dict[str, Any]]:
        for k in range(100):
            time.sleep(0.01)
            yield {"k": k}

    outcome = measured(Table("title", "note", rows, budget=0.1), quick, 0.3, lambda now: None)
    assert 1 <= len(outcome.rows) <= 4 and "budget" in outcome.problem


def test_markdown_has_the_columns_of_all_rows_in_order() -> None:
    from gpu_tables.contract import Outcome

    text = Outcome("T", "N", [{"a": 1200, "b": 0.123456}, {"a": "x", "c": None}], "why").markdown()
    assert text.splitlines() == [
        *("### T", "", "N", ""),
        *("| a | b | c |", "|---|---|---|", "| 1,200 | 0.123 |  |", "| x |  |  |"),
        *("", "Not complete: why"),
    ]


def span(name: str, start: float, end: float, device: str = "DeviceType.CUDA") -> Any:
    return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(start=start, end=end))


def test_the_busy_time_is_the_union_of_kernels() -> None:
    """Two kernels that overlap count once; an annotation, an operation of the CPU and a pause count nothing."""
    from gpu_tables.training import _busy

    events = [span("gemm", 0, 10), span("norm", 5, 12), span("copy", 20, 21), span("Optimizer.step#AdamW", 0, 90)]
    events.append(span("aten::mm", 0, 90, "DeviceType.CPU"))
    assert _busy(events) == pytest.approx(13e-6)


def test_kernels_of_one_name_are_added() -> None:
    from gpu_tables.training import _top

    events = [span("gemm", 0, 10), span("norm", 10, 13), span("gemm", 20, 21), span("Optimizer.step#AdamW", 0, 90)]
    top = _top(SimpleNamespace(events=lambda: events), True)
    assert top == [("gemm", pytest.approx(11e-6), 2), ("norm", pytest.approx(3e-6), 1)]


def test_the_law_of_the_draws_holds_in_operations(quick: Any) -> None:
    """The share from m = 2 and 8 gives the operations at m = 5."""
    from gpu_tables.training import share
    from throughput import operations, soft, trainer

    base = quick.config(4)
    s = share(base, "decoder")
    two, five = (operations(trainer(soft(base, "decoder", m))) for m in (2, 5))
    assert 0.1 < s < 1 and five / two == pytest.approx((1 + 4 * s) / (1 + s), rel=1e-3)


def test_a_library_that_is_missing_gives_a_row(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_tables import contract

    monkeypatch.setattr(contract, "PEER", quick.folder / "peer.py")
    (quick.folder / "peer.py").write_text('print(\'{"mode": "eager"}\', flush=True)\nimport no_such_library\n')
    assert list(contract.peer(quick, ("speeds", "diffusers"), 60)) == [{"mode": "eager"}, {"problem": "not installed"}]


def test_a_program_that_fails_in_silence_gives_a_row(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_tables import contract

    monkeypatch.setattr(contract, "PEER", quick.folder / "peer.py")
    (quick.folder / "peer.py").write_text("raise SystemExit(3)\n")
    assert list(contract.peer(quick, (), 60)) == [{"problem": "it ended with code 3"}]


def test_a_library_that_takes_too_long_is_ended_and_its_rows_are_kept(
    quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_tables import contract

    monkeypatch.setattr(contract, "PEER", quick.folder / "peer.py")
    (quick.folder / "peer.py").write_text("import time\nprint('{\"batch\": 3}', flush=True)\ntime.sleep(60)\n")
    assert list(contract.peer(quick, ("speeds",), 2)) == [{"batch": 3}, {"problem": "ended after 2 s"}]


def test_a_preset_resumes_after_a_kill_with_the_same_bits(quick: Any) -> None:
    """And a run with other weights is not the same."""
    from gpu_tables import checks

    data = checks.data_of(quick)
    config = checks.config_of(quick, "plain", data)
    row = checks.resumed(quick, config, data, quick.folder / "plain")
    assert row["trains"] == "yes" and row["resumes at step"] == 3 and row["same bits after resume"] == "yes"
    checks.resumed(quick, config.but(seed=1), data, quick.folder / "other")
    assert not checks.same_weights(quick.folder / "plain", quick.folder / "other")
    assert checks.used(quick, quick.folder / "plain", data) == {"samples": "yes", "evaluates": "yes"}


def test_the_program_prints_and_saves_its_tables(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCH / "gpu.py")]
    # a busy machine must not end a table
    only = ["--quick", "--budget", "20", "--only", "normals", "kernels", "memory", "--out", str(out)]
    printed = subprocess.run([*command, *only], capture_output=True, text=True, check=True).stdout
    record = json.loads(out.read_text())
    assert list(record["tables"]) == ["normals", "kernels", "memory"] and record["machine"]["torch"] in printed
    assert not any(table["problem"] for table in record["tables"].values())
    rates = {row["normals"]: row["microseconds"] for row in record["tables"]["normals"]["rows"]}
    assert set(rates) == {"torch.randn", "Rng.normal"} and min(rates.values()) > 0
    import gpu

    assert gpu.report([out]) + "\n" == printed
    (tmp_path / "other.json").write_text(out.read_text().replace(record["machine"]["torch"], "9.0"))
    with pytest.raises(SystemExit, match=r"is of .*9\.0"):
        gpu.report([out, tmp_path / "other.json"])


# the table of few steps


def test_rows_share_a_gpu_and_divide_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    import fewsteps

    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert fewsteps.shares(7, 0) == (16, 1)
    monkeypatch.setattr(fewsteps, "find_device", lambda: torch.device("cuda"))
    assert fewsteps.shares(7, 0) == (7, 2) and fewsteps.shares(40, 0) == (8, 2) and fewsteps.shares(7, 3) == (3, 5)


def rows() -> list[Any]:
    from softmix.recipe import VerdictRow

    return [
        VerdictRow("plain by ddim", "baseline", "frechet@4", 30.0, 1.5, 2, "fashion"),
        VerdictRow("plain by adams", "baseline", "frechet@4", 10.0, 1.0, 2, "fashion"),
        VerdictRow("feature score by soft-adams", "ours", "frechet@4", 5.0, 0.5, 2, "fashion"),
    ]


def test_each_row_is_compared_with_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    from fewsteps import leaders

    leaders(rows(), [4])
    assert capsys.readouterr().out.splitlines()[-2:] == ["| plain | 2.00 |", "| feature score | 1.00 |"]


def test_the_numbers_of_a_run_are_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fewsteps

    options = argparse.Namespace(data="fashion28", images=2000, batch=512, compile=True, n=100, seeds=[0], counts=[4])
    place = tmp_path / "fashion28-2000-batch512"
    place.mkdir()
    (place / "machine.txt").write_text("a card, torch 2\n")
    monkeypatch.setattr(fewsteps, "rows_in", lambda folder: rows() if folder == place else [])
    fewsteps.save(tmp_path / "few.json", place, options)
    name, saved, where = fewsteps.saved(tmp_path / "few.json")
    assert (name, saved, where) == ("fashion28-2000-batch512", rows(), "a card, torch 2")
    fewsteps.tables(name, saved, where)
    assert "| feature score | soft-adams | 2 | 5±0.5 |" in capsys.readouterr().out


def test_the_last_line_of_each_log_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fewsteps import followed

    log = tmp_path / "log.txt"
    with followed({"plain": log, "other": tmp_path / "none.txt"}, every=0.01):
        log.write_text("step 1\nstep 2\n")
        time.sleep(0.2)
    assert capsys.readouterr().out == "  step 2\n"


def test_the_program_of_guidance_knows_the_ends_of_its_scale() -> None:
    """The exact posterior has gradients without error and samples of the right law; without guidance the error is 1."""
    import guidance

    for place, make in enumerate(guidance.tasks().values()):
        if place in (3, 5):
            # two of the three images, which take long
            continue
        task = make(0)
        exact = guidance.values(task, task.exact, 80, 0)
        free = guidance.values(task, task.problem.denoiser(), 80, 0)
        # 1000 times the energy distance: between 80 exact draws it is 0 +- 30
        assert exact[0] == 0 and free[0] == 1 and max(exact[1:]) < 45 < min(free[1:])
        if place < 3:
            # in an image few draws fit all measured numbers
            drawn = guidance.values(task, guidance.by_draws(16, task, 0), 80, 0)
            assert 0 < drawn[0] < 1 and max(drawn[1:]) < 45


def test_the_program_of_restoration_prints_what_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import restoration

    from softmix.recipe.frame import ArmsRun
    from softmix.recipe.restoration import arms

    place = tmp_path / "digits-640"
    for seed, value in ((0, 0.2), (1, 0.4)):
        each = arms("plain", "digits", tmp_path, 640, 8)
        numbers = {("plain by ddim", f"half crps@{count}"): value * count for count in (1, 2)}
        numbers |= {("plain", "parameters"): 1234.0, ("plain", "training seconds"): 10 * value}
        ArmsRun(each, seed, each.full or {}).save(place, numbers)
    line = ["restoration.py", "--report", "--images", "640", "--counts", "1", "2", "--out", str(tmp_path)]
    line += ["--save", str(tmp_path / "a.json")]
    monkeypatch.setattr(sys, "argv", line)
    restoration.main()
    said = capsys.readouterr().out
    assert "CRPS:\n\n| row | sampler | half: 1 | 2 | coarse: 1 | 2 | blurred: 1 | 2 |" in said and "energy" not in said
    assert "| plain | ddim | 0.3±0.1 | 0.6±0.3 |  |  |  |  |" in said
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved["settings"] == {"n": 8} and len(saved["rows"]) == 4 and "| plain | 1,234 | 3 |" in said
    other = arms("plain", "digits", tmp_path, 640, 9)
    ArmsRun(other, 2, other.full or {}).save(place, {("plain by ddim", "half crps@1"): 1.0})
    with pytest.raises(SystemExit, match="different settings"):
        restoration.main()
