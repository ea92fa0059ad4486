"""The command line: `softmix repeat`, which makes a picture or the beginning of a run again and says what agrees."""

from __future__ import annotations

import math
import shutil
import sys
import time
from contextlib import closing, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from .common import UsageError, interrupted, positive
from .draw import sample
from .edit import before, edit
from .outputs import aside, empty_folder_to_write, file_to_write
from .recipes import Recipe, held_to_the_picture, read

if TYPE_CHECKING:
    from ..data import Data
    from ..train import Model

STEPS = 50
# Evaluations of one image that a recipe may ask for without a question: 64 images in 1,000 steps, three times over.
COST = 200_000


def repeat(
    what: Annotated[Positional[Path], arg(metavar="PICTURE|RUN")],
    /,
    run: Path | None = None,
    data: str | None = None,
    steps: int | None = None,
    out: Path | None = None,
    yes: bool = False,
) -> None:
    """Make a picture again from the recipe inside it, or the first steps of a run from its config.json, and say which
    numbers agree and to how many digits: on the same machine all of them, on another some.

    Args:
        what: a .png, .jpg or .webp that softmix wrote, or a run folder (config.json and log.jsonl are enough).
        run: of a picture: the run it was made from, if it is not where its name says.
        data: of a run: the data, if they are not where the run found them.
        steps: of a run: how many to repeat; 50 by default.
        out: where the new picture or run goes; thrown away if not said.
        yes: of a picture: do not ask before a recipe that takes long.
    """
    with TemporaryDirectory() as folder:
        if what.is_dir():
            _no_effect(what, "a run", run=run, yes=yes or None)
            _run(what, data, STEPS if steps is None else steps, out, Path(folder))
        else:
            _no_effect(what, "a picture", data=data, steps=steps)
            _picture(what, run, out, yes, Path(folder))


def _no_effect(what: Path, kind: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name} has no effect on {what}, which is {kind if what.exists() else 'not there'}")


def _picture(what: Path, run: Path | None, out: Path | None, yes: bool, folder: Path) -> None:
    if out is not None:
        _check_copy(what, out)
    recipe = read(what, {"grid": sample, "single": sample, "edit": edit})
    model = _model(what, recipe, run)
    held_to_the_picture(what, recipe, model.facts.shape)
    _ask(what, recipe, model, yes)
    with interrupted("stopped; nothing was compared or written"):
        try:
            made = _made(what, recipe, model, folder)
        except UsageError as error:
            raise UsageError(f"{what}: its recipe cannot be followed: {error}") from None
        if out is not None:
            with aside(out) as part:
                shutil.copyfile(made, part)
    _compare(what, made)


def _check_copy(what: Path, out: Path) -> None:
    if out.suffix.lower() != what.suffix.lower():
        raise UsageError(f"--out {out} was asked for; {what} is made again as it is: give a name in {what.suffix}")
    file_to_write(out)


def _model(what: Path, recipe: Recipe, run: Path | None) -> Model:
    from ..train import load

    places = [run] if run is not None else [Path(recipe.run), Path("runs") / recipe.run, what.parent]
    weights = recipe.arguments["weights"]
    model = next((load(place, weights) for place in places if run is not None or _holds_run(place)), None)
    if model is None:
        raise UsageError(f"{what} was made from the run {recipe.run}: say where it is with --run")
    if model.fingerprint != recipe.weights_fingerprint:
        raise UsageError(
            f"{what} was made by weights {recipe.weights_fingerprint[:40]} (step {recipe.step}); {model.path} has "
            f"{model.fingerprint} (step {model.step}). Name the run it was made from with --run; if that run has "
            "trained on since, those weights are gone, and `softmix sample` draws anew"
        )
    return model


def _holds_run(place: Path) -> bool:
    from ..train import RunError, read_run

    try:
        return bool(read_run(place))
    except (RunError, OSError):
        return False


def _ask(what: Path, recipe: Recipe, model: Model, yes: bool) -> None:
    """Asks before a recipe that takes long. Raises UsageError if the answer is no, or nobody can be asked."""
    count = cost(recipe, model)
    if yes or count <= COST:
        return
    asked = (
        f"{what} asks for {count:,} evaluations of an image, about {_length(count * _seconds(model))} on this machine"
    )
    if not sys.stdin.isatty():
        raise UsageError(f"{asked}: say --yes to make it")
    print(f"{asked}. Make it? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was made")


