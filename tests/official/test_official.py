"""Comparison with the authors' own code: the output of their released files, in float64, for the inputs in this folder.

Each fixture names its repository, commit, files and inputs; `make.py` writes it. The denoiser is the exact one of the
mixture in law.json: a few lines of make.py for their code, `ExactMixture` for ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.denoiser import ExactMixture
from softmix.denoiser.parameterise import affine
from softmix.denoiser.smd import _Hyper
from softmix.loss.square import squared_error
from softmix.process import VE, VP, Gaussian, Noised, Table
from softmix.recipe.evodiff import released
from softmix.rng import Rng
from softmix.sampler import (
    NoiseCode,
    Sampler,
    SemiDiscreteOT,
    Statistics,
    ddim,
    dpm_encoder,
    dpm_solver_v3,
    drive,
    edit_friendly,
    f_pndm,
    plms,
    replay,
    s_pndm,
    unipc,
)
from softmix.sampler.drive import finish

F64 = torch.float64
HERE = Path(__file__).parent
DDPM = Table.of_betas(torch.linspace(1e-4, 0.02, 1000, dtype=F64))
# sigma from 0 to above the 80 at which EDM begins
EDM = VE(0.001, 100.0)


def cases(name: str) -> list[dict[str, Any]]:
    return json.loads((HERE / f"{name}.json").read_text())["cases"]


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=F64)


@cache
def law() -> tuple[Tensor, Tensor, Tensor]:
    found = json.loads((HERE / "law.json").read_text())
    return tensor(found["weights"]), tensor(found["means"]), tensor(found["variances"]).diag_embed()


def exact(process: Gaussian, shift: float = 0.0) -> ExactMixture:
    weights, means, covariances = law()
    return ExactMixture(process, weights, means + shift, covariances)


def ended(process: Gaussian, sampler: Sampler, case: dict[str, Any], times: Tensor) -> Tensor:
    start = tensor(case["start"])
    return finish(drive(exact(process), sampler, start, times, Rng(0, len(start))))


def off(found: Tensor, right: object) -> float:
    return float((found - tensor(right)).abs().max())


def named(*keys: str) -> Any:
    return lambda case: ", ".join(str(case[key]) for key in keys)


@pytest.mark.parametrize("path", sorted(HERE.glob("*.json")), ids=lambda path: path.stem)
def test_every_fixture_says_where_it_is_from(path: Path) -> None:
    found = json.loads(path.read_text())
    if path.stem == "law":
        return
    assert found["repository"].startswith("https://github.com/") and len(found["commit"]) == 40
    assert found["files"] and found["fed"] and found["cases"]


@pytest.mark.parametrize("case", cases("pndm"), ids=named("method", "steps"))
def test_pndm(case: dict[str, Any]) -> None:
    """Label k is level k + 2 of 1000 in their code: the times of `chain`. They end at 1 of 1000."""
    labels = [*range(1000 - 1000 // case["steps"], -1, -1000 // case["steps"]), -1]
    sampler = {"ddim": ddim, "s-pndm": s_pndm, "f-pndm": f_pndm}[case["method"]]
    assert off(ended(DDPM, sampler, case, (tensor(labels) + 2) / 1000), case["end"]) < 1e-12


@pytest.mark.parametrize("case", cases("plms"), ids=named("steps"))
def test_plms(case: dict[str, Any]) -> None:
    """The code of latent diffusion. Its improved Euler evaluates at the next label. Its last step goes to the first
    level.
    """
    times = (tensor([*case["labels"], 0]) + 1) / 1000
    assert off(ended(DDPM, plms, case, times), case["end"]) < 1e-12


@pytest.mark.parametrize("case", cases("unipc"), ids=named("order", "variant", "steps"))
def test_unipc(case: dict[str, Any]) -> None:
    sampler = partial(unipc, order=case["order"], line=case["variant"], settles=case["lower_order_final"])
    times = torch.linspace(1000, 1, case["steps"] + 1, dtype=F64) / 1000
    assert off(ended(DDPM, sampler, case, times), case["end"]) < 1e-10


@pytest.mark.parametrize("case", cases("evodiff"), ids=lambda case: f"{case['skip']}, {len(case['sigmas']) - 1}")
def test_evodiff(case: dict[str, Any]) -> None:
    """The released form, with and without the last call to t = 0."""
    times = EDM.time(-2 * tensor(case["sigmas"]).log())
    if case["denoise_to_zero"]:
        times = torch.cat([times, times.new_zeros(1)])
    assert off(ended(EDM, released, case, times), case["end"]) < 1e-10


@pytest.mark.parametrize("case", cases("dpm_solver_v3"), ids=named("order", "p_pseudo", "use_corrector", "c_pseudo"))
def test_dpm_solver_v3(case: dict[str, Any]) -> None:
    """Their integrals are sums over 20,000 intervals, of second order in their length."""
    clock = torch.linspace(float(case["lambdas"][0]), float(case["lambdas"][-1]), 20_001, dtype=F64)
    at, place = clock[:, None, None, None], torch.arange(8, dtype=F64).reshape(1, 2, 2, 2) / 8
    found = Statistics(
        clock, torch.sigmoid(1 - at + place), -0.3 * torch.cos(at + place), 0.1 * torch.sin(2 * at + place)
    )
    corrects = ("pseudo" if case["c_pseudo"] else "published") if case["use_corrector"] else "no"
    sampler = partial(
        dpm_solver_v3,
        statistics=found,
        order=case["order"],
        corrects=corrects,
        differences="pseudo" if case["p_pseudo"] else "exact",
    )
    times = EDM.time(2 * tensor(case["lambdas"]))
    # measured: 2.5e-8; another corrector or other differences are 1e-2 and more away
    assert off(ended(EDM, sampler, case, times), case["end"]) < 2e-7


class GivenNoises:
    """Takes the place of an Rng and returns these noises in turn."""

    def __init__(self, noises: Tensor):
        self.left: Iterator[Tensor] = iter(noises)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        return next(self.left).reshape(shape)

    def child(self, role: str) -> Rng:
        return Rng(0, 1)


def test_edit_friendly() -> None:
    """The noise of each step, and the result of the reverse process with this law and with another."""
    (case,) = cases("edit_friendly")
    times, x0 = (tensor([*case["labels"], 0]) + 1) / 1000, tensor(case["x0"])
    # their copies are drawn from the least noise up, ours from the most
    code: NoiseCode = finish(drive(exact(DDPM), edit_friendly, x0, times, GivenNoises(tensor(case["z"]).flip(0))))  # type: ignore[arg-type]
    # the step to the first level would have noise; theirs is put to 0
    assert off(code.noise[:-1, 0], case["zs"][:0:-1]) < 1e-11
    assert off(code.path[:, 0], case["xts"][:0:-1]) < 1e-12
    quiet = replace(code, noise=torch.cat([code.noise[:-1], torch.zeros_like(code.noise[-1:])]))
    skip = case["skip"]
    for shift in (0.0, 0.5):
        sampler = replay(quiet, skip, rest=False)
        end = finish(drive(exact(DDPM, shift), sampler, quiet.start(skip), times[skip:], Rng(0, 1)))
        assert off(end, case[f"end moved by {shift}"]) < 1e-11


@pytest.mark.parametrize("case", cases("dpm_encoder"), ids=named("eta"))
def test_dpm_encoder(case: dict[str, Any]) -> None:
    """Path and code of one law, decoded by another. Their code stops before the step to t = 0."""
    times, x0 = (tensor(case["labels"]) + 1) / 1000, tensor(case["x0"])
    closed = torch.cat([times, times.new_zeros(1)])
    encode = partial(dpm_encoder, eta=case["eta"])
    code: NoiseCode = finish(drive(exact(DDPM), encode, x0, closed, GivenNoises(tensor(case["z"]))))  # type: ignore[arg-type]
    assert off(code.path, case["path"]) < 1e-12
    assert off(code.noise[:-1], case["codes"]) < 1e-10
    cut = replace(code, grid=times, path=code.path[:-1], noise=code.noise[:-1])
    end = finish(drive(exact(DDPM, 0.5), replay(cut), cut.start(), times, Rng(0, 1)))
    assert off(end, case["end"]) < 1e-11


def test_the_optimal_map() -> None:
    (case,) = cases("dpm_ot")
    optimal = SemiDiscreteOT(torch.tensor(case["targets"]), torch.tensor(case["h"]))
    found = optimal.index(torch.tensor(case["source"]).float() / 1e6)
    assert found.tolist() == case["index"]


def test_smd_layers() -> None:
    case = cases("smd")[0]
    layer = _Hyper(5, 3).double()
    theirs = {name: tensor(value) for name, value in case.items() if name not in ("x", "z", "out")}
    mine = {
        name.replace("in_proj", "enter").replace("out_proj", "leave").replace("param_projs", "vector"): value
        for name, value in theirs.items()
        if name != "scales"
    }
    layer.load_state_dict(mine | {f"scale.{k}": scale for k, scale in enumerate(theirs["scales"])})
    x, z = (tensor(case[name]).permute(0, 2, 3, 1) for name in ("x", "z"))
    assert off(layer(x, z).detach().permute(0, 3, 1, 2), case["out"]) < 1e-13


def test_smd_schedule() -> None:
    """Their schedule ends without signal, but for a limit on the last beta. Ours ends at a logsnr of -20."""
    case = cases("smd")[1]
    times = (tensor(case["places"]) + 1) / 1000
    assert off(VP("sigmoid").alpha(times)[:-1] ** 2, case["kept"][:-1]) < 1e-8


def test_smd_loss() -> None:
    """Their weight times the error of v is our error of eps, snr times the error of x0. Their table is in float32."""
    case = cases("smd")[2]
    x0, z, kept = (tensor(case[name]) for name in ("x0", "noise", "kept"))
    table = Table(kept)
    for k in range(3):
        t = tensor((k + 1) / 3)
        alpha, sigma = table.alpha(t), table.sigma(t)
        xt = alpha * x0[k : k + 1] + sigma * z[k : k + 1]
        said = torch.einsum("oc,bchw->bohw", tensor(case["weight"]), xt) + tensor(case["bias"])[:, None, None]
        a, b = affine("v", alpha, sigma)
        noised = Noised(x0=x0[k : k + 1], xt=xt, t=t.expand(1), z=z[k : k + 1], process=table)
        found = squared_error(a * xt + b * said, noised, "eps")
        assert float(found) == pytest.approx(case["loss"][k], rel=2e-6)
