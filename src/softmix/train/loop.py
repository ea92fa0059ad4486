"""The training loop, as a generator that the caller drives.

    for step in training(data, config, "runs/x"):
        ...

All randomness is a function of (seed, item number, role), and all other state is in the checkpoint. So the same call
resumes a run that was cut off, and ends with the same bits as a run without a stop. The log has the same lines too:
values that depend on the clock are in another file, speed.jsonl.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..config import dumps, loads
from ..data import Source
from ..memory import NotEnoughMemoryError, is_memory_error
from .config import Config
from .device_step import Failure
from .log import LOG, SPEED, append, drop_after, log_of, write_atomically
from .make import TrainingError
from .model import Model, RunError
from .model import load as load_model
from .pictures import save_picture
from .processes import LostProcessError, Processes, gathered, join_processes
from .progress import FailureCount, StopRequest, TrainStep, writing_due
from .record import Run, read
from .resume import ResumeRequest, record_changes, require_same_weights, resolve_run, start_folder
from .signals import StoppedError
from .trainer import Trainer
from .trial import Say, check_parts, halve_parts, memory_error, trial_run

# steps before the speed is measured
_WARM = 5
# failed steps in a row before a run gives up
_TRIES = 10


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Lock the folder `out` for this process. The lock is of the operating system, and ends with the process."""
    lock = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout):
            raise _taken(out) from None
        raise TrainingError(f"{out} cannot be the folder of a run: {error}; name another folder") from error
    try:
        yield
    finally:
        lock.release()


def _taken(out: Path) -> TrainingError:
    return TrainingError(
        f"{out} is being trained by another process: wait for its end or stop it, or name another folder"
    )


def training(
    source: Source,
    config: Config,
    out: str | Path,
    stop: Callable[[], int] = lambda: 0,
    shard: bool = False,
    *,
    more: int = 0,
    start: Model | None = None,
    say: Say = lambda sentence: None,
    parts: Sequence[type] = (),
) -> Generator[TrainStep, None, None]:
    """Train the run in folder `out`, or resume it. Yields after every step.

    If the caller leaves the loop, or raises an error in it, a checkpoint of the last step is saved. A finished run
    yields nothing. When a run is resumed, its rate, nonfinite, save, show and keep may change, and `config.steps` may
    grow: in the added stretch the rate rises and falls as in a new run. config.json records each change and its step.

    Parameters
    ----------
    source : the training data.
    config : the configuration.
    out : the run folder.
    stop : called after every step; a number other than 0 ends the loop with StoppedError, after a checkpoint.
    shard : with several processes (torchrun), store a part of the weights in each (FSDP2), and not a copy (DDP).
    more : steps to be added to a finished run. The same call resumes them if cut off, and adds no others.
    start : a model that gives the initial weights.
    say : receives sentences about the trial steps before a new run: its speed, its memory.
    parts : classes of your own in the configuration: a task, a loss, a network (docs/extend.md).

    Raises TrainingError, before anything is written, if the folder has another run or cannot be written, if the memory
    is too small, or if another process trains the run; and later for a loss that is not finite under the policy "stop".
    Raises LostProcessError if another process of the run has ended.
    """
    if isinstance(source, str | Path):
        raise TrainingError(f"{source} was given as the data, and is a name: give softmix.data.load({str(source)!r})")
    out, processes, request = Path(out), join_processes(), ResumeRequest(more, start, tuple(parts))
    if shard and processes.size == 1:
        raise TrainingError("shard divides the weights among processes, and there is one: start it with torchrun")

    def report(sentence: str) -> None:
        say(sentence)
        if processes.size == 1 and stop():
            raise StoppedError("stopped before the first step, and nothing was written", stop())

    def from_first(run: Run) -> Run:
        """The run of the first process."""
        return loads(Run, processes.broadcast(dumps(run, parts)), parts)

    run = from_first(resolve_run(out, source, config, processes.size, request))
    new = processes.broadcast("new" if not (out / "config.json").exists() else "old") == "new"
    trainer = _checked(run, source, out, processes, shard, request.parts)
    if new:
        if start is not None:
            require_same_weights(trainer.model, start)
        with _sentence(source):
            run = from_first(trial_run(trainer, report))
    with alone(out) if processes.first else nullcontext():
        now = run
        if processes.first and (not new or (out / "config.json").exists()):
            # again, because another process may have started or resumed it in the meantime
            now = resolve_run(out, source, config, processes.size, request)
        now = from_first(now)
        if now != run:
            trainer = Trainer(now, source, out, processes, shard, request.parts)
        notes = _restore(trainer, request, report, from_first)
        try:
            yield from _steps(trainer, notes, stop)
        except GeneratorExit:
            if processes.size == 1:
                # with several processes a save needs all of them, and the others may be in another step
                trainer.save()
            raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full: free some space" if full else f"{error}: put that right"
            raise TrainingError(
                f"{out} could not be written after step {trainer.step}: {why}, and run the same command again. "
                f"It continues from the checkpoint of step {trainer.saved}"
            ) from error
        finally:
            trainer.feed.close()


