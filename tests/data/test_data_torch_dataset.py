"""A torch Dataset as a source."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from every_source import Jittered, Listed
from PIL import Image
from torch.utils.data import TensorDataset

from softmix.cond import Cond, CondSpec
from softmix.data import DataError, from_dataset
from softmix.rng import Rng

PIXELS = np.random.RandomState(0).randint(0, 256, (4, 6, 5, 3)).astype(np.uint8)
PIXELS[0, 0, 0] = 255
FIRST = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
X0 = FIRST.float() / 127.5 - 1


def all_of(dataset: Any, **options: Any) -> tuple[torch.Tensor, Cond | None]:
    return from_dataset(dataset, **options).batch(torch.arange(len(dataset)), Rng(0, len(dataset)))


@pytest.mark.parametrize(
    "items",
    [
        list(FIRST),
        list(PIXELS),
        [Image.fromarray(one) for one in PIXELS],
        [(one,) for one in FIRST],
        [{"image": Image.fromarray(one)} for one in PIXELS],
        [{"x0": one} for one in PIXELS],
    ],
    ids=["tensors", "arrays", "pictures", "tuples", "image", "x0"],
)
def test_pixels_are_read_from_every_container(items: list[Any]) -> None:
    x0, cond = all_of(Listed(items))
    assert torch.equal(x0, X0)
    assert cond is None
    assert from_dataset(Listed(items)).is_image


def test_grey_pictures_have_one_channel() -> None:
    for items in (list(PIXELS[..., 0]), [Image.fromarray(one) for one in PIXELS[..., 0]]):
        assert torch.equal(all_of(Listed(items))[0], X0[:, :1])
    alpha = [Image.fromarray(np.concatenate([one, one[..., :1]], 2), "RGBA") for one in PIXELS]
    assert torch.equal(all_of(Listed(alpha))[0], torch.cat([X0, X0[:, :1]], 1))


def test_a_dataset_of_torch_with_labels() -> None:
    labels = torch.tensor([2, 0, 1, 2])
    source = from_dataset(TensorDataset(FIRST, labels), classes=3, name="mine")
    x0, cond = source.batch(torch.tensor([3, 1]), Rng(0, 2))
    assert torch.equal(x0, X0[[3, 1]])
    assert cond is not None
    assert cond.label is not None
    assert cond.label.tolist() == [2, 0]
    assert source.cond == CondSpec((("class", 3),))
    assert source.name == "mine"
    assert source.classes == ("0", "1", "2")
    assert from_dataset(Listed(list(zip(FIRST, [0, 1, 0, 1], strict=True)), ["x", "y"])).classes == ("x", "y")


def test_conditions_by_name() -> None:
    items = [
        {"x0": FIRST[k], "image": PIXELS[k, ..., :1], "label": torch.tensor(k % 2), "value": 0.5 * k,
         "context": np.full((k + 1, 2), k)}
        for k in range(4)
    ]  # fmt: skip
    source = from_dataset(Listed(items), classes=["a", "b"])
    _, cond = source.batch(torch.tensor([2, 0]), Rng(0, 2))
    assert cond is not None
    assert cond.label is not None
    assert cond.value is not None
    assert cond.context is not None
    assert cond.label.tolist() == [0, 0]
    assert cond.value.tolist() == [[1.0], [0.0]]
    assert torch.equal(cond.image, X0[[2, 0], :1])  # type: ignore[arg-type]
    assert cond.context.tolist() == [[[2, 2]] * 3, [[0, 0]] * 3]
    assert cond.mask is not None
    assert cond.mask.tolist() == [[True] * 3, [True, False, False]]
    assert source.cond == CondSpec((("class", 2),), image=1, values=1, context=2)


@pytest.mark.parametrize(
    ("scale", "offset", "values"), [(1.0, 0.0, None), (0.5, 0.5, None), (127.5, 127.5, None), (0.5, 0.5, "0..1")]
)
def test_the_range_of_float_pictures_is_found(scale: float, offset: float, values: Any) -> None:
    source = from_dataset(Listed(list(X0 * scale + offset)), values=values)
    x0, _ = source.batch(torch.arange(4), Rng(0, 4))
    assert torch.allclose(x0, X0, atol=1e-6)
    assert source.is_image
    assert any("were taken as numbers in" in note for note in source.report.notes)


def test_floats_in_no_known_range_are_refused_or_as_they_are() -> None:
    dataset = Listed(list(X0 * 3))
    with pytest.raises(DataError, match="the value of white is not known"):
        from_dataset(dataset)
    source = from_dataset(dataset, values="as-is")
    assert torch.equal(source.batch(torch.arange(4), Rng(0, 4))[0], X0 * 3)
    assert not source.is_image
    points = from_dataset(Listed([torch.tensor([0.25, 0.75])] * 3))
    assert points.batch(torch.arange(3), Rng(0, 3))[0].tolist() == [[0.25, 0.75]] * 3
    with pytest.raises(DataError, match=r"values -1\.\.1 were asked for, but its items are uint8"):
        from_dataset(Listed(list(FIRST)), values="-1..1")


def test_random_transforms_follow_the_rng_and_restore_the_generators() -> None:
    source = from_dataset(Jittered([torch.zeros(2)] * 30))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first, _ = source.batch(torch.zeros(5, dtype=torch.int64), Rng(0, 5))
    assert torch.equal(states[0], torch.get_rng_state())
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]
    assert len(set(first[:, 0].tolist())) == 5
    random.seed(1)
    assert torch.equal(first, source.batch(torch.zeros(5, dtype=torch.int64), Rng(0, 5))[0])


def test_the_report_names_the_content_of_the_fingerprint() -> None:
    many = Listed([torch.tensor([float(k)]) for k in range(100)])
    note = from_dataset(many).report.notes[-1]
    assert "made of the number of items and of the content of 64 of 100 items" in note
    longer = Listed([*many.items, torch.tensor([0.0])])
    assert from_dataset(longer).fingerprint != from_dataset(many).fingerprint


def test_labels_change_the_fingerprint() -> None:
    prints = {from_dataset(Listed([(torch.zeros(2), k)] * 3), classes=4).fingerprint for k in range(4)}
    assert len(prints) == 4


BAD: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "empty": ([], {}, "has no items"),
    "shapes": ([torch.zeros(2), torch.zeros(3)], {}, r"x0 has the shape \[3\], and others \[2\]; bring all to one"),
    "nan": ([torch.zeros(2), torch.tensor([0, np.nan])], {}, "item 1: x0 has values that are not finite"),
    "beyond float32": ([np.array([0.0, 1e300])], {}, "x0 has values that are not finite"),
    "no classes": ([(torch.zeros(2), 1)], {}, "the number of classes is unknown; give from_dataset classes=10"),
    "label": ([(torch.zeros(2), 3)], {"classes": 3}, "item 0: the label is 3, and there are 3 classes"),
    "no label": ([(torch.zeros(2), 0), torch.zeros(2)], {"classes": 3}, "label is there for some items and not for"),
    "real label": ([(torch.zeros(2), 0.5)], {"classes": 3}, "is not a whole number"),
    "three": ([(torch.zeros(2), 0, 0)], {}, "is a tuple of 3; give x0"),
    "text": (["hello"], {}, "is a str; give a tensor, an array or a picture"),
    "integers": ([torch.zeros(2, dtype=torch.int64)], {}, "is torch.int64; give floats, or uint8 for pixels"),
    "key": ([{"x0": torch.zeros(2), "caption": "a"}], {}, "has x0, caption; give x0, and any of label"),
    "no x0": ([{"label": 2}], {}, "has label; give x0"),
    "value": ([{"x0": torch.zeros(2), "value": torch.zeros(2, 2)}], {}, r"value has the shape \[2, 2\]; give 1 axes"),
    "some images": ([{"x0": FIRST[0], "image": FIRST[0]}, {"x0": FIRST[0]}], {}, "image is there for some items and"),
}


@pytest.mark.parametrize("case", BAD)
def test_datasets_that_are_refused(case: str) -> None:
    items, options, reason = BAD[case]
    with pytest.raises(DataError, match=reason):
        from_dataset(Listed(items), **options)


def test_a_later_bad_item_is_named() -> None:
    items = [torch.zeros(2) for _ in range(3)]
    source = from_dataset(Listed(items))
    items[2][0] = np.inf
    with pytest.raises(DataError, match="Listed, item 2: x0 has values that are not finite; leave the item out"):
        source.batch(torch.tensor([0, 2]), Rng(0, 2))


class Noisy(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(3).round(decimals=3)


def test_the_fingerprint_of_a_random_dataset_stays_that_of_0_1() -> None:
    """Else runs on such data would be refused."""
    assert from_dataset(Noisy(), name="noisy").fingerprint == "8cab61abe61f80db"
