"""The properties in diffusers' common scheduler tests, its reference loops, and each scheduler against its sampler."""

from __future__ import annotations

import copy
import inspect
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
# from diffusers' own code, when it builds its other schedulers
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

from softmix.hub import (  # noqa: E402
    SCHEDULERS,
    AdamsScheduler,
    AncestralScheduler,
    DPMSolver2MScheduler,
    EVODiffScheduler,
    FONScheduler,
    FPNDMScheduler,
    HeunScheduler,
    PLMSScheduler,
    SoftmixScheduler,
    TransferScheduler,
    UniPCScheduler,
)
from softmix.posterior import Point  # noqa: E402
from softmix.sampler import drive, evodiff, traits  # noqa: E402
from softmix.sampler.drive import finish  # noqa: E402

EACH = pytest.mark.parametrize("kind", SCHEDULERS, ids=lambda kind: kind.__name__)
RAMP = (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2).contiguous()


def one_step(scheduler: SoftmixScheduler, timestep: object, seed: int = 0) -> Tensor:
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return scheduler.step(0.1 * x, timestep, x, generator=torch.Generator().manual_seed(seed)).prev_sample  # type: ignore[union-attr, arg-type]


CONFIGS: list[dict[str, object]] = [
    {},
    {"num_train_timesteps": 100},
    {"beta_start": 0.001, "beta_end": 0.01},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "scaled_linear"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "sample"},
    {"clip_sample": True, "clip_sample_range": 0.5},
    {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "linspace"},
    {"steps_offset": 1, "set_alpha_to_one": False},
    {"final_sigmas_type": "sigma_min"},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {"lambda_min_clipped": -5.1},
]


@EACH
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_saved_and_loaded_scheduler_takes_the_same_steps(
    kind: type[SoftmixScheduler], config: dict[str, object], tmp_path: Path
) -> None:
    if "rescale_betas_zero_snr" in config and kind is FONScheduler:
        scheduler = kind(**config)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="begin later, or take plms or adams"):
            scheduler.set_timesteps(10)
        return
    scheduler = kind(**config)  # type: ignore[arg-type]
    scheduler.save_config(tmp_path)
    again = kind.from_pretrained(tmp_path)
    kept = {key: value for key, value in dict(scheduler.config).items() if key != "_use_default_values"}
    assert kept == dict(again.config)
    for each in (scheduler, again):
        each.set_timesteps(10)
    first = one_step(scheduler, scheduler.timesteps[0])
    assert torch.equal(first, one_step(again, again.timesteps[0])) and first.isfinite().all()
    for place in (0, 10, 49):  # also times that are not in the schedule
        other, same = kind(**config), kind.from_pretrained(tmp_path)  # type: ignore[arg-type]
        for each in (other, same):
            each.set_timesteps(10)
        assert torch.equal(one_step(other, place), one_step(same, place))


@EACH
def test_configurations_go_to_compatible_classes_and_back(kind: type[SoftmixScheduler]) -> None:
    """Each compatible class reads a softmix configuration, and softmix reads the same back from it."""
    scheduler = kind(beta_end=0.015)
    assert len(scheduler.compatibles) >= 10
    for other in scheduler.compatibles:
        theirs = other.from_config(scheduler.config)
        back = kind.from_config(theirs.config)
        known = set(inspect.signature(kind.__init__).parameters) | {"_use_default_values"}
        assert {key: value for key, value in dict(back.config).items() if key in known} == dict(scheduler.config)


@pytest.mark.parametrize(
    "other", ["DDIMScheduler", "PNDMScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"]
)
def test_known_keys_give_no_warning(other: str, caplog: pytest.LogCaptureFixture) -> None:
    theirs = getattr(diffusers, other)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    diffusers.utils.logging.enable_propagation()
    with caplog.at_level("WARNING"):
        ours = EVODiffScheduler.from_config(theirs.config, timestep_spacing="trailing")
        theirs.from_config(ours.config)
    assert not [record for record in caplog.records if "were passed to EVODiff" in record.getMessage()]
    assert ours.config.beta_schedule == "scaled_linear" and ours.config.timestep_spacing == "trailing"
    assert (ours.alphas_cumprod - theirs.alphas_cumprod).abs().max() < 1e-6


