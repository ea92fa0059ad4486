"""`softmix edit`: edit an image by the noise from which a model would make it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .common import MAX_STEPS, UsageError, class_number, interrupted, require_real, require_whole
from .edit_picture import FORMATS, read_image, write_edit
from .outputs import require_writable_file
from .recipes import arguments_of, model_of
from .verb import Verb

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampler import ColourEdit
    from ..train import Model

ClassLabel = Annotated[str | int | None, arg(metavar="NAME")]


@dataclass(frozen=True, kw_only=True)
class Edit(Verb):
    """Edit an image by the noise from which a model would make it. Writes the image, the image that the model makes of
    the unchanged noise, and the edit, side by side; or the edit alone, if `out` is an array.

    For example `softmix edit runs/photos cat.png --shift 4 0 --out moved.png`.
    """

    run: Positional[Path]
    """A run folder, or a model that comes with softmix: fashion, fashion-classes."""
    image: Positional[Path]
    """A picture. It is brought to the size and the number of channels of the model."""
    out: Path
    """A .png or .webp (before, again, after), or a .npy or .npz (uint8, the edit alone; key arr_0)."""
    shift: tuple[int, int] | None = None
    """Move the image by so many pixels to the right and down. The model fills the rest."""
    colour: tuple[float, ...] | None = None
    """Paint in this colour, one number for each channel, from 0 to 1. --where says the place."""
    where: tuple[int, int, int, int] | None = None
    """Left, top, width and height of the painted part. By default the whole image."""
    to_class: ClassLabel = None
    """Make it an image of this class, by name or number, with a model that was trained with classes."""
    from_class: ClassLabel = None
    """The class of the image. By default none is given to the model."""
    other: Path | None = None
    """Take the image that this other model, of the same size, makes of the noise (CycleDiffusion)."""
    strength: float | None = None
    """Share of the steps that are taken again, from 0 (the image) to 1. By default 1 for shift and colour, and 0.64 for
    classes and other models."""
    steps: int = 100
    """Steps of the sampler, three evaluations each."""
    code: Literal["edit-friendly", "dpm-encoder"] = "edit-friendly"
    """The method that finds the noise. edit-friendly keeps the shape of the image through strong edits; dpm-encoder
    finds noise as a sampler draws it."""
    guidance: float = 1.0
    """Scale of classifier-free guidance of the edit; 1 is none."""
    seed: int = 0
    """Seed of the noise."""
    weights: str | None = None
    """The weights: model, or an average such as ema-0.100."""

    def __call__(self) -> None:
        self._require_valid()
        require_writable_file(self.out)

        import torch
        from tqdm import tqdm

        from ..train import load

        model = load(self.run, self.weights)
        x0 = read_image(self.image, model.facts.shape)
        if self.shift is not None:
            _require_overlap(self.shift, model.facts.shape)
        from_class = class_number(model, self.from_class, "from_class")
        to_class = class_number(model, self.to_class, "to_class")
        coder = _Coder(
            self, model, _label(model, from_class), _label(model, from_class if to_class is None else to_class)
        )
        bar = tqdm(total=coder.evaluations, unit="evaluation", disable=None)
        with interrupted(f"stopped; {self.out} was not written"), bar:
            again, after = coder.edit(x0, lambda step: bar.update(1) and None)
            error = float((again - x0).abs().max())
            arguments = arguments_of(
                self,
                from_class=from_class,
                to_class=to_class,
                other=str(self.other) if self.other else None,
                strength=self.share,
                weights=model.weights,
            )
            recipe = {
                **model_of(model),
                "form": "edit",
                "image": self.image.name,
                "error": error,
                "arguments": arguments,
            }
            write_edit(self.out, torch.cat([x0, again, after.clamp(-1, 1)]), recipe)
        print(f"wrote {self.out}; the noise unchanged gives the image back to {error:.1e} (of a range of 2)")

    @property
    def share(self) -> float:
        """The share of the steps that are taken again."""
        if self.strength is not None:
            return self.strength
        return 1.0 if self.shift or self.colour else 0.64

    def _require_valid(self) -> None:
        """Raise UsageError for wrong options, as far as they show without the model."""
        require_whole(1, MAX_STEPS, steps=self.steps)
        require_real(0, 1, strength=self.strength)
        require_real(guidance=self.guidance)
        if len(self.given("shift", "colour", "to_class", "other")) != 1:
            raise UsageError("one edit at a time: give --shift, --colour, --to-class or --other")
        if self.shift == (0, 0):
            raise UsageError("--shift 0 0 was asked for, which moves nothing")
        if self.guidance != 1 and self.to_class is None:
            raise UsageError("--guidance leads to a class: give it with --to-class")
        if self.where is not None and (self.colour is None or min(self.where) < 0):
            raise UsageError(f"--where {_words(self.where)} was asked for; it goes with --colour, from 0 on")
        if self.out.suffix.lower() not in FORMATS:
            raise UsageError(f"--out {self.out} was asked for; give a {', a '.join(FORMATS)}")


class _Coder:
    """From an image to its noise, and from the noise to the image again and to the edit."""

    def __init__(self, asked: Edit, model: Model, cond: Tensor | None, wanted: Tensor | None):
        """cond : the class of the image, [1] or None. wanted : the class of the edit, [1] or None."""
        from ..process import uniform_logsnr
        from ..rng import Rng

        self.asked, self.model, self.cond, self.wanted = asked, model, cond, wanted
        self.grid, self.rng = uniform_logsnr(model.plain_process, asked.steps), Rng(asked.seed, 1, "edit")
        self.skip = min(round((1 - asked.share) * asked.steps), asked.steps - 1)
        self.evaluations = asked.steps + 2 * (asked.steps - self.skip)
        # Wrong options of an edit are found here, before the work.
        self.denoiser: Any = _second_denoiser(model, asked.other) if asked.other is not None else model.denoiser
        self.colour = colour_edit(asked, model.facts.shape) if asked.colour is not None else None

    def edit(self, x0: Tensor, look: Any) -> tuple[Tensor, Tensor]:
        """The image of the unchanged noise, and the edit. look : called after each evaluation."""
        from ..precision import full_fp32

        with full_fp32():
            return self._edit(x0, look)

    def _edit(self, x0: Tensor, look: Any) -> tuple[Tensor, Tensor]:
        from ..denoiser import guided
        from ..sampler import dpm_encoder, drive, edit_friendly
        from ..sampler.drive import finish

        asked = self.asked
        encoder: Any = edit_friendly if asked.code == "edit-friendly" else dpm_encoder
        noise = finish(drive(self.model.denoiser, encoder, x0, self.grid, self.rng, self.cond), look=look)
        again = self._decode(noise, self.model.denoiser, self.cond, None, look)
        if asked.shift is not None:
            right, down = asked.shift
            noise = noise.shifted(down, right, fill=self.rng.child("fill"))
            return again, self._decode(noise, self.model.denoiser, self.cond, None, look)
        denoiser = guided(asked.guidance)(self.denoiser) if asked.guidance != 1 else self.denoiser
        return again, self._decode(noise, denoiser, self.wanted, self.colour, look)

    def _decode(self, noise: Any, denoiser: Any, cond: Tensor | None, colour: ColourEdit | None, look: Any) -> Tensor:
        from ..sampler import drive, replay
        from ..sampler.drive import finish

        sampler, start = replay(noise, self.skip, colour), noise.start(self.skip)
        image: Tensor = finish(drive(denoiser, sampler, start, self.grid[self.skip :], self.rng, cond), look=look)
        return image


def _label(model: Model, label: int | None) -> Tensor | None:
    """[1]: the class, -1 for no class; None for a model without classes."""
    import torch

    if not model.denoiser.classes:
        return None
    return torch.full((1,), -1 if label is None else label)


def _require_overlap(shift: tuple[int, int], shape: tuple[int, ...]) -> None:
    height, width = shape[1:]
    if abs(shift[0]) >= width or abs(shift[1]) >= height:
        raise UsageError(
            f"--shift {_words(shift)} was asked for, which leaves nothing of an image of {width} x {height}"
        )


def _words(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def _second_denoiser(model: Model, other: Path) -> Any:
    """The denoiser of the other model. Raises UsageError unless it has the shape and process of the first."""
    from ..train import load

    second = load(other)
    if second.facts.shape != model.facts.shape or second.process != model.process:
        theirs, ours = (f"{list(each.facts.shape)} by {each.process}" for each in (second, model))
        raise UsageError(f"{other} makes {theirs}, and {model.path} {ours}: they must be alike")
    return second.denoiser


def colour_edit(asked: Edit, shape: tuple[int, ...]) -> ColourEdit:
    """The colour and its mask. Raises UsageError for a wrong colour and for a place outside of the image."""
    import torch

    from ..sampler import ColourEdit

    channels, height, width = shape
    colour = asked.colour or ()
    if len(colour) != channels or not all(0 <= part <= 1 for part in colour):
        raise UsageError(f"--colour takes {channels} number{'s' * (channels > 1)} from 0 to 1; found {colour}")
    left, top, wide, high = asked.where or (0, 0, width, height)
    if left >= width or top >= height or not wide or not high:
        raise UsageError(f"--where {left} {top} {wide} {high} is outside of an image of {width} x {height}")
    mask = torch.zeros(1, height, width)
    mask[:, top : min(top + high, height), left : min(left + wide, width)] = 1
    # The colour acts through the fresh noise of each step, and n steps have about n^-1/2 of it each.
    return ColourEdit(torch.tensor(colour).reshape(-1, 1, 1), mask, strength=20 / asked.steps**0.5)
