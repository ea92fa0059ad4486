"""The command line: from words to a call of a verb; what its help shows; the overview of all verbs."""

from __future__ import annotations

import difflib
import inspect
import os
import platform
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import metadata
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from ..version import __version__
from .common import UsageError, option

Verb = Callable[..., None]


def named(name: str, verbs: Mapping[str, Verb]) -> Verb:
    """The verb of this name. Raises UsageError with the nearest names if there is none."""
    if name in verbs:
        return verbs[name]
    near = difflib.get_close_matches(name, verbs, n=1)
    asked = f"there is no {name!r}" + (f"; did you mean {near[0]}?" if near else f": there are {', '.join(verbs)}.")
    raise UsageError(f"{asked} See softmix --help")


def run(verb: Verb, words: Sequence[str]) -> None:
    """Calls the verb with what the words say. Exits with code 2, and names the verb's own help, if they are wrong."""
    _said_once(verb, words)
    _are_numbers(verb, words)
    tyro.cli(shown(verb), prog=f"softmix {verb.__name__}", args=list(words), config=(FlagCreatePairsOff,))


def overview(verbs: Mapping[str, Verb]) -> str:
    """What `softmix --help` prints: each verb with the first sentence of its docstring."""
    width = min(shutil.get_terminal_size().columns, 100)
    longest = max(map(len, verbs))
    indent = " " * (longest + 4)
    lines = [
        textwrap.fill(_first_sentence(verb), width, initial_indent=f"  {name:{longest}}  ", subsequent_indent=indent)
        for name, verb in verbs.items()
    ]
    return "\n".join(
        [
            "usage: softmix VERB ...",
            "",
            "Diffusion models that believe a whole posterior.",
            "",
            *lines,
            "",
            "softmix VERB --help says what a verb takes, softmix --version which softmix this is.",
            "With --debug an error shows where in the program it arose.",
        ]
    )


def _first_sentence(verb: Verb) -> str:
    paragraph = (inspect.getdoc(verb) or "").split("\n\n")[0]
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(paragraph.split()))[0]


def version() -> str:
    """softmix, and what its numbers depend on, without importing any of it."""
    return f"softmix {__version__} (Python {platform.python_version()}, torch {metadata.version('torch')})"


def shown(verb: Verb) -> Verb:
    """The verb, with a signature whose help is plain: DATA for what stands first, FLOAT and not {None}|FLOAT."""
    hints = typing.get_type_hints(verb, include_extras=True)

    @wraps(verb)
    def call(*positional: Any, **options: Any) -> None:
        verb(*positional, **options)

    parameters = [
        each.replace(annotation=_plain(each, hints[each.name])) for each in inspect.signature(verb).parameters.values()
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    # whoever reads a signature looks through a wrapper
    del call.__wrapped__  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def _plain(parameter: inspect.Parameter, hint: Any) -> Any:
    extras = getattr(hint, "__metadata__", ())
    bare = get_args(hint)[0] if extras else hint
    if bare is bool:
        return hint
    own = next((extra.metavar for extra in extras if getattr(extra, "metavar", None)), None)
    metavar = own or (_place(parameter) if parameter.kind is parameter.POSITIONAL_ONLY else metavar_of(bare))
    # a default of None is no value: the words beside it say what happens then
    silent = "" if parameter.default is None else None
    return Annotated[hint, arg(metavar=metavar, help_behavior_hint=silent)]


def _place(parameter: inspect.Parameter) -> str:
    name = parameter.name.upper()
    return name if parameter.default is parameter.empty else f"[{name}]"


def metavar_of(hint: Any) -> str:
    """float | None -> FLOAT, tuple[int, int] -> INT INT, tuple[int, ...] -> INT [INT ...], Literal["a"] -> {a}."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return "|".join(metavar_of(part) for part in parts if part is not type(None))
    if origin is tuple and parts[-1] is Ellipsis:
        return f"{metavar_of(parts[0])} [{metavar_of(parts[0])} ...]"
    if origin is tuple:
        return " ".join(map(metavar_of, parts))
    if origin is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    return str(hint.__name__).upper()


def _said_once(verb: Verb, words: Sequence[str]) -> None:
    """Raises UsageError for an option that is given twice: of two values one would be dropped in silence."""
    hints = typing.get_type_hints(verb, include_extras=True)
    seen = set()
    for word in words:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name not in hints:
            continue
        if name in seen and UseAppendAction not in getattr(hints[name], "__metadata__", ()):
            raise UsageError(f"{option(name)} was given twice: give it once, with all that belongs to it")
        seen.add(name)


def _are_numbers(verb: Verb, words: Sequence[str]) -> None:
    """Raises UsageError for a word where an option takes a number, and for two numbers where --size takes one."""
    hints = typing.get_type_hints(verb)
    for place, word in enumerate(words):
        name, equals, text = word.removeprefix("--").partition("=")
        kind = _number(hints.get(name.replace("-", "_")))
        after = list(words[place + 1 : place + 3])
        if equals:
            after.insert(0, text)
        if not word.startswith("--") or kind is None or not after or after[0].startswith("--"):
            continue
        pair = name == "size" and len(after) > 1 and _is(int, after[1]) and not os.path.exists(after[1])
        if _is(kind, after[0]) and not pair:
            continue
        asked = " ".join(after[: 1 + pair])
        told = "--size takes one number, and makes squares of so many pixels a side" if name == "size" else _TAKES[kind]
        raise UsageError(f"{option(name)} {asked} was asked for; {told}. See softmix {verb.__name__} --help")


_TAKES: dict[type, str] = {int: "it takes a whole number", float: "it takes a number"}


def _number(hint: Any) -> type | None:
    """int for int and int | None, float likewise; None for what takes anything else, or more than one number."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and kinds[0] in _TAKES and get_origin(hint) is not tuple else None


def _is(kind: type, text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        # how an option is told that it is not given
        return text == "None"
    return True
