"""Write the fixtures of this folder: inputs, and the output of the authors' own files for them, in float64.

    python tests/official/make.py CLONES [NAME ...]

CLONES holds the repositories as folders owner+name. Their code runs in these folders; none of it is copied here.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
CLONES = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
LAW = json.loads((HERE / "law.json").read_text()) if (HERE / "law.json").exists() else {}


def mean_of(x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """E[x0 | x] of the mixture of law.json, of diagonal components."""
    weights, means, variances = (
        torch.tensor(LAW[name], dtype=torch.float64) for name in ("weights", "means", "variances")
    )
    alpha, sigma = torch.as_tensor(alpha).reshape(-1)[0], torch.as_tensor(sigma).reshape(-1)[0]
    off = x.flatten(1)[:, None] - alpha * means
    total = alpha**2 * variances + sigma**2
    share = (weights.log() - 0.5 * (off**2 / total + total.log()).sum(-1)).softmax(1)
    return (share[..., None] * (means + alpha * variances / total * off)).sum(1).reshape(x.shape)


def noise_of(x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    alpha, sigma = torch.as_tensor(alpha).reshape(-1)[0], torch.as_tensor(sigma).reshape(-1)[0]
    return (x - alpha * mean_of(x, alpha, sigma)) / sigma


def kept_of_ddpm() -> Tensor:
    """alpha^2 of DDPM's 1000 steps."""
    return (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


def noises(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loaded(repository: str, path: str, name: str, beside: dict[str, Any] | None = None) -> Any:
    """A file of the authors as a module. beside : stand-ins for modules that it imports and does not need."""
    for each, module in (beside or {}).items():
        sys.modules[each] = module
    spec = importlib.util.spec_from_file_location(name, CLONES / repository.replace("/", "+") / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def functions(repository: str, path: str, *names: str) -> dict[str, Any]:
    """Some functions of a file of the authors that as a whole needs weights and a GPU."""
    source = (CLONES / repository.replace("/", "+") / path).read_text()
    found = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names
    ]
    space: dict[str, Any] = {
        "torch": torch,
        "nn": torch.nn,
        "th": torch,
        "np": np,
        "math": math,
        "tqdm": lambda each: each,
    }
    exec(compile(ast.Module(found, []), path, "exec"), space)
    return space


def commit_of(repository: str) -> str:
    folder = CLONES / repository.replace("/", "+")
    return subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


@contextmanager
def given_noise(z: Tensor) -> Iterator[None]:
    """Inside of it torch.randn_like returns these noises in turn."""
    left, before = iter(z), torch.randn_like
    torch.randn_like = lambda like, **_: next(left).reshape(like.shape).to(like)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn_like = before


def write(name: str, repository: str, files: list[str], fed: str, cases: list[dict[str, Any]]) -> None:
    def plain(value: Any) -> Any:
        return value.tolist() if isinstance(value, Tensor | np.ndarray) else value

    found = {
        "repository": f"https://github.com/{repository}",
        "commit": commit_of(repository),
        "files": files,
        "fed": fed,
        "cases": [{key: plain(value) for key, value in case.items()} for case in cases],
    }
    text = json.dumps(found, indent=1)
    (HERE / f"{name}.json").write_text(_joined(text) + "\n")


def _joined(text: str) -> str:
    """Innermost lists on one line."""
    import re

    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda match: "[" + re.sub(r"\s*\n\s*", " ", match.group(1)) + "]", text)


def law() -> None:
    k, j = torch.meshgrid(torch.arange(3.0), torch.arange(8.0), indexing="ij")
    found = {
        "weights": [0.5, 0.3, 0.2],
        "means": (1.2 * torch.cos(2.0 * k + 1.7 * j)).double().round(decimals=3).tolist(),
        "variances": (0.05 + 0.2 * torch.sin(k + 0.9 * j) ** 2).double().round(decimals=3).tolist(),
    }
    (HERE / "law.json").write_text(_joined(json.dumps(found, indent=1)) + "\n")


def pndm() -> None:
    """gen_order_1, 2 and 4 on labels 0 to 1000 - skip, as Runner.sample_image calls them."""
    theirs = loaded("luping-liu/PNDM", "runner/method.py", "pndm_method")
    kept, cases = kept_of_ddpm(), []

    def model(x: Tensor, t: Tensor) -> Tensor:
        # the level that their transfer takes for a label
        at = kept[t.long()[0] + 1]
        return noise_of(x, at.sqrt(), (1 - at).sqrt())

    for name, method in (("ddim", theirs.gen_order_1), ("s-pndm", theirs.gen_order_2), ("f-pndm", theirs.gen_order_4)):
        for steps in (10, 50):
            labels = list(range(0, 1000, 1000 // steps))
            x, ets = noises(2, 2, 2, 2, seed=1), []  # type: ignore[var-annotated]
            start = x
            for i, j in zip(reversed(labels), reversed([-1, *labels[:-1]]), strict=True):
                x = method(x, torch.full((2,), float(i)), torch.full((2,), float(j)), model, kept, ets)
            cases.append({"method": name, "steps": steps, "start": start, "end": x})
    write(
        "pndm",
        "luping-liu/PNDM",
        ["runner/method.py"],
        "the exact noise of law.json at the level of label + 1, alphas_cumprod of DDPM in float64; labels 0, s, ...",
        cases,
    )


def plms() -> None:
    """PLMSSampler.p_sample_plms, step by step as plms_sampling does."""
    space = functions("CompVis/latent-diffusion", "ldm/models/diffusion/plms.py", "PLMSSampler")
    more = functions(
        "CompVis/latent-diffusion",
        "ldm/modules/diffusionmodules/util.py",
        "make_ddim_timesteps",
        "make_ddim_sampling_parameters",
    )
    kept, cases = kept_of_ddpm(), []
    space["noise_like"] = lambda shape, device, repeat: torch.zeros(shape)
    for steps in (10, 50):
        own = types.SimpleNamespace()
        times = more["make_ddim_timesteps"]("uniform", steps, 1000, verbose=False)
        sigmas, alphas, before = more["make_ddim_sampling_parameters"](kept.numpy(), times, 0.0, verbose=False)
        own.ddim_sigmas, own.ddim_alphas, own.ddim_alphas_prev = sigmas, alphas, before
        own.ddim_sqrt_one_minus_alphas = np.sqrt(1 - alphas)
        own.model = types.SimpleNamespace(
            apply_model=lambda x, t, c: noise_of(x, kept[int(t[0])].sqrt(), (1 - kept[int(t[0])]).sqrt())
        )
        x = start = noises(2, 2, 2, 2, seed=2)
        known: list[Tensor] = []
        order = np.flip(times)
        for i, step in enumerate(order):
            t, after = (torch.full((2,), int(k)) for k in (step, order[min(i + 1, len(order) - 1)]))
            x, _, eps = space["PLMSSampler"].p_sample_plms(
                own, x, None, t, index=len(order) - i - 1, old_eps=known, t_next=after
            )
            known = [*known, eps][-3:]
        cases.append({"steps": steps, "labels": [int(k) for k in order], "start": start, "end": x})
    write(
        "plms",
        "CompVis/latent-diffusion",
        ["ldm/models/diffusion/plms.py", "ldm/modules/diffusionmodules/util.py"],
        "the exact noise of law.json, alphas_cumprod of DDPM in float64",
        cases,
    )


def unipc() -> None:
    theirs = loaded("wl-zhao/UniPC", "uni_pc.py", "uni_pc")
    kept, cases = kept_of_ddpm(), []
    schedule = theirs.NoiseScheduleVP("discrete", alphas_cumprod=kept, dtype=torch.float64)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return noise_of(x, schedule.marginal_alpha(t[:1]), schedule.marginal_std(t[:1]))

    for order in (1, 2, 3, 4):
        for variant in ("bh1", "bh2"):
            for steps, settles in ((9, True), (27, False)):
                solver = theirs.UniPC(model, schedule, variant=variant)
                start = noises(2, 2, 2, 2, seed=3)
                end = solver.sample(
                    start, steps=steps, order=order, skip_type="time_uniform", lower_order_final=settles
                )
                cases.append(
                    {
                        "order": order,
                        "variant": variant,
                        "steps": steps,
                        "lower_order_final": settles,
                        "start": start,
                        "end": end,
                    }
                )
    write(
        "unipc",
        "wl-zhao/UniPC",
        ["uni_pc.py"],
        "the exact noise of law.json, schedule 'discrete' of DDPM's alphas_cumprod in float64, time_uniform from 1 to "
        "1/1000",
        cases,
    )


def evodiff() -> None:
    package = types.ModuleType("evo")
    package.__path__ = [str(CLONES / "ShiguiLi+EVODiff/code_demo/edm_cifar10/samplers")]
    sys.modules["evo"] = package
    utils = loaded("ShiguiLi/EVODiff", "code_demo/edm_cifar10/samplers/utils.py", "evo.utils")
    theirs = loaded("ShiguiLi/EVODiff", "code_demo/edm_cifar10/samplers/evodiff.py", "evo.evodiff")
    cases = []
    for skip in ("logSNR", "edm"):
        for steps in (4, 9, 24):
            for zero in (False, True):
                solver = theirs.EVODiff_edm(utils.NoiseScheduleEDM())
                start = 80 * noises(2, 2, 2, 2, seed=4)
                sigmas = solver.get_time_steps(skip, 80.0, 0.002, steps, "cpu")
                with redirect_stdout(StringIO()):
                    end = solver.sample(
                        lambda x, t: noise_of(x, 1.0, t[0]),
                        start,
                        steps=steps,
                        t_start=80.0,
                        t_end=0.002,
                        skip_type=skip,
                        denoise_to_zero=zero,
                    )
                cases.append({"skip": skip, "denoise_to_zero": zero, "sigmas": sigmas, "start": start, "end": end})
    write(
        "evodiff",
        "ShiguiLi/EVODiff",
        ["code_demo/edm_cifar10/samplers/evodiff.py", "code_demo/edm_cifar10/samplers/utils.py"],
        "the exact noise of law.json, x = x0 + sigma z, sigma from 80 to 0.002",
        cases,
    )


def dpm_solver_v3() -> None:
    """Statistics by formula, at 20,001 levels: in their code integrals are sums over levels."""
    import tempfile

    folder = "codebases/edm/samplers/"
    theirs = loaded("thu-ml/DPM-Solver-v3", folder + "dpm_solver_v3.py", "v3_edm")
    utils = loaded("ShiguiLi/EVODiff", "code_demo/edm_cifar10/samplers/utils.py", "evo.utils")
    schedule = utils.NoiseScheduleEDM()
    schedule.total_N, schedule.T = 1000, 80.0
    clock = torch.linspace(-math.log(80.0), -math.log(0.002), 20_001, dtype=torch.float64)
    place = torch.arange(8.0, dtype=torch.float64).reshape(1, 2, 2, 2) / 8
    at = clock[:, None, None, None]
    l, s, b = torch.sigmoid(1 - at + place), -0.3 * torch.cos(at + place), 0.1 * torch.sin(2 * at + place)  # noqa: E741
    before, torch.Tensor.cuda = torch.Tensor.cuda, lambda self, *a, **k: self  # type: ignore[method-assign]
    torch.FloatTensor = lambda each: torch.tensor([float(v) for v in each], dtype=torch.float64)  # type: ignore
    cases = []
    try:
        with tempfile.TemporaryDirectory() as kept:
            np.savez(Path(kept) / "l.npz", l=l.numpy())
            np.savez(Path(kept) / "sb.npz", s=s.numpy(), b=b.numpy())
            for order, p_pseudo, corrects, c_pseudo in (
                (1, False, False, False),
                (2, False, False, False),
                (3, False, False, False),
                (3, True, False, False),
                (2, False, True, False),
                (3, False, True, False),
                (2, False, True, True),
                (3, True, True, True),
            ):
                with redirect_stdout(StringIO()):
                    solver = theirs.DPM_Solver_v3(kept, schedule, steps=8, t_start=80.0, t_end=0.002, device="cpu")
                    start = 80 * noises(2, 2, 2, 2, seed=5)
                    end = solver.sample(
                        lambda x, t: noise_of(x, 1.0, t[0]), start, order, p_pseudo, corrects, c_pseudo, False
                    )
                cases.append(
                    {
                        "order": order,
                        "p_pseudo": p_pseudo,
                        "use_corrector": corrects,
                        "c_pseudo": c_pseudo,
                        "lambdas": schedule.marginal_lambda(solver.timesteps),
                        "start": start,
                        "end": end,
                    }
                )
    finally:
        torch.Tensor.cuda = before  # type: ignore[method-assign]
    write(
        "dpm_solver_v3",
        "thu-ml/DPM-Solver-v3",
        [folder + "dpm_solver_v3.py"],
        "the exact noise of law.json, x = x0 + sigma z, sigma from 80 to 0.002; with p = (0, 1, ..., 7) / 8 the "
        "statistics l = sigmoid(1 - u + p), s = -0.3 cos(u + p), b = 0.1 sin(2 u + p) at 20,001 even levels u of "
        "log(alpha / sigma)",
        cases,
    )


def edit_friendly() -> None:
    theirs = loaded("inbarhub/DDPM_inversion", "ddm_inversion/inversion_utils.py", "inversion_utils")
    kept = kept_of_ddpm()
    steps, skip = 20, 7
    labels = torch.arange(steps).flip(0) * (1000 // steps) + 1

    def network(shift: float) -> Any:
        def forward(x: Tensor, timestep: Tensor, encoder_hidden_states: Any) -> Any:
            alpha, sigma = kept[timestep].sqrt(), (1 - kept[timestep]).sqrt()
            # the law moved by `shift`
            return types.SimpleNamespace(sample=noise_of(x - alpha * shift, alpha, sigma))

        return types.SimpleNamespace(forward=forward, in_channels=2, sample_size=2)

    def model(shift: float) -> Any:
        scheduler = types.SimpleNamespace(
            alphas_cumprod=kept,
            alphas=1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64),
            final_alpha_cumprod=kept[0],
            timesteps=labels,
            num_inference_steps=steps,
            config=types.SimpleNamespace(num_train_timesteps=1000),
        )
        return types.SimpleNamespace(scheduler=scheduler, unet=network(shift), device="cpu")

    theirs.encode_text = lambda model, prompts: torch.zeros(1)
    x0, z = noises(1, 2, 2, 2, seed=6), noises(steps, 2, 2, 2, seed=7)
    with given_noise(z):
        _, zs, xts = theirs.inversion_forward_process(model(0.0), x0, etas=1.0, prompt="", num_inference_steps=steps)
    cases = [{"labels": labels, "skip": skip, "x0": x0, "z": z, "zs": zs, "xts": xts}]
    for shift in (0.0, 0.5):
        end, _ = theirs.inversion_reverse_process(
            model(shift), xts[steps - skip][None], etas=1.0, prompts=[""], cfg_scales=[1.0], zs=zs[: steps - skip]
        )
        cases[0][f"end moved by {shift}"] = end
    write(
        "edit_friendly",
        "inbarhub/DDPM_inversion",
        ["ddm_inversion/inversion_utils.py"],
        "one image, the exact noise of law.json and of the same law moved by 0.5; DDPM's alphas_cumprod in float64, 20 "
        "steps, final_alpha_cumprod = alphas_cumprod[0]; torch.randn_like gives z, from the least noise up",
        cases,
    )


def dpm_encoder() -> None:
    path = "model/gan_wrapper/ddpm_ddim_wrapper.py"
    names = ("extract", "sample_xt", "sample_xt_next", "compute_eps", "denoising_step_with_eps")
    space = functions("ChenWu98/cycle-diffusion", path, *names)
    if "extract" not in space:
        space["extract"] = lambda a, t, shape: a[t.long()].reshape(-1, *[1] * (len(shape) - 1)).double()
    betas, cases = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), []
    kept = kept_of_ddpm()

    def network(shift: float) -> Callable[[Tensor, Tensor], Tensor]:
        def model(x: Tensor, t: Tensor) -> Tensor:
            at = kept[t.long()[0]]
            return noise_of(x - at.sqrt() * shift, at.sqrt(), (1 - at).sqrt())

        return model

    labels = list(range(950, -1, -50))
    for eta in (0.1, 1.0):
        x0, z = noises(1, 2, 2, 2, seed=8), noises(len(labels), 1, 2, 2, 2, seed=9)
        more = {"sampling_type": "ddim", "b": betas, "eta": eta}
        logvars = torch.zeros(1000, dtype=torch.float64)
        codes: list[Tensor] = []
        with given_noise(z), redirect_stdout(StringIO()):
            xt = space["sample_xt"](x0, torch.full((1,), labels[0]), betas)
            path_ = [xt]
            for i, j in pairwise(labels):
                t, after = torch.full((1,), i), torch.full((1,), j)
                following = space["sample_xt_next"](x0, xt, t, after, **more)
                codes.append(
                    space["compute_eps"](
                        xt, following, t, after, models=network(0.0), logvars=logvars, learn_sigma=False, **more
                    )
                )
                xt = following
                path_.append(xt)
            x = path_[0]
            for (i, j), eps in zip(pairwise(labels), codes, strict=True):
                x = space["denoising_step_with_eps"](
                    x, eps, torch.full((1,), i), torch.full((1,), j), models=network(0.5), logvars=logvars, **more
                )
        cases.append(
            {
                "eta": eta,
                "labels": labels,
                "x0": x0,
                "z": z,
                "path": torch.stack(path_),
                "codes": torch.stack(codes),
                "end": x,
            }
        )
    write(
        "dpm_encoder",
        "ChenWu98/cycle-diffusion",
        [path],
        "the exact noise of law.json to encode, of the same law moved by 0.5 to decode; DDPM's betas in float64, ddim "
        "steps between the labels; torch.randn_like gives z in turn",
        cases,
    )


def dpm_ot() -> None:
    theirs = loaded("cognaclee/DPM-OT", "ot_utils/optimal_transport.py", "optimal_transport")
    targets = noises(48, 1, 2, 3, seed=10).float()
    args = types.SimpleNamespace(max_iter=1, lr_ot=0.1, bat_size_sr=100, bat_size_tg=16)
    with redirect_stdout(StringIO()):
        torch.set_default_dtype(torch.float32)
        solver = theirs.OptimalTransport(targets, args, device="cpu")
        solver.set_h(0.3 * noises(48, seed=11).float())
        source = torch.rand((500, 6), generator=torch.Generator().manual_seed(12))
        there = solver.forward(source.reshape(500, 1, 2, 3))
        torch.set_default_dtype(torch.float64)
    index = (there.flatten(1)[:, None] == targets.flatten(1)).all(-1).long().argmax(1)
    write(
        "dpm_ot",
        "cognaclee/DPM-OT",
        ["ot_utils/optimal_transport.py"],
        "48 targets, an h, and 500 points of uniform noise, in float32",
        [{"targets": targets.flatten(1), "h": solver.d_h, "source": source.mul(1e6).round().long(), "index": index}],
    )


def smd() -> None:
    """The hypernetwork, the schedule, and the loss of a model with a given output."""
    misc = types.ModuleType("misc")
    names = ("exists", "default", "identity", "normalize_to_neg_one_to_one", "unnormalize_to_zero_to_one")
    misc.__dict__.update(functions("vanderschaarlab/smd", "src/smd/misc.py", *names))
    space = functions("vanderschaarlab/smd", "src/smd/nn.py", "HyperNet")
    torch.manual_seed(0)
    layer = space["HyperNet"](2, 5, 3).double()
    x, var = noises(2, 5, 2, 2, seed=13), noises(2, 3, 2, 2, seed=14)
    with torch.no_grad():
        gave = x + layer(x, layer.get_weights(var))
    state = {name: value for name, value in layer.state_dict().items() if name != "eye"}
    sys.modules["einops"] = types.SimpleNamespace(  # type: ignore[assignment]
        rearrange=None, reduce=lambda each, pattern, how: each.flatten(1)
    )
    models = loaded("vanderschaarlab/smd", "src/smd/models.py", "smd_models", {"misc": misc})
    net = nn.Conv2d(2, 2, 1).double()

    class Answer(nn.Module):
        channels = out_dim = 2
        random_or_learned_sinusoidal_cond = self_condition = False

        def forward(self, x: Tensor, t: Tensor, x_self_cond: Any, mixture: Any) -> Tensor:
            return net(x)

    whole = models.GaussianDiffusion(Answer(), None, image_size=2)
    kept = models.sigmoid_beta_schedule(1000)
    for name, value in list(whole.named_buffers()):
        setattr(whole, name, value.double())
    x0, z, t = noises(3, 2, 2, 2, seed=15), noises(3, 2, 2, 2, seed=16), torch.tensor([30, 400, 950])
    with torch.no_grad():
        each = [float(whole.p_losses(x0[k : k + 1], t[k : k + 1], z[k : k + 1])) for k in range(3)]
    write(
        "smd",
        "vanderschaarlab/smd",
        ["src/smd/nn.py", "src/smd/models.py"],
        "x + HyperNet(x, z) with their own start; sigmoid_beta_schedule; p_losses of v = W x + b, with their float32 "
        "buffers",
        [
            {"x": x, "z": var, "out": gave, **state},
            {"places": [0, 99, 499, 899, 999], "kept": (1 - kept).cumprod(0)[[0, 99, 499, 899, 999]]},
            {
                "x0": x0,
                "noise": z,
                "labels": t,
                "kept": whole.alphas_cumprod[t],
                "weight": net.weight[:, :, 0, 0].detach(),
                "bias": net.bias.detach(),
                "loss": each,
            },
        ],
    )


PARTS = (law, pndm, plms, unipc, evodiff, dpm_solver_v3, edit_friendly, dpm_encoder, dpm_ot, smd)

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    for part in PARTS:
        if not sys.argv[2:] or part.__name__ in sys.argv[2:]:
            part()
            if part is law:
                LAW = json.loads((HERE / "law.json").read_text())
            print(part.__name__)
