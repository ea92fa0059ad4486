"""From the words of the command line to an instance of a verb; the help of a verb and the list of all verbs."""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import platform
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from importlib import metadata
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from ..version import __version__
from .common import UsageError, option
from .verb import Verb


def find_verb(name: str, verbs: Mapping[str, type[Verb]]) -> type[Verb]:
    """The verb of this name. Raises UsageError with the nearest name if there is none."""
    if name in verbs:
        return verbs[name]
    near = difflib.get_close_matches(name, verbs, n=1)
    hint = f"; did you mean {near[0]}?" if near else f": there are {', '.join(verbs)}."
    raise UsageError(f"there is no {name!r}{hint} See softmix --help")


def parse(verb: type[Verb], words: Sequence[str]) -> Verb:
    """The verb with the options that the words give.

    Raises UsageError for an option that is given twice and for a word in place of a number. Other wrong words end with
    exit code 2 and the name of the verb's own help.
    """
    _require_once(verb, words)
    _require_numbers(verb, words)
    return tyro.cli(
        with_help(verb),
        prog=f"softmix {verb.command()}",
        description=inspect.cleandoc(verb.__doc__ or ""),
        args=list(words),
        config=(FlagCreatePairsOff,),
    )


def overview(verbs: Mapping[str, type[Verb]]) -> str:
    """The text of `softmix --help`: each verb with the first sentence of its docstring."""
    longest, width = max(map(len, verbs)), min(shutil.get_terminal_size().columns, 100)
    indent = " " * (longest + 4)
    lines = [
        textwrap.fill(_first_sentence(verb), width, initial_indent=f"  {name:{longest}}  ", subsequent_indent=indent)
        for name, verb in verbs.items()
    ]
    return "\n".join(
        [
            "usage: softmix VERB ...",
            "",
            "Diffusion models that predict the whole denoising posterior.",
            "",
            *lines,
            "",
            "softmix VERB --help lists the options of a verb. softmix --version shows the version.",
            "With --debug an error shows its place in the program.",
        ]
    )


def version() -> str:
    """The versions of softmix, Python and torch, without an import of torch."""
    return f"softmix {__version__} (Python {platform.python_version()}, torch {metadata.version('torch')})"


def _first_sentence(verb: type[Verb]) -> str:
    paragraph = (inspect.getdoc(verb) or "").split("\n\n")[0]
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(paragraph.split()))[0]


def with_help(verb: type[Verb]) -> type[Verb]:
    """A subclass of the verb that tyro shows plainly: DATA for an argument without a name, FLOAT for `float | None`."""
    hints, texts = typing.get_type_hints(verb, include_extras=True), help_texts(verb)
    annotations = {
        field.name: _annotated(field, hints[field.name], texts.get(field.name, "")) for field in fields(verb)
    }
    subclass = type(verb.__name__, (verb,), {"__annotations__": annotations, "__module__": verb.__module__})
    return dataclass(frozen=True, kw_only=True)(subclass)


def help_texts(verb: type[Verb]) -> dict[str, str]:
    """The text below each field in the source of a verb, in one line; nothing where the source is not installed."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(verb)))
    except OSError:
        return {}
    lines: list[ast.stmt] = getattr(tree.body[0], "body", [])
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(lines)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def aliases_of(verb: type[Verb]) -> dict[str, str]:
    """The other spellings of the options of a verb: {"pairs": "beside"}."""
    hints = typing.get_type_hints(verb, include_extras=True)
    return {
        alias.removeprefix("--").replace("-", "_"): name
        for name, hint in hints.items()
        for extra in getattr(hint, "__metadata__", ())
        for alias in getattr(extra, "aliases", None) or ()
    }


def _annotated(field: Field[Any], hint: Any, text: str) -> Any:
    """The type of a field with its help and the plain name of its values."""
    extras = getattr(hint, "__metadata__", ())
    bare = get_args(hint)[0] if extras else hint
    if bare is bool:
        return Annotated[hint, arg(help=text)]
    required = field.default is MISSING
    own = next((extra.metavar for extra in extras if getattr(extra, "metavar", None)), None)
    place = field.name.upper() if required else f"[{field.name.upper()}]"
    metavar = own or (place if tyro.conf.Positional in extras else metavar_of(bare))
    # A default of None, or of an empty list, is no value; the help says the consequence in words.
    hint_of_default = "" if field.default in (None, ()) else None
    if required and get_origin(bare) is tuple:
        # tyro takes an empty list for the default
        hint_of_default = "(required)"
    aliases = next((extra.aliases for extra in extras if getattr(extra, "aliases", None)), None)
    return Annotated[hint, arg(metavar=metavar, help=text, help_behavior_hint=hint_of_default, aliases=aliases)]


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


def _require_once(verb: type[Verb], words: Sequence[str]) -> None:
    """Raise UsageError for an option that is given twice: one of the two values would be dropped in silence."""
    hints, aliases = typing.get_type_hints(verb, include_extras=True), aliases_of(verb)
    seen = set()
    for word in words:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        name = aliases.get(name, name)
        if not word.startswith("--") or name not in hints:
            continue
        if name in seen and UseAppendAction not in getattr(hints[name], "__metadata__", ()):
            also = "".join(f" (or {option(alias)})" for alias, field in aliases.items() if field == name)
            raise UsageError(f"{option(name)}{also} was given twice: give it once, with all that belongs to it")
        seen.add(name)


_NUMBERS: dict[type, str] = {int: "it takes a whole number", float: "it takes a number"}


def _require_numbers(verb: type[Verb], words: Sequence[str]) -> None:
    """Raise UsageError for a word in place of a number, and for two numbers after --size."""
    hints = typing.get_type_hints(verb)
    hints |= {alias: hints[name] for alias, name in aliases_of(verb).items()}
    for place, word in enumerate(words):
        name, equals, text = word.removeprefix("--").partition("=")
        kind = _number_type(hints.get(name.replace("-", "_")))
        after = list(words[place + 1 : place + 3])
        if equals:
            after.insert(0, text)
        if not word.startswith("--") or kind is None or not after or after[0].startswith("--"):
            continue
        # A number after --size 32 may also be a data folder with this name.
        pair = name == "size" and len(after) > 1 and _is_number(int, after[1]) and not os.path.exists(after[1])
        if _is_number(kind, after[0]) and not pair:
            continue
        asked = " ".join(after[: 1 + pair])
        takes = "--size takes one number, and makes squares of so many pixels a side"
        raise UsageError(
            f"{option(name)} {asked} was asked for; {takes if name == 'size' else _NUMBERS[kind]}. "
            f"See softmix {verb.command()} --help"
        )


def _number_type(hint: Any) -> type | None:
    """int for int and int | None, float likewise; None for other types and for several numbers."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and kinds[0] in _NUMBERS and get_origin(hint) is not tuple else None


def _is_number(kind: type, text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        # tyro reads the word None as an option that is not given.
        return text == "None"
    return True
