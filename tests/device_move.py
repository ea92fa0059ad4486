"""Move the constants of tests to a device: the tensors of test modules, of parameters and of fixtures.

Such tensors are made when a test file is imported, before the device of a test is known.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TESTS = Path(__file__).parent


def moved(value: Any, device: torch.device) -> Any:
    """The value with its tensors on `device`; the same object if it holds no tensor.

    It follows lists, tuples, dictionaries, modules, and the fields of dataclasses. A module is copied.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(device)
    if isinstance(value, dict):
        return _same(value, {key: moved(each, device) for key, each in value.items()}, value.values())
    if isinstance(value, list | tuple):
        items = [moved(each, device) for each in value]
        made = type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return _same(value, made, value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _moved_fields(value, device)
    return value


def _same(value: Any, made: Any, items: Any) -> Any:
    """`value` itself if none of its items changed."""
    new = made.values() if isinstance(made, dict) else made
    return value if all(old is each for old, each in zip(items, new, strict=True)) else made


def _moved_fields(value: Any, device: torch.device) -> Any:
    fields = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    new = {name: moved(getattr(value, name), device) for name in fields}
    changed = {name: each for name, each in new.items() if each is not getattr(value, name)}
    if not changed:
        return value
    made = copy.copy(value)
    for name, each in changed.items():
        object.__setattr__(made, name, each)  # a frozen dataclass
    return made


@contextmanager
def constants_on(device: torch.device) -> Iterator[None]:
    """Inside, the constants of all imported test modules are on `device`."""
    saved: list[tuple[dict[str, Any], str, Any]] = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or TESTS not in Path(file).parents:
            continue
        names = vars(module)
        for name, value in list(names.items()):
            new = value if name.startswith("__") else moved(value, device)
            if new is not value:
                saved.append((names, name, value))
                names[name] = new
    try:
        yield
    finally:
        for names, name, value in saved:
            names[name] = value
