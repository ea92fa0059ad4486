"""Conditions: parts of a batch, missing parts, and parts that do not suit a model."""

from __future__ import annotations

import pytest
import torch

from softmix.cond import UNCONDITIONED, Cond, CondError, CondSpec, as_cond, class_label, joined

SPEC = CondSpec((("top", 3), ("shoe", 4)), image=2, values=2, context=5)


def full(n: int = 3) -> Cond:
    return Cond(
        label=torch.arange(2 * n).reshape(n, 2) % 3,
        image=torch.arange(n * 2 * 4.0).reshape(n, 2, 2, 2),
        value=torch.arange(n * 2.0).reshape(n, 2),
        context=torch.arange(n * 4 * 5.0).reshape(n, 4, 5),
    )


def test_items_are_taken_from_every_part() -> None:
    cond, items = full(), torch.tensor([2, 0])
    for part in ("label", "image", "value", "context"):
        assert torch.equal(getattr(cond.take(items), part), getattr(cond, part)[items])
    assert len(cond.take(items)) == 2 and cond.take(items).mask is None


def test_batches_one_after_another_are_the_batch() -> None:
    cond = full()
    again = joined([cond.take(slice(0, 1)), cond.take(slice(1, 3))])
    assert all(torch.equal(getattr(again, part), getattr(cond, part)) for part in cond.parts)


def test_a_repeated_batch_is_repeated_draw_by_draw() -> None:
    assert torch.equal(full().repeat(2).value, torch.cat([full().value, full().value]))


def test_a_dropped_part_is_marked_as_missing_and_nothing_else_changes() -> None:
    given, cond = torch.tensor([True, False, True]), full()
    assert cond.dropped(given, "label").label.tolist() == [[0, 1], [-1, -1], [1, 2]]
    assert cond.dropped(given, "label", 1).label.tolist() == [[0, 1], [2, -1], [1, 2]]
    assert cond.dropped(given, "image").image.isnan().flatten(1).all(1).tolist() == [False, True, False]
    assert cond.dropped(given, "value").value.isnan().all(1).tolist() == [False, True, False]
    assert cond.dropped(given, "context").mask.all(1).tolist() == [True, False, True]
    assert torch.equal(cond.dropped(given, "image").value, cond.value)


def test_a_mask_stays_for_the_items_with_a_context() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    cond = Cond(context=torch.zeros(2, 2, 5), mask=mask).dropped(torch.tensor([True, False]), "context")
    assert cond.mask.tolist() == [[True, False], [False, False]]


def test_parts_and_single_labels_are_dropped_by_their_names() -> None:
    bare = full().without(("shoe", "value"), SPEC)
    assert bare.label.tolist() == [[0, -1], [2, -1], [1, -1]] and bare.value.isnan().all()
    assert full().without(("label",), SPEC).label.eq(-1).all()
    with pytest.raises(CondError, match="'hat' was to be dropped; there are label, image, value, context, top, shoe"):
        full().without(("hat",), SPEC)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Cond(label=torch.zeros(3, dtype=torch.int64)), "label has 1 columns"),
        (Cond(image=torch.zeros(3, 1, 2, 2)), r"image has the shape \[3, 1, 2, 2\]"),
        (Cond(image=torch.zeros(3, 2, 4, 2)), r"size \[4, 2\], and x_t has \[2, 2\]"),
        (Cond(value=torch.zeros(3, 1)), "value has the shape"),
        (Cond(context=torch.zeros(3, 4, 6)), "context has the shape"),
    ],
)
def test_a_condition_of_another_size_is_refused(wrong: Cond, says: str) -> None:
    with pytest.raises(CondError, match=says):
        SPEC.check(wrong, (2, 2))


def test_a_part_that_a_model_was_not_built_for_is_refused_by_name() -> None:
    SPEC.check(full(), (2, 2))
    SPEC.check(None)
    with pytest.raises(CondError, match=r"has image and value, .* built for the label class \(3 classes\)"):
        CondSpec((("class", 3),)).check(Cond(image=torch.zeros(1, 1, 2, 2), value=torch.zeros(1, 1)))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"label": torch.zeros(2)}, "label holds integers"),
        ({"label": torch.zeros(2, dtype=torch.bool)}, "label holds integers"),
        ({"value": torch.zeros(2)}, "value has 2 axes"),
        ({"value": torch.zeros(2, 1), "image": torch.zeros(3, 1, 2, 2)}, "one batch"),
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, "mask says which tokens"),
    ],
)
def test_parts_that_are_no_condition_are_refused(parts: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(CondError, match=says):
        Cond(**parts)


@pytest.mark.parametrize("labels", [(("a", 2), ("a", 3)), (("image", 2),), (("a", 0),)])
def test_specifications_that_make_no_sense(labels: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(CondError):
        CondSpec(labels)


def test_a_tensor_is_a_label() -> None:
    assert as_cond(torch.tensor([1, 2])).label.tolist() == [1, 2]
    assert as_cond(None) is None
    assert SPEC.classes == 3 and SPEC.parts == ("label", "image", "value", "context")
    assert SPEC.only(("value", "label")) == CondSpec(SPEC.labels, values=2)


def test_one_class_label_is_a_specification() -> None:
    assert class_label(3) == CondSpec((("class", 3),)) and class_label(0) == CondSpec() == UNCONDITIONED


@pytest.mark.parametrize(
    ("label", "says"), [([0, 4], "shoe has the classes 0 to 3"), ([3, 0], "top has the classes 0 to 2")]
)
def test_a_class_that_there_is_not_is_refused_by_its_labels_name(label: list[int], says: str) -> None:
    SPEC.check(Cond(label=torch.tensor([[2, 3], [-1, -1]])))
    with pytest.raises(CondError, match=says):
        SPEC.check(Cond(label=torch.tensor([[0, 0], label])))


def test_the_image_of_a_sequence_has_its_channels_last() -> None:
    spec = CondSpec(image=2)
    spec.check(Cond(image=torch.zeros(3, 6, 2)), (6,), axis=2)
    for wrong in ((3, 5, 2), (3, 2, 6), (3, 6, 2, 1)):
        with pytest.raises(CondError):
            spec.check(Cond(image=torch.zeros(wrong)), (6,), axis=2)


def test_a_bad_condition_is_refused() -> None:
    with pytest.raises(CondError, match="a condition is a Cond, or a tensor of labels; found list"):
        SPEC.check([1, 2])
