"""Non-uniform diffusion on images: networks for all bands, and smaller networks for the coarse ones.

Every arm sees as many training images. A multi-scale model divides them among its networks, as the paper does. Work is
counted in multiply-adds of the networks, beside those of the plain network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .. import training
from ..data import Coarse, load
from ..denoiser import Denoiser, MultiScale, Network, PointHead, device_of
from ..loss import Square, SquarePerElement
from ..net import UNetSpec
from ..process import VP, NonUniform, Process, few, uniform
from ..sampler import adams, sample
from ..train import Config, Times, find_device
from ..train import load as load_run
from .frame import Arms, Numbers, Results
from .images import DATA_SETS, base, logged, reference, training_folder
from .paper import Role

PICTURES = "Fashion-MNIST, 28 x 28, networks"
LEVELS, COUNTS = 2, (4, 8, 16, 32)
PLAIN, PLAIN_X0 = "plain network", "plain network, output x0"
SINGLE, REVERSED = "one network, details first to noise", "one network, coarse band first to noise"
SAME_WIDTH, SAME_SIZE = "multi-scale, widths of plain", "multi-scale, parameters of plain"
ROLES: dict[str, Role] = {
    PLAIN: "baseline",
    PLAIN_X0: "control",
    SINGLE: "ours",
    REVERSED: "control",
    SAME_WIDTH: "ours",
    SAME_SIZE: "ours",
}


def image_arms(out: Path) -> list[Arms]:
    """The arms at full scale, with three seeds. out : the folder in which the trainings stay."""
    settings = {"data": "fashion28", "images": 30_000, "n": 1000, "counts": COUNTS, "batch": 64}
    needs = partial(load, "fashion-mnist")
    return [
        Arms(
            {name: role},
            partial(train_and_measure, name, out),
            f"{PICTURES}, {name}",
            full=settings,
            seeds=3,
            needs=needs,
        )
        for name, role in ROLES.items()
    ]


def train_and_measure(
    name: str, out: Path, seed: int, data: str, images: int, n: int, counts: Sequence[int], batch: int
) -> Results:
    """Train the networks of an arm, or continue, and measure its samples: the Frechet distance at each number of
    evaluations, and at the work of so many evaluations of the plain network."""
    known, (_, _, net) = reference(data, out), DATA_SETS[data]
    shape = known.train.shape
    assert isinstance(net, UNetSpec)
    results: dict[tuple[str, str], float] = {}
    with logged(training_folder(out, name, data, images, seed, batch)):
        models = []
        for level, (config, share) in enumerate(configurations(name, shape, net)):
            run = training_folder(out, name, data, images, seed, batch) / f"run-{level}"
            plain = base(_halved(shape, level), net, max(int(images * share), batch), seed, batch)
            source = Coarse(known.train, level) if level else known.train
            for step in training(source, _with_task(plain, config), run):
                if step.step % 250 == 0:
                    print(
                        f"{name}, network {level}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True
                    )
            models.append(load_run(run).denoiser.to(find_device()))
        made = Made.of(models, net, known.train.x0(slice(0, 10_000)).mean(0))
        for count in counts:
            for metric, limit in (("frechet", False), ("frechet at work", True)):
                found = [known.compare(made.samples(n, grid, seed))["frechet"] for grid in made.grids(count, limit)]
                results[name, f"{metric}@{count}"] = min(found)
                print(f"{name}, {metric}@{count}: {min(found):.2f}", flush=True)
    results[name, "parameters"] = sum(weight.numel() for model in models for weight in model.parameters())
    results[name, "work of an evaluation"] = sum(made.costs) / len(made.costs)
    return results


@dataclass(frozen=True, eq=False)
class Made:
    """A trained arm.

    costs : the multiply-adds of each network, beside those of the plain network.
    """

    denoiser: Denoiser
    costs: tuple[float, ...]

    @classmethod
    def of(cls, models: Sequence[Network], net: UNetSpec, mean: Tensor) -> Made:
        """One network as it is; several as a multi-scale model, with the details of the mean image."""
        plain = operations(Network(VP(), net, PointHead(), models[0].shape))
        costs = tuple(operations(model) / plain for model in models)
        return cls(models[0] if len(models) == 1 else MultiScale(models, mean.to(device_of(models[0]))), costs)

    def grids(self, count: int, limit: bool) -> list[Tensor]:
        """The grids of so many evaluations; with a limit, of the work of so many evaluations of the plain network."""
        found = []
        for make in (uniform, few):
            steps = max(count, len(self.costs))
            while limit and self.work(self._grid(make, steps + 1)) <= count:
                steps += 1
            found.append(self._grid(make, steps))
        return found

    def work(self, grid: Tensor) -> float:
        """The work of a run, in evaluations of the plain network."""
        stage = self.denoiser.stage if isinstance(self.denoiser, MultiScale) else lambda t: 0
        return sum(self.costs[stage(t)] for t in grid[:-1])

    def samples(self, n: int, grid: Tensor, seed: int) -> Tensor:
        x = sample(self.denoiser, n, sampler=adams, seed=seed, grid=grid)
        return x.clamp(-1, 1).cpu()

    def _grid(self, make: Callable[[Process, int], Tensor], steps: int) -> Tensor:
        grid = make(self.denoiser.process, steps)
        return self.denoiser.fitted(grid) if isinstance(self.denoiser, MultiScale) else grid


def operations(model: Network) -> int:
    """The multiply-adds of an evaluation of one item."""
    device = device_of(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *model.shape, device=device), 0.5)
    return int(counter.get_total_flops()) // 2


def configurations(name: str, shape: tuple[int, ...], net: UNetSpec) -> list[tuple[Config, float]]:
    """The configuration of each network of an arm, and its share of the training images."""
    process = NonUniform((shape[1], shape[2]), LEVELS)
    config = base(shape, net, 64, 0)
    weighted = {"output": "x0", "loss": SquarePerElement("min-snr")}
    if name == PLAIN:
        return [(config, 1.0)]
    if name == PLAIN_X0:
        return [(config.but(output="x0", loss=Square("min-snr")), 1.0)]
    if name in (SINGLE, REVERSED):
        ends = process.ends if name == SINGLE else process.ends[::-1]
        return [(config.but(process=replace(process, ends=ends), **weighted), 1.0)]
    nets = stages(net, shape) if name == SAME_WIDTH else narrower(net, shape)
    edges = (1e-3, *process.ends)
    return [
        (
            config.but(
                net=own, process=process.coarse(level), times=Times(low=edges[level], high=edges[level + 1]), **weighted
            ),
            1 / len(nets),
        )
        for level, own in enumerate(nets)
    ]


def _with_task(plain: Config, config: Config) -> Config:
    """The training settings of one configuration, with the task of another."""
    return replace(plain, task=config.task)


def _halved(shape: tuple[int, ...], level: int) -> tuple[int, ...]:
    return (shape[0], shape[1] >> level, shape[2] >> level)


def stages(net: UNetSpec, shape: tuple[int, ...]) -> list[UNetSpec]:
    """The network of each stage: as at the full size, with a patch that divides the side."""
    return [replace(net, patch=net.patch if (shape[1] >> level) % net.patch == 0 else 1) for level in range(LEVELS + 1)]


def narrower(net: UNetSpec, shape: tuple[int, ...]) -> list[UNetSpec]:
    """The networks of all stages, of one width, with as many parameters together as the plain network."""
    aim = _parameters([net], shape)
    widths = range(4, net.width + 1, 4)
    made = [stages(replace(net, width=width), shape) for width in widths]
    return min(made, key=lambda nets: abs(_parameters(nets, shape) - aim))


def _parameters(nets: Sequence[UNetSpec], shape: tuple[int, ...]) -> int:
    return sum(weight.numel() for net in nets for weight in net.build(shape[0], shape[0]).parameters())


def image_checks(value: Numbers) -> dict[str, bool]:
    """At equal work, at equal evaluations, and the order of bands, each at most of the counts; {} without images."""
    if (PLAIN, f"frechet@{COUNTS[0]}") not in value:
        return {}

    def less(ours: str, other: str, kind: str, rival: str = "frechet") -> list[int]:
        """The counts at which ours is less by two standard deviations."""
        clear = []
        for count in COUNTS:
            own, their = (ours, f"{kind}@{count}"), (other, f"{rival}@{count}")
            width = (value.spread(*own) ** 2 + value.spread(*their) ** 2) ** 0.5
            clear += [count] if value[own] + 2 * width < value[their] else []
        return clear

    found = {
        f"{SAME_WIDTH}: at equal work its Frechet distance is less than the plain network's": less(
            SAME_WIDTH, PLAIN, "frechet at work"
        ),
        f"{SAME_SIZE}: at equal work too": less(SAME_SIZE, PLAIN, "frechet at work"),
        f"{SINGLE}: less than the plain network's at equal evaluations": less(SINGLE, PLAIN, "frechet"),
        "and than that with output x0": less(SINGLE, PLAIN_X0, "frechet"),
        "and than with the coarse band first": less(SINGLE, REVERSED, "frechet"),
    }
    return {
        f"{text}, by two standard deviations, at {', '.join(map(str, at)) or 'none'} (most of "
        f"{', '.join(map(str, COUNTS))})": len(at) > len(COUNTS) // 2
        for text, at in found.items()
    }
