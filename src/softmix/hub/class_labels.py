"""Class labels of a diffusers model: their number, their names, and the label for "no class"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import HubError

_DIT = ("DiTTransformer2DModel", "Transformer2DModel")


def class_count(model: Any) -> int:
    """The number of classes of a model with class labels, else 0. DiT's label for "no class" does not count."""
    name = "num_embeds_ada_norm" if type(model).__name__ in _DIT else "num_class_embeds"
    return int(model.config.get(name) or 0)


def null_class(model: Any) -> int | None:
    """The label that means "no class" to the model, the one after its classes. None for a model without one."""
    return class_count(model) if has_null_class(model) and class_count(model) else None


def has_null_class(model: Any) -> bool:
    """Whether the model's class takes a label for "no class"."""
    return type(model).__name__ in (*_DIT, "SoftmixModel")


def id2label_of(names: tuple[str, ...]) -> dict[str, str]:
    """Class names as `id2label` of a configuration. Its keys are strings, as JSON has no others."""
    return {str(k): name for k, name in enumerate(names)}


def class_names(model: Any, pipeline: Any, source: Any) -> tuple[str, ...]:
    """The class names in order.

    They come from `id2label` of model_index.json, of the pipeline's or the model's configuration, or from the `labels`
    of a DiTPipeline.

    A class without a name has its number as name. Returns () for a model without classes or without any name.
    """
    known = _id2label(model, pipeline, source)
    return tuple(str(known.get(str(k), k)) for k in range(class_count(model))) if known else ()


def _id2label(model: Any, pipeline: Any, source: Any) -> Mapping[str, str]:
    index = Path(source) / "model_index.json" if isinstance(source, str | Path) else None
    # DiTPipeline reads id2label from this file and does not store it
    saved = json.loads(index.read_text(encoding="utf-8")) if index is not None and index.is_file() else {}
    configs = [saved, getattr(pipeline, "config", {}), model.config]
    known: Mapping[Any, str] = next((each["id2label"] for each in configs if each.get("id2label")), {})
    return {str(k): name for k, name in known.items()} or _names_of_labels(getattr(pipeline, "labels", None))


def _names_of_labels(labels: Any) -> dict[str, str]:
    """`labels` of a DiTPipeline, name -> number, as number -> name. Several names of one class are joined by commas."""
    names: dict[str, str] = {}
    for name, k in labels.items() if isinstance(labels, dict) else ():
        names[str(k)] = f"{names[str(k)]}, {name}" if str(k) in names else name
    return names


def class_index(names: tuple[str, ...], label: str | int, owner: str) -> int:
    """The number of a class given by its name or number. Raises HubError for an unknown class."""
    if str(label) in names:
        return names.index(str(label))
    number = int(label) if str(label).isdecimal() else -1
    if not 0 <= number < len(names):
        known = f"0 to {len(names) - 1}" if names else "none"
        named = [name for k, name in enumerate(names) if name != str(k)]
        known += f" ({', '.join(named[:10])}{', ...' if len(named) > 10 else ''})" if named else ""
        raise HubError(f"{owner}: class {label} was asked for; its classes are {known}")
    return number
