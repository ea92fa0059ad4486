"""`softmix restore`: draw clean pictures for given ones, by a model of pairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from .common import (
    MAX_AVERAGE,
    MAX_STEPS,
    Precision,
    UsageError,
    class_number,
    interrupted,
    load_for_sampling,
    require_whole,
)
from .outputs import OutputError, atomic_file
from .recipes import arguments_of, model_of
from .restore_input import Picture, find_pictures, find_truths
from .restore_output import Restored, is_file, lost, places_of, require_places, spread_line, table_of
from .samples import require_finite
from .verb import Verb

if TYPE_CHECKING:
    from ..sampler import Sampler
    from ..train import Model

# pictures in the sheet of --compare
SHOWN = 16


@dataclass(frozen=True, kw_only=True)
class Restore(Verb):
    """Restore pictures with a model of pairs, which was trained with --pairs: draw a clean picture for each given one.

    For example `softmix restore runs/sharpen photo.png --out sharp.png`, or `softmix restore runs/sharpen blurred/
    --truth sharp/ --out restored --compare restored.png`.

    Each picture keeps its size, also if the model was trained at another one. Its sides are continued by reflection
    until the network's stride divides them, and cropped afterwards. A soft mixture takes pictures of its own size and
    smaller ones; the middle of a larger one is then brought to that size, and a note says so. A picture is restored as
    a whole, not in tiles: one that is too large for the memory is an error.
    """

    run: Positional[Path]
    """A run folder of a model with an image condition: trained with --pairs, by any process."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE|FOLDER [IMAGE|FOLDER ...]")]
    """The pictures, and folders of pictures. A file of a folder that is no picture is left out, and a note says so."""
    out: Path
    """A .png, .jpg or .webp for one picture; or a folder, where each picture gets a PNG of its name. No file of a
    folder is overwritten."""
    steps: int | None = None
    """Steps of the sampler. By default 5 for rddm and resfusion, 4 for soft mixtures and flow maps, else 8."""
    sampler: str | None = None
    """As in `softmix sample`."""
    seed: int = 0
    """Seed of the noise. A result depends on the seed and its picture alone, not on the other pictures."""
    draws: int = 1
    """With 2 or more: so many draws of each picture, NAME-draw-1.png and so on, their mean, NAME-mean.png, and their
    standard deviation, NAME-sd.png, which is black where the draws agree: 4 grey levels stand for each."""
    truth: Path | None = None
    """The clean picture, or a folder with a clean picture of each name: prints the PSNR of each, before and after."""
    compare: Path | None = None
    """A .png, .jpg or .webp for a sheet of the first 16 pictures: before, after, and the truth if it is given."""
    label: Annotated[str | int | None, arg(metavar="NAME")] = None
    """The class of the pictures by its name or number, for a model trained with classes. By default none is given."""
    weights: str | None = None
    """The weights: model, or an average such as ema-0.100."""
    precision: Precision = "fp32"
    """As in `softmix sample`."""
    dry_run: bool = False
    """Show the recipe and the files that would be written, and restore nothing."""

    def __call__(self) -> None:
        self._require_valid()
        pictures, left_out = find_pictures(self.images)
        if is_file(self.out) and (len(pictures) > 1 or self.draws > 1):
            many = f"{len(pictures)} pictures" if len(pictures) > 1 else f"{self.draws} draws"
            raise UsageError(f"--out {self.out} is one picture, for {many}: name a folder")
        truths = None if self.truth is None else find_truths(pictures, self.truth)
        places = [places_of(picture, self.out, self.draws) for picture in pictures]
        read = [each.place for each in (*pictures, *(truths or ()))]
        require_places(self.out, [place for each in places for place in each], self.compare, read)
        model, denoiser, sampler = load_for_sampling(self.run, self.sampler, None, self.weights, 0)
        _require_pairs(model)
        work = _Work(self, model, denoiser, sampler, self._label(model))
        for sentence in (*(f"left out: {each}" for each in left_out), *work.resized(pictures)):
            print(f"note: {sentence}", file=sys.stderr)
        if self.dry_run:
            shown = [str(place) for each in places for place in each]
            print(
                json.dumps(work.recipe() | {"images": [str(each.place) for each in pictures], "out": shown}, indent=2)
            )
            return
        work.run(pictures, truths, places)

    def _require_valid(self) -> None:
        """Raise UsageError for wrong options, as far as they show without the model and the pictures."""
        require_whole(1, MAX_STEPS, steps=self.steps)
        require_whole(1, MAX_AVERAGE, draws=self.draws)
        if not self.images:
            raise UsageError("no picture was given: name a picture, or a folder of pictures, after the run")

    def _label(self, model: Model) -> int | None:
        """The class for all pictures: -1 for none given; None for a model without classes."""
        label = class_number(model, self.label, "label")
        if label is None and model.denoiser.classes and model.config.denoise.drop == 0:
            raise UsageError(f"{model.path} was trained with the class of each item always given: name it with --label")
        return label if label is not None or not model.denoiser.classes else -1


