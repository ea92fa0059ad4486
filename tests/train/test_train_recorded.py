"""Steps that the device decides, and recorded steps, are the steps that the host decides: bit for bit.

On a machine with a CUDA card the runs are on the card, and are recorded as CUDA graphs. On the CPU a stand-in for the
CUDA graph (`standin`) freezes the numbers of Python and refuses reads by the host, as a card does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from standin import record
from torch import nn

from softmix.cond import CondSpec
from softmix.data import Data, Report
from softmix.data.store import make
from softmix.denoiser import PointHead, SoftHead
from softmix.loss import Energy, FeatureEnergy, Square, Stage, flowmap
from softmix.net import DiTSpec, MLPSpec, UNetSpec
from softmix.rng import plain, stream
from softmix.train import (
    Config,
    Denoise,
    Optimiser,
    Run,
    Trainer,
    TrainingError,
    TrainStep,
    checkpoint,
    facts_of,
    log_of,
    preset,
)
from softmix.train import training as plain_training
from softmix.train.device_step import DeviceStep, StepNumbers, device_step
from softmix.train.loop import training
from softmix.train.make import find_device
from softmix.train.recording import NotRecordableError, RecordedWork, Recorder, Work, record_cuda_graph, undeclared

TRAINER = sys.modules["softmix.train.trainer"]
# cuBLAS reads it when the first product runs
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def images() -> Data:
    values = torch.randint(
        0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8, device="cpu"
    )
    return make("images", values, torch.arange(40, device="cpu") % 4, tuple("abcd"), Report(40))


def points() -> Data:
    values = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), device="cpu")
    return make("points", values, None, (), Report(300))


def small(**changes: object) -> Config:
    base = Config(Denoise(net=MLPSpec(width=8, depth=1), head=PointHead(), loss=Square("v")), batch=16, steps=24)
    return base.but(precision="fp32", save=6, **changes)  # type: ignore[arg-type]


def of_images(name: str) -> Config:
    base = preset(name, (1, 8, 8)).but(net=UNetSpec(width=8, depth=1), batch=8, steps=24, precision="fp32")  # type: ignore[arg-type]
    return base.but(optimiser=replace(base.optimiser, warmup=4, warmup_share=None))


CONFIGS: dict[str, Callable[[], Config]] = {
    "plain": lambda: of_images("plain"),
    "smd, with its second stage": lambda: of_images("smd"),
    "the score in features": lambda: of_images("smd").but(loss=FeatureEnergy()),
    "consistency": lambda: of_images("consistency"),
    "meanflow": lambda: of_images("meanflow"),
    "imm": lambda: of_images("imm"),
    "mixture": lambda: of_images("mixture"),
    "classes, flip, drop": lambda: of_images("plain").but(classes=True, flip=True, drop=0.5),
    "DiT": lambda: of_images("plain").but(net=DiTSpec(width=16, depth=1, heads=2)),
    "parts of a batch": lambda: of_images("plain").but(optimiser=Optimiser(accumulate=3, weight_decay=0.1)),
}


@pytest.fixture(autouse=True)
def numbers_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device. The numbers of a CPU come from numpy, which the stand-in cannot record."""
    monkeypatch.setattr(stream, "cpu", plain)


