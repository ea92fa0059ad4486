"""The command line: the recipe in a picture, which anybody may have written, believed only as far as it fits.

It names numbers and names alone, no code and no file but an edit's other model. Its arguments are held to the signature
of the verb that they are for, and its numbers to the picture that carries it; the verb then checks them as it checks
a user's.
"""

from __future__ import annotations

import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from .common import UsageError

Form = Literal["grid", "single", "edit"]
_FORMS: tuple[Form, ...] = ("grid", "single", "edit")
EDIT_PANELS = 3
# a prompt goes with a folder of diffusers, which `repeat` does not draw from
_NOT_KEPT = ("out", "prompt", "dry_run")


class Unfit(Exception):
    """A value that is not of the type that was asked for: what was found."""


@dataclass(frozen=True)
class Recipe:
    """run : the name of the run folder. step, weights_fingerprint : of the weights. form : of the picture. arguments :
    of the verb, all but run and output. size : width and height of the picture."""

    run: str
    step: int
    weights_fingerprint: str
    form: Form
    arguments: Mapping[str, Any]
    size: tuple[int, int]


def read(what: Path, verbs: Mapping[Form, Callable[..., None]]) -> Recipe:
    """The recipe in a picture. Raises UsageError with what is wrong: no picture, no recipe, or one that was altered."""
    text, size = _text(what)
    try:
        found = json.loads(text, parse_constant=_refused)
        if not isinstance(found, dict):
            raise Unfit("it is no table of names and values")
        if "what" in found and "step" not in found:
            raise UsageError(
                f"{what} was drawn from a folder of diffusers, which `softmix repeat` does not draw from; its recipe "
                "has the options of the `softmix sample` that made it"
            )
        form = fitted(Form, _part(found, "form"), "form")
        run = fitted(str, _part(found, "run"), "run")
        if run in ("", ".", "..") or Path(run).name != run or "\0" in run:
            raise Unfit(f"run is {run!r}, and not the name of a folder")
        return Recipe(
            run,
            fitted(int, _part(found, "step"), "step"),
            fitted(str, _part(found, "weights_fingerprint"), "weights_fingerprint"),
            form,
            _arguments(verbs[form], _part(found, "arguments"), found.get("softmix")),
            size,
        )
    except (ValueError, RecursionError, Unfit) as error:
        raise UsageError(f"{what}: its recipe cannot be believed: {error or type(error).__name__}") from None


def _text(what: Path) -> tuple[str, tuple[int, int]]:
    from PIL import Image

    from ..picture import recipe_in

    try:
        if not what.is_file():
            raise FileNotFoundError("there is no such file")
        with Image.open(what) as image:
            return recipe_in(image), image.size
    except (OSError, ValueError, LookupError, SyntaxError, Image.DecompressionBombError) as error:
        why = "it holds no recipe" if isinstance(error, LookupError) else error
        raise UsageError(
            f"{what} is no picture with a recipe, as `softmix sample` and `softmix edit` write them ({why})"
        ) from None


def _part(found: Mapping[str, Any], name: str) -> Any:
    if name not in found:
        raise Unfit(f"it has no {name}")
    return found[name]


def _refused(constant: str) -> None:
    raise Unfit(f"{constant} is no number to repeat anything with")


def _arguments(verb: Callable[..., None], found: object, version: object) -> Mapping[str, Any]:
    """What the picture was made with, every argument of the type that the verb's signature says."""
    hints = typing.get_type_hints(verb)
    taken = [
        name
        for name, each in inspect.signature(verb).parameters.items()
        if each.kind is not each.POSITIONAL_ONLY and name not in _NOT_KEPT
    ]
    if not isinstance(found, dict) or set(found) != set(taken):
        raise Unfit(f"it is of another softmix ({str(version)[:40]}) or was altered")
    return {name: fitted(hints[name], found[name], name) for name in taken}


def fitted(hint: Any, value: Any, name: str) -> Any:
    """A value of JSON as the type that is asked for: a list as a tuple, a text as a path. Raises Unfit if it is none:
    no text is a number, no true or false either, no number is infinite."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for part in parts:
            try:
                return fitted(part, value, name)
            except Unfit:
                continue
    elif origin is Literal:
        if any(type(value) is type(part) and value == part for part in parts):
            return value
    elif origin is tuple:
        kinds = [parts[0]] * len(value) if isinstance(value, list) and parts[-1] is Ellipsis else list(parts)
        if isinstance(value, list) and len(value) == len(kinds):
            return tuple(fitted(kind, item, name) for kind, item in zip(kinds, value, strict=True))
    elif hint is float:
        if type(value) in (int, float) and _is_finite(value):
            return value
    elif hint is Path:
        if isinstance(value, str):
            return Path(value)
    elif type(value) is hint or (hint is type(None) and value is None):
        return value
    raise Unfit(f"{name} is {_shown(value)}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def held_to_the_picture(what: Path, recipe: Recipe, shape: tuple[int, ...]) -> None:
    """Raises UsageError unless the picture has the size of what its recipe makes with a model of images [C, H, W]."""
    from ..picture import sheet_size

    if len(shape) != 3:
        raise UsageError(f"{what} was made by a model of images, and this one is of points")
    height, width = shape[1:]
    if recipe.form == "edit":
        right = sheet_size(EDIT_PANELS, height, width, columns=EDIT_PANELS)
    elif recipe.form == "single":
        right = (width, height)
    else:
        # more tiles than pixels cannot be, and of a negative number there is no square root
        n = min(max(recipe.arguments["n"], 1), recipe.size[0] * recipe.size[1])
        right = sheet_size(n, height, width)
    if recipe.size != right or (recipe.form == "single" and recipe.arguments["n"] != 1):
        made = "an edit" if recipe.form == "edit" else f"{recipe.arguments['n']:,} images as a {recipe.form}"
        raise UsageError(
            f"{what} is {recipe.size[0]} x {recipe.size[1]} pixels, and its recipe makes {made} of this model, "
            f"{right[0]} x {right[1]}: one of the two was altered"
        )
