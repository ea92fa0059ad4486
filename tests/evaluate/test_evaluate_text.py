"""How numbers are written, and which of a column is best."""

import math

import pytest

from softmix.evaluate import Evaluation, EvaluationRow, row_line, table
from softmix.evaluate.text import CARRIES, COLLAPSED, best, cell, floor_first, floor_of, number, with_error


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (999.4, "999"),
        (1000.4, "1,000"),
        (-2345678.0, "-2,345,678"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_three_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.21, 0.123, "3.21 ± 0.12"),
        (3.21, 0.0123, "3.210 ± 0.012"),
        (469.4, 10.6, "469 ± 11"),
        (3.21, 1.0, "3.2 ± 1.0"),
        (3.21, None, "3.21"),
        (3.21, 0.0, "3.21"),
        (3.21, -1.0, "3.21"),
        (3.21, math.nan, "3.21"),
        (math.nan, 1.0, "nan"),
        (1.0, 1e-9, "1.00 ± 1.00e-09"),
    ],
)
def test_an_error_has_two_digits(value, error, text):
    assert with_error(value, error) == text


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("frechet", "3.25 ± 0.50"),
        ("kernel", "3.2500 ± 0.0025"),
        ("nearest_ratio", "3.25"),
        ("precision", "0.500"),
        ("recall", "0.500"),
        ("coverage", "0.500"),
        ("class_tv", "0.500"),
        ("copied", "0.500"),
        ("not_finite", "0.500"),
        ("density", "0.50"),
        ("nothing", "-"),
    ],
)
def test_each_metric_is_written_its_own_way(key, text):
    values = dict.fromkeys(("frechet", "kernel", "nearest_ratio"), 3.25) | {"frechet_se": 0.5, "kernel_se": 0.0025}
    values |= dict.fromkeys(("precision", "recall", "coverage", "class_tv", "copied", "not_finite", "density"), 0.5)
    assert cell(values, key) == (text if key != "density" else "0.500")


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.50"), (9.994, "9.99"), (10.4, "10"), (1234.0, "1,234")])
def test_seconds(seconds, text):
    assert cell({"seconds": seconds}, "seconds") == text


@pytest.mark.parametrize(
    ("key", "values", "winner"),
    [
        ("frechet", (1.0, 2.0, 3.0), 0),
        ("kernel", (-3.0, -1.0, 2.0), 1),
        ("precision", (0.1, 0.2, 0.3), 2),
        ("recall", (0.1, 0.2, 0.3), 2),
        ("coverage", (0.1, 0.2, 0.3), 2),
        ("density", (0.2, 0.9, 1.2), 1),
        ("density", (0.2, 1.4, 1.1), 2),
        ("nearest_ratio", (0.2, 0.95, 1.2), 1),
        ("nearest_ratio", (0.2, 1.4, 1.1), 2),
        ("class_tv", (0.1, 0.2, 0.3), 0),
        ("sliced_wasserstein", (0.3, 0.2, 0.1), 2),
        ("seconds", (0.3, 0.2, 0.1), None),
        ("nearest", (0.3, 0.2, 0.1), None),
        ("frechet", (math.nan, 3.0, 2.0), 2),
    ],
)
def test_the_best_of_a_column(key, values, winner):
    floor = EvaluationRow("floor", None, "", {key: 1.0 if key != "frechet" else 0.0})
    rows = [floor, *(EvaluationRow(str(k), k, "ddim", {key: value}) for k, value in enumerate(values, 1))]
    assert best(rows, key) == ([] if winner is None else [rows[1 + winner]])


def test_equal_as_printed_is_equally_good_and_one_alone_is_not_the_best():
    rows = [EvaluationRow(str(k), k, "ddim", {"frechet": value}) for k, value in enumerate((1.001, 1.0011, 2.0), 1)]
    assert best(rows, "frechet") == rows[:2]
    assert best(rows[:2], "frechet") == [], "all are equal"
    assert best(rows[:1], "frechet") == []
    given = EvaluationRow("made", None, "not known", {"frechet": 0.5})
    assert best([*rows, given], "frechet") == [given], "given samples take part"


def test_a_floor_is_what_no_sampler_made():
    floor, given, row = (
        EvaluationRow("real", None, "", {}),
        EvaluationRow("made", None, "not known", {}),
        EvaluationRow("1 step", 1, "ddim", {}),
    )
    assert [r.is_floor for r in (floor, given, row)] == [True, False, False]
    assert floor_of(Evaluation("x", {}, (row, given, floor), None)) == floor
    assert floor_of(Evaluation("x", {}, (row, given), None)) is None
    assert floor_first([row, given, floor]) == [floor, row, given]


def test_the_table_says_which_columns_have_errors():
    rows = (
        EvaluationRow("real", None, "", {"frechet": 1.0, "frechet_se": 0.1, "kernel": 1.0}),
        EvaluationRow("made", None, "not known", {"frechet": 2.0, "not_finite": 0.25, "density": 1.0, "nearest": 3.0}),
    )
    head, first, second = table(Evaluation("x", {}, rows, None)).splitlines()
    assert head.split("  ")[-3:] == ["frechet ± se", "kernel", "not_finite"]
    assert first.split()[1:] == ["1.00", "±", "0.10", "1.00", "-"]
    assert second.split()[1:] == ["2.00", "-", "0.250"]


def test_a_row_is_said_in_one_line():
    row = EvaluationRow(
        "4 steps", 4, "ddim", {"frechet": 2.0, "frechet_se": 0.1, "kernel": 0.5, "recall": 0.5, "seconds": 1.5}
    )
    assert row_line(row) == "4 steps: frechet 2.00 ± 0.10, kernel 0.500, seconds 1.50"
    assert row_line(EvaluationRow("1 step", 1, "ddim", {"not_finite": 1.0})) == "1 step: not_finite 1.000"


def test_the_bounds_of_the_verdict():
    assert (COLLAPSED, CARRIES) == (0.02, (0.85, 1.15))
