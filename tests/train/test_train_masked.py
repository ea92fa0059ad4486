"""Masked diffusion with the built-in parts: it learns, resumes with the same bits, samples, and takes conditions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from softmix import sample
from softmix.cond import Cond, CondError, CondSpec
from softmix.config import dumps, loads
from softmix.data import Data, Report, load
from softmix.data.store import make
from softmix.denoiser import CategoricalHead, Network, PointHead
from softmix.info import bits_per_token
from softmix.loss import MaskedCrossEntropy, Square
from softmix.net import MLPSpec, SequenceSpec, TokenSpec
from softmix.posterior import Categorical
from softmix.process import VP, Masked
from softmix.rng import Rng
from softmix.sampler import unmask
from softmix.train import (
    Config,
    Denoise,
    Optimiser,
    Run,
    RunError,
    Trainer,
    TrainingError,
    facts_of,
    preset,
    read_run,
    training,
)
from softmix.train import load as load_run
from token_chain import LENGTH, SYMBOLS, code, drawn_rows, law, problem, rows, table


def chain_data(n: int = 4000) -> Data:
    x0, _ = problem().draw(n, Rng(0, n))
    return make("chain", x0.int(), None, (), Report(read=n), vocabulary=SYMBOLS)


def task(**changes: object) -> Denoise:
    parts = {"process": Masked(), "net": TokenSpec(32, 2), "head": CategoricalHead(), "loss": MaskedCrossEntropy()}
    return Denoise(**{**parts, "output": "x0", **changes})  # type: ignore[arg-type]


def config(steps: int, **changes: object) -> Config:
    return Config(task(**changes), batch=64, steps=steps, save=10, precision="fp32", optimiser=Optimiser(rate=3e-3))


def trained(steps: int, data: Data, **changes: object) -> Network:
    cfg = config(steps, **changes)
    trainer = Trainer(Run(cfg, facts_of(data, cfg)), data, Path())
    for _ in range(steps):
        trainer.advance()
    return trainer.averaged()  # type: ignore[return-value]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    last = sorted((run / "checkpoints").glob("step-??????"))[-1]
    return {f"{file.stem}.{key}": part for file in last.glob("*.safetensors") for key, part in load_file(file).items()}


def test_it_resumes_with_the_same_bits_and_samples(tmp_path: Path) -> None:
    data = chain_data(500)
    for _ in training(data, config(30), tmp_path / "alone"):
        pass
    for step in training(data, config(30), tmp_path / "cut"):
        if step.step == 13:
            break
    for _ in training(data, config(30), tmp_path / "cut"):
        pass
    alone, cut = tensors(tmp_path / "alone"), tensors(tmp_path / "cut")
    assert alone.keys() == cut.keys() and all(torch.equal(part, cut[key]) for key, part in alone.items())
    model = load_run(tmp_path / "cut")
    assert model.process == Masked(SYMBOLS) and model.facts.vocabulary == SYMBOLS
    for sampler in (model.sampler, unmask):
        x = sample(model.denoiser, 8, 5, sampler=sampler)
        assert x.dtype == torch.int64 and x.shape == (8, LENGTH) and int(x.max()) < SYMBOLS


def test_a_short_training_nears_the_exact_posterior_and_the_entropy() -> None:
    """300 steps of four seeds: 0.026 to 0.045 bits above the entropy, probabilities wrong by 0.011 to 0.014. The
    estimate of the bound has a standard error of 0.0034. An untrained network is 0.5 bits above, and wrong by 0.1."""
    network = trained(300, chain_data(20_000), net=TokenSpec(64, 2))
    drawn = drawn_rows(3000)
    x0 = rows(SYMBOLS)[drawn]
    bits, own = bits_per_token(network, x0, Rng(0, 3000), batch=3000), -law().log2()[drawn] / LENGTH
    assert -0.015 < float(bits.mean()) - float(own.mean()) < 0.09
    states = rows(SYMBOLS + 1)
    share = (states == SYMBOLS).sum(1) / LENGTH
    with torch.no_grad():
        found = network(states, share.double().clamp(min=0.01)).probabilities  # type: ignore[attr-defined]
    assert float((found - table().exp()).abs().mean()) < 0.025


def test_a_label_gives_each_class_its_own_law() -> None:
    """Class 0 has the token 0 alone, class 1 the tokens 1 and 2."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 2
    values = torch.where(labels[:, None] == 0, 0, torch.randint(1, 3, (2000, LENGTH), generator=generator))
    data = make("two", values.int(), labels, ("a", "b"), Report(read=2000), vocabulary=SYMBOLS)
    network = trained(150, data, classes=True)
    for label in (0, 1):
        x = sample(network, 200, 8, cond=Cond(label=torch.full((200,), label)))
        assert float(((x > 0) == bool(label)).double().mean()) > 0.97


def network(**changes: object) -> Network:
    torch.manual_seed(0)
    return Network(Masked(SYMBOLS), TokenSpec(32, 2), CategoricalHead(), (LENGTH,), **changes)  # type: ignore[arg-type]


