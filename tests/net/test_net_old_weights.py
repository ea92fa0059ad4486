"""Weights of version 0.1 load: names, shapes and the initial weights of a seed are unchanged.

nets_of_0_1.json was written by version 0.1: for each tensor of the state its shape and its first and last number after
torch.manual_seed(0), and the first, the last and the mean absolute number of a draw.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from softmix.cond import class_label
from softmix.denoiser import HeadSpec, MapHead, Network, PointHead, PublishedSMD, SoftHead
from softmix.net import DiTSpec, MLPSpec, NetSpec, UNetSpec
from softmix.process import VP
from softmix.rng import Rng

OLD = json.loads((Path(__file__).parent / "nets_of_0_1.json").read_text())
NETS: dict[str, tuple[NetSpec, tuple[int, ...]]] = {
    "unet": (UNetSpec(width=8, depth=1), (2, 8, 8)),
    "unet-odd": (UNetSpec(8, (1, 2, 3), 2, 1, False), (3, 7, 5)),
    "dit": (DiTSpec(width=16, depth=2, patch=2), (2, 8, 8)),
    "mlp": (MLPSpec(width=16, depth=2, frequencies=3), (2,)),
}
HEADS: dict[str, HeadSpec] = {
    "point": PointHead(),
    "map": MapHead(),
    "soft": SoftHead(latent=5, local=2),
    "published": PublishedSMD(7),
}


def network(case: str) -> tuple[Network, int]:
    net, head, classes = case.split()
    spec, shape = NETS[net]
    torch.manual_seed(0)
    return Network(VP(), spec, HEADS[head], shape, class_label(int(classes))), int(classes)


@pytest.mark.parametrize("case", OLD)
def test_names_and_shapes_are_those_of_0_1_in_their_order(case: str) -> None:
    found = {name: list(tensor.shape) for name, tensor in network(case)[0].state_dict().items()}
    assert list(found.items()) == [(name, shape) for name, (shape, _) in OLD[case]["tensors"].items()]


@pytest.mark.parametrize("case", OLD)
def test_a_seed_gives_the_same_weights_as_0_1(case: str) -> None:
    for name, tensor in network(case)[0].state_dict().items():
        ends = tensor.flatten()[[0, -1]].tolist()
        assert ends == pytest.approx(OLD[case]["tensors"][name][1], abs=2e-7), name


@pytest.mark.parametrize("case", OLD)
def test_these_weights_give_the_same_output_as_0_1(case: str) -> None:
    model, classes = network(case)
    x = torch.linspace(-1, 1, 2 * torch.Size(model.shape).numel()).reshape(2, *model.shape)
    with torch.no_grad():
        told = torch.tensor([3, -1]) if classes else None
        draw = model(x, torch.tensor([0.3, 0.8]), told).draws(1, Rng(0, 2)).double().flatten()
    assert [*draw[[0, -1]].tolist(), float(draw.abs().mean())] == pytest.approx(OLD[case]["draw"], abs=2e-5)
