"""The memory that a step needs, and the free memory of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

# tensors saved for the backward pass are most of the memory of a step; the factor adds gradients and workspace
_BESIDE = 1.5
# the share of the free memory that a step may take
_SHARE = 0.8


def saved_for_backward(work: Callable[[], Tensor], but: Iterable[Tensor]) -> tuple[Tensor, int]:
    """Run `work`, and count the bytes that autograd saves for its gradient.

    but : tensors that do not count, such as the parameters.
    Returns the result of `work` and the bytes.
    """
    ours = {tensor.untyped_storage().data_ptr() for tensor in but}
    held: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        result = work()
    return result, sum(held.values())


def fits_in(held: float, free: int | None) -> bool:
    """Whether a step is likely to fit into the free memory: 1.5 held <= 0.8 free.

    held : bytes that autograd saves for the gradient of the step.
    free : free bytes; None if unknown, and then the step is taken to fit.
    """
    return free is None or _BESIDE * held <= _SHARE * free


@contextmanager
def within_free_memory(device: torch.device) -> Iterator[None]:
    """On a CPU under Linux, a request for more memory than is free is an error inside: the system kills nothing.

    It holds for the whole process. On another device and another system it has no effect.
    """
    free = free_memory() if device.type == "cpu" else None
    if free is None:
        yield
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = used + free if soft < 0 else min(used + free, soft)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def free_memory(root: Path = Path("/")) -> int | None:
    """The bytes that this process can still take without being killed. None outside Linux.

    This is the least of the free memory of the machine and of each group of processes (cgroup) of this process.

    root : the folder of proc and sys.
    """
    known = [_machine(root), *_groups(root)]
    return min((number for number in known if number is not None), default=None)


def _machine(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        return fields.get("MemAvailable")
    except (OSError, ValueError, IndexError):
        return None


def _groups(root: Path) -> Iterable[int | None]:
    """The free bytes of each group. Its file cache is given back on demand, and counts as free."""
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
        # in a container the path may be the path of the host, and the files of the group lie at the top
        path = top / fields[2].lstrip("/")
        for folder in (path, *(parent for parent in path.parents if parent.is_relative_to(top))):
            most, used = _number(folder / limit), _number(folder / use)
            if most is not None and used is not None:
                yield most - used + _line(folder / "memory.stat", cached)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # a group without a limit has "max" in the file
        return None


def _line(file: Path, name: str) -> int:
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
        return next((int(line[1]) for line in lines if line[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
