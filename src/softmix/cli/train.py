"""`softmix train`: train a model on the user's data, or continue a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from .common import ModelName, ProcessName, TuningName, UsageError, repeat_warnings
from .model_card import write_card
from .settings import base_run, configuration, items_of, require_length, with_values
from .verb import Verb

if TYPE_CHECKING:
    from ..data import Data, Target
    from ..train import Config, Model

# Those of softmix.data, which takes a second to import.
ValueRange = Literal["0..1", "-1..1", "0..255", "as-is"]
LayoutName = Literal["channels-first", "channels-last"]
# The options that say how the data are read: keywords of `softmix.data.load`.
_READING = ("size", "channels", "limit", "hold_out", "bits", "values", "layout", "tokens", "length", "beside", "cache")
# Larger pictures do not fit into memory in any network. They are refused before one is decoded.
LARGEST = 2048 * 2048


@dataclass(frozen=True, kw_only=True)
class Train(Verb):
    """Train a model on your data, or continue its training: the same command continues a run that was cut off.

    For example `softmix train photos/ --out runs/photos --size 32 --minutes 60`; then, if that was not enough,
    `softmix train --out runs/photos --more 5000`. A model of pairs: `softmix train sharp/ --pairs blurred/ --process
    rddm --out runs/sharpen --minutes 60`.
    """

    data: Positional[str | None] = None
    """A folder or zip of images, an IDX, npy or npz file, CIFAR's folder, a csv, txt or jsonl that lists images; a
    text, with --tokens and --length; or digits, fashion-mnist, photographs, toy:NAME. A density without items:
    target:mixture, target:funnel, target:phi4, target:logistic, target:logistic-iris. May be left out for a run that
    exists, and with --config: then the data of that run are read again."""
    out: Path
    """The run folder: configuration, log, checkpoints, sample grids."""
    model: ModelName | TuningName | None = None
    """smd (soft mixture, energy score), plain (usual diffusion), published (SMD as published, which collapses), mixture
    (explicit Gaussian mixture), normal (one Gaussian), consistency, meanflow or imm (flow maps for few steps), siddm
    (soft mixture against a discriminator, for 4 steps; --set loss.steps=2 for 2), joint (items and their labels or
    other companions, drawn together), masked (masked diffusion of tokens).
    By default smd, masked for tokens, plain for rddm and resfusion, or the model of the run in --out, --config or
    --start. mmd tunes the model of --start for a fixed number of steps, 4 or --set loss.steps=K, by comparing its
    samples with the data."""
    process: ProcessName | None = None
    """How data become noise: vp, ve, flow; rddm or resfusion (from the clean item of a pair, with --pairs); shift-ddpm
    (a shift by the class or by the other item); spd (a schedule for each frequency); immiscible (noise assigned to the
    items of a batch); non-uniform (Haar bands that become noise one after another); interpolant (from the clean item of
    a pair to the other one, which the network does not see, with --pairs). By default that of the model. Its settings:
    --set process.NAME=VALUE."""
    minutes: float | None = None
    """Training time. A few trial steps before the first one decide the number of steps, for good."""
    steps: int | None = None
    """Number of steps to train, instead of minutes. For a run that exists: a larger number than before makes it
    longer."""
    more: int | None = None
    """Number of steps to add to a run that has ended: its learning rate rises and falls anew."""
    classes: bool = False
    """Give the model the class of each item, so that one class can be sampled."""
    batch: int | None = None
    """Batch size. By default it is smaller for images of more than 64 x 64 pixels."""
    flip: bool = False
    """Show half of the images mirrored, left for right. Not for digits or writing."""
    size: int | None = None
    """One number: images are brought to so many pixels a side, from the centre square of each."""
    channels: int | None = None
    """1 (grey), 3 (colour) or 4 (with alpha), instead of the channels in the files."""
    limit: int | None = None
    """Use at most this many items."""
    hold_out: float | None = None
    """A share of the items, such as 0.1, that is not trained on, for `softmix evaluate`."""
    bits: int | None = None
    """Of grey images of 16 bits, and arrays of whole numbers: the number of bits of their values, such as 12."""
    values: ValueRange | None = None
    """Of an array of numbers: their range."""
    layout: LayoutName | None = None
    """Of an array of images: the axis of its channels."""
    tokens: Literal["characters", "bytes"] | int | None = None
    """Read a text as characters or bytes, or an array of whole numbers as so many tokens."""
    length: int | None = None
    """Of a text: the number of tokens in an item."""
    beside: Annotated[str | None, arg(aliases=("--pairs",))] = None
    """A second folder, zip or array with the other item of each pair, which becomes the condition, for restoration and
    image to image: pictures of one name are a pair. --pairs and --beside are two names of this option."""
    cache: Path | None = None
    """A folder for a copy of the data in the form that training reads, for data that are larger than memory or slow to
    read. It is used again while the files of the data are unchanged."""
    config: Path | None = None
    """A config.json, or its run folder, to repeat, instead of the model's own settings."""
    start: Path | None = None
    """A run whose weights are the start of a new one."""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="NAME=VALUE ...")] = ()
    """Changes to the configuration, such as --set batch=64 loss.m=8 net.width=96. Of a run that continues only
    optimiser.rate, nonfinite, save, show and keep may change."""
    seed: int | None = None
    """Seed of weights, order of the items and noise. By default 0, or that of --config."""
    shard: bool = False
    """With several processes (torchrun -m softmix train ...), each holds a part of the weights: for networks that one
    device cannot hold."""
    dry_run: bool = False
    """Show the configuration and the size of the model, and train nothing."""

    def __call__(self) -> None:
        from ..data import Target
        from ..train import join_processes, leave_processes, train
        from ..train.checkpoint import newest_step
        from ..train.writable import require_writable

        # All tests without data come first: to read data may take minutes.
        require_writable(self.out)
        base = base_run(self.out, self.model, self.config, self.start)
        needed = self.more is None and (base is None or base.role == "start")
        require_length(self.steps, self.minutes, needed=needed)
        reading = {name: getattr(self, name) for name in _READING}
        items = items_of(self.data, base, reading | {"max_pixels": LARGEST if base is None else None})
        config = configuration(base, self.model, items, self.set, self.process)
        if self.steps is not None or self.minutes is not None:
            config = replace(config, steps=self.steps, minutes=self.minutes)
        config = with_values(
            config, classes=self.classes or None, flip=self.flip or None, batch=self.batch, seed=self.seed
        )
        first = join_processes().first
        if first:
            self._print_data(items, config)
        start = self._start()
        if self.dry_run:
            _show(items, config, self.out, self.more, start)
            return
        done = newest_step(self.out / "checkpoints") or 0
        model = train(items, config, self.out, shard=self.shard, more=self.more or 0, start=start)
        if first:
            write_card(model)
            print(_last_line(model, done, self.out))
            print(f"next: {_next_commands(model, self.out)}")
            if not isinstance(items, Target):
                repeat_warnings(items)
        leave_processes()

    def _print_data(self, items: Data | Target, config: Config) -> None:
        from ..data import Target
        from ..train import SampleTarget

        if isinstance(items, Target) or isinstance(config.task, SampleTarget):
            return
        for line in items.report.lines():
            print(line)
        if not config.task.classes and len(items.classes) > 1:
            print(_classes_unused(items))

    def _start(self) -> Model | None:
        """The model that gives the first weights; None for a run that has begun with them."""
        from ..train import load, read_run
        from ..train.resume import start_folder

        if self.start is None:
            return None
        begun = start_folder(read_run(self.out), self.out) if (self.out / "config.json").is_file() else None
        return None if begun == self.start.absolute().resolve() else load(self.start)