def test_visible_tokens_are_certain_and_the_mask_is_impossible(device: torch.device) -> None:
    xt = rows(SYMBOLS + 1).to(device)
    posterior = network().to(device)(xt, 0.5)
    assert isinstance(posterior, Categorical) and posterior.probabilities.shape == (256, SYMBOLS, LENGTH)
    visible = xt != SYMBOLS
    assert bool((posterior.mode[visible] == xt[visible]).all()) and float(posterior.entropy[visible].abs().max()) == 0
    assert float(posterior.entropy[~visible].min()) > 0.1


def test_places_with_equal_neighbours_have_laws_of_their_own() -> None:
    """A row of masks alone: rotary positions cannot tell its places apart, and the features of places can."""
    p = network()(torch.full((1, LENGTH), SYMBOLS), 1.0).probabilities[0]  # type: ignore[attr-defined]
    assert float((p[:, 1:] - p[:, :1]).abs().amax(0).min()) > 1e-3


def test_an_item_does_not_depend_on_its_batch_and_the_time_is_seen() -> None:
    xt = rows(SYMBOLS + 1)[[255, 200, 13]]
    t = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    whole = network()(xt, t).log_probabilities  # type: ignore[attr-defined]
    for k in range(3):
        one = network()(xt[k : k + 1], t[k : k + 1]).log_probabilities[0]  # type: ignore[attr-defined]
        assert torch.allclose(one, whole[k], atol=1e-6)
    other = network()(xt, t.flip(0)).log_probabilities  # type: ignore[attr-defined]
    assert not torch.allclose(other[0], whole[0], atol=1e-4)


def test_context_and_numbers_enter_and_an_image_is_refused() -> None:
    made, xt = network(cond=CondSpec(values=1, context=3)), torch.full((2, LENGTH), SYMBOLS)
    one, other = (
        Cond(value=torch.zeros(2, 1), context=torch.zeros(2, 2, 3)),
        Cond(value=torch.ones(2, 1), context=torch.ones(2, 2, 3)),
    )
    a, b = (made(xt, 0.7, cond).log_probabilities for cond in (one, other))  # type: ignore[attr-defined]
    assert not torch.allclose(a, b, atol=1e-4)
    with pytest.raises(CondError, match="TokenSpec takes label, value, context"):
        network(cond=CondSpec(image=2))


def test_the_configuration_is_saved_whole() -> None:
    cfg = config(10, process=Masked(schedule="cosine"))
    assert loads(Config, dumps(cfg)) == cfg


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="Masked is for tokens, and SequenceSpec and PointHead for numbers"):
        task(net=SequenceSpec(), head=PointHead(), loss=Square())
    with pytest.raises(ValueError, match="TokenSpec and CategoricalHead is for tokens, and VP adds noise to numbers"):
        task(process=VP())
    with pytest.raises(ValueError, match="gives x0 itself, and the output 'v' was asked for: give output=\"x0\""):
        task(output="v")
    with pytest.raises(ValueError, match="MaskedCrossEntropy needs a CategoricalHead"):
        Denoise(process=VP(), net=MLPSpec(), head=PointHead(), loss=MaskedCrossEntropy())
    with pytest.raises(ValueError, match="no symbols yet"):
        Network(Masked(), TokenSpec(32, 1), CategoricalHead(), (LENGTH,))


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    points = make("points", torch.zeros(10, 4), None, (), Report(read=10))
    with pytest.raises(TrainingError, match=r"Masked is for tokens in a row.*points are numbers"):
        facts_of(points, config(5))
    grid = make("grid", torch.zeros(10, 4, 4, dtype=torch.int32), None, (), Report(read=10), vocabulary=3)
    with pytest.raises(TrainingError, match=r"tokens of shape \[4, 4\]"):
        facts_of(grid, config(5))
    with pytest.raises(TrainingError, match="for 5 symbols, and the data have 3"):
        facts_of(chain_data(20), config(5, process=Masked(5)))
    with pytest.raises(TrainingError, match=r"chain holds tokens, and VP.* adds noise to numbers"):
        facts_of(chain_data(20), preset("smd", (LENGTH,)))
    with pytest.raises(TrainingError, match="the model masked is for tokens"):
        preset("masked", (1, 28, 28))


def test_a_run_of_other_symbols_gives_no_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(80).reshape(20, 4) % 3)
    data = load(tmp_path / "a.npy", tokens=3)
    for _ in training(data, config(2), tmp_path / "run"):
        pass
    other = load(tmp_path / "a.npy", tokens=4)
    with pytest.raises(TrainingError, match=r"symbols: .*4.* here, .*3.* there"):
        next(training(other, config(2), tmp_path / "next", start=load_run(tmp_path / "run")))
    assert read_run(tmp_path / "run").facts.vocabulary == 3
    with pytest.raises(RunError):
        load_run(tmp_path / "next")


def test_the_bound_of_an_untrained_network_is_about_the_log_of_its_symbols() -> None:
    x0 = rows(SYMBOLS)
    bits = bits_per_token(network(), x0, Rng(0, 81))
    assert math.log2(SYMBOLS) - 0.5 < float(bits.mean()) < math.log2(SYMBOLS) + 1 and code(x0, SYMBOLS).max() == 80
