"""The integers of `Rng` against a written-out SplitMix64, and every form of its functions against the plain one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from softmix.rng import Rng, cpu, plain

MASK = (1 << 64) - 1
KEYS = torch.tensor([0, 1, -1, 2**62, -(2**63), 2**63 - 1, 123456789123456789])
DRAWS = (0, 1, -7, 2**63 - 1, -(2**63), 987654321987654321)
REALS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def signed(z: int) -> int:
    return z - (1 << 64) if z >> 63 else z


def step_of_splitmix(key: int, draw: int, k: int) -> int:
    return signed(mixed((mixed((key + draw) & MASK) + k * 0x9E3779B97F4A7C15) & MASK))


def word(*parts: object) -> int:
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def key_of(seed: int, item: int, role: str) -> int:
    return mixed(mixed((item * 0x9E3779B97F4A7C15) & MASK) ^ word(seed, role))


@pytest.mark.parametrize("file", [plain, cpu], ids=["plain", "cpu"])
def test_words_are_the_steps_of_splitmix(file: type[plain]) -> None:
    for draw in DRAWS:
        right = [[step_of_splitmix(key, draw, k) for k in range(1, 6)] for key in KEYS.tolist()]
        assert file.words(KEYS.cpu(), draw, 5).tolist() == right


@pytest.mark.parametrize("seed", [0, -3, 2**70])
@pytest.mark.parametrize("role", ["", "noise"])
def test_the_bits_of_an_item_are_a_function_of_seed_role_item_and_draw(seed: int, role: str) -> None:
    """A saved run relies on these bits: they may never change."""
    items = [0, 5, -2, 2**62]
    rng = Rng(seed, items, role)
    for draw in (1, 2):
        start = word("draw", draw)
        right = [[step_of_splitmix(key_of(seed, item, role), start, k) for k in (1, 2, 3)] for item in items]
        assert rng.bits((4, 3)).tolist() == right
    child = rng.child("a")
    right = [step_of_splitmix(mixed(key_of(seed, item, role) ^ word("a")), word("draw", 1), 1) for item in items]
    assert child.bits((4, 1))[:, 0].tolist() == right


@pytest.fixture(params=["one block", "small blocks", "several threads"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The three ways of cpu.py: all words at once, blocks of eight, and left to torch."""
    if request.param == "small blocks":
        monkeypatch.setattr(cpu, "BLOCK", 8)
        monkeypatch.setattr(cpu, "_scratch", cpu._Scratch())
    if request.param == "several threads":
        monkeypatch.setattr(cpu, "BLOCK", 1)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    yield request.param


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 16, 33, 100])
def test_the_numbers_of_the_cpu_are_the_plain_ones_bit_for_bit(form: str, count: int) -> None:
    keys = KEYS.cpu()
    assert torch.equal(cpu.words(keys, 5, count), plain.words(keys, 5, count))
    for dtype in REALS:
        for name in ("uniforms", "normals"):
            found, right = (getattr(file, name)(keys, 5, count, dtype) for file in (cpu, plain))
            assert found.dtype == right.dtype == dtype and torch.equal(found, right)


def test_many_words_are_computed_in_blocks_and_equal_the_plain_ones() -> None:
    """More words than a block has, in one item and in many."""
    for n, count in ((1, 2 * cpu.BLOCK + 6001), (cpu.BLOCK // 50, 150)):
        keys = plain.item_keys(torch.arange(n, device="cpu"), 3)
        assert torch.equal(cpu.normals(keys, 9, count, torch.float32), plain.normals(keys, 9, count, torch.float32))


def box_and_muller(bits: Tensor, count: int) -> Tensor:
    upper, lower = ((bits >> 32) & 0xFFFFFFFF).double(), (bits & 0xFFFFFFFF).double()
    radius = ((upper + 0.5) / 2**32).log().mul(-2).sqrt()
    angle = lower * (2 * math.pi / 2**32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count]


def test_normals_follow_their_equation() -> None:
    """In float64 to 1e-14, in float32 to 4e-6 (measured below 2e-6): a float32 angle has an error of 2.4e-7."""
    keys = plain.item_keys(torch.arange(40, device="cpu"), 3)
    right = box_and_muller(plain.words(keys, 9, 51), 101)
    assert (cpu.normals(keys, 9, 101, torch.float64) - right).abs().max() < 1e-14
    assert (cpu.normals(keys, 9, 101, torch.float32).double() - right).abs().max() < 4e-6


def test_uniforms_are_the_centres_of_cells() -> None:
    bits = plain.words(KEYS, 9, 11)
    right = [[((z & MASK) >> 12) * 2.0**-52 + 2.0**-53 for z in row] for row in bits.tolist()]
    assert cpu.uniforms(KEYS.cpu(), 9, 11, torch.float64).tolist() == right


def test_draws_have_no_memory_in_common() -> None:
    rng = Rng(0, 3)
    first, copy = rng.normal((3, 5)), Rng(0, 3).normal((3, 5))
    rng.normal((3, 5))
    assert torch.equal(first, copy)
    bits = rng.bits((3, 5))
    before = bits.clone()
    rng.bits((3, 5))
    assert torch.equal(bits, before)


def test_numbers_without_data_have_shape_and_type() -> None:
    """A compiler works with fake tensors, of which numpy knows nothing."""
    with FakeTensorMode():
        rng = Rng(0, 3, "x")
        assert rng.normal((3, 5), torch.bfloat16).shape == (3, 5) and rng.child("y").bits((3, 2)).dtype == torch.int64
