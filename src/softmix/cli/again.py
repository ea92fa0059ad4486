"""The command line: `softmix repeat`, which makes a picture or the beginning of a run again and says what agrees."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from tyro.conf import Positional, arg

from .common import UsageError, load_data, positive
from .draw import sample
from .edit import before, edit


def repeat(
    what: Annotated[Positional[Path], arg(metavar="PICTURE|RUN")],
    /,
    run: Path | None = None,
    data: str | None = None,
    steps: int = 50,
    out: Path | None = None,
) -> None:
    """Make a picture again from the recipe inside it, or the first steps of a run from its config.json, and say which
    numbers agree and to how many digits: on the same machine all of them, on another some.

    Args:
        what: a .png that softmix wrote, or a run folder (config.json and log.jsonl are enough).
        run: of a picture: the run it was made from, if it is not where its name says.
        data: of a run: the data, if they cannot be found by their name.
        steps: of a run: how many to repeat.
        out: where the new picture or run goes; thrown away if not said.
    """
    with TemporaryDirectory() as aside:
        if what.is_dir():
            positive(steps=steps)
            _run(what, data, steps, out or Path(aside) / what.name)
        else:
            _picture(what, run, out, Path(aside))


def _picture(what: Path, run: Path | None, out: Path | None, aside: Path) -> None:
    import numpy as np
    from PIL import Image

    from ..train import load

    recipe = _recipe(what)
    places = [run] if run is not None else [Path(recipe["run"]), Path("runs") / recipe["run"], what.parent]
    model = next((load(place, recipe["arguments"]["weights"]) for place in places if _holds_run(place)), None)
    if model is None:
        raise UsageError(f"{what} was made from the run {recipe['run']}: say where it is with --run")
    if model.fingerprint != recipe["weights_fingerprint"]:
        raise UsageError(
            f"{what} was made by weights {recipe['weights_fingerprint']} (step {recipe['step']}); {model.path} has "
            f"{model.fingerprint} (step {model.step})"
        )
    made = aside / "made.png"
    # what they say of a file that is thrown away is of no use
    with redirect_stdout(StringIO()):
        if recipe["form"] == "edit":
            before(what, model.facts.shape).save(aside / "before.png")
            edit(model.path, aside / "before.png", made, **recipe["arguments"])
        elif recipe["form"] == "single":
            sample(model.path, aside / "made", **recipe["arguments"])
            made = next((aside / "made").glob("*.png"))
        else:
            sample(model.path, made, **recipe["arguments"])
    if out is not None:
        shutil.copyfile(made, out)
    with Image.open(what) as first, Image.open(made) as second:
        a, b = np.asarray(first, dtype=int), np.asarray(second, dtype=int)
    apart = abs(a - b)
    print(
        f"{what}: all {a.size:,} values are the same"
        if not apart.any()
        else f"{what}: {np.mean(apart > 0):.2%} of {a.size:,} values differ, by {apart.max()} of 255 at most"
    )


def _holds_run(place: Path) -> bool:
    from ..train import RunError, read_run

    try:
        return bool(read_run(place))
    except RunError:
        return False


def _recipe(what: Path) -> dict[str, Any]:
    from PIL import Image, UnidentifiedImageError

    from ..picture import RECIPE

    try:
        with Image.open(what) as image:
            recipe = json.loads(image.info[RECIPE])
        recipe["arguments"], recipe["run"], recipe["weights_fingerprint"], recipe["form"]
    except (OSError, UnidentifiedImageError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{what} is no picture with a recipe, as `softmix sample` and `softmix edit` write them ({error})"
        ) from error
    verb: Any = edit if recipe["form"] == "edit" else sample
    known = set(verb.__annotations__) - {"run", "image", "out", "dry_run", "return"}
    if not isinstance(recipe["arguments"], dict) or set(recipe["arguments"]) != known:
        raise UsageError(f"{what}: its recipe is of another softmix ({recipe.get('softmix')}) or was altered")
    return dict(recipe)


def _run(what: Path, data: str | None, steps: int, out: Path) -> None:
    from ..config import dumps
    from ..train import log_of, read_run, training

    found = read_run(what)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: name another folder")
    shape = found.facts.shape
    options: dict[str, Any] = {"size": shape[-1], "channels": shape[0]} if len(shape) == 3 else {}
    items = load_data(data or found.facts.data, limit=found.facts.count, **options)
    before = {line["step"]: line for line in log_of(what) if "loss" in line}
    if not any(step <= steps for step in before):
        raise UsageError(f"{what / 'log.jsonl'} has no line for the first {steps} steps: there is nothing to compare")
    out.mkdir(parents=True, exist_ok=True)
    # what was found then is part of the recipe: the number of steps, the precision, the pieces of a batch
    (out / "config.json").write_text(dumps(found))
    with closing(training(items, found.config, out)) as taken:
        for step in taken:
            if step.step >= steps:
                break
    print(f"{'step':>6} {'loss then':>20} {'loss now':>20} {'digits':>7} {'norm':>7}")
    worst: dict[str, float] = {"loss": math.inf, "norm": math.inf}
    for line in log_of(out):
        then = before.get(line["step"])
        if then is None:
            continue
        agree = {name: digits(then[name], line[name]) for name in worst}
        worst = {name: min(worst[name], agree[name]) for name in worst}
        shown = [_shown(agree[name]) for name in worst]
        print(f"{line['step']:>6} {then['loss']:>20.12g} {line['loss']:>20.12g} {shown[0]:>7} {shown[1]:>7}")
    least = ", ".join(f"{name} {_shown(value)}" for name, value in worst.items())
    print(f"digits that agree at least: {least}")


def digits(a: float, b: float) -> float:
    """How many decimal digits of two numbers agree: -log10 of their relative difference, inf if they are the same."""
    return math.inf if a == b else max(0.0, -math.log10(abs(a - b) / max(abs(a), abs(b))))


def _shown(agree: float) -> str:
    return "all" if math.isinf(agree) else f"{agree:.1f}"
