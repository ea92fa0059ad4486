"""Checkpoints: whole or absent, after a cut or a damage at any place."""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from softmix.config import canonical
from softmix.train import checkpoint, ema
from softmix.train.checkpoint import Checkpoint, CheckpointError, faults, latest, newest_step, save

FILES = ("model.safetensors", "ema-0.050.safetensors", "optimizer.safetensors", "state.json")
Tensors = dict[str, dict[str, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    # A disk takes milliseconds for each sync; what is tested is that and when it is asked to.
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            yield Path(name)


def some(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model": {"weight": torch.randn(4, 3, generator=generator), "bias": torch.randn(4, generator=generator)},
        "ema-0.050": {"weight": torch.randn(4, 3, generator=generator), "bias": torch.randn(4, generator=generator)},
        "optimizer": {"0.moment": torch.randn(12, generator=generator), "0.step": torch.tensor(float(seed))},
    }


def bits(tensors: Tensors) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        f"{group}/{name}": (
            str(one.dtype),
            tuple(one.shape),
            one.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for group, entries in tensors.items()
        for name, one in entries.items()
    }


def run(folder: Path, *steps: int) -> Path:
    for step in steps:
        save(folder, step, some(step), {"step": step}, keep=10)
    return folder


def load(folder: Path, only: tuple[str, ...] | None = None) -> Checkpoint:
    found = latest(folder, only)
    assert found is not None
    return found


def damaged_files(folder: Path) -> list[str]:
    return [file for file, fault in faults(folder).items() if fault]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is kept


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tied, image = torch.randn(3, 3), torch.randn(2, 3, 4, 5)
    tensors: Tensors = {
        "model": {
            "odd": torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45]),
            "double": torch.randn(3, dtype=torch.float64),
            "brain": torch.randn(7).bfloat16(),
            "count": torch.tensor(2**62),
            "mask": torch.tensor([True, False]),
            "empty": torch.empty(0, 3),
            "turned": tied.T,
            "tied": tied,
            "part": tied[1:],
            "channels_last": image.to(memory_format=torch.channels_last),
            "leaf": torch.randn(2, requires_grad=True),
        },
        "nothing": {},
    }
    state: dict[str, Any] = {"seed": 3, "best": 0.1 + 0.2, "deep": {"list": [1, None, True, "é\ud800"]}, "big": 2**70}
    path = save(tmp_path / "a" / "b", 500, tensors, state)
    found = latest(tmp_path / "a" / "b")
    assert found is not None and found.path == path == tmp_path / "a" / "b" / "step-000500" and found.damaged == []
    assert names(path) == ["model.safetensors", "nothing.safetensors", "state.json"]
    assert bits(found.tensors) == bits({"model": {name: one.detach() for name, one in tensors["model"].items()}})
    assert found.tensors["nothing"] == {} and found.step == 500 and found.state == state
    assert found.state["best"] == state["best"]


def test_the_bits_helper_sees_one_changed_bit() -> None:
    one, two = {"a": {"b": torch.tensor([0.0])}}, {"a": {"b": torch.tensor([-0.0])}}
    assert bits(one) != bits(two) and bits(one) == bits({"a": {"b": torch.tensor([0.0])}})


def test_loaded_tensors_are_owned(tmp_path: Path) -> None:
    path = save(tmp_path, 1, some(1), {})
    before = (path / FILES[0]).read_bytes()
    found = load(tmp_path)
    found.tensors["model"]["weight"].add_(1)
    assert (path / FILES[0]).read_bytes() == before
    shutil.rmtree(path)
    (tmp_path / "step-000001").mkdir()
    (path / FILES[0]).write_bytes(b"\0" * len(before))
    found.tensors["model"]["weight"].sub_(1)
    torch.testing.assert_close(found.tensors["model"]["weight"], some(1)["model"]["weight"].cpu())
    pointers = [one.untyped_storage().data_ptr() for group in found.tensors.values() for one in group.values()]
    assert len(set(pointers)) == len(pointers) and all(pointer % 64 == 0 for pointer in pointers)