def _require_pairs(model: Model) -> None:
    """Raise UsageError for a model that does not restore pictures."""
    from ..data.picture import MODES

    spec, shape = model.denoiser.cond, model.facts.shape
    if not spec.image or len(shape) != 3:
        raise UsageError(
            f"{model.path} was trained with {spec}, and a picture is restored by a model of pairs: train one with "
            "softmix train CLEAN/ --pairs DEGRADED/ --process rddm"
        )
    others = [part for part in spec.parts if part not in ("image", "label")]
    if others or len(spec.labels) > 1 or spec.image not in MODES or shape[0] not in (1, 3):
        raise UsageError(
            f"{model.path} makes images of {shape[0]} channels from {spec}, and pictures are grey or colour (or have "
            "transparency, as a condition) and bring one label at most. In Python: "
            "softmix.sample(denoiser, n, cond=Cond(...))"
        )


class _Work:
    """The restoration of all pictures of a command."""

    def __init__(self, asked: Restore, model: Model, denoiser: Any, sampler: Sampler, label: int | None):
        self.asked, self.model, self.denoiser, self.sampler, self.label = asked, model, denoiser, sampler, label
        self.steps = default_steps(model) if asked.steps is None else asked.steps

    def recipe(self) -> dict[str, Any]:
        """The content of a result's recipe, but for the picture."""
        from ..sampler import label as label_of

        return {
            **model_of(self.model),
            "form": "restored",
            "sampler": label_of(self.sampler),
            "arguments": arguments_of(self.asked, steps=self.steps, label=self.label, weights=self.model.weights),
        }

    def resized(self, pictures: Sequence[Picture]) -> list[str]:
        """A sentence on pictures that are larger than the only size of the model."""
        other = [each for each in pictures if self._size(each) != (each.height, each.width)]
        if not other:
            return []
        height, width = self.model.facts.shape[1:]
        return [
            f"{self.model.path} takes pictures of {width} x {height} and smaller ones. {other[0].place} has "
            f"{other[0].width} x {other[0].height} pixels, and {len(other)} of {len(pictures)} pictures are larger: "
            "their middle is brought to the size of the model. A model of any size: softmix train ... --model plain"
        ]

    def _size(self, picture: Picture) -> tuple[int, int]:
        """Height and width of the result: those of the picture, or of the model if it takes no larger ones."""
        height, width = self.model.facts.shape[1:]
        larger = picture.height > height or picture.width > width
        return (
            (height, width) if larger and not getattr(self.denoiser, "stride", 1) else (picture.height, picture.width)
        )

    def run(self, pictures: Sequence[Picture], truths: Sequence[Picture] | None, places: Sequence[list[Path]]) -> None:
        """Restore and write all pictures, and print their PSNR."""
        from tqdm import tqdm

        from ..picture import save_picture, stacked
        from ..train import find_device

        device = find_device()
        self.model.denoiser.to(device)
        asked, recipe = self.asked, self.recipe()
        done: dict[int, dict[str, float]] = {}
        spreads: list[float] = []
        sheet: dict[int, Any] = {}
        bar = tqdm(total=len(pictures), unit="picture", disable=None)
        with interrupted(lambda: f"stopped; {len(done)} of {len(pictures)} pictures are restored and written"), bar:
            for numbers in self._batches(pictures, device):
                clean = None if truths is None else [truths[k] for k in numbers]
                for k, restored in zip(
                    numbers, self._restored([pictures[k] for k in numbers], clean, device), strict=True
                ):
                    restored.write(places[k], recipe)
                    done[k] = restored.scores()
                    spreads += [restored.spread] if asked.draws > 1 else []
                    if asked.compare is not None and k < SHOWN:
                        sheet[k] = restored.comparison()
                    bar.update()
            if asked.compare is not None:
                shown = [pictures[k].place.name for k in sorted(sheet)]
                with atomic_file(asked.compare) as part:
                    save_picture(part, stacked([sheet[k] for k in sorted(sheet)]), recipe | {"image": shown})
        if spreads:
            print(spread_line(spreads))
        if truths is not None:
            scores = [(pictures[k].name, done[k]) for k in sorted(done)]
            print(table_of(scores))
            if lost(scores):
                print(
                    "note: the results are further from the truth than the given pictures: train longer, or on more "
                    "pairs",
                    file=sys.stderr,
                )
        print(f"wrote {asked.out}" + (f" and {asked.compare}" if asked.compare is not None else ""))

    def _batches(self, pictures: Sequence[Picture], device: Any) -> Iterator[list[int]]:
        """The numbers of pictures of one size, as many as are restored at once."""
        from ..sampler.restoration import batch_of_images

        groups: dict[tuple[int, int], list[int]] = {}
        for k, picture in enumerate(pictures):
            groups.setdefault(self._size(picture), []).append(k)
        for size, numbers in groups.items():
            at_once = max(1, batch_of_images(device, (self.model.facts.shape[0], *size)) // self.asked.draws)
            yield from (numbers[low : low + at_once] for low in range(0, len(numbers), at_once))

    def _restored(
        self, pictures: Sequence[Picture], truths: Sequence[Picture] | None, device: Any
    ) -> Iterator[Restored]:
        """Restore pictures of one size. Raises OutputError for a picture that does not fit into the memory."""
        import torch

        from ..memory import NotEnoughMemoryError
        from ..sampler import restore
        from ..train.memory import within_free_memory

        asked, size = self.asked, self._size(pictures[0])
        before = torch.cat([each.read(self.denoiser.cond.image, *size) for each in pictures])
        label = None if self.label is None else torch.full((len(before),), self.label, device=before.device)
        try:
            with within_free_memory(device):
                x = restore(
                    self.denoiser,
                    before,
                    self.steps,
                    draws=asked.draws,
                    sampler=self.sampler,
                    seed=asked.seed,
                    label=label,
                    device=device,
                    precision=asked.precision,
                )
        except NotEnoughMemoryError as error:
            raise OutputError(
                f"{pictures[0].place} is too large: {size[1]} x {size[0]} pixels are restored as a whole, and {error}. "
                "Make it smaller, or cut it into parts"
            ) from error
        draws = require_finite(x.flatten(0, 1), asked.out).view_as(x).clamp(-1, 1).cpu()
        for k, picture in enumerate(pictures):
            truth = None if truths is None else truths[k].read(draws.shape[2], *size)[0]
            yield Restored(picture, before[k], draws[:, k], truth)


def default_steps(model: Model) -> int:
    """The number of steps that suits a model: its own, 5 for a residual process, 4 if it draws in few steps, else 8."""
    from ..process import Residual
    from ..sampler import traits

    own = getattr(model.result, "steps", None)
    if own is not None:
        return int(own)
    if isinstance(model.process, Residual):
        return 5
    return 8 if traits(model.sampler).name in ("adams", "ancestral") else 4
