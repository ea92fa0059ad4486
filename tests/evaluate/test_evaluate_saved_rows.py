"""A saved row is reused only if everything that decides it is equal."""

import json

import pytest

from softmix.evaluate import SavedRows, SavedRowsError, saved_rows
from softmix.evaluate.files import write_whole_file

RECIPE = {"weights": "abc", "steps": 4, "n": 100}


def refuse() -> dict[str, float]:
    raise AssertionError("measured again")


def test_a_row_is_measured_once(tmp_path):
    path = tmp_path / "deep" / "report.json"
    rows = SavedRows(path)
    assert rows.get(RECIPE) is None
    assert rows.get_or_measure("a: 4 steps", RECIPE, lambda: {"frechet": 1.25}) == {"frechet": 1.25}
    assert (rows.reused, rows.measured) == (0, 1)
    assert rows.get_or_measure("a: 4 steps", RECIPE, refuse) == {"frechet": 1.25}
    again = SavedRows(path)
    assert again.get_or_measure("a: 4 steps", dict(reversed(RECIPE.items())), refuse) == {"frechet": 1.25}
    assert again.get(RECIPE) == {"frechet": 1.25}
    assert (again.reused, again.measured) == (1, 0)


@pytest.mark.parametrize("change", [{"weights": "abd"}, {"steps": 5}, {"n": 101}, {"more": 1}])
def test_any_other_recipe_is_another_row(tmp_path, change):
    rows = SavedRows(tmp_path / "x.json")
    rows.get_or_measure("a", RECIPE, lambda: {"frechet": 1.0})
    assert rows.get_or_measure("a", RECIPE | change, lambda: {"frechet": 2.0}) == {"frechet": 2.0}
    assert SavedRows(tmp_path / "x.json").get_or_measure("a", RECIPE, refuse) == {"frechet": 1.0}
    assert len(json.loads((tmp_path / "x.json").read_text())["rows"]) == 2


@pytest.mark.parametrize("name", ["MEASURES", "__version__"])
def test_rows_of_other_measures_or_another_version_are_not_reused(tmp_path, monkeypatch, name):
    SavedRows(tmp_path / "x.json").get_or_measure("a", RECIPE, lambda: {"frechet": 1.0})
    monkeypatch.setattr(saved_rows, name, 77)
    assert SavedRows(tmp_path / "x.json").get(RECIPE) is None


def test_the_file_holds_name_recipe_and_values(tmp_path):
    SavedRows(tmp_path / "x.json").get_or_measure("a: 4 steps", RECIPE, lambda: {"frechet": 1.0})
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["kind"] == "softmix evaluation"
    (row,) = content["rows"]
    assert row["name"] == "a: 4 steps"
    assert row["recipe"].items() >= RECIPE.items()
    assert row["recipe"]["measures"] == saved_rows.MEASURES
    assert row["values"] == {"frechet": 1.0}
    SavedRows(tmp_path / "x.json").get_or_measure("b", {"n": 1}, lambda: {"frechet": 3.0})
    assert [row["name"] for row in json.loads((tmp_path / "x.json").read_text())["rows"]] == ["a: 4 steps", "b"]


def test_a_failed_measurement_is_not_saved(tmp_path):
    rows = SavedRows(tmp_path / "x.json")
    rows.get_or_measure("a", RECIPE, lambda: {"frechet": 1.0})
    with pytest.raises(AssertionError, match="measured again"):
        rows.get_or_measure("b", {"n": 1}, refuse)
    assert rows.get({"n": 1}) is None
    assert (rows.reused, rows.measured) == (0, 1)
    assert len(json.loads((tmp_path / "x.json").read_text())["rows"]) == 1


def test_without_a_path_rows_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = SavedRows()
    rows.get_or_measure("a", RECIPE, lambda: {"frechet": 1.0})
    assert rows.get_or_measure("a", RECIPE, refuse) == {"frechet": 1.0}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"rows": []}',
        '{"kind": "else", "rows": []}',
        '{"kind": "softmix evaluation"}',
        '{"kind": "softmix evaluation", "rows": 3}',
        '{"kind": "softmix evaluation", "rows": [4]}',
        '{"kind": "softmix evaluation", "rows": [{"name": "a", "recipe": {}, "values": []}]}',
        '{"kind": "softmix evaluation", "rows": [{"name": "a", "recipe": {}, "values": {"frechet": "x"}}]}',
        '{"kind": "softmix evaluation", "rows": [{"name": "a", "recipe": {}, "values": {"frechet": null}}]}',
        "\ud800",
    ],
)
def test_a_file_of_another_kind_is_refused_and_not_changed(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    before = path.read_bytes()
    with pytest.raises(SavedRowsError, match=r"x\.json, but this file holds something else"):
        SavedRows(path)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_whole_file(path, b"before")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