def test_only_the_newest_checkpoints_stay_and_later_steps_are_left_alone(tmp_path: Path) -> None:
    for step in (100, 200, 300, 1_000_000, 2_000_000):
        save(tmp_path, step, some(step), {})
    assert names(tmp_path) == ["step-000300", "step-1000000", "step-2000000"]
    assert load(tmp_path).step == 2_000_000
    save(tmp_path, 400, some(400), {}, keep=1)
    assert names(tmp_path) == ["step-000400", "step-1000000", "step-2000000"]


def test_only_the_entries_asked_for_are_returned_and_all_are_verified(tmp_path: Path) -> None:
    run(tmp_path, 1, 2)
    found = load(tmp_path, only=("ema-0.050",))
    assert bits(found.tensors) == bits({"ema-0.050": some(2)["ema-0.050"]})
    (tmp_path / "step-000002" / "optimizer.safetensors").unlink()
    found = load(tmp_path, only=("ema-0.050",))
    assert found.step == 1 and "optimizer.safetensors cannot be read" in found.damaged[0]
    with pytest.raises(
        CheckpointError, match=r"ema-0\.100 was asked for; .*step-000001 holds .*model.*, ema-0\.050.*, optimizer"
    ):
        load(tmp_path, only=("ema-0.100",))
    assert load(tmp_path, only=()).tensors == {}


def test_none_at_all(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert latest(folder) is None
        assert newest_step(folder) is None
        assert faults(folder) == {}


def test_the_newest_step_is_known_without_reading_anything(tmp_path: Path) -> None:
    run(tmp_path, 5, 7)
    delete(tmp_path / "step-000007" / "state.json")
    assert newest_step(tmp_path) == 7
    assert load(tmp_path).step == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"step": -1}, "steps count from 0"),
        ({"keep": 0}, "keep at least 1"),
        ({"tensors": {"../model": {}}}, r"a file named '\.\./model' was to be saved"),
        ({"tensors": {"": {}}}, "a file named '' was to be saved"),
        ({"state": {"loss": float("nan")}}, "loss is nan"),
        ({"state": {"a": {1, 2}}}, "set"),
    ],
)
def test_a_bad_request_writes_nothing(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        save(**{"folder": tmp_path, "step": 5, "tensors": some(5), "state": {}, **change})
    assert names(tmp_path) == []


# Damage


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def cut_to_nothing(file: Path) -> None:
    file.write_bytes(b"")


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def exchange_for_noise(file: Path) -> None:
    file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))


def delete(file: Path) -> None:
    file.unlink()


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


REASONS: dict[Callable[[Path], None], str] = {
    truncate: "has changed since it was written",
    cut_to_nothing: "has changed since it was written",
    lengthen: "has changed since it was written",
    flip: "has changed since it was written",
    exchange_for_noise: "has changed since it was written",
    delete: "cannot be read \\(No such file or directory\\)",
    make_folder: "cannot be read \\(Is a directory\\)",
}


@pytest.mark.parametrize("damage", REASONS)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("only", [None, ("model",)])
def test_each_damaged_file_is_named_and_the_one_before_is_taken(
    tmp_path: Path, damage: Callable[[Path], None], file: str, only: tuple[str, ...] | None
) -> None:
    run(tmp_path, 1, 2, 3)
    damage(tmp_path / "step-000003" / file)
    found = load(tmp_path, only=only)
    assert found.step == 2 and found.state == {"step": 2}
    assert bits(found.tensors) == bits({name: some(2)[name] for name in only or some(2)})
    assert len(found.damaged) == 1
    assert re.match(
        rf"step-000003 is damaged, so it was not taken: {re.escape(file)} .*({REASONS[damage]})", found.damaged[0]
    )
    assert damaged_files(tmp_path) == [f"step-000003/{file}"]
    assert re.search(REASONS[damage], faults(tmp_path)[f"step-000003/{file}"])