def _restore(trainer: Trainer, request: ResumeRequest, say: Say, from_first: Callable[[Run], Run]) -> tuple[str, ...]:
    """Bring a trainer to the newest checkpoint, and record changed settings. Returns sentences about it."""
    out, processes, place = trainer.out, trainer.processes, trainer.out / "config.json"
    before = (
        read(place.read_text(encoding="utf-8"), request.parts) if processes.first and place.exists() else trainer.run
    )
    if processes.first and not place.exists():
        write_atomically(place, dumps(trainer.run, request.parts))
    notes = trainer.load()
    if trainer.total is None:
        # a run of softmix 0.1, which set its length in training, and was stopped before
        trial_run(trainer, say)
        trainer.load()
    if trainer.saved < 0 and trainer.run.facts.start:
        trainer.begin_from(_weights(trainer, request.start))
    run, changes = record_changes(before, trainer.run, trainer.step)
    trainer.run = from_first(run)
    if processes.first:
        if trainer.run != before:
            write_atomically(place, dumps(trainer.run, request.parts))
        drop_after(out, trainer.step)
    if trainer.step == 0:
        # a rollback needs a checkpoint
        trainer.save()
    return (*notes, *changes)


def _weights(trainer: Trainer, start: Model | None) -> dict[str, torch.Tensor]:
    """The initial weights of a run that starts from another. Raises TrainingError if they have changed."""
    recorded, place = trainer.run.facts.start, start_folder(trainer.run, trainer.out)
    assert recorded is not None
    try:
        model = start if start is not None else load_model(place or recorded.run, recorded.weights, trainer.own)
    except RunError as error:
        raise TrainingError(f"{trainer.out} begins with the weights of {place}: {error}") from error
    if model.fingerprint != recorded.fingerprint:
        raise TrainingError(
            f"{trainer.out} was to begin with the weights {recorded.fingerprint} of {place} (step {recorded.step}), "
            f"which has {model.fingerprint} (step {model.step}) now: name another folder"
        )
    return model.network.state_dict()


def _checked(run: Run, source: Source, out: Path, processes: Processes, shard: bool, own: tuple[type, ...]) -> Trainer:
    """A trainer that has computed a loss and its gradient once."""
    with _sentence(source):
        trainer = Trainer(run, source, out, processes, shard, own)
        check_parts(trainer)
    return trainer


@contextmanager
def _sentence(source: Source) -> Iterator[None]:
    """Turn any error of parts that do not fit each other, or the data, into a TrainingError."""
    try:
        yield
    except (LostProcessError, TrainingError):
        raise
    except Exception as error:  # parts that do not fit each other raise errors of any type
        if is_memory_error(error):
            raise memory_error("two items", source.shape, error) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TrainingError(
            f"this configuration cannot be trained on {source.name}, items {source.shape}: {reason}"
        ) from error


