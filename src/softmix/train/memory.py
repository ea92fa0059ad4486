"""How much memory a step takes, and how much there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

# what is held for the backward pass is most of what a step takes: the rest are gradients on their way and workspace
_BESIDE = 1.5
# the share of the free memory that a step is planned to take
_SHARE = 0.8


class MemoryLackError(RuntimeError):
    """There was not enough memory for a step; its parameters are as they were."""


def is_lack(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory does not suffice."""
    told = str(error).lower()
    # the last two are oneDNN's and C++'s
    words = ("not enough memory", "can't allocate memory", "out of memory", "could not create a primitive", "bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in told for word in words)


def held_by(work: Callable[[], Tensor], but: Iterable[Tensor]) -> tuple[Tensor, int]:
    """What `work` gives, and the bytes that autograd holds for its gradient, without the tensors in `but`."""
    ours = {tensor.untyped_storage().data_ptr() for tensor in but}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = work()
    return found, sum(held.values())


def enough(held: float, free: int | None) -> bool:
    """Whether a step that holds so many bytes for its gradient is likely to fit into what is free; None: not known."""
    return free is None or _BESIDE * held <= _SHARE * free


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take without being killed: what the machine has left, or the groups of
    processes (cgroups) that it is in, whichever is less. None where nothing says (no Linux).

    root : where proc and sys are.
    """
    known = [_machine(root), *_groups(root)]
    return min((number for number in known if number is not None), default=None)


def _machine(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        return found.get("MemAvailable")
    except (OSError, ValueError, IndexError):
        return None


def _groups(root: Path) -> Iterable[int | None]:
    """What each group has left; what only keeps files at hand is given back on demand, and counts as free."""
    try:
        own = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for fields in own:
        if len(fields) != 3 or (fields[1] and "memory" not in fields[1].split(",")):
            continue
        second = not fields[1]
        top = root / ("sys/fs/cgroup" if second else "sys/fs/cgroup/memory")
        limit, use, cached = (
            ("memory.max", "memory.current", "inactive_file")
            if second
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        # in a container the path may be the host's, and the group's files lie at the top
        path = top / fields[2].lstrip("/")
        for folder in (path, *(parent for parent in path.parents if parent.is_relative_to(top))):
            most, used = _number(folder / limit), _number(folder / use)
            if most is not None and used is not None:
                yield most - used + _line(folder / "memory.stat", cached)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # the file says "max" where there is no limit
        return None


def _line(file: Path, name: str) -> int:
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
        return next((int(line[1]) for line in lines if line[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