def test_no_changed_byte_of_the_state_goes_unseen(tmp_path: Path) -> None:
    save(tmp_path, 3, {}, {"seed": 7, "loss": 0.25, "names": ["a", "b"], "on": True})
    file = tmp_path / "step-000003" / "state.json"
    whole, good = file.read_bytes(), load(tmp_path).state
    seen = 0
    for k in range(len(whole)):
        for mask in (1, 0x80):
            file.write_bytes(whole[:k] + bytes([whole[k] ^ mask]) + whole[k + 1 :])
            try:
                assert load(tmp_path).state == good
            except CheckpointError:
                seen += 1
    assert seen > 1.95 * len(whole)


def swap(folder: Path, one: str, two: str) -> None:
    (folder / one).rename(folder / "x")
    (folder / two).rename(folder / one)
    (folder / "x").rename(folder / two)


def test_two_files_exchanged_are_named(tmp_path: Path) -> None:
    run(tmp_path, 1, 2)
    swap(tmp_path / "step-000002", "model.safetensors", "ema-0.050.safetensors")
    found = load(tmp_path)
    assert found.step == 1
    assert damaged_files(tmp_path) == ["step-000002/model.safetensors", "step-000002/ema-0.050.safetensors"]
    assert "model.safetensors has changed since it was written" in found.damaged[0]
    assert "ema-0.050.safetensors has changed since it was written" in found.damaged[0]


def test_files_and_folders_of_other_steps_are_named(tmp_path: Path) -> None:
    run(tmp_path, 1, 2, 3)
    shutil.copy(tmp_path / "step-000001" / "state.json", tmp_path / "step-000003" / "state.json")
    swap(tmp_path, "step-000002", "step-000001")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    for step, holds in ((3, 1), (2, 1), (1, 2)):
        assert f"step-00000{step} is damaged, so it was not taken: state.json is of format 1 and step {holds}" in str(
            error.value
        )


def test_a_renamed_file_is_detected(tmp_path: Path) -> None:
    run(tmp_path, 1)
    (tmp_path / "step-000001" / "model.safetensors").rename(tmp_path / "step-000001" / "model (1).safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read \(No such file"):
        latest(tmp_path)


def test_when_none_is_whole_each_is_named(tmp_path: Path) -> None:
    run(tmp_path, 1, 2)
    delete(tmp_path / "step-000001" / "model.safetensors")
    flip(tmp_path / "step-000002" / "optimizer.safetensors")
    truncate(tmp_path / "step-000002" / "ema-0.050.safetensors")
    with pytest.raises(CheckpointError, match="none there is whole") as error:
        latest(tmp_path)
    for part in (
        "step-000001",
        "step-000002",
        "model.safetensors cannot be read (No such file",
        "optimizer.safetensors has changed since it was written",
        "ema-0.050.safetensors has changed since it was written",
    ):
        assert part in str(error.value)


def test_a_damaged_step_is_repaired_by_saving_it_again(tmp_path: Path) -> None:
    run(tmp_path, 1, 2)
    flip(tmp_path / "step-000002" / "model.safetensors")
    run(tmp_path, 2)
    assert load(tmp_path).damaged == [] and names(tmp_path) == ["step-000001", "step-000002"]
    assert damaged_files(tmp_path) == []


# Attacks


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)
    yield buffer.getvalue()
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "exploded").exists(), "the bomb is a dud, and the test above proves nothing"


def reseal(folder: Path, **changes: Any) -> None:
    """What an attacker would do: make state.json agree with the files, and its seal with itself."""
    body = json.loads((folder / "state.json").read_text())
    del body["sha256"]
    for name, entry in body["files"].items():
        data = (folder / name).read_bytes()
        entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    body.update(changes)
    body["sha256"] = hashlib.sha256(canonical(body).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps(body))


