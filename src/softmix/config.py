"""Ground floor: write a frozen dataclass as JSON and read it back, exactly.

The annotations of the dataclass are the only schema. A class that they do not name cannot be built: no class is looked
up by a name found in the data, and no data is ever evaluated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeGuard, TypeVar, Union, cast

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]
T = TypeVar("T")

_KIND = "kind"
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_OWN = "; a part of your own is given in Python, by parts=(ITS_CLASS,)"
_SUPPORTED = "int, float, bool, str, None, Literal, tuple, unions of these, and frozen dataclasses"


class ConfigError(ValueError):
    """A configuration that cannot be read or written. The sentence begins with the path of the fault."""


def to_json(obj: object, parts: Sequence[type] = ()) -> JSON:
    """Turn a configuration into JSON values, in the order of its fields.

    A tuple becomes a list. An integer in a float field becomes a float. A dataclass in a union carries the name of its
    class: {"kind": "ClassName", ...}.

    obj : an instance of a frozen dataclass.
    parts : frozen dataclasses of the caller; each may stand at any place that has a union of classes.

    Raises ConfigError for a value against its annotation, and for a value without a JSON form: a number that is not
    finite, a class outside the annotation.
    """
    if not dataclasses.is_dataclass(obj) or isinstance(obj, type):
        raise ConfigError(f"an instance of a frozen dataclass was expected as a configuration, {_show(obj)} was given")
    return cast(JSON, _Writer(parts).start(type(obj), obj))


def from_json(cls: type[T], data: JSON, parts: Sequence[type] = ()) -> T:
    """Build an instance of the frozen dataclass `cls` from JSON values: from_json(cls, to_json(x)) == x.

    An unknown key is refused. A missing key takes the default of its field. `to_json` writes every key, so a key is
    missing only in a configuration older than the field. The default of a new field must therefore be the behaviour
    before the field.

    Raises ConfigError, and no other error, for any data.
    """
    if not _is_class(cls):
        raise ConfigError(f"a frozen dataclass was expected to read a configuration into, {cls!r} was given")
    return cast(T, _Reader(parts).start(cls, data))


def require_defaults(part: object, names: Sequence[str], reason: str) -> None:
    """Raises ValueError if one of these fields differs from its default: a setting without effect is no setting.

    reason : the other half of the sentence, such as "by = 't' draws times evenly in t".
    """
    for field in dataclasses.fields(part):  # type: ignore[arg-type]
        if field.name not in names:
            continue
        usual = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        found = getattr(part, field.name)
        if found != usual:
            raise ValueError(
                f"{field.name} = {found!r} was given and would have no effect: {reason}. Leave {field.name} out"
            )


def dumps(obj: object, parts: Sequence[type] = ()) -> str:
    """`to_json(obj)` as indented text with a line break at its end: the content of config.json."""
    return _text(to_json(obj, parts), indent=2) + "\n"


def loads(cls: type[T], text: str | bytes, parts: Sequence[type] = ()) -> T:
    """The instance of `cls` that `dumps` wrote. Raises ConfigError for any other text."""
    return from_json(cls, parse(text), parts)


def parse(text: str | bytes) -> JSON:
    """JSON values from a text. Raises ConfigError for a text that is not JSON, and for a key that stands twice."""
    try:
        return cast(JSON, json.loads(text, object_pairs_hook=_without_duplicates))
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config: JSON was expected, but the text cannot be read: {error}") from error


def canonical(data: JSON) -> str:
    """One text for each JSON value: sorted keys, no spaces, ASCII.

    Raises ConfigError for a number that is not finite.
    """
    return _text(data, sort_keys=True, separators=(",", ":"))


def fingerprint(obj: object) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON of a configuration."""
    return hashlib.sha256(canonical(to_json(obj)).encode()).hexdigest()[:12]


