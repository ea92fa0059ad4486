"""Rows are found again by everything that decides them, and never by less."""

import json

import pytest

from softmix.evaluate import Kept, KeptError
from softmix.evaluate import kept as room
from softmix.evaluate.stored import write_aside

RECIPE = {"weights": "abc", "steps": 4, "n": 100}


def refuse() -> dict[str, float]:
    raise AssertionError("measured again")


def test_a_row_is_measured_once(tmp_path):
    path = tmp_path / "deep" / "report.json"
    kept = Kept(path)
    assert kept.known(RECIPE) is None
    assert kept.values("a: 4 steps", RECIPE, lambda: {"frechet": 1.25}) == {"frechet": 1.25}
    assert (kept.found, kept.added) == (0, 1)
    assert kept.values("a: 4 steps", RECIPE, refuse) == {"frechet": 1.25}
    again = Kept(path)
    assert again.values("a: 4 steps", dict(reversed(RECIPE.items())), refuse) == {"frechet": 1.25}
    assert again.known(RECIPE) == {"frechet": 1.25}
    assert (again.found, again.added) == (1, 0)


@pytest.mark.parametrize("change", [{"weights": "abd"}, {"steps": 5}, {"n": 101}, {"more": 1}])
def test_any_other_recipe_is_another_row(tmp_path, change):
    kept = Kept(tmp_path / "x.json")
    kept.values("a", RECIPE, lambda: {"frechet": 1.0})
    assert kept.values("a", RECIPE | change, lambda: {"frechet": 2.0}) == {"frechet": 2.0}
    assert Kept(tmp_path / "x.json").values("a", RECIPE, refuse) == {"frechet": 1.0}
    assert len(json.loads((tmp_path / "x.json").read_text())["rows"]) == 2


@pytest.mark.parametrize("name", ["MEASURES", "__version__"])
def test_rows_of_other_measures_or_another_version_are_not_taken(tmp_path, monkeypatch, name):
    Kept(tmp_path / "x.json").values("a", RECIPE, lambda: {"frechet": 1.0})
    monkeypatch.setattr(room, name, 77)
    assert Kept(tmp_path / "x.json").known(RECIPE) is None


def test_the_file_says_what_was_measured(tmp_path):
    Kept(tmp_path / "x.json").values("a: 4 steps", RECIPE, lambda: {"frechet": 1.0})
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["kind"] == "softmix evaluation"
    (row,) = content["rows"]
    assert row["name"] == "a: 4 steps"
    assert row["recipe"].items() >= RECIPE.items()
    assert row["recipe"]["measures"] == room.MEASURES
    assert row["values"] == {"frechet": 1.0}
    Kept(tmp_path / "x.json").values("b", {"n": 1}, lambda: {"frechet": 3.0})
    assert [row["name"] for row in json.loads((tmp_path / "x.json").read_text())["rows"]] == ["a: 4 steps", "b"]


def test_what_fails_or_is_stopped_is_not_kept(tmp_path):
    kept = Kept(tmp_path / "x.json")
    kept.values("a", RECIPE, lambda: {"frechet": 1.0})
    with pytest.raises(AssertionError, match="measured again"):
        kept.values("b", {"n": 1}, refuse)
    assert kept.known({"n": 1}) is None
    assert (kept.found, kept.added) == (0, 1)
    assert len(json.loads((tmp_path / "x.json").read_text())["rows"]) == 1


def test_without_a_path_rows_are_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Kept()
    kept.values("a", RECIPE, lambda: {"frechet": 1.0})
    assert kept.values("a", RECIPE, refuse) == {"frechet": 1.0}
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
def test_a_file_of_another_kind_is_refused_and_left(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    before = path.read_bytes()
    with pytest.raises(KeptError, match=r"x\.json .* holds something else"):
        Kept(path)
    assert path.read_bytes() == before


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_aside(path, b"before")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_aside(path, b"after")
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
