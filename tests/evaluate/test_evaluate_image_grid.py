"""Image grids are read back from the PNG in the page."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from softmix.evaluate import Evaluation, EvaluationRow, Pictures
from softmix.evaluate.image_grid import ReportEntry, grids_by_caption, nearest_pairs


def flat(*levels: float, size: int = 8) -> Tensor:
    """Images of one level of grey each."""
    return torch.tensor(levels).reshape(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()


def entry(*pictures: Pictures, series: int = 0, rows: tuple[EvaluationRow, ...] = ()) -> ReportEntry:
    return ReportEntry(f"run {series}", series, Evaluation(f"run {series}", {}, rows, None, pictures))


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(figure.source.split(",")[1]))))


def only(found):
    ((_, (figure,)),) = found
    return figure


def test_at_most_four_rows_of_eight_with_gaps_that_are_seen_through():
    figure = only(grids_by_caption([entry(Pictures("1 step", flat(*torch.linspace(-1, 1, 40).tolist())))]))
    sheet = pixels(figure)
    assert figure.alt == "run 0: 1 step, 32 images"
    assert sheet.shape == (4 * 9 + 1, 8 * 9 + 1, 4)
    assert sheet[1, 1, 0] == 0
    assert sheet[1, 10, 0] == round((torch.linspace(-1, 1, 40)[1].item() + 1) * 127.5)
    assert sheet[0, 0, 3] == sheet[9, 3, 3] == 0
    assert sheet[1, 1, 3] == sheet[8, 8, 3] == 255


@pytest.mark.parametrize(("size", "gap"), [(23, 1), (24, 2)])
def test_larger_images_have_wider_gaps(size, gap):
    assert (
        pixels(only(grids_by_caption([entry(Pictures("x", flat(0.0, 1.0, size=size)))]))).shape[1]
        == 2 * (size + gap) + gap
    )


def test_a_sheet_is_enlarged_by_whole_numbers_to_about_500_and_never_too_wide():
    small = only(grids_by_caption([entry(Pictures("x", flat(*[0.0] * 8)))]))
    assert (small.width, small.enlarged) == (73 * 7, True)
    middle = only(grids_by_caption([entry(Pictures("x", flat(*[0.0] * 8, size=60)))]))
    assert (middle.width, middle.enlarged) == (8 * 62 + 2, False)
    large = only(grids_by_caption([entry(Pictures("x", flat(*[0.0] * 8, size=300)))]))
    assert pixels(large).shape[1] == 3 * 302 + 2
    huge = only(grids_by_caption([entry(Pictures("x", flat(0.0, 0.0, size=1200)))]))
    assert pixels(huge).shape[1] == 1204


def test_captions_are_in_the_order_of_steps_and_say_the_distance():
    rows = (
        EvaluationRow("16 steps", 16, "s", {"frechet": 2.0, "frechet_se": 0.25}),
        EvaluationRow("2 steps", 2, "s", {"recall": 0.5}),
    )
    found = grids_by_caption(
        [entry(*(Pictures(name, flat(0.0)) for name in ("16 steps", "2 steps", "real")), rows=rows)]
    )
    assert [caption for caption, _ in found] == ["real", "2 steps", "16 steps"]
    assert [figures[0].note for _, figures in found] == ["", "", "Fréchet 2.00 ± 0.25"]


def test_what_all_show_is_shown_once_and_the_rest_for_each():
    first = entry(Pictures("real", flat(0.0)), Pictures("1 step", flat(0.5)), Pictures("empty", flat(0.0)[:0]))
    second = entry(Pictures("real", flat(0.0)), Pictures("1 step", flat(0.7)), series=1)
    found = dict(grids_by_caption([first, second]))
    assert [figure.entry for figure in found["real"]] == [None]
    assert [figure.entry for figure in found["1 step"]] == [first, second]
    assert found["real"][0].alt == "real, 1 images"
    assert "empty" not in found


def test_pairs_stand_side_by_side_the_closest_first():
    samples, near = flat(0.0, 0.5, -0.5), flat(0.9, 0.6, -0.8)
    figure = nearest_pairs(entry(Pictures("1 step", samples), Pictures("nearest training image to each", near)))
    sheet = pixels(figure)[..., 0]
    left = [sheet[1, 1 + 17 * k] for k in range(3)]
    right = [sheet[1, 9 + 17 * k] for k in range(3)]
    assert left == [round((x + 1) * 127.5) for x in (0.5, -0.5, 0.0)]
    assert right == [round((x + 1) * 127.5) for x in (0.6, -0.8, 0.9)]
    assert figure.caption.startswith("nearest")
    many = nearest_pairs(entry(Pictures("1 step", flat(*[0.0] * 9)), Pictures("nearest", flat(*[0.1] * 9))))
    assert pixels(many).shape == (3 * 9 + 1, 4 * 17 + 1, 4)


def test_nearest_images_without_their_samples_stand_alone():
    assert nearest_pairs(entry(Pictures("1 step", flat(0.0)))) is None
    assert nearest_pairs(entry(Pictures("nearest", flat(0.0)[:0]))) is None
    alone = nearest_pairs(entry(Pictures("nearest", flat(0.0, 0.1))))
    assert pixels(alone).shape[1] == 19
    other = nearest_pairs(entry(Pictures("1 step", flat(0.0)), Pictures("nearest", flat(0.0, 0.1))))
    assert pixels(other).shape[1] == 19


def test_signs_and_colours_repeat_after_six():
    assert [entry(series=k).sign for k in (0, 1, 6)] == ["●", "■", "●"]
    assert [entry(series=k).css for k in (0, 5, 7)] == ["s0", "s5", "s1"]