@EACH
def test_steps_keep_the_shape(kind: type[SoftmixScheduler]) -> None:
    """Also in a second step from the same sample, which is not the result of the first."""
    scheduler = kind()
    scheduler.set_timesteps(50)
    for place in (0, 1):
        assert one_step(scheduler, scheduler.timesteps[place]).shape == (4, 3, 8, 8)


@EACH
def test_set_timesteps_starts_anew_and_a_tuple_has_the_same_values(kind: type[SoftmixScheduler]) -> None:
    scheduler, x = kind(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    results = []
    for condition in (True, False):
        scheduler.set_timesteps(50)
        found = scheduler.step(
            0.1 * x, scheduler.timesteps[0], x, generator=torch.Generator().manual_seed(0), return_dict=condition
        )
        results.append(tuple(found.values()) if condition else found)  # type: ignore[union-attr]
        assert scheduler.step_index == 1
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@EACH
def test_the_attributes_that_pipelines_use(kind: type[SoftmixScheduler]) -> None:
    scheduler = kind()
    x = torch.rand(2, 3, 8, 8)
    assert float(scheduler.init_noise_sigma) == 1 and len(scheduler) == 1000 and len(scheduler.timesteps) == 1000
    assert torch.equal(scheduler.scale_model_input(x, 0.0), x)
    assert not {"kwargs", "eta"} & set(inspect.signature(kind.__init__).parameters)
    assert (
        "eta" not in inspect.signature(kind.step).parameters and "generator" in inspect.signature(kind.step).parameters
    )
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(x, 0, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scheduler.order in (1, 2, 3) and scheduler.begin_index is None
    with pytest.warns(FutureWarning):
        assert scheduler.beta_start == 0.0001
    with pytest.raises(AttributeError, match="object has no attribute 'does_not_exist'"):
        scheduler.does_not_exist  # noqa: B018
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.dtype == torch.int64
    noisy = scheduler.add_noise(x, torch.randn_like(x), scheduler.timesteps[5][None])
    assert noisy.shape == x.shape
    scheduler.set_begin_index(3 * scheduler.order)
    assert scheduler.begin_index == 3 * scheduler.order
    copied = copy.deepcopy(scheduler)
    assert torch.equal(copied.timesteps, scheduler.timesteps)


def test_trained_betas_are_saved(tmp_path: Path) -> None:
    for kind in SCHEDULERS:
        scheduler = kind(trained_betas=np.array([0.1, 0.3]))
        scheduler.save_pretrained(tmp_path)
        assert kind.from_pretrained(tmp_path).betas.tolist() == pytest.approx([0.1, 0.3])


def test_evodiff_reads_the_option_form_of_0_1_and_refuses_the_released_form() -> None:
    config = dict(EVODiffScheduler().config)
    assert EVODiffScheduler.from_config(config | {"options": {"form": "consistent"}}).sampler_function is evodiff
    with pytest.raises(ValueError, match=r"softmix\.recipe\.evodiff\.released"):
        EVODiffScheduler.from_config(config | {"options": {"form": "released"}})


def test_options_are_checked_and_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unipc has no option speed; it has order, line, settles"):
        UniPCScheduler(options={"speed": 2})
    scheduler = TransferScheduler(options={"eta": 0.5})
    scheduler.save_pretrained(tmp_path)
    assert TransferScheduler.from_pretrained(tmp_path).config.options == {"eta": 0.5}
    with pytest.raises(ValueError, match="timestep_spacing 'even'"):
        AdamsScheduler(timestep_spacing="even")
    with pytest.raises(ValueError, match="prediction_type 'mean'"):
        AdamsScheduler(prediction_type="mean")
    # options of another sampler are dropped, unless they are given
    assert UniPCScheduler.from_config(scheduler.config).config.options is None
    assert UniPCScheduler.from_config(scheduler.config, options={"order": 3}).config.options == {"order": 3}
    for wrong in ({"num_inference_steps": 1001}, {"num_inference_steps": 0}, {"timesteps": [5, 7]}, {}):
        with pytest.raises(ValueError, match=r"asked for|fall|give either"):
            AdamsScheduler().set_timesteps(**wrong)
    for places in ([], [1500, 3], [5, -1]):
        with pytest.raises(ValueError, match="from 999 to 0 at most"):
            AdamsScheduler().set_timesteps(timesteps=places)


def test_epsilon_prediction_at_zero_terminal_snr_is_refused() -> None:
    dark = AdamsScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    dark.set_timesteps(4)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        one_step(dark, 999)


def test_add_noise_in_half_precision() -> None:
    """Also at the first times, at which alpha^2 rounds to 1."""
    x = torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16)
    noisy = AdamsScheduler().add_noise(x, torch.ones_like(x), torch.tensor([0]))
    assert noisy.dtype == torch.bfloat16 and float(noisy.mean()) == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("n", [1, 7, 10, 50, 1000])
def test_the_timesteps_equal_those_of_diffusers(spacing: str, n: int) -> None:
    pairs = [(TransferScheduler, diffusers.DDIMScheduler), (AdamsScheduler, diffusers.DPMSolverMultistepScheduler)]
    for ours, theirs in pairs:
        made = [kind(timestep_spacing=spacing, steps_offset=0) for kind in (ours, theirs)]
        for each in made:
            each.set_timesteps(n)
        right = list(dict.fromkeys(made[1].timesteps.tolist()))  # ours has no step of length nothing
        assert made[0].timesteps.tolist() == right
        assert made[0].set_timesteps(timesteps=right) is None and made[0].timesteps.tolist() == right


# full loops


def looped(scheduler: SoftmixScheduler, x: Tensor, places: Tensor | None = None, seed: int | None = None) -> Tensor:
    """The end of a loop with the output x k / (k + 1), as in diffusers' tests."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for k in scheduler.timesteps if places is None else places:
        x = scheduler.step(x * float(k) / (float(k) + 1), k, x, generator=generator).prev_sample  # type: ignore[union-attr]
    return x


GOLDEN = {
    "ddim": (TransferScheduler, {}, 10, 172.0067, 0.223967),
    "ddim, v": (TransferScheduler, {"prediction_type": "v_prediction"}, 10, 52.5302, 0.0684),
    "ddim, alpha to one": (TransferScheduler, {"beta_start": 0.01}, 10, 149.8295, 0.1951),
    "ddim, first alpha": (TransferScheduler, {"beta_start": 0.01, "set_alpha_to_one": False}, 10, 149.0784, 0.1941),
    "2m": (DPMSolver2MScheduler, {"final_sigmas_type": "sigma_min", "lower_order_final": False}, 10, None, 0.3301),
    "2m, first order last": (DPMSolver2MScheduler, {"final_sigmas_type": "sigma_min"}, 10, None, 0.2442),
    "unipc": (UniPCScheduler, {"timestep_spacing": "linspace", "final_sigmas_type": "sigma_min"}, 10, None, 0.2464),
    "pndm": (FPNDMScheduler, {"set_alpha_to_one": False}, 10, 198.1318, 0.2580),
    "pndm, first alpha": (FPNDMScheduler, {"beta_start": 0.01, "set_alpha_to_one": False}, 10, 186.9482, 0.2434),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_reference_values_of_diffusers_loops(name: str) -> None:
    kind, config, n, total, mean = GOLDEN[name]
    scheduler = kind(**config)  # type: ignore[arg-type]
    scheduler.set_timesteps(n)
    end = looped(scheduler, RAMP).abs()
    if total is not None:
        assert float(end.sum()) == pytest.approx(total, abs=1e-2)
    assert float(end.mean()) == pytest.approx(mean, abs=1e-3)


def test_a_loop_from_the_middle() -> None:
    """Noise is added at the eighth time, then two steps: diffusers' value, with and without set_begin_index."""
    scheduler = TransferScheduler()
    for condition in (False, True):
        scheduler.set_timesteps(10)
        places = scheduler.timesteps[8:]
        if condition:
            scheduler.set_begin_index(8)
        noise = (torch.arange(768).flip(0).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
        end = looped(scheduler, scheduler.add_noise(RAMP, noise, places[:1]), places).abs()
        assert float(end.sum()) == pytest.approx(354.5418, abs=1e-2)


@EACH
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_a_scheduler_equals_its_sampler_bit_for_bit(kind: type[SoftmixScheduler], n: int) -> None:
    """By `step` and by `drive` the numbers are the same, and so is the declared count of evaluations."""

    class Net:
        def __init__(self) -> None:
            self.process = scheduler.process
            self.calls = 0

        def __call__(self, xt: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Point:
            self.calls += 1
            k = round(float(t) * 1000) - 1
            return Point(scheduler._predict_x0(xt * k / (k + 1), xt, torch.as_tensor(t)))

    scheduler = kind(timestep_spacing="trailing", options={} if kind is not UniPCScheduler else {"settles": False})
    scheduler.set_timesteps(n)
    hosted = looped(scheduler, RAMP, seed=0)
    from softmix.hub.softmix_scheduler import GeneratorNoise

    rng, net = GeneratorNoise(torch.Generator().manual_seed(0), torch.device("cpu")), Net()
    driven = finish(drive(net, scheduler.sampler_function, RAMP, scheduler._grid, rng))  # type: ignore[arg-type]
    assert torch.equal(hosted, driven)
    assert net.calls == len(scheduler.timesteps)
    # PLMS and F-PNDM take a DDIM step if the signal grows much, as in the first of 2 or 3 steps
    steep = kind in (PLMSScheduler, FPNDMScheduler) and n in (2, 3)
    counted = traits(scheduler.sampler_function).evaluations
    assert net.calls == (1 + counted(n - 1) if steep else counted(n))


def test_fresh_noise_comes_from_the_generators() -> None:
    """The same generator gives the same image. A list has one generator an item, whatever the batch."""
    scheduler = AncestralScheduler()

    def ended(seed: int) -> Tensor:
        scheduler.set_timesteps(5)
        return looped(scheduler, RAMP, seed=seed)

    assert torch.equal(ended(3), ended(3)) and not torch.equal(ended(3), ended(4))

    def with_list(x: Tensor, seeds: list[int]) -> Tensor:
        scheduler.set_timesteps(5)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for k in scheduler.timesteps:
            x = scheduler.step(x * float(k) / (float(k) + 1), k, x, generator=generators).prev_sample  # type: ignore[union-attr]
        return x

    whole = with_list(RAMP, [1, 2, 3, 4])
    assert torch.equal(whole[2:3], with_list(RAMP[2:3], [3]))


def test_half_precision_is_kept() -> None:
    for kind in SCHEDULERS:
        scheduler = kind()
        scheduler.set_timesteps(4)
        end = looped(scheduler, RAMP.half(), seed=0)
        assert end.dtype == torch.float16 and end.isfinite().all()


def test_a_start_between_two_evaluations_of_a_step() -> None:
    """A run cannot begin with the second evaluation of Heun: a DDIM step is taken to the next step."""
    scheduler, plain = HeunScheduler(), TransferScheduler()
    scheduler.set_timesteps(6)
    plain.set_timesteps(6)
    assert scheduler.timesteps.tolist()[1] == scheduler.timesteps.tolist()[2]
    scheduler.set_begin_index(1)
    x = looped(scheduler, RAMP, scheduler.timesteps[1:2])
    assert torch.equal(x, RAMP)
    assert looped(scheduler, x, scheduler.timesteps[2:]).isfinite().all()


def test_a_model_with_a_learned_variance() -> None:
    """The output has twice the channels; the first half is the mean."""
    scheduler = AdamsScheduler()
    scheduler.set_timesteps(5)
    k = scheduler.timesteps[0]
    one = scheduler.step(RAMP, k, RAMP).prev_sample  # type: ignore[union-attr]
    scheduler.set_timesteps(5)
    assert torch.equal(one, scheduler.step(torch.cat([RAMP, 7 * RAMP], 1), k, RAMP).prev_sample)  # type: ignore[union-attr]


@EACH
def test_a_sample_changed_in_place(kind: type[SoftmixScheduler]) -> None:
    """A callback may do so. The result equals that of a changed copy, also in half precision."""

    def ended(inplace: bool, x: Tensor) -> Tensor:
        scheduler = kind()
        scheduler.set_timesteps(20)
        generator = torch.Generator().manual_seed(0)
        for i, k in enumerate(scheduler.timesteps):
            x = scheduler.step(0.1 * x, k, x, generator=generator).prev_sample  # type: ignore[union-attr]
            if i == 3 * scheduler.order:
                x = x.add_(0.5) if inplace else x + 0.5
        return x

    for start in (RAMP, RAMP.half()):
        assert torch.equal(ended(True, start.clone()), ended(False, start.clone()))


def test_the_result_has_the_dtype_of_the_sample() -> None:
    """Under autocast a model gives bfloat16 for a float32 sample."""
    for kind in SCHEDULERS:
        scheduler = kind()
        scheduler.set_timesteps(3)
        found = scheduler.step(RAMP.bfloat16(), scheduler.timesteps[0], RAMP).prev_sample  # type: ignore[union-attr]
        assert found.dtype == torch.float32