@pytest.fixture(autouse=True)
def fixed_order() -> Iterator[None]:
    """On a card, sums of a backward pass have a fixed order only with deterministic algorithms."""
    torch.use_deterministic_algorithms(find_device().type == "cuda")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses take the ways that they take on a card."""
    monkeypatch.setattr(flowmap, "chosen_pairs", lambda u, share: flowmap.packed(u < share, share))
    monkeypatch.setattr(CondSpec, "_labels", lambda self, label: None)


def recorder_here(work: Work) -> Work:
    """The CUDA graph for runs on a card, else its stand-in. The stand-in does not see the Triton kernels of a card."""
    return record_cuda_graph(work) if find_device().type == "cuda" else record(work)


def trainer(config: Config, data: Data, recorder: Recorder | None = None, device: bool = True) -> Trainer:
    one = Trainer(Run(config, facts_of(data, config)), data, Path())
    one.device_step = DeviceStep(one, recorder) if device else None
    return one


def reference(config: Config, data: Data) -> Trainer:
    """The steps of the host on a CPU. On a card these have a learning rate of other digits: there the sent steps."""
    one = trainer(config, data, device=False)
    return one if one.device.type == "cpu" else trainer(config, data)


def by_the_host() -> contextlib.AbstractContextManager[object]:
    """In it, the steps of new trainers are the reference: see `reference`. On a card they are those of a CUDA graph."""
    return contextlib.nullcontext() if find_device().type in ("cpu", "cuda") else decided(None)


@contextlib.contextmanager
def decided(recorder: Recorder | None) -> Iterator[list[Trainer]]:
    """In it, the steps of new trainers are decided by the device."""
    made: list[Trainer] = []

    def step(one: Trainer) -> DeviceStep:
        made.append(one)
        return DeviceStep(one, recorder)

    with pytest.MonkeyPatch.context() as here:
        here.setattr(TRAINER, "device_step", step)
        yield made


def everything(one: Trainer) -> dict[str, torch.Tensor]:
    """Weights, buffers, averages and moments."""
    groups = {"model": one.model.state_dict(), **one.ema.state(), **one.optimisers.state()}
    return {f"{group}/{name}": tensor for group, each in groups.items() for name, tensor in each.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def numbers(one: Trainer, steps: int) -> list[tuple[float, float]]:
    found = [one.advance() for _ in range(steps)]
    return [(a() if callable(a) else a, b() if callable(b) else b) for a, b in found]


# the stand-in


def test_a_replay_repeats_the_calls_with_the_numbers_of_the_recording() -> None:
    x, out, factor = torch.zeros(3), torch.zeros(3), [2.0]

    def work() -> None:
        y = x * factor[0] + torch.arange(3)
        out.copy_(y.relu() + out)

    again = record(work)
    assert torch.equal(out, torch.tensor([0.0, 1, 2]))
    x.fill_(1.0)
    factor[0] = 5.0
    again()
    assert torch.equal(out, torch.tensor([2.0, 4, 6]))


def test_a_recording_that_fails_leaves_one_run_of_the_work() -> None:
    x = torch.zeros(2)

    def work() -> None:
        x.add_(1)
        float(x[0])

    with pytest.raises(NotRecordableError, match="_local_scalar_dense"):
        record(work)
    assert torch.equal(x, torch.ones(2))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: bool((x > 0).any()),
        lambda x: x.unique(),
    ],
)
def test_a_read_is_refused_in_a_recording(read: Callable[[torch.Tensor], object]) -> None:
    x = torch.ones(2)
    with pytest.raises(NotRecordableError, match="not permitted when stream is capturing"):
        record(lambda: (read(x + 1), None)[1])


def test_a_constant_of_the_host_may_be_read() -> None:
    found: list[float] = []
    record(lambda: found.append(float(torch.tensor(2.0) * 3) + torch.ones(1).tolist()[0]))
    assert found == [7, 7]


# equal bits


@pytest.mark.parametrize("name", CONFIGS)
def test_recorded_steps_are_the_steps_of_the_host(name: str, as_on_a_card: None) -> None:
    """24 steps with a learning rate that rises and falls, and averages; the second stage of smd begins at step 12."""
    config, data = CONFIGS[name](), images()
    host, there = reference(config, data), trainer(config, data, recorder_here)
    assert numbers(host, 24) == numbers(there, 24)
    assert there.settle() is None and there.step == 24
    assert same(everything(host), everything(there))
    assert there.device_step is not None and there.device_step.recorded.reason == ""
    assert there.device_step.recorded._replay is not None


def test_another_rate_changes_the_bits() -> None:
    one, other = trainer(small(), points(), recorder_here), trainer(small(), points(), recorder_here)
    for step in range(8):
        one.advance()
        other.advance(1e-3 if step == 7 else None)
    assert not same(everything(one), everything(other))


def run(out: Path, config: Config, recorder: Recorder | None, until: int | None = None) -> list[TrainStep]:
    with decided(recorder):
        steps = training(points(), config, out)
        found = list(itertools.islice(steps, until))
        steps.close()
        return found


def files(out: Path) -> dict[str, bytes]:
    """The content of a run folder, but for the clock."""
    places = [place for place in out.rglob("*") if place.is_file() and place.name not in ("speed.jsonl", ".lock")]
    return {str(place.relative_to(out)): place.read_bytes() for place in places}


@pytest.mark.parametrize("recorder", [None, recorder_here], ids=["sent", "recorded"])
def test_a_run_writes_the_same_files(tmp_path: Path, recorder: Recorder | None) -> None:
    with by_the_host():
        list(plain_training(points(), small(), tmp_path / "host"))
    run(tmp_path / "device", small(), recorder)
    assert files(tmp_path / "host") == files(tmp_path / "device")


@pytest.mark.parametrize("left", [5, 15])
def test_a_run_that_was_left_continues_with_the_same_files(tmp_path: Path, left: int) -> None:
    """The moments are read from a file, and the first steps after it are sent and not replayed."""
    run(tmp_path / "whole", small(keep=1), recorder_here)
    assert [step.step for step in run(tmp_path / "left", small(keep=1), recorder_here, until=left)][-1] == left
    assert run(tmp_path / "left", small(keep=1), recorder_here)[0].step == left + 1
    assert files(tmp_path / "whole") == files(tmp_path / "left")


# a loss that is not finite


def breaking(monkeypatch: pytest.MonkeyPatch, *steps: int, attempts: int = 1) -> None:
    """The loss of these steps is not finite, in the first attempts."""
    right = Trainer.losses

    def broken(self: Trainer, items: torch.Tensor, turn: str = "model") -> torch.Tensor:
        bad = torch.zeros_like(items, dtype=torch.bool)
        for step in steps if self.attempt < attempts else ():
            bad = bad | (items == (step - 1) * 16 + 3)
        losses = right(self, items, turn)
        return losses.masked_fill(bad.to(losses.device), torch.inf)

    monkeypatch.setattr(Trainer, "losses", broken)


@pytest.mark.parametrize("recorder", [None, recorder_here], ids=["sent", "recorded"])
@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
@pytest.mark.parametrize("steps", [(1,), (7, 8, 15), (10,), (24,)], ids=str)
def test_a_failed_step_ends_in_the_same_files(
    tmp_path: Path, policy: str, steps: tuple[int, ...], recorder: Recorder | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host reads at steps 10, 12, 18, 20 and 24, and after a failure; the steps sent before are undone."""
    breaking(monkeypatch, *steps)
    sentences = []
    for name in ("host", "device"):
        with decided(recorder) if name == "device" else by_the_host():
            try:
                for _ in training(points(), small(nonfinite=policy), tmp_path / name):
                    pass
            except TrainingError as error:
                sentences.append(str(error))
    assert files(tmp_path / "host") == files(tmp_path / "device")
    assert len(sentences) == (2 if policy == "stop" else 0) and len(set(sentences)) == len(sentences) // 2
    if policy == "skip" and steps != (24,):
        assert any("this step was skipped" in str(line.get("notes")) for line in log_of(tmp_path / "device"))


