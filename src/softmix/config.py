"""Ground floor: a configuration is a frozen dataclass; this file turns it into JSON and back, exactly.

The annotations of the dataclass are the only schema. What they do not name cannot be built: no class is
looked up by a name found in the data, and no data is ever evaluated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union, cast

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]
T = TypeVar("T")
_Step = Callable[[Any, Any, str], Any]

_KIND = "kind"
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_OWN = "; a part of your own is given in Python, by parts=(ITS_CLASS,)"
_SUPPORTED = "int, float, bool, str, None, Literal, tuple, unions of these, and frozen dataclasses"


# Classes of the caller's own, beside those of every union. They are given, and never looked up.
_PARTS: ContextVar[tuple[type, ...]] = ContextVar("_PARTS", default=())


class Open:
    """Marks an annotation of one class, `Annotated[Denoise, Open]`, that is written as a union is: with its kind."""


class ConfigError(ValueError):
    """A configuration that cannot be read or written; the sentence begins with the path of the fault."""


def to_json(obj: object, parts: Sequence[type] = ()) -> JSON:
    """The configuration `obj`, an instance of a frozen dataclass, as JSON values in the order of its fields.

    parts : frozen dataclasses of the caller's own that may stand wherever a class of a union may.

    A tuple becomes a list, and an integer in a float field a float. A dataclass whose field is annotated
    with a union carries its class as {"kind": "ClassName"}.

    Raises ConfigError when a value is not what its annotation says, or cannot be written as JSON (a number
    that is not finite, a class that is not in the annotation).
    """
    if not dataclasses.is_dataclass(obj) or isinstance(obj, type):
        raise ConfigError(f"an instance of a frozen dataclass was expected as a configuration, {_show(obj)} was given")
    with _also(parts):
        return cast(JSON, _guarded(_encode, type(obj), obj))


def from_json(cls: type[T], data: JSON, parts: Sequence[type] = ()) -> T:
    """The instance of the frozen dataclass `cls` that `to_json` turned into `data`: from_json(cls, to_json(x)) == x.

    No key may be unknown. A key that is missing takes its default, if it has one: `to_json` writes every key,
    so this happens only to a configuration that is older than the field, and a new field's default must
    therefore be what was done before it.

    Raises ConfigError, and nothing else, for any data whatever.
    """
    if not _is_class(cls):
        raise ConfigError(f"a frozen dataclass was expected to read a configuration into, {cls!r} was given")
    with _also(parts):
        return cast(T, _guarded(_decode, cls, data))


@contextmanager
def _also(parts: Sequence[type]) -> Iterator[None]:
    for part in parts:
        if not _is_class(part):
            raise ConfigError(f"parts are frozen dataclasses, {part!r} was given")
    before = _PARTS.set((*_PARTS.get(), *parts))
    try:
        yield
    finally:
        _PARTS.reset(before)


def dumps(obj: object, parts: Sequence[type] = ()) -> str:
    """`to_json(obj)` as indented text that ends with a line break: what goes into config.json."""
    return _text(to_json(obj, parts), indent=2) + "\n"


def loads(cls: type[T], text: str | bytes, parts: Sequence[type] = ()) -> T:
    """The instance of `cls` that `dumps` wrote; ConfigError for any other text."""
    try:
        data = json.loads(text, object_pairs_hook=_no_twins)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config: JSON was expected, but the text cannot be read: {error}") from error
    return from_json(cls, data, parts)


def canonical(data: JSON) -> str:
    """One text for each JSON value: keys sorted, no spaces, ASCII only; ConfigError for a number that is not finite."""
    return _text(data, sort_keys=True, separators=(",", ":"))


def fingerprint(obj: object) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON of the configuration `obj`."""
    return hashlib.sha256(canonical(to_json(obj)).encode()).hexdigest()[:12]


def _text(data: JSON, **style: Any) -> str:
    try:
        return json.dumps(data, allow_nan=False, **style)
    except (ValueError, TypeError, RecursionError) as error:
        fault = next(_infinities(data), str(error))
        raise ConfigError(f"values that JSON can hold were expected: {fault}") from error


def _infinities(data: object) -> Iterator[str]:
    """Where the numbers are that are not finite; data that contain themselves are walked once."""
    waiting, seen = [("it", data)], set[int]()
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{path.removeprefix('it.')} is {value}"
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting.extend((f"{path}.{key}", one) for key, one in pairs)


def _no_twins(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"config: the key {_show(key)} stands twice in one object; remove one of them")
        found[key] = value
    return found


def _guarded(step: _Step, kind: Any, value: object) -> object:
    try:
        return step(kind, value, "config")
    except RecursionError as error:
        raise ConfigError("config: the data are nested too deeply to be a configuration") from error


# The two directions share one walk over the annotation; they differ in how a dataclass and a tuple are crossed.


def _is_class(kind: object) -> TypeGuard[type]:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _encode(kind: Any, value: Any, path: str) -> Any:
    if _is_class(kind):
        return _encode_class(kind, value, path)
    return _walk(_encode, kind, value, path)


def _decode(kind: Any, value: Any, path: str) -> Any:
    if _is_class(kind):
        return _decode_class(kind, value, path)
    return _walk(_decode, kind, value, path)