class _Walk(ABC):
    """A walk over an annotation and its value. `_Writer` and `_Reader` differ at a dataclass and at a tuple."""

    def __init__(self, parts: Sequence[type]):
        for part in parts:
            if not _is_class(part):
                raise ConfigError(f"parts are frozen dataclasses, {part!r} was given")
        self.parts = tuple(parts)

    def start(self, cls: type, value: object) -> object:
        try:
            return self.record(cls, value, "config")
        except RecursionError as error:
            raise ConfigError("config: the data are nested too deeply to be a configuration") from error

    @abstractmethod
    def record(self, cls: type, value: Any, path: str) -> Any:
        """Cross a dataclass without a kind."""

    @abstractmethod
    def of_union(self, classes: Mapping[str, type], value: Any, path: str) -> Any:
        """Cross a dataclass of a union, with its kind. None for a value that is no such dataclass."""

    @abstractmethod
    def sequence(self, members: tuple[Any, ...], value: Any, path: str) -> Any:
        """Cross a tuple."""

    def walk(self, kind: Any, value: Any, path: str) -> Any:
        origin = typing.get_origin(kind)
        if _is_class(kind):
            return self.record(kind, value, path)
        if kind is None or kind in _NAMES:
            return _scalar(type(None) if kind is None else kind, value, path)
        if origin is Literal:
            return _literal(typing.get_args(kind), value, path)
        if origin is tuple:
            return self.sequence(typing.get_args(kind), value, path)
        if origin in (Union, types.UnionType):
            return self.union(typing.get_args(kind), value, path)
        raise ConfigError(f"{path}: its annotation, {_name(kind)}, cannot be written as JSON; use {_SUPPORTED}")

    def union(self, members: tuple[Any, ...], value: Any, path: str) -> Any:
        plain = [member for member in members if not _is_class(member)]
        classes = _by_name([member for member in members if _is_class(member)], self.parts, path)
        if classes and (crossed := self.of_union(classes, value, path)) is not None:
            return crossed
        faults = []
        # a float field accepts integers too, so float is tried last
        for member in sorted(plain, key=lambda member: member is float):
            try:
                return self.walk(member, value, path)
            except ConfigError as error:
                faults.append(error)
        inner = [fault for fault in faults if not str(fault).startswith(f"{path}: ")]
        if len(inner) == 1:
            raise inner[0]
        fault = _expected(path, " or ".join([*map(_name, plain), *classes]), value)
        raise ConfigError(f"{fault}{_OWN}") if classes and _is_class(type(value)) else fault

    def items(self, members: tuple[Any, ...], value: Any, path: str, name: str) -> Iterator[Any]:
        """The values of a tuple, each crossed."""
        if len(members) == 2 and members[1] is Ellipsis:
            members = members[:1] * len(value)
        if len(members) != len(value):
            raise _expected(path, f"{name} of {len(members)} values", value)
        return (
            self.walk(kind, each, f"{path}[{k}]") for k, (kind, each) in enumerate(zip(members, value, strict=True))
        )


class _Writer(_Walk):
    """From a dataclass to JSON values."""

    def record(self, cls: type, value: Any, path: str) -> dict[str, Any]:
        fields = _fields(cls)
        # a subclass would come back as its parent
        if type(value) is not cls:
            raise _expected(path, cls.__name__, value)
        return {name: self.walk(kind, getattr(value, name), f"{path}.{name}") for name, (kind, _) in fields.items()}

    def of_union(self, classes: Mapping[str, type], value: Any, path: str) -> dict[str, Any] | None:
        if type(value) not in classes.values():
            return None
        fields, name = self.record(type(value), value, path), type(value).__name__
        if _KIND in fields:
            raise ConfigError(f"{path}: {name} has a field named {_KIND!r}, which a union needs; rename it")
        return {_KIND: name, **fields}

    def sequence(self, members: tuple[Any, ...], value: Any, path: str) -> list[Any]:
        # a list would come back as a tuple, and not equal itself
        if not isinstance(value, tuple):
            raise _expected(path, "a tuple", value)
        return list(self.items(members, value, path, "a tuple"))