@pytest.mark.parametrize("file", FILES)
def test_a_malicious_pickle_is_never_executed(tmp_path: Path, bomb: bytes, file: str) -> None:
    run(tmp_path / "run", 1, 2)
    for evil in (bomb, pickle.dumps(Bomb())):
        (tmp_path / "run" / "step-000002" / file).write_bytes(evil)
        found = load(tmp_path / "run")
        assert found.step == 1 and file in found.damaged[0]
        assert damaged_files(tmp_path / "run") == [f"step-000002/{file}"]


@pytest.mark.parametrize("file", FILES[:3])
def test_a_malicious_pickle_with_the_right_hash_is_never_executed(tmp_path: Path, bomb: bytes, file: str) -> None:
    run(tmp_path / "run", 1, 2)
    for evil in (bomb, pickle.dumps(Bomb()), b"", b"\xff" * 64):
        (tmp_path / "run" / "step-000002" / file).write_bytes(evil)
        reseal(tmp_path / "run" / "step-000002")
        found = load(tmp_path / "run")
        assert found.step == 1 and f"{file} is not a safetensors file" in found.damaged[0]
        assert damaged_files(tmp_path / "run") == [f"step-000002/{file}"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"files": {"../../secret.safetensors": {}}}, "is no name for a file"),
        ({"files": {"/etc/passwd": {}}}, "is no name for a file"),
        ({"files": {"model.safetensors": 3}}, "model.safetensors has changed since it was written"),
        ({"files": {"model.safetensors": {}}}, "model.safetensors has changed since it was written"),
        ({"files": [1]}, "lacks its state or its files"),
        ({"state": None}, "lacks its state or its files"),
        ({"format": 2}, "of format 2 and step 2, and this softmix reads format 1"),
        ({"step": "3"}, "step 3, and this softmix reads format 1 and step 2"),
    ],
)
def test_a_forged_state_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    run(tmp_path, 1, 2)
    reseal(tmp_path / "step-000002")
    assert load(tmp_path).step == 2
    reseal(tmp_path / "step-000002", **changes)
    found = load(tmp_path)
    assert found.step == 1 and reason in found.damaged[0]


def test_a_size_that_is_not_the_file_s_is_refused_even_with_the_right_hash(tmp_path: Path) -> None:
    run(tmp_path, 1, 2)
    files = json.loads((tmp_path / "step-000002" / "state.json").read_text())["files"]
    files["model.safetensors"]["size"] += 1
    reseal(tmp_path / "step-000002", files=files)
    assert "model.safetensors has changed since it was written: its 192 bytes" in load(tmp_path).damaged[0]


@pytest.mark.parametrize(
    "text", [b"[]", b"3", b"null", b'{"sha256": 1}', b"[" * 100_000, b'{"a": NaN, "sha256": ""}', b"\xff"]
)
def test_a_state_that_is_something_else_is_refused(tmp_path: Path, text: bytes) -> None:
    run(tmp_path, 1, 2)
    (tmp_path / "step-000002" / "state.json").write_bytes(text)
    assert load(tmp_path).step == 1


def test_neither_file_knows_of_pickles() -> None:
    for module in (checkpoint, ema):
        text = Path(str(module.__file__)).read_text()
        assert not re.search(
            r"pickle|torch\.(load|save)\b|weights_only|eval\(|exec\(|mmap", text.replace("safetensors.torch.", "")
        )


# Death in the middle


WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def dies_at(instant: int, act: Callable[[], object]) -> bool:
    """Does `act` in a child that dies, with no chance to tidy up, at its file operation number `instant`."""
    child = os.fork()
    if child == 0:
        count, fsync = 0, os.fsync

        def tick(event: str, *_: object) -> None:
            nonlocal count
            if event in WATCHED:
                count += 1
                if count == instant:
                    os._exit(9)

        def ticking_fsync(handle: Any) -> None:
            tick("open")
            fsync(handle)

        try:
            os.fsync = ticking_fsync  # type: ignore[assignment]
            sys.addaudithook(tick)
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), "the child failed by itself"
    return code == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("step", "before"), [(4, 3), (3, 3)], ids=["a new step", "a step saved again"])
