"""The report is one honest file, and the terminal tables say the numbers."""

import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from softmix.evaluate import Evaluation, EvaluationRow, LatentSpread, Pictures, spread_table, table, write_report

VOID = {"meta", "link", "img", "br"}
LEVELS = (-4.0, 0.0, 4.0)
NEAREST = "nearest training image to each at 4 steps"


class Page(HTMLParser):
    """Collects elements and text, and fails on a tag that is closed out of turn."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def pictures(seed, shape=(1, 8, 8)):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(20, *shape, generator=rng) * 2 - 1


def values(frechet):
    return {
        "frechet": frechet,
        "kernel": frechet / 100,
        "kernel_se": 0.0021,
        "precision": 0.812,
        "recall": 0.9 - frechet / 50,
        "class_tv": 0.034,
        "nearest": 0.25,
        "nearest_ratio": 1.07,
    }


def evaluation(title="SMD", worse=1.0, seed=1):
    rows = [
        EvaluationRow("1 step", 1, "ancestral", values(12.34 * worse)),
        EvaluationRow("4 steps", 4, "ancestral", values(3.21 * worse)),
    ]
    floor = EvaluationRow(
        "real training items (floor)", None, "", {**values(0.456), "nearest": 0.0, "nearest_ratio": 0.0}
    )
    sheets = [Pictures("real", pictures(0))]
    sheets += [Pictures(row.name, pictures(seed + row.steps)) for row in rows]
    return Evaluation(
        title,
        {"data": "digits", "features": "ours-1234", "weights": f"ema of {title}"},
        (floor, *rows),
        LatentSpread(LEVELS, (0.5, 0.3, 0.01), (0.6, 0.4, 0.02), "residual"),
        (*sheets, Pictures(NEAREST, pictures(seed + 100))),
        {"loss": tuple((float(k), 1 / (k + 1)) for k in range(700))},
    )


def page(tmp_path, *evaluations):
    return Page(write_report(tmp_path / "deep" / "report.html", evaluations))


def links(page):
    """Every attribute that a browser would fetch from."""
    names = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
    return [value for _, attrs in page.elements for name, value in attrs.items() if name in names]


def test_one_evaluation_has_every_picture_and_curve(tmp_path):
    found = page(tmp_path, evaluation())
    assert len(found.all("img")) == 4
    # frechet, kernel, recall, precision, class_tv; latent spread; loss
    assert len(found.all("svg")) == 7


def test_two_evaluations_stand_side_by_side_and_share_what_is_equal(tmp_path):
    found = page(tmp_path, evaluation(), evaluation("plain", 2.0, 50))
    # the real images once; 1 step, 4 steps and the pairs for each
    assert len(found.all("img")) == 1 + 3 * 2
    assert len(found.all("svg")) == 7
    assert found.text.count("real training items (floor)") == 1
    assert found.text.count("ours-1234") == 1
    assert found.text.index("Pictures") < found.text.index("By number of steps") < found.text.index("All numbers")


def test_nothing_is_fetched_and_nothing_runs(tmp_path):
    found = page(tmp_path, evaluation(), evaluation("plain", 2.0))
    assert all(value.startswith(("data:", "#")) for value in links(found))
    assert found.all("script") == []
    assert "@import" not in found.source
    without_names = found.source.replace('xmlns="http://www.w3.org/2000/svg"', "")
    without_names = without_names.replace('xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    assert "http" not in without_names


def test_identifiers_are_unique_and_references_resolve(tmp_path):
    found = page(tmp_path, evaluation(), evaluation("plain", 2.0))
    names = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(names) == len(set(names))
    assert {value[1:] for value in links(found) if value.startswith("#")} <= set(names)
    clips = [attrs["clip-path"] for _, attrs in found.elements if "clip-path" in attrs]
    assert clips
    assert {clip.removeprefix("url(#").removesuffix(")") for clip in clips} <= set(names)


def test_the_same_evaluations_give_the_same_bytes_whatever_the_readers_settings(tmp_path):
    import matplotlib

    both = [evaluation(), evaluation("plain", 2.0)]
    first = write_report(tmp_path / "a.html", both).read_bytes()
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": True}):
        second = write_report(tmp_path / "b.html", both).read_bytes()
        assert matplotlib.rcParams["font.size"] == 20
    assert first == second


def test_no_colour_of_the_drawing_is_left_to_one_mode(tmp_path):
    source = page(tmp_path, evaluation()).source
    assert "#1234" not in source
    assert "stroke: currentColor" in source
    assert "stroke: var(--s0)" in source


def test_text_from_outside_is_escaped(tmp_path):
    evil = "<script>alert('x')</script> & \"quotes\""
    made = evaluation(evil)
    made = replace(
        made,
        facts={evil: evil},
        rows=tuple(replace(row, name=row.name + evil) for row in made.rows),
        pictures=tuple(replace(p, caption=p.caption + evil) for p in made.pictures),
    )
    found = page(tmp_path, made, evaluation())
    assert found.all("script") == []
    assert "<script" not in found.source
    assert evil in found.text


def test_numbers_warnings_and_sentences_are_said(tmp_path):
    found = page(tmp_path, evaluation(), evaluation("plain", 2.0)).text
    for said in ("12.3", "3.21", "0.0321 ± 0.0021", "24.7", "0.812", "1.07", "0.456"):
        assert said in found
    assert "0: the draws have collapsed to the mean" in found
    assert "Carries part: 0.79 of the true spread is in the latent. (A lower bound" in found
    assert "Below 1, samples are nearer to the training set than new data are" in found
    assert "The floor consists of training items, so its ratio is 0." in found
    assert "never FID" in found
    assert "cannot be compared with each other" not in found


def test_only_the_best_of_a_column_is_marked(tmp_path):
    source = page(tmp_path, evaluation(), evaluation("plain", 2.0)).source
    assert source.count('class="best"><span>3.21<') == 1
    # precision, class_tv and nearest_ratio are equal everywhere, and the floor takes no part
    assert source.count('class="best"') == 3


def test_different_yardsticks_are_warned_of(tmp_path):
    other = replace(evaluation("plain"), facts={"data": "digits", "features": "theirs"})
    assert "differ in “features”; their numbers cannot be compared" in page(tmp_path, evaluation(), other).text


def test_equal_titles_are_told_apart(tmp_path):
    assert "SMD (2)" in page(tmp_path, evaluation(), evaluation()).text


def test_points_have_neither_pictures_nor_a_latent(tmp_path):
    rows = tuple(
        replace(row, values={"frechet": 1.0, "kernel": -0.02, "sliced_wasserstein": 0.25}) for row in evaluation().rows
    )
    found = page(tmp_path, Evaluation("points", {}, rows, None))
    assert found.all("img") == []
    assert len(found.all("svg")) == 3
    assert "Spread of the latent" not in found.text
    assert "Memorisation" not in found.text
    assert "Sliced Wasserstein" in found.text


def test_a_model_without_a_latent_beside_one_with(tmp_path):
    found = page(tmp_path, evaluation(), replace(evaluation("plain"), latent_spread=None)).text
    assert "plain: No latent that spreads: the model believes in points." in found


@pytest.mark.parametrize("shape", [(3, 40, 40), (1, 28, 28), (3, 600, 600)])
def test_pictures_of_any_size_fit(tmp_path, shape):
    made = replace(evaluation(), pictures=(Pictures("1 step", pictures(3, shape)), Pictures("4 steps", torch.zeros(0))))
    (image,) = page(tmp_path, made).all("img")
    assert image["src"].startswith("data:image/png;base64,")
    assert 300 < int(image["style"].removeprefix("width: ").removesuffix("px")) < 1300


def test_broken_numbers_are_shown_and_left_out_of_curves(tmp_path):
    made = evaluation()
    broken = replace(made.rows[1], values={**made.rows[1].values, "frechet": float("nan"), "kernel": float("inf")})
    lone = EvaluationRow("16 steps", 16, "ancestral", {"frechet": 2.0})
    found = page(tmp_path, replace(made, rows=(made.rows[0], broken, lone), curves={"loss": ((0.0, float("nan")),)}))
    assert "nan" in found.text
    assert "inf" in found.text
    assert "Training" not in found.text


def test_wide_and_signed_values_can_be_drawn(tmp_path):
    rows = [EvaluationRow("floor", None, "", {"frechet": 0.001, "kernel": -0.001, "kernel_se": 0.002})]
    spread = ((1, 900.0), (2, 4.0), (3, 0.02), (16, -0.01))
    rows += [
        EvaluationRow(str(k), k, "s", {"frechet": abs(v), "kernel": v, "kernel_se": 0.01 * abs(v)}) for k, v in spread
    ]
    assert len(page(tmp_path, Evaluation("wide", {}, tuple(rows), None)).all("svg")) == 2


def test_nothing_to_report_is_an_error_that_says_so(tmp_path):
    for bad in ([], [evaluation(), Evaluation("empty", {}, (), None)]):
        with pytest.raises(ValueError, match="nothing to report"):
            write_report(tmp_path / "no.html", bad)
    with pytest.raises(ValueError, match="nothing to report"):
        table(Evaluation("empty", {}, (), None))
    assert not (tmp_path / "no.html").exists()


def test_pictures_that_are_not_images_are_named(tmp_path):
    made = replace(evaluation(), pictures=(Pictures("points", torch.zeros(5, 2)),))
    with pytest.raises(ValueError, match=r"'points' have the shape \(5, 2\)"):
        write_report(tmp_path / "no.html", [made])


def test_the_terminal_table_is_aligned_with_the_floor_first():
    made = evaluation()
    lines = table(replace(made, rows=made.rows[::-1])).splitlines()
    assert lines[0].split() == ["frechet", "kernel", "±", "se", "precision", "recall", "class_tv", "nearest_ratio"]
    assert lines[1].startswith("real training items (floor)")
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["4", "steps", "3.21", "0.0321", "±", "0.0021", "0.812", "0.836", "0.034", "1.07"]


def test_columns_are_there_when_any_row_has_them():
    made = evaluation()
    timed = replace(made.rows[1], values={**made.rows[1].values, "seconds": 2.5, "sliced_wasserstein": 0.125})
    head, floor, first = table(replace(made, rows=(made.rows[0], timed))).splitlines()
    assert head.split()[-2:] == ["sliced_wasserstein", "seconds"]
    assert floor.split()[-2:] == ["-", "-"]
    assert first.split()[-2:] == ["0.125", "2.50"]


@pytest.mark.parametrize(
    ("share", "by", "says"),
    [
        (0.0, "oracle", "Collapsed"),
        (0.019, "oracle", "Collapsed"),
        (0.02, "residual", "Carries part: 0.02"),
        (0.84, "oracle", "Carries part: 0.84"),
        (0.86, "oracle", "Carries the spread: 0.86"),
        (1.14, "residual", "Carries the spread: 1.14"),
        (1.5, "oracle", "Too wide"),
    ],
)
def test_the_verdict_on_the_latent_spread(share, by, says):
    truth = (0.5, 0.25, 0.25)
    text = spread_table(LatentSpread(LEVELS, tuple(share * t for t in truth), truth, by))
    lines = text.splitlines()
    assert lines[0].split() == ["logsnr", "rho", "true", "spread"]
    assert lines[1].split() == ["-4", f"{share:.3f}", "0.500"]
    assert lines[-2].split() == ["total", f"{share:.3f}"]
    assert lines[-1].startswith(says)
    assert ("lower bound" in lines[-1]) == (by == "residual")


def test_given_samples_are_what_the_page_is_about_and_have_no_curve(tmp_path):
    floor = evaluation().rows[0]
    given = EvaluationRow("made", None, "not known", {**values(5.0), "frechet_se": 0.25, "copied": 0.04})
    found = page(tmp_path, Evaluation("made", {}, (floor, given), None))
    assert "5.00 ± 0.25 Fréchet distance, at made (floor 0.456)" in found.text
    assert found.all("svg") == []
    assert "nearest ratio 1.07, copied 0.040 at made" in found.text
    assert 'class="floor"' in found.source
    assert found.source.count('class="floor"') == 1
    assert "frechet se" not in found.text


def test_the_tile_shows_the_best_row_and_the_ratio_is_of_the_last(tmp_path):
    made = evaluation()
    last = replace(made.rows[2], values={**made.rows[2].values, "nearest_ratio": 0.5})
    found = page(tmp_path, replace(made, rows=(made.rows[0], last, made.rows[1]))).text
    assert "3.21 Fréchet distance, at 4 steps (floor 0.456)" in found
    assert "nearest ratio 0.500 at 4 steps" in found


def test_a_report_has_error_bars_shares_and_floors(tmp_path, monkeypatch):
    from softmix.evaluate import plot

    seen = {}
    monkeypatch.setattr(
        plot, "by_steps", lambda name, about, lines, floors, scale: seen.update({name: (lines, floors, scale)}) or ""
    )
    rows = [replace(row, values={**row.values, "frechet_se": 0.5}) for row in evaluation().rows]
    page(tmp_path, replace(evaluation(), rows=tuple(rows)), evaluation("plain", 2.0))
    (ours, theirs), floors, _ = seen["frechet"]
    assert (ours.x, ours.y, ours.error) == ((1.0, 4.0), (12.34, 3.21), (0.5, 0.5))
    assert (theirs.y, theirs.error, theirs.series) == ((24.68, 6.42), None, 1)
    assert floors == [(None, 0.456)]
    assert {name: scale for name, (_, _, scale) in seen.items()} == {
        "frechet": "distance",
        "kernel": "signed",
        "recall": "share",
        "precision": "share",
        "class_tv": "distance",
    }


@pytest.mark.parametrize("name", ["features", "samples", "data"])
def test_each_yardstick_is_compared(tmp_path, name):
    common = {"features": "f", "samples": "s", "data": "d", "seed": "0"}
    found = page(tmp_path, replace(evaluation(), facts=common), replace(evaluation("b"), facts={**common, name: "x"}))
    assert f"differ in “{name}”" in found.text
    assert found.text.count("cannot be compared with each other") == 1
    other = page(tmp_path, replace(evaluation(), facts=common), replace(evaluation("b"), facts={**common, "seed": "1"}))
    assert "cannot be compared with each other" not in other.text


def test_columns_have_names_in_an_order_and_seconds_last(tmp_path):
    row = EvaluationRow(
        "1 step", 1, "s", {"seconds": 1.5, "odd_one": 2.0, "recall": 0.5, "frechet": 1.0, "frechet_se": 0.1}
    )
    source = page(tmp_path, Evaluation("x", {}, (row,), None)).source
    names = ["Fréchet distance", "Recall", "odd one", "Seconds"]
    head = source[source.index("<thead>") : source.index("</thead>")]
    assert [part.split("</th>")[0].split(">")[-1] for part in head.split('scope="col"')[1:]] == names


@pytest.mark.parametrize(("hidden", "named"), [("matplotlib", "matplotlib"), ("jinja2", "Jinja2")])
def test_without_the_extra_the_error_names_the_package_to_install(tmp_path, monkeypatch, hidden, named):
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ImportError, match=rf'{named} cannot be imported: pip install "softmix\[report\]"'):
        write_report(tmp_path / "no.html", [evaluation()])
    assert not (tmp_path / "no.html").exists()