class _Reader(_Walk):
    """From JSON values to a dataclass."""

    def record(self, cls: type, value: Any, path: str) -> object:
        if not isinstance(value, Mapping):
            raise _expected(path, f"an object with the keys of {cls.__name__}", value)
        fields = _fields(cls)
        known = ", ".join(fields) or "none"
        for key in value:
            if key not in fields:
                raise ConfigError(f"{path}: the key {_show(key)} is unknown; {cls.__name__} has {known}")
        for name, (_, required) in fields.items():
            if required and name not in value:
                raise ConfigError(f"{path}.{name} is missing; {cls.__name__} needs {known}")
        given = {name: kind for name, (kind, _) in fields.items() if name in value}
        arguments = {name: self.walk(kind, value[name], f"{path}.{name}") for name, kind in given.items()}
        try:
            return cls(**arguments)
        except Exception as error:  # a __post_init__ may refuse its values with any exception of its own
            raise ConfigError(f"{path}: {cls.__name__} refuses these values: {error}") from error

    def of_union(self, classes: Mapping[str, type], value: Any, path: str) -> object | None:
        if not isinstance(value, Mapping):
            return None
        kind = value.get(_KIND)
        if not isinstance(kind, str) or kind not in classes:
            found = f"{_show(kind)} was found" if _KIND in value else "there is none"
            hint = _OWN if isinstance(kind, str) and kind.isidentifier() else ""
            raise ConfigError(f"{path}.{_KIND}: one of {', '.join(map(_show, classes))} was expected, {found}{hint}")
        return self.record(classes[kind], {key: each for key, each in value.items() if key != _KIND}, path)

    def sequence(self, members: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _expected(path, "a list", value)
        return tuple(self.items(members, value, path, "a list"))


def _is_class(kind: object) -> TypeGuard[type]:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _by_name(classes: list[type], parts: tuple[type, ...], path: str) -> dict[str, type]:
    """The classes of a union and the caller's, by name."""
    every = [*classes, *(part for part in parts if classes and part not in classes)]
    names = [cls.__name__ for cls in every]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{path}: two classes of this union share a name, {twice}, so that {_KIND!r} cannot tell them apart: "
            "rename yours"
        )
    return dict(zip(names, every, strict=True))


@cache
def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    """Name -> (resolved annotation, whether it is required), of each field of the constructor."""
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"{cls.__name__}: a configuration must be frozen; write @dataclass(frozen=True)")
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise ConfigError(
            f"{cls.__name__}: its annotations cannot be read ({error}); move it to a module's top"
        ) from error
    nothing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is nothing and field.default_factory is nothing)
        for field in dataclasses.fields(cls)
        if field.init
    }


def _scalar(kind: type, value: Any, path: str) -> Any:
    if kind is float and type(value) in (int, float):
        return _finite(value, path)
    # to Python a bool is an int
    if type(value) is not kind:
        raise _expected(path, _NAMES[kind], value)
    return value


def _finite(value: int | float, path: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _expected(path, "a finite number", value)
    return number


def _literal(allowed: tuple[Any, ...], value: Any, path: str) -> Any:
    for choice in allowed:
        if type(choice) is type(value) and choice == value:
            return choice
    raise _expected(path, f"one of {', '.join(map(_show, allowed))}", value)


def _text(data: JSON, **style: Any) -> str:
    try:
        return json.dumps(data, allow_nan=False, **style)
    except (ValueError, TypeError, RecursionError) as error:
        fault = next(_not_finite(data), str(error))
        raise ConfigError(f"values that JSON can hold were expected: {fault}") from error


def _not_finite(data: object) -> Iterator[str]:
    """A sentence for each number that is not finite. Data that contain themselves are walked once."""
    waiting, seen = [("it", data)], set[int]()
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{path.removeprefix('it.')} is {value}"
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting.extend((f"{path}.{key}", each) for key, each in pairs)


def _without_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"config: the key {_show(twice)} stands twice in one object; remove one of them")
    return data


def _expected(path: str, noun: str, value: object) -> ConfigError:
    return ConfigError(f"{path}: {noun} was expected, {_show(value)} was found")


def _name(kind: Any) -> str:
    return _NAMES.get(kind) or (kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", ""))


def _show(value: object) -> str:
    try:
        # a numpy number must not look like a plain number
        text = json.dumps(value) if type(value) in (*_NAMES, list, dict) else repr(value)
    except (TypeError, ValueError, RecursionError):
        text = object.__repr__(value)
    return text if len(text) <= 60 else text[:57] + "..."
