"""The command line: `softmix VERB ...`. Each verb is a function here; what it needs is imported when it runs."""

from __future__ import annotations


import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

if TYPE_CHECKING:
    from .data import Data
    from .sampler import Sampler
    from .train import Config, Model

Positional = tyro.conf.Positional
ModelName = Literal["smd", "plain", "published", "mixture", "normal"]
SamplerName = Literal["ancestral", "ddim", "heun", "dpm-solver-2m"]


class UsageError(Exception):
    """A user's mistake: a sentence, and exit code 2."""


def cache() -> Path:
    """Where classifiers for features are kept: $SOFTMIX_CACHE, or softmix in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SOFTMIX_CACHE") or Path(home) / "softmix")


def train(
    data: Positional[str],
    /,
    out: Path,
    model: ModelName = "smd",
    minutes: float | None = None,
    steps: int | None = None,
    config: Path | None = None,
    set: tuple[str, ...] = (),
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> None:
    """Train a model on your data, or go on training it: the same command continues where it was cut off.

    Args:
        data: digits, fashion-mnist, toy:NAME, a folder or zip of images, an IDX or npy file.
        out: the run folder: configuration, log, checkpoints, sample grids.
        model: smd (soft mixture, energy score), plain (usual diffusion), published (SMD as published, which
            collapses), mixture (explicit Gaussian mixture), normal (one Gaussian).
        minutes: how long to train. The speed of the first steps decides the number of steps, for good.
        steps: how many steps to train, instead of minutes.
        config: a config.json to repeat, instead of the model's own settings.
        set: changes to the configuration, such as --set batch=64 loss.m=8 net.width=96.
        size: side that images are brought to, if they differ.
        limit: use at most this many items.
        seed: of weights, order and noise.
        dry_run: show the configuration and the size of the model, and train nothing.
    """
    from .config import dumps
    from .train import Run, build, facts_of
    from .train import train as run

    items = _load(data, size=size, limit=limit)
    chosen = _configuration(config, model, items.shape, set)
    if config is None or steps is not None or minutes is not None:
        if (steps is None) == (minutes is None):
            raise UsageError("say how long to train: --minutes 20, or --steps 5000, one of the two")
        chosen = replace(chosen, steps=steps, minutes=minutes)
    if chosen.steps is not None and chosen.steps < 1:
        raise UsageError(f"{chosen.steps} steps were asked for; training takes at least 1")
    chosen = replace(chosen, seed=seed)
    for line in items.report.lines():
        print(line)
    if dry_run:
        whole = Run(chosen, facts_of(items, chosen))
        print(dumps(whole), end="")
        print(f"{sum(p.numel() for p in build(whole).parameters()):,} parameters")
        return
    trained = run(items, chosen, out)
    _card(trained)
    print(f"trained {trained.step} steps; the run is in {out}")
    print(f"next: softmix sample {out} --n 64 --steps 4 --out samples.png    softmix evaluate {out}")


def _load(source: str, **options: Any) -> Data:
    from .data import load

    items = load(source, **options)
    if not len(items):
        raise UsageError(f"{source} has no items")
    return items


def _configuration(config: Path | None, model: ModelName, shape: tuple[int, ...], changes: tuple[str, ...]) -> Config:
    """The run's configuration: from a file or a preset, with changes."""
    from .config import from_json, to_json
    from .train import Config, preset
    from .train.model import read_run

    chosen = read_run(config.parent).config if config is not None and config.name == "config.json" else preset(model, shape)
    if config is not None and config.name != "config.json":
        raise UsageError(f"{config} was given as a configuration: give the config.json of a run folder")
    tree: Any = to_json(chosen)
    for change in changes:
        path, _, text = change.partition("=")
        _set(tree, path.split("."), text, change)
    return from_json(Config, tree)


def _set(tree: dict[str, Any], path: list[str], text: str, change: str) -> None:
    for key in path[:-1]:
        tree = tree[key] if isinstance(tree, dict) and isinstance(tree.get(key), dict) else {}
    if path[-1] not in tree:
        raise UsageError(f"--set {change}: there is no {'.'.join(path)} in the configuration; see --dry-run")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict) and isinstance(tree[path[-1]], dict):
        value = {**value}
    tree[path[-1]] = value


