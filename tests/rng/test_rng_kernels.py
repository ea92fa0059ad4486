"""The Triton kernels of `Rng`: by Triton's interpreter on the CPU, and on a card if there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from softmix.rng import Rng, cuda, plain

REALS = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
# items: one, several, and the ends of the range. Counts: none, one, odd, even, and more than a program computes
NUMBERS = [[0], [1, 2, 3], [-5, 2**62, -(2**63), 2**63 - 1, 7]]
WORDS = [0, 1, 16, -3, 2**31, 2**63 - 1, -(2**63), 123456789123456789]
# items of which the first uniform number of word 1 lies in the middle of two neighbours of bfloat16
TIES = [143504, 276041]
COUNTS = [0, 1, 2, 3, 7, 16, 33, 1023]

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def computed(file: Any, device: str = "cpu") -> dict[str, Tensor]:
    """The results of all functions for all cases."""
    results: dict[str, Tensor] = {}
    for i, numbers in enumerate(NUMBERS):
        items = torch.tensor(numbers, device=device)
        for word in WORDS:
            keys = file.item_keys(items, word)
            results[f"item_keys {i} {word}"] = keys
            results[f"child_keys {i} {word}"] = file.child_keys(keys, word)
            for count in COUNTS if word == WORDS[-1] else (3,):
                results[f"words {i} {word} {count}"] = file.words(keys, word, count)
                for name, dtype in REALS.items():
                    results[f"uniforms {i} {word} {count} {name}"] = file.uniforms(keys, word, count, dtype)
                    results[f"normals {i} {word} {count} {name}"] = file.normals(keys, word, count, dtype)
    ties = file.item_keys(torch.tensor(TIES, device=device), 1)
    results["uniforms ties"] = file.uniforms(ties, 1, 1, torch.bfloat16)
    return results


def test_the_ties_lie_between_two_neighbours() -> None:
    bits = plain.uniforms(plain.item_keys(torch.tensor(TIES), 1), 1, 1, torch.float32)[:, 0].view(torch.int32)
    assert (bits & 0xFFFF).tolist() == [0x8000, 0x8000] and ((bits >> 16) & 1).tolist() == [1, 0]


def assert_as_the_plain_ones(results: dict[str, Tensor]) -> None:
    """Integers and uniforms bit for bit. Normals to 2e-6 in float32 (measured in the interpreter: 5e-7)."""
    right = computed(plain)
    assert results.keys() == right.keys() and len(right) > 400
    for name, value in results.items():
        assert value.dtype == right[name].dtype and value.shape == right[name].shape, name
        if not name.startswith("normals"):
            assert torch.equal(value.cpu(), right[name]), name
            continue
        # a step of a half type may lie between two values that are equal but for rounding
        within = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(value.dtype, 2e-6)
        difference = (value.cpu().double() - right[name].double()).abs()
        assert (difference <= within * right[name].double().abs().clamp(min=1)).all(), name


@needs_triton
def test_the_interpreted_kernels_give_the_plain_numbers(tmp_path: Path) -> None:
    """In a process of its own, since the interpreter is chosen when triton is imported."""
    script = """
        import sys, warnings
        import torch
        from safetensors.torch import save_file
        # an overflow that numpy reports would be one that the interpreter does not wrap
        warnings.simplefilter("error", RuntimeWarning)
        from tests.rng.test_rng_kernels import computed
        from softmix.rng import kernels
        save_file(computed(kernels), sys.argv[1])
    """
    file, root = tmp_path / "results.safetensors", Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert_as_the_plain_ones(load_file(file))


@needs_triton
@pytest.mark.parametrize("word", ["i32", "i64"])
def test_the_kernels_compile_for_a_card(word: str) -> None:
    """Triton compiles for a card that is not there. The interpreter accepts names that the compiler refuses."""
    from triton.backends.compiler import GPUTarget  # type: ignore[import-not-found,unused-ignore]
    from triton.compiler import ASTSource  # type: ignore[import-not-found,unused-ignore]
    from triton.compiler import compile as compiled

    from softmix.rng import kernels

    def check(kernel: Any, numbers: dict[str, str], **constants: Any) -> None:
        constants["BLOCK"] = kernels.BLOCK
        signature = {**numbers, **dict.fromkeys(constants, "constexpr")}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        assert compiled(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

    keys = {"keys": "*i64", "out": "*i64", "draw": word, "n": "i32"}
    for numbers in (True, False):
        check(kernels._keys_kernel, {"source": "*i64", "out": "*i64", "word": word, "n": "i32"}, NUMBERS=numbers)
    check(kernels._words_kernel, {**keys, "count": "i32"})
    for out, float64, bf16 in (("*fp64", True, False), ("*fp32", False, False), ("*i16", False, True)):
        check(kernels._uniforms_kernel, {**keys, "out": out, "count": "i32"}, FLOAT64=float64, BF16=bf16)
    for out, bf16 in (("*fp32", False), ("*fp16", False), ("*i16", True)):
        check(kernels._normals_kernel, {**keys, "out": out, "half": "i32", "count": "i32"}, BF16=bf16)


@needs_cuda
def test_the_numbers_on_a_card_are_those_of_the_cpu() -> None:
    results: dict[str, Tensor] = computed(
        SimpleNamespace(
            **{
                name: lambda *arguments, name=name: cuda.computed(name, *arguments)
                for name in ("item_keys", "child_keys", "words", "uniforms", "normals")
            }
        ),
        "cuda",
    )
    assert_as_the_plain_ones(results)


@needs_cuda
@needs_triton
def test_a_card_uses_the_kernels_without_a_warning() -> None:
    cuda._works.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Rng(0, 3, "x", "cuda").normal((3, 4))
    assert list(cuda._works.values()) == [True]


@needs_cuda
def test_a_draw_is_part_of_a_cuda_graph() -> None:
    """A replay computes the numbers of the items that are then in the static buffer.

    The tolerance is that of `assert_as_the_plain_ones`.
    """
    items = torch.arange(5, device="cuda")
    Rng(0, items, "x", "cuda").normal((5, 7))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        z = Rng(0, items, "x", "cuda").normal((5, 7))
    for first in (0, 100):
        items.copy_(torch.arange(first, first + 5))
        graph.replay()
        right = Rng(0, range(first, first + 5), "x", "cpu").normal((5, 7))
        assert ((z.cpu() - right).abs() <= 2e-6 * right.abs().clamp(min=1)).all()


KEYS = torch.tensor([3, -1])


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial was made yet, and triton can be imported."""
    monkeypatch.setattr(cuda, "_works", {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def kernels(monkeypatch: pytest.MonkeyPatch, **replaced: Any) -> SimpleNamespace:
    """In the place of the kernels: the plain functions, except for those given."""
    file = SimpleNamespace(**{**vars(plain), **replaced})
    monkeypatch.setattr(cuda, "_kernels", lambda: file)
    return file


def raising(error: Exception) -> Any:
    def fail(*arguments: Any) -> Tensor:
        raise error

    return fail


def test_kernels_that_work_are_used(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, uniforms=lambda *arguments: torch.tensor([7.0]))
    assert cuda.computed("uniforms", KEYS, 1, 3, torch.float32).tolist() == [7.0]


@pytest.mark.parametrize("name", ["item_keys", "child_keys", "words", "normals"])
def test_kernels_with_wrong_numbers_are_not_used(untried: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kernels(monkeypatch, **{name: lambda *arguments: getattr(plain, name)(*arguments) + 1})
    with pytest.warns(UserWarning, match="its numbers are wrong"):
        assert torch.equal(cuda.computed("words", KEYS, 1, 3), plain.words(KEYS, 1, 3))


def test_a_kernel_that_fails_is_replaced_with_one_warning(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, uniforms=raising(RuntimeError("no compiler")))
    arguments = (KEYS, 1, 3, torch.float32)
    with pytest.warns(UserWarning, match="Triton kernel failed there .RuntimeError: no compiler"):
        assert torch.equal(cuda.computed("uniforms", *arguments), plain.uniforms(*arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cuda.computed("uniforms", *arguments), plain.uniforms(*arguments))


def test_a_lack_of_memory_is_no_failure_of_a_kernel(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, uniforms=raising(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        cuda.computed("uniforms", KEYS, 1, 3, torch.float32)
    assert cuda._works == {KEYS.device: True}


def test_without_triton_torch_computes_in_silence(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    kernels(monkeypatch, words=raising(AssertionError("used")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cuda.computed("words", KEYS, 1, 3), plain.words(KEYS, 1, 3))


def test_there_is_no_trial_while_a_graph_is_captured(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, words=raising(AssertionError("used")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.equal(cuda.computed("words", KEYS, 1, 3), plain.words(KEYS, 1, 3))
    assert cuda._works == {}


def test_the_import_of_softmix_does_not_import_triton() -> None:
    code = (
        "import sys, softmix.rng; softmix.rng.Rng(0, 2).normal((2, 3)); assert 'softmix.rng.kernels' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
