"""The picture of the maps of two conditions: its rows, its colours, and its errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.info import InformationMaps, draw_maps
from softmix.info.map_picture import signed_colours

F64 = torch.float64


def maps_of(first: Tensor, second: Tensor, both: Tensor) -> InformationMaps:
    return InformationMaps(first, second, both, both - second, both - first, "standard")


def test_colours_are_red_above_0_and_blue_below() -> None:
    colours = signed_colours(torch.tensor([[[1.0, 0.0, -1.0, 0.5, -3.0]]]))
    assert colours[0, :, 0].mT.tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255], [255, 128, 128], [0, 0, 255]]


def test_the_picture_has_a_row_for_each_map_in_one_scale() -> None:
    """Each row has the height of an image; the largest value is red, and an image of no information is white."""
    x = torch.zeros(2, 1, 4, 24)
    first, second = torch.zeros(2, 4, 24, dtype=F64), torch.zeros(2, 4, 24, dtype=F64)
    first[0], second[1] = 2.0, -1.0
    maps = maps_of(first, second, first + second)
    image = draw_maps(x, maps, (5.0, 5.0), ("left", "right"), share=1.0)
    high = image.height // 7
    assert image.height == 7 * high
    # factor 4: the middle of each image in each row
    places = [
        (image.width - 2 * 26 * 4 + 50 + 26 * 4 * k, row * high + high // 2) for row in range(7) for k in range(2)
    ]
    seen = [image.getpixel(place) for place in places]
    white, red, blue, pale = (255, 255, 255), (255, 0, 0), (0, 0, 255), (128, 128, 255)
    assert seen[2:6] == [red, white, white, pale]
    parts = maps.parts((5.0, 5.0))
    for row, part in enumerate((parts.redundant, parts.first, parts.second, parts.synergy)):
        expected = signed_colours(part[:, :1, :1] / 2)[:, :, 0, 0].tolist()
        assert [list(each) for each in seen[6 + 2 * row : 8 + 2 * row]] == expected  # type: ignore[arg-type]
    assert seen[0] == (128, 128, 128) and blue not in seen[2:6]


def test_a_picture_of_other_items_is_refused() -> None:
    maps = maps_of(*(torch.zeros(2, 4, 4, dtype=F64) for _ in range(3)))
    for x in (torch.zeros(3, 1, 4, 4), torch.zeros(2, 4, 4), torch.zeros(2, 2, 4, 4), torch.zeros(2, 1, 4, 5)):
        with pytest.raises(ValueError, match=r"images .* and their maps .* were expected"):
            draw_maps(x, maps, (1.0, 1.0))
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="share is that of the pixels"):
            draw_maps(torch.zeros(2, 1, 4, 4), maps, (1.0, 1.0), share=share)
    # without any information all maps are white, and nothing is divided by 0
    image = draw_maps(-torch.ones(2, 1, 4, 4), maps, (1.0, 1.0))
    # factor 24: the middle of the last image in each row
    seen = [image.getpixel((image.width - 96, 192 * row + 96)) for row in range(7)]
    assert image.height == 7 * 192 and seen == [(0, 0, 0), *[(255, 255, 255)] * 6]