def _steps(trainer: Trainer, notes: tuple[str, ...], stop: Callable[[], int]) -> Iterator[TrainStep]:
    config, request, count = trainer.run.config, StopRequest(trainer.processes, stop), FailureCount(trainer.step)
    clock, began = time.perf_counter(), trainer.step
    while trainer.total is None or trainer.step < trainer.total:
        before = trainer.step
        try:
            loss, norm = trainer.advance()
            certain = trainer.device_step is None or bool(notes) or writing_due(trainer).any
            failure = trainer.settle() if certain or trainer.step != before + 1 else None
        except NotEnoughMemoryError as error:
            # an earlier step may have failed
            failure = trainer.settle()
            if failure is None:
                notes += (_in_more_parts(trainer, error),)
                continue
        if failure is not None:
            count.fail(trainer.step)
            notes += (_failed(trainer, failure, count.failures),)
            count.go_on(trainer.step)
            continue
        if trainer.step != before + 1:
            # the loss scale was halved, and the run goes back to the step that overflowed
            continue
        if certain:
            count.succeed(trainer.step)
        now = time.perf_counter()
        if trainer.step - began == _WARM:
            clock = now
        done = trainer.step - began - _WARM
        speed = done * config.batch / (now - clock) if done > 0 else 0.0
        report = TrainStep(trainer.step, trainer.total, loss, norm, trainer.rate(), speed, notes)
        unlogged = (*_record(trainer, report), *trainer.take_notes())
        yield report if not unlogged else replace(report, notes=(*notes, *unlogged))
        notes = ()
        number = request.number()
        if number and trainer.step != trainer.total:
            request.end()
            trainer.save()
            length = f" of {trainer.total}" if trainer.total else ""
            sentence = f"stopped after step {trainer.step}{length}, and saved: the same command continues from there"
            raise StoppedError(sentence, number)
    request.end()
    # the last step may have been skipped
    trainer.save()


def _in_more_parts(trainer: Trainer, error: NotEnoughMemoryError) -> str:
    """Halve the parts of a batch from this step on, in config.json too, so that a resumed run does the same."""
    sentence = halve_parts(trainer, error)
    if trainer.processes.first:
        write_atomically(trainer.out / "config.json", dumps(trainer.run, trainer.own))
    return sentence


def _record(trainer: Trainer, step: TrainStep) -> tuple[str, ...]:
    """Write log, pictures and checkpoints that are due. Returns a sentence if a picture could not be made."""
    due, warning = writing_due(trainer), ""
    if due.line or step.notes:
        line = {"step": step.step, "loss": step.loss, "norm": step.norm, "rate": step.rate}
        _log(trainer, LOG, line | ({"notes": list(step.notes)} if step.notes else {}))
        if step.images_per_second:
            _log(trainer, SPEED, {"step": step.step, "images_per_second": round(step.images_per_second, 1)})
    if due.picture:
        warning = save_picture(trainer)
    if due.checkpoint:
        trainer.save()
    return (warning,) if warning else ()


def _log(trainer: Trainer, name: str, line: dict[str, object]) -> None:
    if trainer.processes.first:
        append(trainer.out, name, line)


def _failed(trainer: Trainer, failure: Failure, failures: int) -> str:
    """Apply the policy for a loss or gradient that is not finite. Returns a sentence about it."""
    policy, first = trainer.run.nonfinite(trainer.step), trainer.step * trainer.run.config.batch
    items = torch.arange(first, first + trainer.run.config.batch)
    trainer.feed.explain(items, trainer.attempt)
    module = trainer.modules[trainer.turn]
    worst = {name: float(gathered(p.detach()).abs().max()) for name, p in module.named_parameters()}
    name = max(worst, key=lambda key: worst[key] if worst[key] == worst[key] else float("inf"))
    of = "" if trainer.turn == "model" else f" of {trainer.turn}"
    report = (
        f"step {trainer.step + 1}: loss {failure.loss}{of}, gradient norm {failure.norm}; "
        f"items {first} to {first + len(items) - 1}, {trainer.task.describe(trainer.batch(items))}; "
        f"largest weight {worst[name]:.3g} in {name}"
    )
    _log(trainer, LOG, {"step": trainer.step + 1, "nonfinite": report, "policy": policy})
    if policy == "stop" or failures >= _TRIES:
        raise TrainingError(f"{report}. The step was not taken{_advice(trainer, policy)}")
    if policy == "rollback":
        attempt = trainer.attempt + 1
        trainer.load()
        trainer.attempt = attempt
        return f"{report}; rolled back to step {trainer.step}, with other draws from here"
    trainer.step += 1
    return f"{report}; this step was skipped"


def _advice(trainer: Trainer, policy: str) -> str:
    """Advice after a loss that is not finite. A resumed run accepts each of these settings."""
    lower = f"--set optimiser.rate={trainer.run.peak(trainer.step) / 3:.1g}"
    resume = f"; the run continues from step {trainer.saved} if you add one of these to the same command: {lower}"
    if policy != "stop":
        return f", and {_TRIES} tries with nonfinite = {policy} did not help{resume.replace('one of these', 'this')}"
    return f"{resume}, or --set nonfinite=rollback (other draws), or --set nonfinite=skip (without this step)"


__all__ = ["TrainStep", "alone", "log_of", "training"]
