"""The same computation in two places: another device, or another precision. Prints the table of docs/reliability.md.

    python tests/agreement.py                   # float32 on the CPU against float64
    python tests/agreement.py --device cuda     # and each device against the CPU

A part is a function of the device. It makes its numbers from fixed seeds, in the default dtype of torch, and returns
one tensor. The difference of two results is the largest one over all elements, as a share of the largest element.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from softmix.codec import VAE
from softmix.cond import UNCONDITIONED, CondSpec
from softmix.denoiser import (
    MapHead,
    MixtureHead,
    Network,
    NormalHead,
    PointHead,
    PublishedSMD,
    SoftAtHighNoise,
    SoftHead,
    autoguided,
    averaged,
    guided,
    mean_only,
    within,
)
from softmix.evaluate import coverage, frechet, kernel_distance, nearest, sliced_wasserstein
from softmix.evaluate.classifier import build as build_classifier
from softmix.loss import Energy, Importance, Stage, loss_of
from softmix.net import DiTSpec, MLPSpec, UNetSpec
from softmix.net.sequence import SequenceSpec
from softmix.posterior import HasMean, HasVariance, Implicit
from softmix.posterior.mixture import draw_index
from softmix.precision import full_fp32
from softmix.process import VP, Flow
from softmix.rng import Rng
from softmix.sampler import SAMPLERS, drive, traits
from softmix.sampler.drive import finish
from softmix.train import preset

F64 = torch.float64
SHAPE, ITEMS = (2, 8, 8), 5
NET = UNetSpec(width=16, depth=1, patch=1)
Compute = Callable[[torch.device], Tensor]


@dataclass(frozen=True)
class Part:
    """A computation, and the largest difference that is right for it.

    kind : the row of the table.
    bound32 : of float32, against float64 and against another device.
    bound64 : of float64 on two devices.
    """

    kind: str
    name: str
    compute: Compute
    bound32: float
    bound64: float = 1e-10

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def result(part: Part, device: torch.device, dtype: torch.dtype) -> Tensor:
    with default_dtype(dtype), full_fp32():
        return part.compute(device).detach().to("cpu", F64)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def seeded(make: Callable[[], nn.Module], device: torch.device) -> Any:
    """A module with the same weights for every dtype and device, none of them 0."""
    dtype = torch.get_default_dtype()
    with default_dtype(torch.float32), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
        for weight in module.parameters():
            weight.data += 0.05 * torch.randn(weight.shape)
    return module.to(device, dtype).eval()


def noise(shape: tuple[int, ...], device: torch.device, role: str = "x") -> Tensor:
    return Rng(0, shape[0], role, device).normal(shape)


def network(
    head: Any,
    device: torch.device,
    net: Any = NET,
    shape: tuple[int, ...] = SHAPE,
    cond: CondSpec = UNCONDITIONED,
) -> Network:
    process = Flow() if isinstance(head, MapHead) else VP()
    return cast(Network, seeded(lambda: Network(process, net, head, shape, cond), device))


def statistics(posterior: Any, device: torch.device) -> Tensor:
    """Draws, mean and variance of a posterior, as far as it has them. Draws of a mixture are compared elsewhere."""
    parts: list[Tensor] = []
    if isinstance(posterior, HasMean):
        parts.append(posterior.mean)
    if isinstance(posterior, HasVariance):
        parts.append(posterior.var)
    if isinstance(posterior, Implicit):
        parts += list(posterior.draws(2, Rng(0, ITEMS, "draws", device)))
    return torch.cat([part.expand_as(parts[0]).flatten() for part in parts])


def of_head(head: Any, device: torch.device, net: Any = NET, shape: tuple[int, ...] = SHAPE) -> Tensor:
    model = network(head, device, net, shape)
    with torch.no_grad():
        return statistics(model(noise((ITEMS, *shape), device), 0.6), device)


def of_wrap(wrap: Callable[[Any], Any], device: torch.device) -> Tensor:
    model = network(SoftHead(), device, cond=CondSpec(labels=(("label", 3),)))
    with torch.no_grad():
        labels = torch.arange(ITEMS, device=device) % 3
        return statistics(wrap(model)(noise((ITEMS, *SHAPE), device), 0.6, labels), device)


def of_loss(task: Any, device: torch.device) -> Tensor:
    """The loss of each item, and the gradient of its sum."""
    modules = nn.ModuleDict({"model": network_of(task, device)})
    model = cast(Network, modules["model"])
    if hasattr(task.loss, "build"):
        # a loss against rivals takes the network's turn here
        modules.update(seeded(lambda: nn.ModuleDict(task.loss.build(model)), device))
    x0 = noise((ITEMS, *SHAPE), device).clamp(-1, 1)
    frozen = None
    if task.freeze_at is not None:
        frozen = (
            task.freeze(copy.deepcopy(model), x0).to(device, torch.get_default_dtype()).requires_grad_(False).eval()
        )
    noised = task.process.noise(
        x0, torch.linspace(0.2, 0.9, ITEMS, dtype=F64, device="cpu"), Rng(1, ITEMS, "noise", device)
    )
    loss = loss_of(task.loss, model, noised, Rng(0, ITEMS, "loss", device), Stage(0.9, frozen, dict(modules.items())))
    weights = list(model.parameters())
    slopes = torch.autograd.grad(loss.sum(), weights, allow_unused=True)
    flat = torch.cat([slope.flatten() for slope in slopes if slope is not None])
    return torch.cat([loss.detach() / loss.detach().abs().max(), flat / flat.abs().max()])


def network_of(task: Any, device: torch.device) -> Network:
    return cast(Network, seeded(lambda: Network(task.process, NET, task.head, SHAPE, output=task.output), device))


def of_sampler(sampler: Any, device: torch.device) -> Tensor:
    model, known = network(PointHead(), device), traits(sampler)
    rng = Rng(0, ITEMS, "sample", device)
    x = model.process.prior((ITEMS, *SHAPE), rng.child("prior")).to(torch.get_default_dtype())
    return finish(drive(model, sampler, x, known.grid(VP(), max(known.least, 6)), rng))


def of_metric(metric: Callable[[Tensor, Tensor], Any], device: torch.device) -> Tensor:
    a, b = noise((300, 8), device, "a"), noise((200, 8), device, "b") + 0.2
    found = metric(a, b)
    return torch.as_tensor(found if isinstance(found, tuple) else [found], dtype=F64)


def of_classifier(device: torch.device) -> Tensor:
    net = seeded(lambda: build_classifier(1, 10, 28, 0), device)
    with torch.no_grad():
        return cast(Tensor, net.features(noise((64, 1, 28, 28), device).clamp(-1, 1)))


def of_codec(device: torch.device) -> Tensor:
    import diffusers

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "latent_channels": 4, "norm_num_groups": 4, "sample_size": 8}
    codec = VAE(seeded(lambda: diffusers.AutoencoderKL(**blocks, **sizes), device))
    x = noise((ITEMS, 3, 8, 8), device).clamp(-1, 1)
    z = codec.encode(x)
    return torch.cat([z.flatten(), codec.decode(z).flatten()])


def of_hub(device: torch.device) -> Tensor:
    import diffusers

    from softmix.hub import from_diffusers

    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4, "layers_per_block": 1}
    model = seeded(
        lambda: diffusers.UNet2DModel(sample_size=8, in_channels=3, out_channels=3, **blocks, **sizes), device
    )
    denoiser = from_diffusers(model, diffusers.DDPMScheduler())
    with torch.no_grad():
        return cast(Tensor, denoiser(noise((ITEMS, 3, 8, 8), device), 0.6).mean)


def _parts() -> Iterator[Part]:
    heads = {
        "PointHead": PointHead(),
        "NormalHead": NormalHead(),
        "NormalHead, per element": NormalHead(per="element"),
        "MixtureHead": MixtureHead(),
        "MixtureHead, per item": MixtureHead(per="item"),
        "SoftHead": SoftHead(),
        "SoftHead, no mean": SoftHead(mean="none"),
        "MapHead": MapHead(),
        "PublishedSMD": PublishedSMD(),
    }
    for name, head in heads.items():
        yield Part("head", name, partial(of_head, head), 1e-5)
    nets: dict[str, tuple[Any, tuple[int, ...]]] = {
        "UNet": (NET, SHAPE),
        "DiT": (DiTSpec(width=32, depth=2, patch=2), SHAPE),
        "MLP": (MLPSpec(width=32, depth=2), (6,)),
        "sequence": (SequenceSpec(width=32, depth=2), (7, 3)),
    }
    for name, (net, shape) in nets.items():
        yield Part("net", name, partial(of_head, PointHead(), net=net, shape=shape), 1e-5)
    wraps: dict[str, Callable[[Any], Any]] = {
        "mean_only": mean_only,
        "averaged": averaged(4),
        "guided": guided(2.0),
        "autoguided": lambda model: autoguided(model, 2.0)(model),
        "within": within(-20, 20, guided(2.0)),
        "SoftAtHighNoise": lambda model: SoftAtHighNoise(model, 9.0),
    }
    for name, wrap in wraps.items():
        yield Part("wrap", name, partial(of_wrap, wrap), 1e-5)
    names = ("smd", "plain", "published", "mixture", "normal", "consistency", "meanflow", "imm", "siddm")
    tasks: dict[str, Any] = {f"{name} (preset)": preset(name, SHAPE).task for name in names}
    tasks["Energy"] = replace(tasks["smd (preset)"], loss=Energy())
    tasks["Importance"] = replace(tasks["normal (preset)"], loss=Importance())
    for name, task in tasks.items():
        yield Part("loss and gradient", name, partial(of_loss, task), 5e-4)
    for sampler in SAMPLERS:
        yield Part("sampler", traits(sampler).name, partial(of_sampler, sampler), 1e-5)
    metrics: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "frechet": frechet,
        "kernel_distance": partial(kernel_distance, rng_seed=0),
        "coverage": coverage,
        "sliced_wasserstein": partial(sliced_wasserstein, seed=0),
        "nearest": lambda a, b: tuple(nearest(a, b).distance.tolist()),
    }
    for name, metric in metrics.items():
        yield Part("metric", name, partial(of_metric, metric), 3e-6)
    yield Part("metric", "features of the classifier", of_classifier, 1e-5)
    yield Part("codec", "VAE", of_codec, 1e-5)
    # diffusers computes the embedding of time in float32 whatever the dtype of the network: get_timestep_embedding
    yield Part("hub", "from_diffusers", of_hub, 1e-5, bound64=1e-6)


PARTS = tuple(_parts())


def components(device: torch.device) -> Tensor:
    """The component of each of 50,176 pixels, drawn from 8 with one seed."""
    return draw_index(noise((64, 8, 1, 28, 28), device, "logits"), Rng(0, 64, "draw", device)).cpu()


def table(device: torch.device | None) -> str:
    """One row for each kind: the number of parts, and the largest differences."""
    cpu = torch.device("cpu")
    lines = [
        "| parts | number | CPU float32 against float64 | CUDA against CPU, float32 | float64 |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(part.kind for part in PARTS):
        parts = [part for part in PARTS if part.kind == kind]
        exact = {str(part): result(part, cpu, F64) for part in parts}
        single = {str(part): result(part, cpu, torch.float32) for part in parts}
        cells = [max((difference(single[str(part)], exact[str(part)]), part.name) for part in parts)]
        if device is not None:
            there = [(difference(result(part, device, torch.float32), single[str(part)]), part.name) for part in parts]
            also = [(difference(result(part, device, F64), exact[str(part)]), part.name) for part in parts]
            cells += [max(there), max(also)]
        texts = [f"{value:.0e} ({name})" for value, name in cells] + ["not measured yet"] * (3 - len(cells))
        lines.append(f"| {kind} | {len(parts)} | {' | '.join(texts)} |")
    with default_dtype(F64):
        exact_draw = components(cpu)
    with default_dtype(torch.float32):
        draw = components(cpu)
        there_draw = None if device is None else components(device)
    others = [int((draw != exact_draw).sum()), "not measured yet", "not measured yet"]
    if device is not None and there_draw is not None:
        with default_dtype(F64):
            others[1:] = [int((there_draw != draw).sum()), int((components(device) != exact_draw).sum())]
    texts = [each if isinstance(each, str) else f"{each} of {draw.numel():,}" for each in others]
    lines.append(f"| draw of a component: another one | 1 | {' | '.join(texts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="the device that is compared with the CPU, for example cuda")
    asked = torch.device(parser.parse_args().device)
    torch.set_num_threads(1)
    print(table(None if asked.type == "cpu" else asked))
