"""Move the constants of tests to a device: the tensors of test modules, of parameters and of fixtures.

Such tensors are made when a test file is imported, before the device of a test is known.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FOLDER = str(Path(__file__).parent)


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


@cache
def moved_names(module: str, device: torch.device) -> dict[str, Any]:
    """The names of an imported module with tensors, and their values on `device`."""
    names = {name: value for name, value in vars(sys.modules[module]).items() if not name.startswith("__")}
    new = {name: moved(value, device) for name, value in names.items()}
    return {name: value for name, value in new.items() if value is not names[name]}


@contextmanager
def constants_on(device: torch.device) -> Iterator[None]:
    """Inside, the constants of all imported test modules are on `device`."""
    saved: list[tuple[dict[str, Any], str, Any]] = []
    for key, module in list(sys.modules.items()):
        if not (getattr(module, "__file__", None) or "").startswith(FOLDER):
            continue
        names = vars(module)
        for name, new in moved_names(key, device).items():
            saved.append((names, name, names[name]))
            names[name] = new
    try:
        yield
    finally:
        for names, name, value in saved:
            names[name] = value