def test_killed_at_every_instant_of_a_save(tmp_path: Path, step: int, before: int) -> None:
    template, folder = run(tmp_path / "template", 1, 2, 3), tmp_path / "run"
    old, new = bits(some(before)), bits(some(40))

    def act() -> None:
        save(folder, step, some(40), {"new": True}, keep=2)

    instant, seen = 1, []
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)
        died = dies_at(instant, act)
        found = load(folder)
        assert found.damaged == [], instant
        assert (found.step, bits(found.tensors)) in ((before, old), (step, new)), instant
        assert found.state == ({"new": True} if bits(found.tensors) == new else {"step": before})
        assert damaged_files(folder) == [], instant
        seen.append(bits(found.tensors) == new)
        act()
        assert names(folder) == [f"step-{step - 1:06d}", f"step-{step:06d}"], instant
        assert bits(load(folder).tensors) == new and load(folder).damaged == []
        if not died:
            break
        instant += 1
    assert instant > 15 and seen == sorted(seen) and seen[0] is False and seen[-1] is True


class Killed(BaseException):
    pass


@pytest.mark.parametrize("error", [Killed(), OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("call", [1, 2])
def test_a_rename_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int, call: int
) -> None:
    run(tmp_path, 1, 2)
    calls, rename = [], os.rename

    def failing(*paths: Any) -> None:
        calls.append(paths)
        if len(calls) == call:
            raise error
        rename(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        patch.setattr(os, "replace", failing)
        if step == 3 and call == 2:
            save(tmp_path, step, some(step), {}, keep=2**20)
        else:
            with pytest.raises(CheckpointError if isinstance(error, OSError) else type(error)):
                save(tmp_path, step, some(40), {})
    assert not any(name.endswith(".tmp") for name in names(tmp_path))
    assert bits(load(tmp_path).tensors) == bits(some(3 if step == 3 and call == 2 else 2))
    assert load(tmp_path).damaged == []


def test_a_leftover_is_ignored_and_later_swept_away(tmp_path: Path) -> None:
    run(tmp_path, 1)
    for name in ("step-000002.tmp", "step-000009.tmp", "step-000000.old.gone.tmp"):
        shutil.copytree(tmp_path / "step-000001", tmp_path / name)
    (tmp_path / "notes.tmp").mkdir()
    assert load(tmp_path).step == 1 and load(tmp_path).damaged == []
    assert {file.split("/")[0] for file in faults(tmp_path)} == {"step-000001"}
    run(tmp_path, 2)
    assert names(tmp_path) == ["notes.tmp", "step-000001", "step-000002"]


def test_of_two_checkpoints_of_a_step_the_whole_one_is_read(tmp_path: Path) -> None:
    for bad, holds in (("step-000002", 2), ("step-000002.old", 40)):
        folder = run(tmp_path / bad, 1, 2)
        (folder / "step-000002").rename(folder / "step-000002.old")
        shutil.copytree(save(tmp_path / f"{bad} again", 2, some(40), {}), folder / "step-000002")
        flip(folder / bad / "model.safetensors")
        assert bits(load(folder).tensors) == bits(some(holds))


def test_a_third_checkpoint_of_a_step_that_is_cut_short_leaves_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path, 1, 2)
    shutil.copytree(folder / "step-000002", folder / "step-000002.old")
    flip(folder / "step-000002.old" / "model.safetensors")

    def dying(source: Path, target: Path) -> None:
        if Path(target).name == "step-000002":
            raise Killed
        Path(source).replace(target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "rename", dying)
        save(folder, 2, some(40), {})
    assert bits(load(folder).tensors) == bits(some(2))
    save(folder, 2, some(40), {})
    assert names(folder) == ["step-000001", "step-000002"]
    assert bits(load(folder).tensors) == bits(some(40))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is synced")
def test_everything_is_synced_before_it_is_renamed_and_renamed_before_anything_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, 1)
    events: list[str] = []
    fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree

    def seen(what: str, path: object, act: Callable[[], object]) -> None:
        act()
        events.append(f"{what} {Path(str(path)).name}")

    monkeypatch.setattr(os, "fsync", lambda one: seen("sync", os.readlink(f"/proc/self/fd/{one}"), lambda: fsync(one)))
    monkeypatch.setattr(os, "rename", lambda one, two: seen("rename", two, lambda: rename(one, two)))
    monkeypatch.setattr(shutil, "rmtree", lambda one, **more: seen("remove", one, lambda: rmtree(one, **more)))
    save(tmp_path, 2, some(2), {}, keep=1)
    published = events.index("rename step-000002")
    assert {f"sync {file}" for file in FILES} < set(events[:published])
    assert events[published - 1 :] == [
        "sync step-000002.tmp",
        "rename step-000002",
        f"sync {tmp_path.name}",
        "rename step-000001.gone.tmp",
        "remove step-000001.gone.tmp",
    ]