def _walk(step: _Step, kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is None or kind in _NAMES:
        return _scalar(type(None) if kind is None else kind, value, path)
    if origin is Literal:
        return _literal(typing.get_args(kind), value, path)
    if origin is tuple:
        return _tuple(step, typing.get_args(kind), value, path)
    if origin in (Union, types.UnionType):
        return _union(step, typing.get_args(kind), value, path)
    if origin is Annotated and Open in typing.get_args(kind):
        return _union(step, typing.get_args(kind)[:1], value, path)
    raise ConfigError(f"{path}: its annotation, {_name(kind)}, cannot be kept as JSON; use {_SUPPORTED}")


def _scalar(kind: type, value: Any, path: str) -> Any:
    if kind is float and type(value) in (int, float):
        return _finite(value, path)
    # bool is an int to Python, and must not pass for one here.
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


def _tuple(step: _Step, members: tuple[Any, ...], value: Any, path: str) -> Any:
    # Written from a tuple only, so that what is read back equals it; read from a list.
    source, result, name = (tuple, list, "a tuple") if step is _encode else (list, tuple, "a list")
    if not isinstance(value, source):
        raise _expected(path, name, value)
    if len(members) == 2 and members[1] is Ellipsis:
        members = members[:1] * len(value)
    if len(members) != len(value):
        raise _expected(path, f"{name} of {len(members)} values", value)
    return result(step(kind, one, f"{path}[{k}]") for k, (kind, one) in enumerate(zip(members, value, strict=True)))


def _union(step: _Step, members: tuple[Any, ...], value: Any, path: str) -> Any:
    own = _PARTS.get() if any(map(_is_class, members)) else ()
    members = (*members, *(part for part in own if part not in members))
    classes = {member.__name__: member for member in members if _is_class(member)}
    plain = [member for member in members if not _is_class(member)]
    if len(classes) + len(plain) != len(members):
        names = [member.__name__ for member in members if _is_class(member)]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(
            f"{path}: two classes of this union share a name, {twice}, so that {_KIND!r} cannot tell them apart: "
            "rename yours"
        )
    if step is _encode and type(value) in classes.values():
        return _tagged(type(value), value, path)
    if step is _decode and classes and isinstance(value, Mapping):
        return _untagged(classes, value, path)
    faults = []
    # float takes integers too, so it is asked last.
    for member in sorted(plain, key=lambda one: one is float):
        try:
            return step(member, value, path)
        except ConfigError as error:
            faults.append(error)
    deep = [fault for fault in faults if not str(fault).startswith(f"{path}: ")]
    if len(deep) == 1:
        raise deep[0]
    fault = _expected(path, " or ".join([*map(_name, plain), *classes]), value)
    raise ConfigError(f"{fault}{_OWN}") if classes and _is_class(type(value)) else fault


def _hint(kind: object) -> str:
    return _OWN if isinstance(kind, str) and kind.isidentifier() else ""


def _tagged(cls: type, value: object, path: str) -> dict[str, Any]:
    fields = _encode_class(cls, value, path)
    if _KIND in fields:
        raise ConfigError(f"{path}: {cls.__name__} has a field named {_KIND!r}, which a union needs; rename it")
    return {_KIND: cls.__name__, **fields}


def _untagged(classes: Mapping[str, type], value: Mapping[str, Any], path: str) -> object:
    kind = value.get(_KIND)
    if not isinstance(kind, str) or kind not in classes:
        found = f"{_show(kind)} was found" if _KIND in value else "there is none"
        raise ConfigError(f"{path}.{_KIND}: one of {', '.join(map(_show, classes))} was expected, {found}{_hint(kind)}")
    rest = {key: one for key, one in value.items() if key != _KIND}
    return _decode_class(classes[kind], rest, path)


def _encode_class(cls: type, value: object, path: str) -> dict[str, Any]:
    fields = _fields(cls)
    # A subclass would come back as its parent, so it is refused.
    if type(value) is not cls:
        raise _expected(path, cls.__name__, value)
    return {name: _encode(kind, getattr(value, name), f"{path}.{name}") for name, kind in fields.items()}


def _decode_class(cls: type, value: Any, path: str) -> object:
    if not isinstance(value, Mapping):
        raise _expected(path, f"an object with the keys of {cls.__name__}", value)
    fields = _fields(cls)
    known = ", ".join(fields) or "none"
    for key in value:
        if key not in fields:
            raise ConfigError(f"{path}: the key {_show(key)} is unknown; {cls.__name__} has {known}")
    for name in fields:
        if name not in value and not _has_default(cls, name):
            raise ConfigError(f"{path}.{name} is missing; {cls.__name__} needs {known}")
    parts = {name: _decode(kind, value[name], f"{path}.{name}") for name, kind in fields.items() if name in value}
    try:
        return cls(**parts)
    except Exception as error:  # a __post_init__ may refuse its values with any exception of its own
        raise ConfigError(f"{path}: {cls.__name__} refuses these values: {error}") from error


def _has_default(cls: type, name: str) -> bool:
    field = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


@cache
def _fields(cls: type) -> dict[str, Any]:
    """Field name -> resolved annotation, for the fields that the constructor takes."""
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"{cls.__name__}: a configuration must be frozen; write @dataclass(frozen=True)")
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise ConfigError(
            f"{cls.__name__}: its annotations cannot be read ({error}); move it to a module's top"
        ) from error
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _expected(path: str, what: str, value: object) -> ConfigError:
    return ConfigError(f"{path}: {what} was expected, {_show(value)} was found")


def _name(kind: Any) -> str:
    return _NAMES.get(kind) or (kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", ""))


def _show(value: object) -> str:
    try:
        # A numpy number, say, must not look like the plain number that was asked for.
        text = json.dumps(value) if type(value) in (*_NAMES, list, dict) else repr(value)
    except (TypeError, ValueError, RecursionError):
        text = object.__repr__(value)
    return text if len(text) <= 60 else text[:57] + "..."
