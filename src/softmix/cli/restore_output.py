"""The results of `softmix restore`: their places, the pictures, and the PSNR of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError
from .outputs import atomic_file, require_writable_file, require_writable_folder
from .restore_input import Picture
from .samples import PICTURES

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

# draws in a comparison; the results hold all of them
_SHOWN_DRAWS = 3
# the picture of the standard deviation has this many grey levels for one
SD_SCALE = 4


def is_file(out: Path) -> bool:
    """Whether `out` names one picture, and not a folder."""
    return out.suffix.lower() in PICTURES and not out.is_dir()


def places_of(picture: Picture, out: Path, draws: int) -> list[Path]:
    """The files of a picture: the result; or for several draws their mean, their standard deviation, and each draw."""
    if is_file(out):
        return [out]
    kinds = [""] if draws == 1 else ["-mean", "-sd", *(f"-draw-{k + 1}" for k in range(draws))]
    return [out / f"{picture.name}{kind}.png" for kind in kinds]


def require_places(out: Path, written: Sequence[Path], compare: Path | None, read: Iterable[Path]) -> None:
    """Raise UsageError unless all files can be written, each once, over no file in a folder and over no input.

    written : the results.
    compare : the sheet of comparisons, or None.
    read : the files that are read.
    """
    if is_file(out):
        require_writable_file(out)
    elif out.suffix and not out.is_dir():
        raise UsageError(f"--out {out} was asked for; name a {', a '.join(PICTURES)}, or a folder")
    else:
        require_writable_folder(out)
        present = [place for place in written if place.exists()]
        if present:
            raise UsageError(
                f"{len(present)} of the results are there already, {present[0]} among them: name another --out"
            )
    if compare is not None:
        if compare.suffix.lower() not in PICTURES:
            raise UsageError(f"--compare {compare} was asked for; name a {', a '.join(PICTURES)}")
        require_writable_file(compare, "--compare")
    inputs, seen = {place.resolve() for place in read}, set()
    for place in (*written, *([] if compare is None else [compare])):
        if place.resolve() in inputs:
            raise UsageError(f"{place} is one of the given pictures, and would be lost: name another place")
        if place.resolve() in seen:
            raise UsageError(f"two results would be written to {place}: restore these pictures one by one")
        seen.add(place.resolve())


@dataclass(frozen=True)
class Restored:
    """A picture and its results, [C, H, W] in [-1, 1] on the CPU.

    before : the given picture, in the channels of the condition.
    draws : [m, C, H, W].
    truth : the clean picture, or None.
    """

    picture: Picture
    before: Tensor
    draws: Tensor
    truth: Tensor | None

    @property
    def mean(self) -> Tensor:
        return self.draws.mean(0)

    @property
    def sd(self) -> Tensor:
        """The standard deviation of the draws at each pixel, the root mean square over channels, [1, H, W]."""
        return self.draws.var(0).mean(0, keepdim=True).sqrt()

    @property
    def spread(self) -> float:
        """The mean standard deviation of a pixel, in grey levels of 255."""
        return float(self.sd.mean()) * 127.5

    def write(self, places: Sequence[Path], recipe: dict[str, Any]) -> None:
        """Write the results. The recipe in each file says which one it is."""
        from ..data import to_uint8
        from ..picture import save_picture, to_image

        kinds = [(f"draw {k + 1}", to_uint8(draw)) for k, draw in enumerate(self.draws)]
        if len(self.draws) > 1:
            kinds = [("mean", to_uint8(self.mean)), ("sd", self._sd_pixels()), *kinds]
        for place, (kind, pixels) in zip(places, kinds, strict=True):
            with atomic_file(place) as part:
                save_picture(part, to_image(pixels), {**recipe, "image": self.picture.place.name, "result": kind})

    def _sd_pixels(self) -> Tensor:
        """uint8 [1, H, W]: SD_SCALE grey levels for each of the standard deviation."""
        import torch

        return (self.sd * 127.5 * SD_SCALE).round().clamp(max=255).to(torch.uint8)

    def comparison(self) -> PILImage:
        """before | after | truth, or before | draws | mean | sd | truth."""
        from ..data import to_uint8
        from ..picture import captioned

        panels = [("before", to_uint8(self.before))]
        if len(self.draws) == 1:
            panels.append(("after", to_uint8(self.draws[0])))
        else:
            panels += [(f"draw {k + 1}", to_uint8(draw)) for k, draw in enumerate(self.draws[:_SHOWN_DRAWS])]
            panels += [("mean", to_uint8(self.mean)), (f"sd x {SD_SCALE}", self._sd_pixels())]
        if self.truth is not None:
            panels.append(("truth", to_uint8(self.truth)))
        return captioned(panels)

    def scores(self) -> dict[str, float]:
        """The PSNR of the picture before and after; of several draws that of one on average, and of their mean."""
        from statistics import fmean

        from ..evaluate.calibration import psnr

        truth = self.truth
        if truth is None:
            return {}
        levels = {"before": [self.before]} if self.before.shape == truth.shape else {}
        levels |= {"after" if len(self.draws) == 1 else "one draw": [*self.draws]}
        levels |= {} if len(self.draws) == 1 else {"mean of draws": [self.mean]}
        return {
            name: fmean(psnr(float((each - truth).square().mean().sqrt())) for each in images)
            for name, images in levels.items()
        }


def table_of(scores: Sequence[tuple[str, dict[str, float]]]) -> str:
    """The PSNR of each picture, and their mean for several."""
    from statistics import fmean

    columns = list(scores[0][1])
    rows = [(name, [values[column] for column in columns]) for name, values in scores]
    if len(rows) > 1:
        rows.append((f"mean of {len(rows)}", [fmean(values[column] for _, values in scores) for column in columns]))
    width = max(len(name) for name, _ in (*rows, ("PSNR in dB", [])))
    lines = [f"{'PSNR in dB':{width}}  {'  '.join(columns)}"]
    for name, values in rows:
        lines.append(f"{name:{width}}  " + "  ".join(f"{v:{len(c)}.2f}" for c, v in zip(columns, values, strict=True)))
    return "\n".join(lines)


def lost(scores: Sequence[tuple[str, dict[str, float]]]) -> bool:
    """Whether the results have a smaller PSNR than the given pictures, on average."""
    from statistics import fmean

    values = [list(each.values()) for _, each in scores if "before" in each]
    return bool(values) and fmean(each[-1] for each in values) < fmean(each[0] for each in values)


def spread_line(spreads: Sequence[float]) -> str:
    """The mean spread of the draws of all pictures, with advice if they hardly differ."""
    from statistics import fmean

    spread = fmean(spreads)
    line = f"the draws of a pixel have a standard deviation of {spread:.2f} grey levels of 255, on average"
    if spread >= 1:
        return line
    return (
        f"{line}. They hardly differ, which does not show that they are right: an rddm model of a learned mean gives "
        "nearly the mean. Draws with more spread: softmix train ... --set loss.weight=v, or with --model smd"
    )