def cost(recipe: Recipe, model: Model) -> int:
    """Evaluations of the network, each of one image: what a recipe takes, but for the draws of an average, which count
    as much though they are a part of one."""
    from ..sampler import BY_NAME, traits

    known = recipe.arguments
    if recipe.form == "edit":
        return 3 * max(int(known["steps"]), 0)
    chosen = BY_NAME.get(known["sampler"], model.sampler)
    twice = 1 if known["guidance"] == 1 else 2
    return int(traits(chosen).evaluations(known["steps"]) * known["n"] * max(known["average"], 1) * twice)


def _seconds(model: Model) -> float:
    """Of an evaluation of one image: the better of two."""
    import torch

    x = torch.zeros(1, *model.facts.shape)
    cond = torch.zeros(1, dtype=torch.int64) if model.denoiser.classes else None
    lengths = []
    for _ in range(2):
        began = time.perf_counter()
        model.denoiser(x, torch.tensor(1.0), cond)
        lengths.append(time.perf_counter() - began)
    return min(lengths)


def _length(seconds: float) -> str:
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {name}"
    return f"{seconds:.0f} seconds"


def _made(what: Path, recipe: Recipe, model: Model, folder: Path) -> Path:
    """The picture, made again in `folder`."""
    made = folder / f"made{what.suffix}"
    # what they say of a file that is thrown away is of no use
    with redirect_stdout(StringIO()):
        if recipe.form == "edit":
            before(what, model.facts.shape).save(folder / "before.png")
            edit(model.path, folder / "before.png", made, **recipe.arguments)
        elif recipe.form == "single":
            sample(model.path, folder / "single", **recipe.arguments)
            made = next((folder / "single").glob("*.png"))
        else:
            sample(model.path, made, **recipe.arguments)
    return made


def _compare(what: Path, made: Path) -> None:
    import numpy as np
    from PIL import Image

    with Image.open(what) as first, Image.open(made) as second:
        a, b = np.asarray(first, dtype=int), np.asarray(second, dtype=int)
    if a.shape != b.shape:
        raise UsageError(f"{what} has values {list(a.shape)}, and what its recipe makes {list(b.shape)}")
    apart = abs(a - b)
    print(
        f"{what}: all {a.size:,} values are the same"
        if not apart.any()
        else f"{what}: {np.mean(apart > 0):.2%} of {a.size:,} values differ, by {apart.max()} of 255 at most"
    )


def _run(what: Path, data: str | None, steps: int, out: Path | None, folder: Path) -> None:
    positive(steps=steps)
    if out is not None:
        empty_folder_to_write(out)
    from ..config import dumps
    from ..train import log_of, read_run, training

    found = read_run(what)
    then = {line["step"]: line for line in log_of(what) if "loss" in line}
    if not any(step <= steps for step in then):
        known, remedy = "it has none at all", ""
        if then:
            known, remedy = f"the first is of step {min(then)}", f"; give --steps {min(then)} or more"
        raise UsageError(
            f"{what / 'log.jsonl'} has no line for the first {steps} steps, {known}: there is nothing to compare"
            f"{remedy}"
        )
    place = out or folder / what.name

    def said() -> str:
        began = out is not None and (out / "config.json").is_file()
        return "stopped; nothing was compared, and " + (f"{out} holds a part of the run" if began else "nothing kept")

    with interrupted(said):
        items = _data(what, data)
        place.mkdir(parents=True, exist_ok=True)
        # what was found then is part of the recipe: the number of steps, the precision, the pieces of a batch
        origin = items.origin.relative_to_folder(place) if items.origin else None
        (place / "config.json").write_text(dumps(replace(found, facts=replace(found.facts, origin=origin))))
        with closing(training(items, found.config, place)) as taken:
            for step in taken:
                if step.step >= steps:
                    break
    _agreement(then, log_of(place))


def _data(what: Path, data: str | None) -> Data:
    """The items of the run, from where the user says, or from where the run found them."""
    from ..data import DataError
    from ..train import data_of

    try:
        return data_of(what, data)
    except DataError as error:
        if data is not None:
            raise
        raise UsageError(f"the data of {what} are not where it found them: {error}. Say where with --data") from None


def _agreement(before: dict[int, Any], now: list[dict[str, Any]]) -> None:
    print(f"{'step':>6} {'loss then':>20} {'loss now':>20} {'digits':>7} {'norm':>7}")
    worst: dict[str, float] = {"loss": math.inf, "norm": math.inf}
    for line in now:
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