def _card(model: Model) -> None:
    """README.md of the run folder."""
    from .recipe import PAPERS

    facts, config = model.facts, model.config
    lines = [
        f"# {model.path.name}",
        "",
        f"A diffusion model trained with softmix {facts.version} on {facts.data} ({facts.count} items of shape {tuple(facts.shape)}, fingerprint {facts.fingerprint}).",
        "",
        f"- network: `{config.net}`",
        f"- posterior head: `{config.head}`",
        f"- loss: `{config.loss}`",
        f"- process: `{config.process}`",
        f"- {model.step} steps of {config.batch} items, seed {config.seed}, {facts.precision}",
        "",
        "Repeat it with `softmix train DATA --config config.json --out NEW`. Sample with `softmix sample`.",
        "",
        "```bibtex",
        *(module.PAPER.bibtex() for module in PAPERS.values() if _uses(config, module.PAPER.name)),
        "```",
        "",
    ]
    (model.path / "README.md").write_text("\n".join(lines))


def _uses(config: Config, paper: str) -> bool:
    return paper == "smd" and type(config.head).__name__ in ("SoftHead", "PublishedSMD")


def sample(
    run: Positional[Path],
    /,
    out: Path,
    n: int = 64,
    steps: int = 4,
    sampler: SamplerName | None = None,
    seed: int = 0,
    label: int | None = None,
    guidance: float = 1.0,
    interval: tuple[float, float] | None = None,
    weights: str | None = None,
    average: int = 0,
    first: int = 0,
    dry_run: bool = False,
) -> None:
    """Draw images from a trained model.

    Args:
        run: a run folder.
        out: a .png (a grid), a .npy (uint8 images, or float points), or a folder (single PNGs).
        n: how many.
        steps: evaluations of the network, at least 1.
        sampler: ancestral by default for a model that draws, ddim for one that knows the mean only.
        seed: image k depends on the seed and k alone.
        label: a class, for a model trained with classes.
        guidance: classifier-free guidance; 1 is none.
        interval: guide only between these logsnr.
        weights: model, or an average such as ema-0.100.
        average: take the mean of this many draws, for samplers that need a mean.
        first: number of the first image: --first 10 --n 1 is the eleventh image of a longer run.
        dry_run: say what would be done.
    """
    from tqdm import tqdm

    from .sampler import sample as draw
    from .train import find_device

    model, denoiser, chosen = _prepared(run, sampler, weights, average)
    _positive(n=n, steps=steps)
    labels = _labels(model, label, n)
    denoiser = _guided(denoiser, guidance, interval, labels is not None)
    recipe = {
        "run": model.path.name,
        "step": model.step,
        "weights": model.weights,
        "data": model.facts.data,
        "fingerprint": model.facts.fingerprint,
        "n": n,
        "steps": steps,
        "sampler": _name(chosen),
        "seed": seed,
        "first": first,
        "label": label,
        "guidance": guidance,
        "interval": interval,
        "average": average,
        "softmix": model.facts.version,
    }
    if dry_run:
        print(json.dumps(recipe, indent=2))
        return
    device = find_device()
    model.denoiser.to(device)
    with tqdm(total=steps * -(-n // 256), unit="evaluation", disable=None) as bar:
        x = draw(denoiser, n, steps, sampler=chosen, seed=seed, cond=labels, first=first, device=device, look=lambda step: bar.update(1) and None)
    _write(x.cpu(), out, recipe, image=len(model.facts.shape) == 3)


def _prepared(run: Path, sampler: SamplerName | None, weights: str | None, average: int) -> tuple[Model, Any, Sampler]:
    """The model, its denoiser as asked for, and the sampler that suits it."""
    from .denoiser import averaged
    from .sampler import BY_NAME
    from .train import load

    model = load(run, weights)
    suits = "ddim" if type(model.config.head).__name__ == "PointHead" else "ancestral"
    denoiser: Any = averaged(average)(model.denoiser) if average else model.denoiser
    return model, denoiser, BY_NAME[sampler or suits]


def _name(sampler: Sampler) -> str:
    from .sampler import traits

    return traits(sampler).name


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"--{name} {value} was asked for; it must be at least 1")


def _labels(model: Model, label: int | None, n: int) -> Any:
    import torch

    classes = model.denoiser.classes
    if label is not None and not 0 <= label < classes:
        known = f"0 to {classes - 1} ({', '.join(model.facts.class_names)})" if classes else "none: it was trained without"
        raise UsageError(f"--label {label} was asked for; the classes of this model are {known}")
    if not classes:
        return None
    return torch.full((n,), label) if label is not None else torch.arange(n) % classes


def _guided(denoiser: Any, guidance: float, interval: tuple[float, float] | None, told: bool) -> Any:
    from .denoiser import guided, within

    if guidance == 1.0:
        return denoiser
    if not told:
        raise UsageError("--guidance needs a model that was trained with classes (--set classes=true)")
    wrap = guided(guidance)
    return (within(*interval, wrap) if interval else wrap)(denoiser)


def _write(x: Any, out: Path, recipe: dict[str, object], image: bool) -> None:
    """Samples to a grid, an array or single files."""
    import numpy as np

    from .data import to_uint8
    from .picture import enlarge, save_png, tile, to_image

    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        array = to_uint8(x).permute(0, 2, 3, 1).numpy() if image else x.numpy()
        np.save(out, array[..., 0] if image and array.shape[-1] == 1 else array, allow_pickle=False)
    elif not image:
        raise UsageError(f"this model makes points, which cannot be written to {out}: give a name that ends in .npy")
    elif out.suffix == ".png":
        save_png(out, enlarge(to_image(tile(to_uint8(x)))), recipe)
    elif out.suffix:
        raise UsageError(f"{out} was asked for; write to a .png, a .npy, or a folder")
    else:
        for k, item in enumerate(to_uint8(x)):
            save_png(out / f"{k + int(str(recipe['first'])):06d}.png", to_image(item), recipe | {"item": k})
    print(f"wrote {out}")


def evaluate(
    run: Positional[Path],
    data: Positional[str | None] = None,
    /,
    steps: tuple[int, ...] = (1, 2, 4, 8, 16),
    n: int = 2000,
    sampler: SamplerName | None = None,
    beside: tuple[Path, ...] = (),
    seed: int = 0,
    weights: str | None = None,
    average: int = 0,
    out: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Measure a trained model by number of steps: a table here, and report.html in the run folder.

    Args:
        run: a run folder.
        data: the data it was trained on, if it cannot be found by its name.
        steps: numbers of evaluations to measure at.
        n: samples for each.
        sampler: as in `softmix sample`.
        beside: other runs on the same data, for the same report.
        seed: of the samples.
        weights: model, or an average such as ema-0.100.
        average: take the mean of this many draws, for samplers that need a mean.
        out: where the report goes.
        dry_run: say what would be done.
    """
    from .evaluate import carried_table, judge, table, write_report

    _positive(n=n, **{f"steps {k}": k for k in steps})
    prepared = [_prepared(place, sampler, weights, average) for place in (run, *beside)]
    first = prepared[0][0]
    train_data, held_out = _both(data or first.facts.data, first)
    if dry_run:
        print(f"{n} samples at {', '.join(map(str, steps))} steps from {', '.join(str(p[0].path) for p in prepared)} against {len(held_out)} held-out items")
        return
    results = []
    for model, denoiser, chosen in prepared:
        facts = {
            "run": f"{model.path.name}, step {model.step}, weights {model.weights}",
            "data": f"{model.facts.data} ({model.facts.count} training items, fingerprint {model.facts.fingerprint})",
            "head and loss": f"{model.config.head}, {model.config.loss}",
        }
        result = judge(denoiser, train_data, held_out, title=model.path.name, facts=facts, steps=steps, sampler=chosen, n=n, seed=seed, cache=cache(), say=print)
        print(f"\n{model.path.name} ({result.facts['features']}, {result.facts['samples']})\n{table(result)}\n")
        if result.carried is not None:
            print(carried_table(result.carried) + "\n")
        results.append(result)
    print(f"report: {write_report(out or run / 'report.html', results)}")


def _both(source: str, model: Model) -> tuple[Data, Data]:
    """Training data and held-out data; a source without a test split gives up a tenth."""
    from .data import DataError, load

    options: dict[str, Any] = {"size": model.facts.shape[-1], "channels": model.facts.shape[0]} if len(model.facts.shape) == 3 else {}
    train_data = load(source, **options)
    if train_data.shape != tuple(model.facts.shape):
        raise UsageError(f"{source} has items of shape {train_data.shape}, and the model was made for {tuple(model.facts.shape)}")
    try:
        return train_data, load(source, split="test", **options)
    except DataError:
        print(f"{source} has no test split: a tenth of what the model was trained on stands in for it, which flatters a model that copies")
        return train_data.split(0.1, 0)


def reproduce(paper: Positional[str], /, out: Path | None = None, quick: bool = False, dry_run: bool = False) -> None:
    """Run a paper's claim against its baseline and a control, and print the verdict.

    Args:
        paper: a name from `softmix papers`.
        out: a folder for verdict.json and pictures.
        quick: under two minutes on two cores; else what the claim deserves.
        dry_run: show the claim and run nothing.
    """
    from .recipe import PAPERS, Scale

    if paper not in PAPERS:
        raise UsageError(f"there is no paper {paper!r}; softmix has {', '.join(PAPERS)} (see `softmix papers`)")
    module = PAPERS[paper]
    print(f"{module.PAPER.title} ({module.PAPER.venue} {module.PAPER.year}, arXiv {module.PAPER.arxiv})\nclaim: {module.PAPER.claim}\n")
    if dry_run:
        return
    verdict = module.run(Scale.quick if quick else Scale.full, print)
    print(f"\n{verdict.table()}\n\n{verdict.verdict}: {verdict.why}\n({verdict.seconds:.0f} s)")
    if out is not None:
        verdict.save(out / "verdict.json")
        print(f"wrote {out / 'verdict.json'}")


def papers() -> None:
    """The papers that softmix runs, their claims, and the verdicts."""
    from .recipe import PAPERS

    for name, module in PAPERS.items():
        print(f"{name:10s} {module.PAPER.title} ({module.PAPER.venue} {module.PAPER.year})\n{'':10s} claim: {module.PAPER.claim}\n{'':10s} found: {module.FOUND}")


def check(what: Positional[str], /) -> None:
    """Verify a run folder (every file of every checkpoint) or scan data (every file, with reasons).

    Args:
        what: a run folder, or anything that `softmix train` takes as data.
    """
    from .train import read_run
    from .train.checkpoint import verify

    if not (Path(what) / "config.json").is_file():
        items = _load(what)
        print(f"{what}: {len(items)} items of shape {items.shape}, fingerprint {items.fingerprint}")
        for line in items.report.lines():
            print(line)
        return
    read_run(what)
    findings = verify(Path(what) / "checkpoints")
    for finding in findings:
        print(f"{'ok     ' if finding.ok else 'DAMAGED'} {finding.checkpoint}/{finding.file} {finding.reason}".rstrip())
    bad = sum(not finding.ok for finding in findings)
    if bad:
        raise UsageError(f"{bad} of {len(findings)} files are damaged; the newest whole checkpoint is taken when the run is loaded or continued")
    print(f"{what}: {len(findings)} files, all whole" if findings else f"{what}: no checkpoint yet")


def cite(run: Positional[Path], /) -> None:
    """BibTeX of what a run used.

    Args:
        run: a run folder.
    """
    from .recipe import PAPERS
    from .train import read_run

    config = read_run(run).config
    for module in PAPERS.values():
        if _uses(config, module.PAPER.name):
            print(module.PAPER.bibtex())


VERBS = (train, sample, evaluate, reproduce, papers, check, cite)


def main(arguments: list[str] | None = None) -> None:
    """Runs a verb. A user's mistake ends with a sentence and exit code 2."""
    warnings.showwarning = lambda message, *rest: print(f"warning: {message}", file=sys.stderr)  # type: ignore[assignment]
    verbs = {verb.__name__: verb for verb in VERBS}
    from .config import ConfigError
    from .data import DataError
    from .train import RunError, TrainingError
    from .train.checkpoint import CheckpointError

    try:
        tyro.extras.subcommand_cli_from_dict(verbs, prog="softmix", description="Diffusion models that believe a whole posterior.", args=arguments)
    except (UsageError, DataError, ConfigError, RunError, TrainingError, CheckpointError) as error:
        print(f"softmix: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except TypeError as error:
        if "needs" not in str(error):
            raise
        print(f"softmix: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nsoftmix: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
