"""Edit-friendly noise: whether noise maps that are extracted from an image keep it through edits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from ..data.toys import ToyMixture
from ..denoiser import Denoiser
from ..evaluate.points import sliced_wasserstein
from ..oracle import MixtureProblem
from ..process import VP, Gaussian, Table, uniform_logsnr
from ..rng import Rng
from ..sampler import NoiseCode, ancestral, ddim, ddim_inversion, dpm_encoder, drive, edit_friendly, replay
from ..sampler.drive import finish
from .contest import fashion
from .frame import Arms, Numbers, Results, Study
from .paper import Paper, Role

PAPER = Paper.of(
    "edit_friendly",
    "Noise taken from independently noised copies of an image gives it back exactly and, unlike a sampler's own "
    "noise, keeps its shape through edits.",
)
RESULT = (
    "reconstruction is exact, and edits stay correlated with the image; shifted noise keeps an image a little better "
    "than the noise of a sampler"
)

ENCODERS = {"edit-friendly": edit_friendly, "dpm-encoder": dpm_encoder}
STEPS, SKIP = 100, 36
THEIRS = "the same, at the authors' own times: Stable Diffusion's table, of 100 steps the first 36 left out"
DATA = "Gaussians in 16 dimensions, one position unlike another"
SIDE = 16


def placed(mean: float, phase: float, process: Gaussian | None = None) -> MixtureProblem:
    """A smooth signal of length 16. Its variance depends on the position, so that shifted noise meets another prior."""
    position = torch.arange(SIDE, dtype=torch.float64)
    near = torch.exp(-((position[:, None] - position) ** 2) / 8)
    scale = 0.5 + 0.4 * torch.sin(2 * torch.pi * (position / SIDE + phase))
    covariance = scale[:, None] * near * scale + 1e-3 * torch.eye(SIDE, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    law = ToyMixture(
        "placed", torch.ones(1, dtype=torch.float64), torch.full((1, SIDE), mean, dtype=torch.float64), factor[None]
    )
    return MixtureProblem("placed", law, process or VP(), (1, SIDE))


def _kin(a: Tensor, b: Tensor) -> float:
    """The correlation of a and b after each has its mean over items subtracted."""
    a, b = ((x - x.mean(0)).flatten() for x in (a, b))
    return float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt())


def _played(code: NoiseCode, denoiser: Denoiser, skip: int, rest: bool = False) -> Tensor:
    rng = Rng(0, code.path.shape[1])
    return finish(drive(denoiser, replay(code, skip, rest=rest), code.start(skip), code.grid[skip:], rng))


def compared(edited: Mapping[str, Tensor], x0: Tensor, seed: int, suffix: str = "") -> dict[tuple[str, str], float]:
    """The correlation of each result with x0, and its distance from the law of the target. suffix : of the metrics."""
    exact, results = placed(0.6, 0.3).sample(len(x0), Rng(seed, len(x0), "exact")).flatten(1), {}
    for name, x in edited.items():
        results[name, f"kin{suffix}"] = _kin(x, x0)
        results[name, f"distance{suffix}"] = sliced_wasserstein(x.flatten(1), exact, 64, seed=seed)
    return results


def at_our_times(seed: int, n: int) -> Results:
    """Edit from one law to another with exact denoisers; and shift the noise by three positions under a fixed prior."""
    source, target = placed(0.0, 0.0), placed(0.6, 0.3)
    grid, skip = uniform_logsnr(VP(), STEPS), SKIP
    x0, rng = source.sample(n, Rng(seed, n, "x0")), Rng(seed, n, "codes")
    results: dict[tuple[str, str], float] = {}
    codes = {name: finish(drive(source.denoiser(), encode, x0, grid, rng)) for name, encode in ENCODERS.items()}
    codes["edit-friendly, other noise as strong"] = codes["edit-friendly"].mixed(Rng(seed, n, "mixed"))
    edited = {name: _played(code, target.denoiser(), skip) for name, code in codes.items()}
    for name, encode in ENCODERS.items():
        single = finish(drive(source.denoiser(), encode, x0.float(), grid, Rng(seed, n, "codes")))
        results[name, "error"] = float((_played(single, source.denoiser(), 0, rest=True) - x0.float()).abs().max())
    noise = finish(drive(source.denoiser(), ddim_inversion, x0, grid[skip:], rng))
    edited["ddim inversion"] = finish(drive(target.denoiser(), ddim, noise, grid[skip:], rng))
    again = finish(drive(source.denoiser(), ddim, noise, grid[skip:], rng))
    results["ddim inversion", "error"] = float((again - x0).abs().max())
    noisy = VP().noise(x0, float(grid[skip]), rng).xt
    edited["noise and sample again (SDEdit)"] = finish(drive(target.denoiser(), ancestral, noisy, grid[skip:], rng))
    results |= compared(edited, x0, seed)
    for name, code in {**codes, "the sampler's own noise": _native(source, n, grid, seed)}.items():
        plain = _played(code, source.denoiser(), 0)
        shifted = _played(code.shifted(3), source.denoiser(), 0)
        results[name, "moved"] = _kin(shifted, plain.roll(3, -1))
    return results


def at_their_times(seed: int, n: int) -> Results:
    """Labels 991, ..., 11, 1 of Stable Diffusion's table. The edit starts at a logsnr of -1.9, not of -9.1."""
    x0 = placed(0.0, 0.0).sample(n, Rng(seed, n, "x0"))
    table = Table.of_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)
    source, target = placed(0.0, 0.0, table).denoiser(), placed(0.6, 0.3, table).denoiser()
    labels = 10 * torch.arange(STEPS, dtype=torch.float64).flip(0) + 1
    grid, rng = torch.cat([(labels + 1) / 1000, labels.new_zeros(1)]), Rng(seed, n, "their codes")
    codes = {name: finish(drive(source, encode, x0, grid, rng)) for name, encode in ENCODERS.items()}
    codes["edit-friendly, other noise as strong"] = codes["edit-friendly"].mixed(Rng(seed, n, "mixed"))
    edited = {name: _played(code, target, SKIP) for name, code in codes.items()}
    noise = finish(drive(source, ddim_inversion, x0, grid[SKIP:], rng))
    edited["ddim inversion"] = finish(drive(target, ddim, noise, grid[SKIP:], rng))
    noisy = table.noise(x0, float(grid[SKIP]), rng).xt
    edited["noise and sample again (SDEdit)"] = finish(drive(target, ancestral, noisy, grid[SKIP:], rng))
    return compared(edited | {"the image itself": x0}, x0, seed, ", theirs")