# A disk that is full


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, step: int
) -> None:
    run(tmp_path, 1, 2)
    before = names(tmp_path)
    real = builtins.open

    def full(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if str(path).endswith(f".tmp/{file}"):
            return real("/dev/full", "wb")
        return real(path, mode, *more, **named)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="the disk is full; free some space"):
        patch.setattr(builtins, "open", full)
        save(tmp_path, step, some(40), {}, keep=1)
    assert names(tmp_path) == before
    assert bits(load(tmp_path).tensors) == bits(some(2)) and load(tmp_path).damaged == []


def test_a_disk_that_turns_out_to_be_full_when_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 1)
    fsync, calls = os.fsync, []

    def full(handle: Any) -> None:
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="disk"):
        patch.setattr(os, "fsync", full)
        save(tmp_path, 2, some(2), {})
    assert names(tmp_path) == ["step-000001"] and load(tmp_path).damaged == []


def test_a_disk_that_is_really_full(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("256k")

    def big(step: int) -> Tensors:
        return {name: {"x": torch.full((12_000,), float(step))} for name in ("model", "optimizer")}

    save(disk, 1, big(1), {"step": 1})
    save(disk, 2, big(2), {"step": 2}, keep=1)
    save(disk, 3, big(3), {"step": 3}, keep=2)
    with pytest.raises(
        CheckpointError, match=r"step-000004 failed: the disk is full; .*last good checkpoint is untouched"
    ):
        save(disk, 4, big(4), {"step": 4})
    assert names(disk) == ["step-000002", "step-000003"]
    assert bits(load(disk).tensors) == bits(big(3)) and load(disk).damaged == []


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        save(tmp_path, 1, some(1), {})
    tmp_path.chmod(0o700)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match="put that right, and run the same command again"):
        save(tmp_path / "run", 1, some(1), {})


# The report


def test_every_file_of_every_checkpoint_is_reported(tmp_path: Path) -> None:
    run(tmp_path, 1, 2)
    assert list(faults(tmp_path)) == [f"step-00000{step}/{file}" for step in (2, 1) for file in (FILES[3], *FILES[:3])]
    assert set(faults(tmp_path).values()) == {""}


def test_a_checkpoint_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 1)
    inspect, calls = checkpoint._inspect, []

    def slow(path: Path, only: Any) -> Any:
        calls.append(path.name)
        if len(calls) == 1:
            save(tmp_path, 2, some(2), {}, keep=1)
        return inspect(path, only)

    monkeypatch.setattr(checkpoint, "_inspect", slow)
    found = latest(tmp_path)
    assert found is not None and found.step == 2 and found.damaged == [] and calls == ["step-000001", "step-000002"]
