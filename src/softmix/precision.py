"""Ground floor: the precision of float32 products on a GPU, and autocast around a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class _Setting:
    """A setting of torch that decides the precision of float32 products, for the whole process.

    values : the value for full float32, and the one for TF32.
    """

    read: Callable[[], Any]
    write: Callable[[Any], None]
    values: tuple[Any, Any]


def _attribute(owner: Any, name: str, full: Any, tf32: Any) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), (full, tf32))


def _settings() -> list[_Setting]:
    """The settings, in the order in which they are written.

    The two older settings come first. torch raises an error when one of them is read while the newer ones differ from
    it, and torch.compile reads them.
    """
    backends = torch.backends
    older = [
        _attribute(backends.cudnn, "allow_tf32", False, True),
        _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, ("highest", "high")),
    ]
    owners = [(backends.cuda, "matmul"), (backends.cudnn, "conv"), (backends.cudnn, "rnn")]
    owners += [(backends.mkldnn, "matmul"), (backends.mkldnn, "conv")]
    # torch has the newer settings from version 2.9 on; a CPU has no TF32
    parts = [(getattr(owner, part, None), owner is backends.mkldnn) for owner, part in owners]
    newer = [
        _attribute(part, "fp32_precision", "ieee", "ieee" if on_cpu else "tf32")
        for part, on_cpu in parts
        if hasattr(part, "fp32_precision")
    ]
    return older + newer


class _Switch:
    """Writes the settings while some thread asks for it, and restores them when none does.

    The settings hold for the whole process. If two threads ask for different precisions, full float32 holds for both.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[bool] = []
        self._saved: list[tuple[_Setting, Any]] = []

    @contextmanager
    def on(self, tf32: bool) -> Iterator[None]:
        with self._lock:
            if not self._asked:
                self._saved = [(each, value) for each in _settings() if (value := _read(each)) is not None]
            self._asked.append(tf32)
            self._write()
        try:
            yield
        finally:
            with self._lock:
                self._asked.remove(tf32)
                self._write()

    def _write(self) -> None:
        tf32 = all(self._asked)
        for setting, before in self._saved:
            setting.write(setting.values[tf32] if self._asked else before)


def _read(setting: _Setting) -> Any:
    """The value, or None if torch refuses to tell it, because the caller has mixed older and newer settings."""
    try:
        return setting.read()
    except RuntimeError:
        return None


_SWITCH = _Switch()


@contextmanager
def full_fp32() -> Iterator[None]:
    """A context, or a decorator, in which products and convolutions of float32 have all 24 bits, on a GPU too.

    By default torch rounds the inputs of a float32 convolution on a GPU to the 11 bits of TF32. Inside, TF32 is off;
    outside, the settings of the caller hold again. They hold for the whole process, so that another thread computes
    more precisely in the meantime, and never more coarsely.

    When to choose: around every computation whose number is printed, compared or saved.
    """
    with _SWITCH.on(False):
        yield


@contextmanager
def computing(precision: Precision, device: torch.device, network: object = None) -> Iterator[None]:
    """The context in which a network is evaluated with this precision.

    precision :
        "fp32" : float32 with all 24 bits, without TF32.
        "tf32" : float32, but a GPU rounds the inputs of products and convolutions to 11 bits. No effect on a CPU.
        "bf16" : autocast with 8 bits.
        "fp16" : autocast with 11 bits and a largest number of 65504, for GPUs without bf16.
    device : of the network.
    network : each weight of this module is converted once, and not at every call. A denoiser that is no module is
        searched for the module inside (`inner`).

    Enter it once around all calls: the converted weights are dropped when it ends.
    Raises ValueError for another precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"the precision {precision!r} was asked for; there are {', '.join(get_args(Precision))}")
    with ExitStack() as stack:
        stack.enter_context(_SWITCH.on(precision == "tf32"))
        # an autocast of the caller is switched off, so that the name of the precision always holds
        half = _HALF.get(precision)
        stack.enter_context(torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None))
        if half is not None:
            stack.enter_context(_convertible_once(network))
        yield


@contextmanager
def _convertible_once(network: object) -> Iterator[None]:
    """Mark the weights of a network, so that autocast keeps their converted copies.

    Autocast keeps the copy of a weight that requires a gradient, and converts any other weight at every call.
    """
    weights = [weight for weight in _parameters(network) if _is_unmarked(weight)]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _is_unmarked(weight: nn.Parameter) -> bool:
    return weight.dtype == torch.float32 and not weight.requires_grad and not weight.is_inference()


def _parameters(network: object) -> list[nn.Parameter]:
    while network is not None and not isinstance(network, nn.Module):
        network = vars(network).get("inner") if hasattr(network, "__dict__") else None
    return [] if network is None else list(network.parameters())


def without_autocast(device: torch.device) -> torch.autocast:
    """A context in which autocast rounds nothing: for statistics, which have to stay in float32."""
    return torch.autocast(device.type, enabled=False)
