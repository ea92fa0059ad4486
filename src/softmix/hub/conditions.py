"""What a denoiser's `cond` is to a model of diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .calls import MASKS, Call, extra_channels, needed, parameters_of, time_of
from .keywords import Keywords
from .reading import HubError

Cond = Tensor | Keywords | None
Conditions = Callable[[Any, int], dict[str, Any]]
# what stands for the picture's text where there is one
WORDS = ("encoder_hidden_states", "cap_feats", "text_bth")


def conditions_of(model: Any, call: Call, unconditional: int | None) -> Conditions:
    """cond, batch -> keywords of the model's call: of labels, of one embedding, or of `Keywords` that name them."""
    extra = extra_channels(model)
    wanted = (*needed(model, call), *(("channels",) if extra else ()))
    name = type(model).__name__ + (
        f" (with {extra} channels of a picture, a mask or a frame beside x)" if extra else ""
    )
    classes = model.config.get("num_class_embeds")
    if type(model).__name__ in ("DiTTransformer2DModel", "Transformer2DModel") and model.config.get(
        "num_embeds_ada_norm"
    ):
        classes, wanted = model.config.num_embeds_ada_norm, ("class_labels",)
        unconditional = classes if unconditional is None else unconditional

    def told(cond: Any, n: int) -> dict[str, Any]:
        if isinstance(cond, Mapping):
            cond = Keywords(**cond)
        found = dict(cond.told) if isinstance(cond, Keywords) else _one(cond, n, wanted, unconditional, name)
        _known(found, model)
        lacking = [each for each in wanted if found.get(each) is None]
        if lacking:
            raise HubError(f"{name} needs {', '.join(lacking)} too: give cond=Keywords({_example(wanted)})")
        if isinstance(cond, Keywords) and len(cond) not in (1, n):
            raise HubError(f"keywords of {len(cond)} rows were given for {n} items")
        return _whole(found, n, model)

    return told


def _one(cond: Any, n: int, wanted: tuple[str, ...], unconditional: int | None, name: str) -> dict[str, Any]:
    """Of a tensor or nothing."""
    if not wanted:
        if cond is not None:
            raise HubError(f"{name} takes no condition")
        return {}
    if wanted == ("class_labels",):
        return {"class_labels": _labels(cond, n, unconditional, name)}
    if len(wanted) > 1:
        raise HubError(
            f"{name} takes more than one condition: give cond=Keywords({_example(wanted)}), or from_diffusers "
            "conditions, a function of (cond, n) that returns the keywords of its call"
        )
    if wanted[0] in WORDS and (cond is None or cond.ndim < 3):
        raise HubError(
            f"{name} needs embeddings [B, L, D] as cond ({wanted[0]}): for text, `text([...])` of the borrowed pipeline"
        )
    if cond is None:
        raise HubError(f"{name} needs a condition: give its {wanted[0]} as cond")
    return {wanted[0]: cond}


def _example(wanted: tuple[str, ...]) -> str:
    return ", ".join(f"{each}=..." for each in wanted)


def _labels(cond: Tensor | None, n: int, unconditional: int | None, name: str) -> Tensor:
    labels = torch.full((n,), -1) if cond is None else cond
    if bool((labels < 0).any()):
        if unconditional is None:
            raise HubError(
                f"{name} has classes and none for 'not told': give cond labels, or from_diffusers unconditional=k"
            )
        labels = torch.where(labels < 0, unconditional, labels)
    return labels.long()


def _known(found: dict[str, Any], model: Any) -> None:
    """Raises HubError for keywords that the model's call has not."""
    known = parameters_of(model)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        return
    open_to = [each for each in list(known)[1:] if each not in ("return_dict", time_of(model))]
    wrong = [each for each in found if each not in open_to and each != "channels"]
    if wrong:
        raise HubError(f"{type(model).__name__} has no keyword {', '.join(wrong)}; it has {', '.join(open_to)}")


def _whole(found: dict[str, Any], n: int, model: Any) -> dict[str, Any]:
    """One row for all items repeated; numbers of guidance as a tensor; masks that are demanded and not given: all."""
    known = parameters_of(model)
    whole = Keywords(**found)
    if len(whole) == 1 and n != 1:
        whole = whole.expand_as(torch.empty(n))
    told = dict(whole.told)
    if isinstance(told.get("guidance"), int | float):
        told["guidance"] = torch.full((n,), float(told["guidance"]))
    words = next((told[each] for each in WORDS if isinstance(told.get(each), Tensor)), None)
    for mask in MASKS:
        demanded = mask in known and known[mask].default is inspect.Parameter.empty
        if demanded and told.get(mask) is None and words is not None:
            told[mask] = torch.ones(words.shape[:2], dtype=torch.int64, device=words.device)
    return told