def _native(problem: MixtureProblem, n: int, grid: Tensor, seed: int) -> NoiseCode:
    """The code of images that were sampled: the noise that was used."""
    rng = Rng(seed, n, "native")
    x, path, noise = VP().prior((n, *problem.shape), rng).double(), [], []
    denoiser = problem.denoiser()
    for t, s in pairwise(grid):
        path.append(x)
        z = rng.normal(x.shape, x.dtype)
        clean, noisy, fresh = VP().shares(t, s)
        x = noisy * x + clean * denoiser(x, t).mean + fresh * z
        noise.append(z if s > 0 else torch.zeros_like(z))
    return NoiseCode(grid, torch.stack(path), torch.stack(noise), 1.0, rng)


def on_images(seed: int, n: int) -> Results:
    """The reconstruction error of the shipped model on images, in float32."""
    x0, denoiser = fashion().data.x0(slice(0, n)), fashion().model.denoiser
    results = {}
    for name, encode in ENCODERS.items():
        code = finish(drive(denoiser, encode, x0, uniform_logsnr(VP(), 50), Rng(0, n)))
        results[name, "error on images"] = float((_played(code, denoiser, 0, rest=True) - x0).abs().max())
    return results


def checks(value: Numbers) -> Mapping[str, bool]:
    """After an edit, at both sets of times, and after a shift."""
    error = value["edit-friendly", "error"]
    kin = {name: value[name, "kin"] for name in OURS if (name, "kin") in value}
    moved, native = value["edit-friendly", "moved"], value["the sampler's own noise", "moved"]
    white = value["dpm-encoder", "moved"]
    edit, sdedit = "edit-friendly", "noise and sample again (SDEdit)"
    theirs, rival, again = (value[name, "kin, theirs"] for name in (edit, "dpm-encoder", sdedit))
    near, before = (value[name, "distance, theirs"] for name in (edit, "the image itself"))
    images = [value[name, "error on images"] for name in ENCODERS if (name, "error on images") in value]
    exact = {f"and of Fashion-MNIST, by either code ({max(images):.1e})": max(images) < 1e-5} if images else {}
    return {
        f"after the edit it is kin to the image ({kin['edit-friendly']:.2f}), and sampled again it is not "
        f"({kin['noise and sample again (SDEdit)']:.2f})": kin["edit-friendly"]
        > kin["noise and sample again (SDEdit)"] + 0.2,
        f"the image is given back (largest error {error:.1e}, below 1e-5)": error < 1e-5,
        **exact,
        f"more so than by a sampler's noise ({kin['dpm-encoder']:.2f})": kin["edit-friendly"] > kin["dpm-encoder"],
        f"it is what the noise carries, not its strength ({kin['edit-friendly, other noise as strong']:.2f})": kin[
            "edit-friendly, other noise as strong"
        ]
        < kin["edit-friendly"] - 0.2,
        f"at the authors' own times too it is kin ({theirs:.2f}), more so than sampled again ({again:.2f}), and "
        f"than by a sampler's noise ({rival:.2f})": theirs > again + 0.2 and theirs > rival,
        f"and nearer to the target's law than the image was ({near:.3f}, {before:.3f})": near < before / 2,
        f"moved with its noise it stays itself ({moved:.2f}), and with native noise it does not ({native:.2f}; "
        f"dpm-encoder {white:.2f})": moved > native + 0.1,
    }


OURS: dict[str, Role] = {
    "edit-friendly": "ours",
    "dpm-encoder": "rival",
    "ddim inversion": "baseline",
    "noise and sample again (SDEdit)": "baseline",
    "edit-friendly, other noise as strong": "control",
    "the sampler's own noise": "control",
}
WITH_THEIRS: dict[str, Role] = {**OURS, "the image itself": "floor"}
QUICK, FULL = {"n": 500}, {"n": 2000}
run = Study(
    PAPER,
    checks,
    [
        Arms(OURS, at_our_times, DATA, QUICK, FULL),
        Arms(WITH_THEIRS, at_their_times, THEIRS, QUICK, FULL),
        Arms(OURS, on_images, "Fashion-MNIST, 28 x 28, the model that ships", full={"n": 64}, seeds=1, needs=fashion),
    ],
)
