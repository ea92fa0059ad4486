"""A second device without hardware: `torch.device("pretend")`.

`install()` compiles tests/pretend_device.cpp (half a minute, once for each version of the file and of torch) and makes
the device known to torch. Its tensors hold real values in the memory of the host. torch.accelerator reports it, so
`softmix.train.make.find_device` returns it. An operation on it gives the numbers of the CPU. It raises where CUDA
raises:

* a CPU tensor beside a tensor of the device. A CPU tensor without axes is allowed in elementwise operations, and CPU
  indices are allowed in `x[index]`. `copy_` and `to` copy between the devices;
* `.numpy()` and `numpy.asarray` of a tensor of the device;
* a generator of the CPU for a tensor of the device.

The device has a random state of its own. Backward passes run in a thread of the device, as on CUDA. Autocast follows
torch's lists for accelerators.

It does not show: a race (all work is synchronous), a limit of memory, the speed of a device, and a difference of
rounding. `NOT_HERE` lists the tests that cannot run on it, with the reasons.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

NAME = "pretend"
SOURCE = Path(__file__).with_suffix(".cpp")
HEADER = SOURCE.with_name("pretend_call.h")

# (the end of a test's file, the beginning of its name): the reason. It is no fault of the library.
NOT_HERE: dict[tuple[str, str], str] = {
    (
        "conformance/test_conform_conditions.py",
        "test_an_unknown_class_is_refused_with_the_name_of_its_label",
    ): "labels on an accelerator are not checked, since the check would wait for the accelerator",
    (
        "net/test_net_attention.py",
        "test_the_fused_attention_is_the_written_out_one",
    ): "torch has no fused kernel of attention for it",
    (
        "hub/test_hub_model_calls.py",
        "test_a_denoiser_equals_a_direct_call_of_its_model[AnyFlow",
    ): "the model calls FlexAttention, which refuses other devices than a GPU and a CPU",
    ("train/test_train_device.py", ""): "it replaces the accelerator by the device meta",
    ("sampler/test_sampler_device.py", ""): "it uses the device meta",
    ("cli/test_cli_device.py", ""): "it replaces the accelerator by the device meta",
}


class NoCompilerError(RuntimeError):
    """The device cannot be built on this machine."""


def install() -> torch.device:
    """Make the device known to torch, and return it. A second call does nothing.

    Raises NoCompilerError without a C++ compiler, or if the compiler fails.
    """
    if getattr(torch, NAME, None) is None:
        torch.ops.load_library(str(compiled()))
        torch.utils.rename_privateuse1_backend(NAME)
        torch._register_device_module(NAME, device_module())
        torch.utils.generate_methods_for_privateuse1_backend()
    return torch.device(NAME)


def compiled() -> Path:
    """The compiled library of the device. It stays in the folder of temporary files."""
    key = hashlib.sha256(SOURCE.read_bytes() + HEADER.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"softmix-pretend-{key}.so"
    with open(library.with_suffix(".lock"), "w") as lock:  # several processes of pytest-xdist start at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.is_file():
            compile_library(library)
    return library


def compile_library(library: Path) -> None:
    """Compile the source. The file appears only when it is whole."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise NoCompilerError("the device 'pretend' needs a C++ compiler, and neither c++ nor g++ is on the path")
    folder = Path(torch.__file__).parent
    include = [f"-I{folder / 'include'}", f"-I{folder / 'include/torch/csrc/api/include'}"]
    unfinished = library.with_suffix(".part")
    command = [compiler, "-std=c++20", "-O1", "-fPIC", "-shared", "-w", *include, str(SOURCE), "-o", str(unfinished)]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    result = subprocess.run(
        [*command, abi, f"-L{folder / 'lib'}", "-lc10", "-ltorch_cpu"], capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line]
        raise NoCompilerError(
            f"the device 'pretend' did not compile with {compiler} and torch {torch.__version__}: {lines[:3]}"
        )
    unfinished.rename(library)


def device_module() -> types.ModuleType:
    """The module `torch.pretend`, with the functions that torch calls for every accelerator."""
    module = types.ModuleType(f"torch.{NAME}")

    @contextmanager
    def device(index: object) -> Iterator[None]:
        yield

    def get_rng_state(device: object = NAME) -> Tensor:
        state: Tensor = torch.ops.pretend.default_state()
        return state

    def set_rng_state(state: Tensor, device: object = NAME) -> None:
        torch.ops.pretend.set_default_state(state)

    def manual_seed_all(seed: int) -> None:
        torch.ops.pretend.seed_default(seed % 2**63)

    functions = {
        "device": device,
        "get_rng_state": get_rng_state,
        "set_rng_state": set_rng_state,
        "manual_seed_all": manual_seed_all,
        "manual_seed": manual_seed_all,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda index: None,
        "synchronize": lambda index=None: None,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "_is_in_bad_fork": lambda: False,
    }
    for name, function in functions.items():
        setattr(module, name, function)
    return module