def test_a_loss_that_is_never_finite_is_given_up_after_as_many_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, *range(4, 25))
    with decided(None), pytest.raises(TrainingError, match=r"step 13: loss inf.*10 tries with nonfinite = skip"):
        list(training(points(), small(nonfinite="skip"), tmp_path / "run"))


def test_nothing_changes_from_the_failed_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, 4)
    one = trainer(small(), points())
    one.model.register_buffer("mean", torch.zeros((), device=one.device))
    right = Trainer.losses

    def counting(self: Trainer, items: torch.Tensor, turn: str = "model") -> torch.Tensor:
        losses = right(self, items, turn)
        self.model.mean.add_(losses.detach().mean())  # type: ignore[operator, union-attr]
        return losses

    monkeypatch.setattr(Trainer, "losses", counting)
    numbers(one, 3)
    before = {name: tensor.clone() for name, tensor in everything(one).items()}
    found = numbers(one, 4)
    assert one.step == 7 and same(before, everything(one))
    assert found[0][0] == found[3][0] == float("inf")
    failure = one.settle()
    assert failure is not None and failure.loss == float("inf") and one.step == 3
    assert one.settle() is None


def test_a_checkpoint_is_of_the_step_before_a_failure_that_nobody_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, 4)
    one = trainer(small(), points())
    one.out = tmp_path
    for _ in range(6):
        one.advance()
    assert one.step == 6
    one.save()
    assert one.saved == 3
    latest = checkpoint.latest(tmp_path / "checkpoints")
    assert latest is not None and latest.state["step"] == 3


