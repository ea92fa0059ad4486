"""`softmix repeat PICTURE`: make a picture again from its recipe, and compare the pixels."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from .common import UsageError, interrupted
from .edit import Edit
from .edit_picture import input_panel
from .outputs import atomic_file, require_writable_file
from .recipes import Recipe, read_recipe, require_fit
from .sample import Sample

if TYPE_CHECKING:
    from ..train import Model

# Evaluations of one image that a recipe may take without a question: 64 images in 1,000 steps, three times over.
COST = 200_000


def repeat_picture(picture: Path, run: Path | None, out: Path | None, yes: bool, folder: Path) -> None:
    """Make the picture again and print how many values differ.

    run    : the run that made it; None: it is looked up by its name.
    out    : a copy of the new picture, or None.
    yes    : do not ask before a recipe that takes long.
    folder : for files that nobody needs afterwards.
    """
    if out is not None:
        if out.suffix.lower() != picture.suffix.lower():
            raise UsageError(
                f"--out {out} was asked for; {picture} is made again as it is: give a name in {picture.suffix}"
            )
        require_writable_file(out)
    recipe = read_recipe(picture, {"grid": Sample, "single": Sample, "edit": Edit})
    model = _load(picture, recipe, run)
    require_fit(picture, recipe, model.facts.shape)
    if not yes:
        _ask(picture, recipe, model)
    with interrupted("stopped; nothing was compared or written"):
        try:
            copy = _make(picture, recipe, model, folder)
        except UsageError as error:
            raise UsageError(f"{picture}: its recipe cannot be followed: {error}") from None
        if out is not None:
            with atomic_file(out) as part:
                shutil.copyfile(copy, part)
    _compare(picture, copy)


def _load(picture: Path, recipe: Recipe, run: Path | None) -> Model:
    """The model of the recipe. Raises UsageError if it is not found or has other weights now."""
    from ..train import load

    places = [run] if run is not None else [Path(recipe.run), Path("runs") / recipe.run, picture.parent]
    weights = recipe.arguments["weights"]
    model = next((load(place, weights) for place in places if run is not None or _is_run(place)), None)
    if model is None:
        raise UsageError(f"{picture} was made from the run {recipe.run}: say where it is with --run")
    if model.fingerprint != recipe.weights_fingerprint:
        raise UsageError(
            f"{picture} was made by weights {recipe.weights_fingerprint[:40]} (step {recipe.step}); {model.path} has "
            f"{model.fingerprint} (step {model.step}). Name the run it was made from with --run; if that run has "
            "trained on since, those weights are gone, and `softmix sample` draws anew"
        )
    return model


def _is_run(place: Path) -> bool:
    from ..train import RunError, read_run

    try:
        return bool(read_run(place))
    except (RunError, OSError):
        return False


def _ask(picture: Path, recipe: Recipe, model: Model) -> None:
    """Ask before a recipe that takes long. Raises UsageError if the answer is no, or nobody can answer."""
    count = cost(recipe, model)
    if count <= COST:
        return
    length = duration(count * _seconds(model))
    question = f"{picture} asks for {count:,} evaluations of an image, about {length} on this machine"
    if not sys.stdin.isatty():
        raise UsageError(f"{question}: say --yes to make it")
    print(f"{question}. Make it? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was made")


def cost(recipe: Recipe, model: Model) -> int:
    """Evaluations of the network for a recipe, each of one image.

    A draw of an average counts as a whole evaluation, though it is only a part of one.
    """
    from ..sampler import BY_NAME, traits

    known = recipe.arguments
    if recipe.form == "edit":
        return 3 * max(int(known["steps"]), 0)
    sampler = BY_NAME.get(known["sampler"], model.sampler)
    guided = 1 if known["guidance"] == 1 else 2
    return int(traits(sampler).evaluations(known["steps"]) * known["n"] * max(known["average"], 1) * guided)


def _seconds(model: Model) -> float:
    """The time of one evaluation of one image: the shorter of two trials."""
    import torch

    x = torch.zeros(1, *model.facts.shape)
    cond = torch.zeros(1, dtype=torch.int64) if model.denoiser.classes else None
    lengths = []
    for _ in range(2):
        began = time.perf_counter()
        model.denoiser(x, torch.tensor(1.0), cond)
        lengths.append(time.perf_counter() - began)
    return min(lengths)


def duration(seconds: float) -> str:
    """Seconds in the largest unit that gives at least 2: 9000 -> 2 hours."""
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {name}"
    return f"{seconds:.0f} seconds"


def _make(picture: Path, recipe: Recipe, model: Model, folder: Path) -> Path:
    """The picture, made again in `folder`."""
    copy = folder / f"made{picture.suffix}"
    # The verbs print the name of a file that will be deleted.
    with redirect_stdout(StringIO()):
        if recipe.form == "edit":
            before = folder / "before.png"
            input_panel(picture, model.facts.shape).save(before)
            Edit(run=model.path, image=before, out=copy, **recipe.arguments)()
        elif recipe.form == "single":
            Sample(run=model.path, out=folder / "single", **recipe.arguments)()
            copy = next((folder / "single").glob("*.png"))
        else:
            Sample(run=model.path, out=copy, **recipe.arguments)()
    return copy


def _compare(picture: Path, copy: Path) -> None:
    import numpy as np
    from PIL import Image

    with Image.open(picture) as first, Image.open(copy) as second:
        a, b = np.asarray(first, dtype=int), np.asarray(second, dtype=int)
    if a.shape != b.shape:
        raise UsageError(f"{picture} has values {list(a.shape)}, and its recipe makes {list(b.shape)}")
    difference = abs(a - b)
    if not difference.any():
        print(f"{picture}: all {a.size:,} values are the same")
        return
    share, most = np.mean(difference > 0), difference.max()
    print(f"{picture}: {share:.2%} of {a.size:,} values differ, by {most} of 255 at most")
