"""A denoiser's condition `cond` as keywords of a diffusers model call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .class_labels import class_count, has_null_class, null_class
from .errors import HubError
from .keywords import Keywords
from .model_calls import MASK_NAMES, ModelCall, call_parameters, extra_channels, required_keywords, time_name

# cond, batch size -> keywords of the model call
CondToKeywords = Callable[[Any, int], dict[str, Any]]
# the names that model classes have for prompt embeddings
PROMPT_NAMES = ("encoder_hidden_states", "cap_feats", "text_bth")


def cond_to_keywords(model: Any, call: ModelCall, unconditional: int | None) -> CondToKeywords:
    """The function from cond to the keywords of a call, for the conditions that the model takes.

    cond may be class labels [B], one embedding [B, L, D], or `Keywords`.
    unconditional : the label for "no class", None for the model's own.
    """
    extra = extra_channels(model)
    wanted = (*required_keywords(model, call), *(("channels",) if extra else ()))
    name = type(model).__name__ + (
        f" (with {extra} input channels for an image, a mask or a frame beside x)" if extra else ""
    )
    if has_null_class(model) and class_count(model):
        wanted = ("class_labels",)
    unconditional = null_class(model) if unconditional is None else unconditional

    def keywords_of(cond: Any, n: int) -> dict[str, Any]:
        if isinstance(cond, Mapping):
            cond = Keywords(**cond)
        if isinstance(cond, Keywords):
            keywords = dict(cond.arguments)
        else:
            keywords = _single_condition(cond, n, wanted, unconditional, name)
        _refuse_unknown(keywords, model)
        missing = [each for each in wanted if keywords.get(each) is None]
        if missing:
            raise HubError(f"{name} needs {', '.join(missing)} too: give cond=Keywords({_example(wanted)})")
        if isinstance(cond, Keywords) and len(cond) not in (1, n):
            raise HubError(f"keywords of {len(cond)} rows were given for {n} items")
        return _completed(keywords, n, model)

    return keywords_of


def _single_condition(
    cond: Any, n: int, wanted: tuple[str, ...], unconditional: int | None, name: str
) -> dict[str, Any]:
    """The keywords of a tensor, or of no condition."""
    if not wanted:
        if cond is not None:
            raise HubError(f"{name} takes no condition")
        return {}
    if wanted == ("class_labels",):
        return {"class_labels": _class_labels(cond, n, unconditional, name)}
    if len(wanted) > 1:
        raise HubError(
            f"{name} takes more than one condition: give cond=Keywords({_example(wanted)}), or from_diffusers "
            "conditions, a function of (cond, n) that returns the keywords of its call"
        )
    if wanted[0] in PROMPT_NAMES and (cond is None or cond.ndim < 3):
        raise HubError(
            f"{name} needs embeddings [B, L, D] as cond ({wanted[0]}): of prompts, `denoiser.text([...])` makes them"
        )
    if cond is None:
        raise HubError(f"{name} needs a condition: give its {wanted[0]} as cond")
    return {wanted[0]: cond}


def _example(wanted: tuple[str, ...]) -> str:
    return ", ".join(f"{each}=..." for each in wanted)


def _class_labels(cond: Tensor | None, n: int, unconditional: int | None, name: str) -> Tensor:
    """Class labels [n] with the label -1 replaced."""
    labels = torch.full((n,), -1) if cond is None else cond
    if bool((labels < 0).any()):
        if unconditional is None:
            raise HubError(
                f"{name} has class labels and none for 'no class': give labels as cond, or from_diffusers "
                "unconditional=k, the label that it was trained with for 'no class'"
            )
        labels = torch.where(labels < 0, unconditional, labels)
    return labels.long()


def _refuse_unknown(keywords: dict[str, Any], model: Any) -> None:
    """Raises HubError for keywords that the model call does not have."""
    known = call_parameters(model)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        return
    accepted = [each for each in list(known)[1:] if each not in ("return_dict", time_name(model))]
    wrong = [each for each in keywords if each not in accepted and each != "channels"]
    if wrong:
        raise HubError(f"{type(model).__name__} has no keyword {', '.join(wrong)}; it has {', '.join(accepted)}")


def _completed(keywords: dict[str, Any], n: int, model: Any) -> dict[str, Any]:
    """One row repeated for all items, guidance as a tensor, and masks of ones for required masks that are missing."""
    known = call_parameters(model)
    rows = Keywords(**keywords)
    if len(rows) == 1 and n != 1:
        rows = rows.expand_as(torch.empty(n))
    arguments = dict(rows.arguments)
    if isinstance(arguments.get("guidance"), int | float):
        arguments["guidance"] = torch.full((n,), float(arguments["guidance"]))
    words = next((arguments[each] for each in PROMPT_NAMES if isinstance(arguments.get(each), Tensor)), None)
    for mask in MASK_NAMES:
        required = mask in known and known[mask].default is inspect.Parameter.empty
        if required and arguments.get(mask) is None and words is not None:
            arguments[mask] = torch.ones(words.shape[:2], dtype=torch.int64, device=words.device)
    return arguments
