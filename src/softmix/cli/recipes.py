"""The recipe in a picture. Anybody may have written it, so each value is tested before it is used.

It holds numbers and names only, no code, and no file but the second model of an edit. Its arguments must have the types
of the options of their verb, and its numbers must fit the size of the picture. The verb then tests them like those of a
user.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from .common import UsageError
from .verb import Verb

if TYPE_CHECKING:
    from ..train import Model

Form = Literal["grid", "single", "edit"]
EDIT_PANELS = 3
# The places of input and output are no part of a recipe. `softmix repeat` does not draw from a folder of diffusers, so
# that no prompt is saved, and not beside pictures, which the recipe does not hold.
_NOT_SAVED = ("run", "image", "images", "out", "prompt", "beside", "truth", "compare", "dry_run")


# options that came later, with the value that earlier pictures were drawn with
_LATER: Mapping[str, Any] = {"grid": None}


class Unfit(Exception):
    """A value that does not have the type of its option. The message shows the value."""


@dataclass(frozen=True)
class Recipe:
    """A tested recipe.

    run                 : the name of the run folder.
    step                : the training step of the weights.
    weights_fingerprint : the fingerprint of the weights.
    form                : the form of the picture.
    arguments           : the options of the verb, without input and output.
    size                : width and height of the picture, in pixels.
    """

    run: str
    step: int
    weights_fingerprint: str
    form: Form
    arguments: Mapping[str, Any]
    size: tuple[int, int]


def saved_options(verb: type[Verb]) -> list[str]:
    """The names of the options that a recipe holds."""
    return [field.name for field in fields(verb) if field.name not in _NOT_SAVED]


def arguments_of(verb: Verb, **resolved: Any) -> dict[str, Any]:
    """The options of a verb for its recipe. resolved : final values in place of those that the user gave."""
    return {name: getattr(verb, name) for name in saved_options(type(verb))} | resolved


def model_of(model: Model) -> dict[str, Any]:
    """The facts of a model for a recipe."""
    return {
        "run": model.path.name,
        "step": model.step,
        "weights": model.weights,
        "weights_fingerprint": model.fingerprint,
        "softmix": model.facts.version,
    }


def read_recipe(picture: Path, verbs: Mapping[Form, type[Verb]]) -> Recipe:
    """The recipe in a picture. Raises UsageError for a file without recipe and for a recipe that was altered."""
    text, size = _text(picture)
    try:
        table = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(table, dict):
            raise Unfit("it is no table of names and values")
        if "what" in table and "step" not in table:
            raise UsageError(
                f"{picture} was drawn from a folder of diffusers, which `softmix repeat` does not draw from; its "
                "recipe has the options of the `softmix sample` that made it"
            )
        if "beside" in table:
            raise UsageError(
                f"{picture} was drawn beside the pictures {_shown(table['beside'])}, which its recipe does not hold: "
                "draw it again with `softmix sample ... --beside`"
            )
        if table.get("form") == "restored":
            raise UsageError(
                f"{picture} was restored from {_shown(table.get('image'))}, which its recipe does not hold: restore it "
                "again with `softmix restore`"
            )
        form = fit_type(Form, _part(table, "form"), "form")
        run = fit_type(str, _part(table, "run"), "run")
        if run in ("", ".", "..") or Path(run).name != run or "\0" in run:
            raise Unfit(f"run is {run!r}, and not the name of a folder")
        return Recipe(
            run,
            fit_type(int, _part(table, "step"), "step"),
            fit_type(str, _part(table, "weights_fingerprint"), "weights_fingerprint"),
            form,
            _arguments(verbs[form], _part(table, "arguments"), table.get("softmix")),
            size,
        )
    except (ValueError, RecursionError, Unfit) as error:
        raise UsageError(f"{picture}: its recipe cannot be used: {error or type(error).__name__}") from None


def _text(picture: Path) -> tuple[str, tuple[int, int]]:
    from PIL import Image

    from ..picture import recipe_in

    try:
        if not picture.is_file():
            raise FileNotFoundError("there is no such file")
        with Image.open(picture) as image:
            return recipe_in(image), image.size
    except (OSError, ValueError, LookupError, SyntaxError, Image.DecompressionBombError) as error:
        why = "it holds no recipe" if isinstance(error, LookupError) else error
        raise UsageError(
            f"{picture} is no picture with a recipe, as `softmix sample` and `softmix edit` write it ({why})"
        ) from None


def _part(table: Mapping[str, Any], name: str) -> Any:
    if name not in table:
        raise Unfit(f"it has no {name}")
    return table[name]


def _refuse_constant(constant: str) -> None:
    raise Unfit(f"{constant} is no number to repeat anything with")


def _arguments(verb: type[Verb], values: object, version: object) -> Mapping[str, Any]:
    """The arguments in a recipe, each with the type of the option of the verb."""
    hints, names = typing.get_type_hints(verb), saved_options(verb)
    if isinstance(values, dict):
        values = {name: value for name, value in _LATER.items() if name in names} | values
    if not isinstance(values, dict) or set(values) != set(names):
        raise Unfit(f"it is of another softmix ({str(version)[:40]}) or was altered")
    return {name: fit_type(hints[name], values[name], name) for name in names}


def fit_type(hint: Any, value: Any, name: str) -> Any:
    """A value of JSON as this type: a list as a tuple, a text as a path.

    Raises Unfit for another type. A text, true and false are no numbers, and a number is finite.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for part in parts:
            try:
                return fit_type(part, value, name)
            except Unfit:
                continue
    elif origin is Literal:
        if any(type(value) is type(part) and value == part for part in parts):
            return value
    elif origin is tuple:
        kinds = [parts[0]] * len(value) if isinstance(value, list) and parts[-1] is Ellipsis else list(parts)
        if isinstance(value, list) and len(value) == len(kinds):
            return tuple(fit_type(kind, item, name) for kind, item in zip(kinds, value, strict=True))
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
    except OverflowError:  # a whole number above the largest float
        return False


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def require_fit(picture: Path, recipe: Recipe, shape: tuple[int, ...]) -> None:
    """Raise UsageError unless the recipe makes a picture of this size with a model of items of this shape."""
    from ..picture import sheet_size

    if len(shape) != 3:
        raise UsageError(f"{picture} was made by a model of images, and this one is of points")
    height, width = shape[1:]
    if recipe.form == "edit":
        right = sheet_size(EDIT_PANELS, height, width, columns=EDIT_PANELS)
    elif recipe.form == "single":
        right = (width, height)
    else:
        # At most one tile a pixel; a negative number has no square root.
        n = min(max(recipe.arguments["n"], 1), recipe.size[0] * recipe.size[1])
        right = sheet_size(n, height, width)
    if recipe.size != right or (recipe.form == "single" and recipe.arguments["n"] != 1):
        made = "an edit" if recipe.form == "edit" else f"{recipe.arguments['n']:,} images as a {recipe.form}"
        raise UsageError(
            f"{picture} is {recipe.size[0]} x {recipe.size[1]} pixels, and its recipe makes {made} of this model, "
            f"{right[0]} x {right[1]}: one of the two was altered"
        )
