"""The command line: `softmix export`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tyro.conf import Positional

from .common import UsageError


def export(
    run: Positional[Path], folder: Positional[Path], /, weights: str | None = None, dry_run: bool = False
) -> None:
    """Write a run as a folder that diffusers loads: DiffusionPipeline.from_pretrained(FOLDER).

    A soft mixture becomes a SoftmixPipeline, for which `import softmix.hub` comes first. Needs diffusers: pip install
    "softmix[diffusers]".

    Args:
        run: a run folder, or a model that comes with softmix: fashion.
        folder: where to; it must not hold anything yet.
        weights: model, or an average such as ema-0.100.
        dry_run: say what would be done.
    """
    from ..train import load

    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f"{folder} is there already: give a folder that holds nothing yet")
    try:
        from ..hub import HubError
        from ..hub import export as write
    except ImportError as error:
        raise UsageError(str(error)) from error
    model = load(run, weights)
    if dry_run:
        print(f"would write {model.path.name} at step {model.step}, weights {model.weights}, to {folder}")
        return
    # whole under its name, or not there
    aside = folder.absolute().parent / f".{folder.absolute().name}.part"
    try:
        write(model, aside)
        if folder.is_dir():
            folder.rmdir()
        aside.rename(folder)
    except HubError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"wrote {folder}")
