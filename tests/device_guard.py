"""Put the tensors of tests on a device, and find library code that makes tensors on the wrong one.

`OnDevice(device)` is a mode for torch functions. A factory call without a device, such as `torch.zeros(3)`, has two
possible callers:

* A test: the tensor is made on `device`.
* The library (a file below src/softmix): torch decides, so the tensor is made on the CPU. On another device this is a
  fault, because the tensor is then combined with data on `device`. With `refuse=True` the call raises `NoDeviceError`
  at once. So the fault is also found if `device` is the CPU.

A module that a test builds is made on `device`, with its tensors, as under `with torch.device(device)`.

A tensor without axes is allowed: torch combines a CPU scalar with data on any device. The tensors of a module that the
library builds are allowed too: they move with the module. `ALLOWED` lists the functions of the library that make other
tensors on the CPU on purpose, with the reason. `torch.from_numpy` is not a factory call for torch, so it is not seen.

`Rng` takes its device as an argument with the default "cpu", and `sample` takes it from the weights of the denoiser.
`on_device` replaces the default "cpu", and the CPU for a denoiser without weights, for calls of tests only.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

import softmix
from softmix.denoiser import Denoiser
from softmix.rng import Rng

LIBRARY = Path(softmix.__file__).parent
drive = importlib.import_module("softmix.sampler.drive")  # the package has a function of this name
TORCH = str(Path(torch.__file__).parent)
# it is optional, and its import is slow
DIFFUSERS = next(iter(getattr(importlib.util.find_spec("diffusers"), "submodule_search_locations", None) or ()), None)
FACTORIES = frozenset(_device_constructors())

# (file, function): the reason. "*" stands for every function of the file.
ALLOWED: dict[tuple[str, str], str] = {
    ("rng/stream.py", "Rng.__init__"): "the item numbers move to the device in the next line",
    ("process/grid.py", "*"): "a grid is a short list of times in float64; samplers read it one time after the other",
    (
        "evaluate/classifier.py",
        "Classifier.__init__",
    ): "it is built on the CPU, so that its first weights are the same for every device, and then moved",
    ("cli/common.py", "_require_draws"): "a trial of a model that a command has just loaded, on the CPU",
    ("cli/edit.py", "*"): "an edit runs on the CPU",
    ("cli/picture_in.py", "*"): "a picture from a file; `restore` moves it to the model, and an edit runs on the CPU",
    ("cli/evaluate_runs.py", "*"): "labels of a command, for a trial on the CPU",
    ("cli/repeat_picture.py", "*"): "a trial of a model that a command has just loaded, on the CPU",
    ("cli/sample.py", "Sample._labels"): "labels of a command; `sample` moves them to the data",
    ("cli/guidance_interval.py", "*"): "noise levels of a grid, to compare with two numbers",
    ("hub/beta_timesteps.py", "*"): "the times of a schedule are a short list, as in process/grid.py",
    ("hub/cond_keywords.py", "*"): "move_arguments moves the keywords to the data in the next line",
    ("hub/drawing.py", "*"): "labels of a command; `sample` moves them to the data",
    ("hub/flow_timesteps.py", "*"): "the times of a schedule are a short list, as in process/grid.py",
    ("hub/model_conventions.py", "*"): "the table of a process; `Table` reads it at the times",
    ("hub/sampler_run.py", "*"): "the trial run of one number, which finds the times of a schedule",
    ("hub/sigma_spacing.py", "*"): "the times of a schedule are a short list, as in process/grid.py",
    ("hub/softmix_model.py", "betas_of"): "the table of a process",
    ("hub/softmix_pipeline.py", "*"): "labels of a call; `sample` moves them to the data",
    ("hub/softmix_scheduler.py", "*"): "the times of a schedule are a short list, as in process/grid.py",
    ("net/embedding.py", "Embedding.__init__"): "a buffer: it moves with the module",
    ("data/toys.py", "*"): "the parameters of a law, in float64; its methods move them to the data",
    ("oracle/compare.py", "order"): "a few Python numbers",
    ("oracle/mixture.py", "gaussian"): "the parameters of a law",
    ("oracle/paired.py", "PairedProblem._matrix"): "the parameters of a law",
    ("oracle/target.py", "*"): "the parameters of a law",
    ("oracle/tokens.py", "tokens"): "the parameters of a law",
    ("process/basis.py", "cosine"): "a constant of a process; `InBasis` moves it to the data",
    ("sampler/pndm.py", "chain"): "a grid of times, as in process/grid.py",
}

# diffusers makes its tensors where torch decides: the tables of a scheduler are on the CPU
OTHER = "diffusers"

# The rooms of functions that build a module, such as `UNetSpec.build`.
BUILDERS = ("net/", "denoiser/")


class NoDeviceError(AssertionError):
    """The library made a tensor without a device."""


class OnDevice(TorchFunctionMode):
    """Make the tensors of tests on `device`; with `refuse`, raise if the library makes one without a device."""

    def __init__(self, device: torch.device, refuse: bool = False):
        super().__init__()
        self.device, self.refuse = device, refuse

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in FACTORIES or kwargs.get("device") is not None or any(isinstance(arg, Tensor) for arg in args):
            return func(*args, **kwargs)
        frame = sys._getframe(1)
        if caller_file(frame) == OTHER and not built_by_a_test(frame):
            return func(*args, **kwargs)
        origin = library_caller(frame)
        if origin is None or built_by_a_test(frame):
            return self._for_a_test(func, args, kwargs)
        made = func(*args, **kwargs)
        refused = self.refuse and isinstance(made, Tensor) and made.ndim and not allowed(*origin[:2])
        if refused and not builds_a_module(frame):
            file, function, line = origin
            raise NoDeviceError(
                f"{file}:{line}, {function}: {func.__name__} makes a tensor of shape {list(made.shape)} without a "
                "device; give the device of the data, or add the function to ALLOWED in tests/device_guard.py"
            )
        return made

    def _for_a_test(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(kwargs.get("generator"), torch.Generator):
            # torch makes the numbers on the device of the generator.
            return func(*args, **kwargs).to(self.device)
        return func(*args, **{**kwargs, "device": self.device})


def library_caller(frame: FrameType | None) -> tuple[str, str, int] | None:
    """File, function and line of the innermost caller, if it is in the library; None for a caller in a test.

    Files of torch and this file are skipped. Other packages count as tests.
    """
    while frame is not None:
        file = library_file(frame.f_code.co_filename)
        if file is not None:
            inside = file not in ("", OTHER)
            return (file, frame.f_code.co_qualname.split(".<")[0], frame.f_lineno) if inside else None
        frame = frame.f_back
    return None


def caller_file(frame: FrameType | None) -> str | None:
    """`library_file` of the innermost caller outside of torch."""
    while frame is not None:
        file = library_file(frame.f_code.co_filename)
        if file is not None:
            return file
        frame = frame.f_back
    return None


@cache
def library_file(path: str) -> str | None:
    """The path below src/softmix; "" for a file of a test, OTHER for diffusers, None for torch and for this file."""
    if path == __file__ or path.startswith((TORCH, "<")):
        return None
    if DIFFUSERS is not None and path.startswith(f"{DIFFUSERS}/"):
        return OTHER
    return Path(path).relative_to(LIBRARY).as_posix() if LIBRARY in Path(path).parents else ""


def allowed(file: str, function: str) -> bool:
    """Whether a function of the library may make a tensor without a device."""
    return bool({(file, function), (file, "*")} & ALLOWED.keys())


def builds_a_module(frame: FrameType | None) -> bool:
    """Whether the call is inside the constructor of a module."""
    return outermost_constructor(frame) is not None


def built_by_a_test(frame: FrameType | None) -> bool:
    """Whether a test builds the module under construction, itself or by functions of `BUILDERS`.

    This is as under `with torch.device(...)`.
    """
    constructor = outermost_constructor(frame)
    outer = None if constructor is None else constructor.f_back
    while outer is not None:
        file = library_file(outer.f_code.co_filename)
        if file is not None and not file.startswith(BUILDERS):
            return file == ""
        outer = outer.f_back
    return False


def outermost_constructor(frame: FrameType | None) -> FrameType | None:
    """The frame of the outermost constructor of a module around the call; None outside of all constructors."""
    found = None
    while frame is not None:
        # diffusers wraps constructors in functions of the other name
        if frame.f_code.co_name in ("__init__", "inner_init") and isinstance(frame.f_locals.get("self"), nn.Module):
            found = frame
        frame = frame.f_back
    return found


@contextmanager
def on_device(device: torch.device, refuse: bool = False) -> Iterator[None]:
    """Inside, tests make their tensors and their `Rng` on `device`."""
    plain, of_weights = Rng.__init__, drive.device_of

    def init(self: Rng, *args: Any, **kwargs: Any) -> None:
        if len(args) < 4 and "device" not in kwargs and library_caller(sys._getframe(1)) is None:
            kwargs["device"] = device
        plain(self, *args, **kwargs)

    def sample_device(denoiser: Denoiser) -> torch.device:
        of_a_test = library_caller(sys._getframe(2)) is None and not hasattr(denoiser, "parameters")
        return device if of_a_test else of_weights(denoiser)

    Rng.__init__ = init  # type: ignore[method-assign]
    drive.device_of = sample_device  # type: ignore[attr-defined]
    try:
        with OnDevice(device, refuse):
            yield
    finally:
        Rng.__init__ = plain  # type: ignore[method-assign]
        drive.device_of = of_weights  # type: ignore[attr-defined]