def test_a_first_step_that_fails_leaves_no_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, 1)
    one = trainer(small(), points())
    one.advance()
    assert one.settle() is not None and not any(one.optimisers.state().values())


def test_a_gradient_that_is_not_finite_is_a_failure_too() -> None:
    one = trainer(small(), points())
    one.optimisers.parameters()[0].register_hook(lambda gradient: gradient * float("nan"))
    loss, norm = numbers(one, 1)[0]
    failure = one.settle()
    assert failure is not None and loss == failure.loss < float("inf") and norm != norm and one.step == 0


def test_the_frozen_copy_waits_for_the_steps_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 11 fails. The copy belongs before step 13, and must not hold the averages of a run that goes back."""
    config = of_images("smd")
    one = trainer(config, images())
    right = Trainer.losses
    monkeypatch.setattr(
        Trainer,
        "losses",
        lambda self, items, turn="model": torch.where(items == 80, torch.nan, right(self, items, turn)),
    )
    for _ in range(13):
        one.advance()
    assert one.frozen is None and one.step == 10
    failure = one.settle()
    assert failure is not None and failure.loss != failure.loss


def test_a_recording_that_fails_leaves_no_gradients() -> None:
    host, one = reference(small(), points()), trainer(small(), points())

    def failing(work: Callable[[], None]) -> Callable[[], None]:
        work()
        with pytest.MonkeyPatch.context() as here:
            here.setattr(one.optimisers, "clip_unread", lambda turn: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                work()
        raise NotRecordableError("a reason")

    one.device_step = DeviceStep(one, failing)
    assert numbers(one, 8) == numbers(host, 8)
    assert one.device_step.recorded.reason == "a reason"
    assert same(everything(one), everything(host))


# when a step is recorded anew, and when not at all


@dataclass(frozen=True)
class Annealed:
    """Squared error with a weight that falls with the progress."""

    capturable: bool = True

    @property
    def proper(self) -> bool:
        return False

    def ask(self, denoiser: nn.Module, noised: object, rng: object, stage: Stage) -> torch.Tensor:
        loss = Square("v")(denoiser(noised.xt, noised.t), noised, rng)  # type: ignore[attr-defined, arg-type]
        return loss * (1 - stage.progress)


@dataclass(frozen=True)
class Phased(Annealed):
    """The same in four phases."""

    def ask(self, denoiser: nn.Module, noised: object, rng: object, stage: Stage) -> torch.Tensor:
        loss = Square("v")(denoiser(noised.xt, noised.t), noised, rng)  # type: ignore[attr-defined, arg-type]
        return loss * (1 - self.phase(stage.progress) / 4)

    def phase(self, progress: float) -> int:
        return int(4 * progress)


def test_a_loss_of_the_progress_is_not_recorded() -> None:
    config = small(loss=Annealed())
    host, there = reference(config, points()), trainer(config, points(), recorder_here)
    assert numbers(host, 24) == numbers(there, 24)
    assert there.device_step is not None and there.device_step.recorded.settled
    assert "progress" in there.device_step.recorded.reason and same(everything(host), everything(there))


def test_a_loss_in_phases_is_recorded_once_a_phase() -> None:
    made: list[int] = []

    def counting(work: Callable[[], None]) -> Callable[[], None]:
        made.append(1)
        return recorder_here(work)

    config = small(loss=Phased())
    host, there = reference(config, points()), trainer(config, points(), counting)
    assert numbers(host, 24) == numbers(there, 24)
    assert len(made) == 4 and same(everything(host), everything(there))


def test_a_rollback_other_parts_and_cleared_moments_are_recorded_anew() -> None:
    """Each changes a number or a tensor that a recording holds."""
    host, there = reference(small(steps=60), points()), trainer(small(steps=60), points(), recorder_here)

    def both(change: Callable[[Trainer], None]) -> None:
        for one in (host, there):
            change(one)
        assert numbers(host, 9) == numbers(there, 9)
        there.settle()
        assert same(everything(host), everything(there))
        assert there.device_step is not None and there.device_step.recorded._replay is not None

    both(lambda one: None)
    both(lambda one: setattr(one, "attempt", 1))
    both(lambda one: setattr(one, "run", replace(one.run, facts=replace(one.run.facts, parts=((22, 4),)))))
    both(lambda one: one.optimisers.clear_moments())


def test_a_loss_that_the_host_reads_goes_on_without_a_recording(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Reading(Annealed):
        def ask(self, denoiser: nn.Module, noised: object, rng: object, stage: Stage) -> torch.Tensor:
            loss = Square("v")(denoiser(noised.xt, noised.t), noised, rng)  # type: ignore[attr-defined, arg-type]
            return loss * (2.0 if float(loss.detach().mean()) > 0.5 else 1.0)

    config = small(loss=Reading())
    with decided(recorder_here):
        steps = list(training(points(), config, tmp_path / "device", parts=(Reading,)))
    with by_the_host():
        list(plain_training(points(), config, tmp_path / "host", parts=(Reading,)))
    assert files(tmp_path / "host") == files(tmp_path / "device")
    notes = [note for step in steps for note in step.notes]
    assert len(notes) == 1
    # on a card this is one of two sentences of CUDA: the first error of the capture, or that of its end
    assert "not as a CUDA graph" in notes[0] and "captur" in notes[0]
    assert "_local_scalar_dense" in notes[0] or find_device().type == "cuda"


def test_a_class_of_the_caller_says_whether_it_can_be_recorded() -> None:
    class Own(Square): ...

    assert undeclared(small().task) is None
    assert undeclared(small(loss=Annealed()).task) is None
    assert undeclared(small(loss=Annealed(capturable=False)).task) == "Annealed"
    assert undeclared(small(loss=Own()).task) == "Own"


def test_a_recorder_is_asked_after_three_runs_of_one_key() -> None:
    calls: list[str] = []

    def recorder(work: Callable[[], None]) -> Callable[[], None]:
        work()
        calls.append("recorded")
        return lambda: calls.append("replay")

    recorded = RecordedWork(recorder)
    for key in ("a", "a", "a", "b", "b", "b", "b", "b", "b", "a"):
        recorded.run(key, lambda: calls.append("work"))
    assert calls == [*["work"] * 7, "recorded", "replay", "replay", "work"]


def test_rivals_and_divided_weights_are_decided_by_the_host() -> None:
    turns = SimpleNamespace(turns=("rival", "model"))
    card = torch.device("cuda")
    assert device_step(SimpleNamespace(device=card, optimisers=turns)) is None  # type: ignore[arg-type]
    alone, shard = SimpleNamespace(turns=("model",)), SimpleNamespace(shard=True)
    assert device_step(SimpleNamespace(device=card, optimisers=alone, parallel=shard)) is None  # type: ignore[arg-type]
    on_the_cpu = trainer(small(), points())
    on_the_cpu.device = torch.device("cpu")
    assert device_step(on_the_cpu) is None


def test_the_loss_of_a_step_is_read_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    right = StepNumbers._read

    def counting(self: StepNumbers) -> list[float]:
        reads.append(1)
        return right(self)

    monkeypatch.setattr(StepNumbers, "_read", counting)
    steps = run(tmp_path / "run", small(), None)
    # the lines of steps 10, 20 and 24
    assert len(reads) == 6
    with by_the_host():
        host = list(plain_training(points(), small(), tmp_path / "host"))
    assert [(step.loss, step.norm, step.rate) for step in steps] == [(step.loss, step.norm, step.rate) for step in host]


def test_memory_that_runs_out_leaves_the_step_as_it_was() -> None:
    one, other = trainer(small(), points()), trainer(small(), points())
    numbers(one, 3)
    right = one.ema.room
    one.ema.room = lambda: (_ for _ in ()).throw(MemoryError("no room"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no room"):
        one.advance()
    one.ema.room = right  # type: ignore[method-assign]
    assert one.step == 3 and all(p.grad is None for p in one.optimisers.parameters())
    numbers(one, 3)
    numbers(other, 6)
    one.settle(), other.settle()
    assert same(everything(one), everything(other))


def test_a_module_beside_the_model_is_clipped_and_counted() -> None:
    """The norm is that of the model, or the first that is not finite."""
    one = trainer(small(), points())
    values = {"model": torch.tensor([3.0, 4.0]), "friend": torch.tensor([torch.nan])}
    for friend in (torch.tensor([1.0]), values["friend"]):
        norms = [values["model"].norm(), friend.norm()]
        one.optimisers._clipped = lambda turn, norms=norms: norms  # type: ignore[method-assign, misc]
        found, right = float(one.optimisers.clip_unread("model")), one.optimisers.clip("model")
        assert found == right or (found != found and right != right)


# on a card


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a card")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_cuda_graph_is_the_eager_step(name: str) -> None:
    """With the settings of a user. The same kernels run, so the numbers agree up to the order of atomic sums."""
    torch.use_deterministic_algorithms(False)
    config, data = CONFIGS[name](), images()
    eager, graph = (
        Trainer(Run(each, facts_of(data, each)), data, Path()) for each in (config.but(graph="off"), config)
    )
    a, b = numbers(eager, 24), numbers(graph, 24)
    assert graph.device_step is not None and graph.device_step.recorded._replay is not None
    assert graph.device_step.recorded.reason == ""
    assert torch.allclose(torch.tensor(a), torch.tensor(b), rtol=2e-2)
    pairs = zip(everything(eager).values(), everything(graph).values(), strict=True)
    assert max(float((x - y).abs().max()) for x, y in pairs if x.is_floating_point()) < 2e-2


def test_after_a_recording_that_failed_the_generator_has_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch leaves the generator in the state of a recording: the next draw would be refused."""

    class Generator:
        state = "of before"

        def clone_state(self) -> str:
            return self.state

        def graphsafe_set_state(self, state: str) -> None:
            self.state = state

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    @contextlib.contextmanager
    def graph(*args: object, **kwargs: object) -> Iterator[None]:
        generator.state = "of a recording"
        yield
        raise RuntimeError("the work waits for the card")

    generator = Generator()
    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": object,
        "default_generators": [generator],
        "current_device": lambda: 0,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    with pytest.raises(NotRecordableError, match="waits for the card"):
        record_cuda_graph(lambda: None)
    assert generator.state == "of before"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a card")
def test_a_read_in_a_cuda_graph_is_not_recordable() -> None:
    x = torch.ones(1, device="cuda")
    with pytest.raises(NotRecordableError):
        record_cuda_graph(lambda: float(x) and None)  # type: ignore[arg-type, return-value]
    assert float(x) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a card")
def test_torch_draws_on_a_card_after_a_recording_that_failed() -> None:
    """A loss that the host reads goes on without a recording, and its dropout draws from the generator of torch."""
    x = torch.ones(1000, device="cuda")
    with pytest.raises(NotRecordableError):
        record_cuda_graph(lambda: float(nn.functional.dropout(x).sum()) and None)  # type: ignore[arg-type, return-value]
    assert 0 < float((nn.functional.dropout(x) == 0).float().mean()) < 1


def test_the_energy_of_points_is_recorded() -> None:
    config = small(head=SoftHead(mean="none"), loss=Energy(m=2))
    host, there = reference(config, points()), trainer(config, points(), recorder_here)
    assert numbers(host, 12) == numbers(there, 12) and there.settle() is None
    assert same(everything(host), everything(there))
