"""`softmix export`: write a run as a folder that diffusers loads."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from .common import UsageError
from .verb import Verb


@dataclass(frozen=True, kw_only=True)
class Export(Verb):
    """Write a run as a folder that diffusers loads: DiffusionPipeline.from_pretrained(FOLDER).

    A soft mixture becomes a SoftmixPipeline; it needs `import softmix.hub` before it is loaded. Needs diffusers: pip
    install "softmix[diffusers]".

    For example `softmix export runs/photos photos-diffusers`.
    """

    run: Positional[Path]
    """A run folder, or a model that comes with softmix: fashion, fashion-classes."""
    folder: Positional[Path]
    """The new folder. It must be empty or not be there."""
    weights: str | None = None
    """The weights: model, or an average such as ema-0.100."""
    dry_run: bool = False
    """Show the result in a sentence, and write nothing."""

    def __call__(self) -> None:
        from ..train import load

        folder = self.folder
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UsageError(f"{folder} is there already: give a folder that holds nothing yet")
        try:
            from ..hub import HubError, export
        except ImportError as error:
            raise UsageError(str(error)) from error
        model = load(self.run, self.weights)
        if self.dry_run:
            print(f"would write {model.path.name} at step {model.step}, weights {model.weights}, to {folder}")
            return
        # The folder gets its name when it is whole.
        part = folder.absolute().parent / f".{folder.absolute().name}.part"
        try:
            export(model, part)
            if folder.is_dir():
                folder.rmdir()
            part.rename(folder)
        except HubError as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise UsageError(f"{folder} could not be written: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        print(f"wrote {folder}")
