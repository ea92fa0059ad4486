"""`softmix repeat`: make a picture or the beginning of a run again, and compare the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from tyro.conf import Positional, arg

from .common import UsageError
from .repeat_picture import repeat_picture
from .repeat_run import repeat_run
from .verb import Verb

STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Repeat(Verb):
    """Make a picture again from the recipe inside it, or the first steps of a run from its config.json, and compare the
    numbers: on the same machine all of them agree, on another one some digits.

    For example `softmix repeat samples.png --run runs/photos`, or `softmix repeat runs/photos --steps 20`.
    """

    what: Annotated[Positional[Path], arg(metavar="PICTURE|RUN")]
    """A .png, .jpg or .webp that softmix wrote, or a run folder (config.json and log.jsonl are enough)."""
    run: Path | None = None
    """Of a picture: the run that made it, if it is not in the folder of its name."""
    data: str | None = None
    """Of a run: its training data, if they have moved."""
    steps: int | None = None
    """Of a run: the number of steps to repeat; 50 by default."""
    out: Path | None = None
    """The place of the new picture or run. By default it is deleted after the comparison."""
    yes: bool = False
    """Of a picture: do not ask before a recipe that takes long."""

    def __call__(self) -> None:
        with TemporaryDirectory() as folder:
            if self.what.is_dir():
                self._refuse("a run", "run", "yes")
                steps = STEPS if self.steps is None else self.steps
                repeat_run(self.what, self.data, steps, self.out, Path(folder))
            else:
                self._refuse("a picture", "data", "steps")
                repeat_picture(self.what, self.run, self.out, self.yes, Path(folder))

    def _refuse(self, kind: str, *names: str) -> None:
        """Raise UsageError for an option of the other kind."""
        for name in self.given(*names):
            raise UsageError(
                f"--{name} has no effect on {self.what}, which is {kind if self.what.exists() else 'not there'}"
            )
