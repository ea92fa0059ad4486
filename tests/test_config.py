"""Configurations survive the trip through JSON, and the faults of bad ones are named."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any, Literal, Optional

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softmix.config import ConfigError, canonical, dumps, fingerprint, from_json, loads, to_json


@dataclass(frozen=True)
class Square:
    weight: float = 1.0


@dataclass(frozen=True)
class Energy:
    m: int
    beta: float | None = None


@dataclass(frozen=True)
class Data:
    path: str
    size: tuple[int, int]
    means: tuple[float, ...]
    mask: Optional[Square]  # noqa: UP045, the old spelling must work too


@dataclass(frozen=True)
class Config:
    data: Data
    loss: Square | Energy
    extra: tuple[Square | Energy | None, ...]
    policy: Literal["stop", "skip", 3]
    amp: bool
    steps: int
    clip: float | str
    count: float | int | bool | None
    nothing: None = None
    wide: tuple[int, ...] | None = None


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SQUARES = st.builds(Square, FLOATS)
LOSSES = st.one_of(SQUARES, st.builds(Energy, st.integers(), st.none() | FLOATS))
CONFIGS = st.builds(
    Config,
    data=st.builds(
        Data, st.text(), st.tuples(st.integers(), st.integers()), st.lists(FLOATS).map(tuple), st.none() | SQUARES
    ),
    loss=LOSSES,
    extra=st.lists(st.none() | LOSSES).map(tuple),
    policy=st.sampled_from(["stop", "skip", 3]),
    amp=st.booleans(),
    steps=st.integers(),
    clip=FLOATS | st.text(),
    count=st.none() | st.booleans() | st.integers() | FLOATS,
)
EXAMPLE = Config(Data("x", (28, 28), (0.1, -0.0), None), Energy(4), (Square(2.0), None), "stop", True, 500, "no", 1)


def shapes(value: Any) -> Any:
    """The value with its types spelled out, so that 1, 1.0 and True differ, and 0.0 differs from -0.0."""
    if isinstance(value, (tuple, list)):
        return type(value).__name__, [shapes(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value).__name__, [shapes(getattr(value, name)) for name in value.__dataclass_fields__]
    return type(value).__name__, repr(value)


@settings(max_examples=150, deadline=None)
@given(CONFIGS)
def test_round_trip_is_the_identity(config: Config) -> None:
    back = loads(Config, dumps(config))
    assert back == config
    assert shapes(back) == shapes(config)
    assert shapes(from_json(Config, to_json(config))) == shapes(config)
    assert fingerprint(back) == fingerprint(config)


def test_shapes_tells_types_and_signs_apart() -> None:
    assert shapes(1) != shapes(1.0) != shapes(True) and shapes(0.0) != shapes(-0.0) and shapes((1,)) != shapes([1])


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "m", "weight", "x"]), inner),
    max_leaves=6,
)


def spots(data: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside JSON data, as the keys that lead there."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [here] + [spot for key, value in inner for spot in spots(value, (*here, key))]


def mangled(data: Any, spot: tuple[Any, ...], junk: Any) -> Any:
    if not spot:
        return junk
    copy = data.copy()
    copy[spot[0]] = mangled(data[spot[0]], spot[1:], junk)
    return copy


@settings(max_examples=150, deadline=None)
@given(CONFIGS, JUNK, st.data())
def test_mangled_data_raise_nothing_but_config_error(config: Config, junk: Any, draw: st.DataObject) -> None:
    data = to_json(config)
    broken = mangled(data, draw.draw(st.sampled_from(spots(data))), junk)
    try:
        back = from_json(Config, broken)
    except ConfigError as error:
        assert str(error).startswith("config")
    else:
        assert from_json(Config, to_json(back)) == back


@settings(max_examples=150, deadline=None)
@given(CONFIGS, st.data())
def test_mangled_text_raises_nothing_but_config_error(config: Config, draw: st.DataObject) -> None:
    text = dumps(config)
    at, junk = draw.draw(st.integers(0, len(text) - 1)), draw.draw(st.text(max_size=2))
    try:
        loads(Config, text[:at] + junk + text[at + 1 :])
    except ConfigError as error:
        assert str(error).startswith("config")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_raise_nothing_but_config_error(text: bytes) -> None:
    with pytest.raises(ConfigError):
        loads(Config, text)


def example(**changes: Any) -> dict[str, Any]:
    return {**json.loads(dumps(EXAMPLE)), **changes}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss": {"kind": "Energy", "m": "four", "beta": None}}, 'config.loss.m: an integer was expected, "four" was'),
        ({"loss": {"kind": "Energy", "m": True, "beta": None}}, "config.loss.m: an integer was expected, true was"),
        ({"loss": {"kind": "Energy", "m": 4.0, "beta": None}}, "config.loss.m: an integer was expected, 4.0 was"),
        ({"loss": {"kind": "os.system", "m": 1}}, 'config.loss.kind: one of "Square", "Energy" was expected, "os.sys'),
        ({"loss": {"weight": 1.0}}, 'config.loss.kind: one of "Square", "Energy" was expected, there is none'),
        ({"loss": {"kind": ["Square"]}}, 'config.loss.kind: one of "Square", "Energy" was expected, ["Square"]'),
        ({"loss": None}, "config.loss: Square or Energy was expected, null was found"),
        ({"stepz": 3}, 'config: the key "stepz" is unknown; Config has data, loss, extra'),
        ({"extra": [None, {"kind": "Square", "weight": "a"}]}, "config.extra[1].weight: a number was expected"),
        ({"extra": {}}, "config.extra: a list was expected, {} was found"),
        ({"policy": "pray"}, 'config.policy: one of "stop", "skip", 3 was expected, "pray" was found'),
        ({"policy": 3.0}, 'config.policy: one of "stop", "skip", 3 was expected, 3.0'),
        ({"amp": 1}, "config.amp: true or false was expected, 1 was found"),
        ({"clip": math.inf}, "config.clip: a number or a text was expected"),
        ({"clip": 10**400}, "config.clip: a number or a text was expected"),
        ({"nothing": 0}, "config.nothing: null was expected, 0 was found"),
        ({"data": {"path": "x", "size": [1], "means": [], "mask": None}}, "config.data.size: a list of 2 values was"),
        (
            {"data": {"path": "x", "size": [1, 1], "means": [], "mask": {"kind": "Energy"}}},
            'config.data.mask.kind: one of "Square" was expected, "Energy" was found',
        ),
        ({"wide": [1, "a"]}, "config.wide[1]: an integer was expected"),
        ({"wide": 1}, "config.wide: tuple[int, ...] or null was expected, 1 was found"),
        ({"data": 7}, "config.data: an object with the keys of Data was expected, 7 was found"),
    ],
)
def test_the_sentence_names_the_path_and_the_alternatives(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_json(Config, example(**changes))
    assert str(error.value).startswith(sentence)


def test_a_missing_key_takes_its_default_or_is_named() -> None:
    """So that a field can be added without making older configurations unreadable."""
    defaulted = 0
    for each in dataclasses.fields(Config):
        data = example()
        del data[each.name]
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            with pytest.raises(ConfigError, match=rf"^config\.{each.name} is missing"):
                from_json(Config, data)
        else:
            defaulted += 1
            expected = each.default if each.default is not dataclasses.MISSING else each.default_factory()
            assert getattr(from_json(Config, data), each.name) == expected
    assert 0 < defaulted < len(dataclasses.fields(Config))


@pytest.mark.parametrize(
    "text",
    ["", "{", "NaN", '{"weight": NaN}', '{"weight": 1e999}', '{"weight": 1, "weight": 2}', "[" * 100_000, "9" * 5000],
)
def test_text_that_is_not_a_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^config"):
        loads(Square, text)


def test_an_integer_in_a_float_field_is_read_and_written_as_a_float() -> None:
    loose = Square(2)
    assert to_json(loose) == {"weight": 2.0} and fingerprint(loose) == fingerprint(Square(2.0))
    assert shapes(from_json(Square, {"weight": 2})) == shapes(Square(2.0))


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None, True, np.float64(1.0), (1.0,)])
def test_values_against_their_annotation_are_not_written(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^config\.weight: a (finite )?number was expected"):
        dumps(Square(value))


def test_a_numpy_number_does_not_look_like_a_plain_one_in_the_message() -> None:
    with pytest.raises(ConfigError, match=r"np\.float64"):
        dumps(Square(np.float64(1.0)))


@dataclass(frozen=True)
class Heavier(Square):
    more: int = 1


@dataclass(frozen=True)
class Holder:
    inner: Square


def test_a_class_outside_the_annotation_is_not_written() -> None:
    with pytest.raises(ConfigError, match=r"^config.loss: Square or Energy was expected"):
        to_json(changed(EXAMPLE, loss=Heavier()))
    with pytest.raises(ConfigError, match=r"^config\.inner: Square was expected, Heavier"):
        to_json(Holder(Heavier()))
    with pytest.raises(ConfigError, match=r"^config\.extra: a tuple was expected"):
        to_json(changed(EXAMPLE, extra=[None]))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Picky:
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, {self.steps} was given")


def test_a_refusal_of_the_class_itself_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"^config: Picky refuses these values: steps must be at least 1, 0"):
        from_json(Picky, {"steps": 0})


@dataclass
class Melting:
    x: int = 1


@dataclass(frozen=True)
class Loose:
    table: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    next: Node | None = None


def test_unsupported_annotations_are_refused() -> None:
    with pytest.raises(ConfigError, match="Melting: a configuration must be frozen"):
        to_json(Melting())
    with pytest.raises(ConfigError, match=r"^config\.table: its annotation, dict\[str, int\], cannot be written"):
        to_json(Loose())
    with pytest.raises(ConfigError, match="instance of a frozen dataclass"):
        to_json({"a": 1})
    with pytest.raises(ConfigError, match="a frozen dataclass was expected"):
        from_json(dict, {})


def test_nesting_without_end_is_refused() -> None:
    data: Any = {"next": None}
    for _ in range(5000):
        data = {"next": {"kind": "Node", **data}}
    with pytest.raises(ConfigError, match="nested too deeply"):
        from_json(Node, data)
    assert loads(Node, dumps(Node(Node(Node())))) == Node(Node(Node()))


def test_reading_builds_only_the_classes_in_the_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr("os.system", lambda command: ran.append(command))
    for kind in ("os.system", "system", "Heavier", "Config", "builtins.eval", "__import__('os').system('x')"):
        with pytest.raises(ConfigError, match="kind"):
            from_json(Config, example(loss={"kind": kind, "weight": 1.0, "command": "x"}))
    assert not ran


def test_the_canonical_text_and_the_fingerprint_do_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": [1.5, None]}) == canonical({"a": [1.5, None], "b": 1}) == '{"a":[1.5,null],"b":1}'
    assert fingerprint(EXAMPLE) != fingerprint(changed(EXAMPLE, steps=501))
    assert len(fingerprint(EXAMPLE)) == 12 and int(fingerprint(EXAMPLE), 16) >= 0


def test_values_that_json_cannot_hold_are_named_with_their_path() -> None:
    with pytest.raises(ConfigError, match=r"values that JSON can hold were expected: a\.1\.b is nan"):
        canonical({"a": [1, {"b": math.nan}]})
    ring: list[Any] = []
    ring.extend([ring, ring])
    with pytest.raises(ConfigError, match="Circular"):
        canonical(ring)


# classes of the caller's own


@dataclass(frozen=True)
class Inner:
    a: float = 2.0


@dataclass(frozen=True)
class Outer:
    """A part that has parts: one by its class, one of the same union, one that is there or not."""

    inner: Inner
    loss: Square | Energy | None
    other: Inner | None = None


@dataclass(frozen=True)
class Holding:
    loss: Square | Energy


def test_parts_of_a_part_survive_and_a_missing_class_is_named() -> None:
    one = Holding(Outer(Inner(3.0), Outer(Inner(), Inner(5.0)), Inner(4.0)))  # type: ignore[arg-type]
    parts = (Outer, Inner)
    assert loads(Holding, dumps(one, parts), parts) == one
    assert to_json(one, parts)["loss"]["loss"]["loss"] == {"kind": "Inner", "a": 5.0}  # type: ignore[index, call-overload]
    hint = r"a part of your own is given in Python, by parts=\(ITS_CLASS,\)"
    with pytest.raises(ConfigError, match=rf"config.loss.loss.loss: .* was expected, Inner\(a=5.0\) was found; {hint}"):
        dumps(one, (Outer,))
    with pytest.raises(ConfigError, match=rf'config.loss.loss.loss.kind: .*"Inner" was found; {hint}'):
        loads(Holding, dumps(one, parts), (Outer,))
    # what was given to one call is not known to the next
    with pytest.raises(ConfigError, match=hint):
        dumps(one)


def test_a_part_with_the_name_of_one_of_ours_is_refused() -> None:
    own = dataclasses.make_dataclass("Energy", [("power", float, 2.0)], frozen=True)
    for attempt in (
        lambda: dumps(Holding(own()), (own,)),
        lambda: from_json(Holding, {"loss": {"kind": "Energy"}}, (own,)),
    ):
        with pytest.raises(ConfigError, match=r"config.loss: two classes of this union share a name, Energy, .*rename"):
            attempt()