def _show(items: Data | Target, config: Config, out: Path, more: int | None, start: Model | None) -> None:
    from ..config import dumps
    from ..train import build, join_processes
    from ..train.resume import ResumeRequest, resolve_run

    run = resolve_run(out, items, config, join_processes().size, ResumeRequest(more or 0, start))
    print(dumps(run), end="")
    try:
        modules = build(run)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f"{sum(p.numel() for p in modules.parameters()):,} parameters")


def _classes_unused(items: Data) -> str:
    names = ", ".join(items.classes[:6]) + (", ..." if len(items.classes) > 6 else "")
    return (
        f"the data have {len(items.classes)} classes ({names}), and the model is not told them. With --classes it is, "
        "and can be asked for one: softmix sample RUN --label"
    )


def _last_line(model: Model, done: int, out: Path) -> str:
    if model.step > done:
        return f"trained steps {done + 1} to {model.step}; the run is in {out}"
    longer = f"softmix train --out {shlex.quote(str(out))} --more {model.step}"
    return f"nothing was trained: the run in {out} had ended, at step {model.step}. To go on: {longer}"


def _next_commands(model: Model, out: Path) -> str:
    """Commands that work in the user's current folder."""
    facts = model.facts
    run, suffix = shlex.quote(str(out)), "png" if len(facts.shape) == 3 else "txt" if facts.is_text else "npy"
    if not facts.count:
        return f"softmix sample {run} --n 1000 --steps 64 --out samples.npy"
    data = "" if facts.origin else " DATA"
    steps = max(facts.shape) if facts.vocabulary else getattr(model.result, "steps", 4)
    drawn = f"sample {run} --n 64 --steps {steps} --out samples.{suffix}"
    if suffix == "png" and facts.cond_spec.image:
        drawn = f"restore {run} PICTURE --out restored.png"
    return f"softmix {drawn}    softmix evaluate {run}{data}"
