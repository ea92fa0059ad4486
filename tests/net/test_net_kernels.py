"""Networks launch few kernels on an accelerator, and compute the same numbers there as on a CPU."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from counting import AutocastOfCuda, Kernels, as_on_an_accelerator, counted
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from softmix.cond import Cond, CondSpec
from softmix.denoiser import Network, SoftHead
from softmix.net import DiTSpec, MLPSpec, Net, NetSpec, SequenceSpec, UNetSpec
from softmix.net.base import SideInputs
from softmix.net.kernels import modulated, modulated_silu, normed, normed_silu
from softmix.net.unet import _doubled, _folded, _unfolded
from softmix.process import VP
from softmix.rng import Rng

F64 = torch.float64
LAST = torch.channels_last
BATCH = 6
PRESET = UNetSpec(width=64, depth=1)
# the counts do not depend on the side
SMALL = (1, 12, 12)
ALL = CondSpec(labels=(("class", 3),), context=5)
NETS: list[tuple[NetSpec, tuple[int, ...]]] = [
    (MLPSpec(16, 3, 3), (2,)),
    (UNetSpec(16, (1, 2), 2), (2, 10, 7)),
    (DiTSpec(32, 3, 2, heads=2), (2, 8, 8)),
    (SequenceSpec(16, 3), (7, 2)),
]
EACH_NET = pytest.mark.parametrize(("spec", "shape"), NETS, ids=["mlp", "unet", "dit", "sequence"])


def random(*shape: int, role: str = "x", dtype: torch.dtype = F64) -> Tensor:
    return Rng(0, shape[0], role).normal(shape, F64).to(dtype)


def seeded(spec: NetSpec, channels: int = 2, cond: CondSpec | None = None) -> Net:
    torch.manual_seed(0)
    return spec.build(channels, channels, cond or CondSpec())


def condition() -> Cond:
    mask = torch.tensor([[True, True, False]] * 2 + [[False, True, True]])
    return Cond(label=torch.tensor([1, -1, 2]), context=random(3, 3, 5, role="context"), mask=mask)


def outputs(net: Net, shape: tuple[int, ...]) -> list[Tensor]:
    """The output of a net in float64, and the gradients of x and of every weight."""
    x = random(3, *shape).requires_grad_()
    y = net(x, torch.tensor([-2.0, 0.0, 5.0], dtype=F64), condition())
    return [y, *torch.autograd.grad((y * random(*y.shape, role="along")).sum(), [x, *net.parameters()])]


def kernels_of(spec: NetSpec, shape: tuple[int, ...], backward: bool = True) -> Kernels:
    """The kernels of a network in bf16, counted with the autocast of CUDA."""
    net = seeded(spec, 1)
    x, logsnr = random(BATCH, *shape, dtype=torch.float32), torch.zeros(BATCH)
    with counted() as kernels, torch.autocast("cpu", torch.bfloat16), AutocastOfCuda():
        y = net(x, logsnr)
        if backward:
            y.backward(torch.ones_like(y))
    return kernels


# the same numbers


@EACH_NET
def test_the_forms_for_accelerators_give_the_numbers_of_the_cpu(
    spec: NetSpec, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and all gradients, with labels, and tokens of which some are masked."""
    net = seeded(spec, 2, ALL).double()
    right = outputs(net, shape)
    as_on_an_accelerator(monkeypatch)
    for name, found, expected in zip(
        ["y", "x", *dict(net.named_parameters())], outputs(net, shape), right, strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11), name


@pytest.mark.parametrize("where", ["all", "decoder", "head"])
@pytest.mark.parametrize(("spec", "shape"), NETS[1:3], ids=["unet", "dit"])
def test_a_latent_modulates_the_same_blocks_on_an_accelerator(
    spec: NetSpec, shape: tuple[int, ...], where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks before the latent take the embedding, and those after it the embedding of each draw."""
    torch.manual_seed(0)
    network = Network(VP(), spec, SoftHead(where, latent=3, local=0), shape).double()
    x, t = random(3, *shape), torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    right = network(x, t).draws(2, Rng(0, 3))
    as_on_an_accelerator(monkeypatch)
    assert torch.allclose(network(x, t).draws(2, Rng(0, 3)), right, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("how", ["subclass", "hook", "before", "no bias"])
def test_a_changed_linear_layer_of_a_modulation_is_called(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter or a hook on a modulation would be lost in one product for all blocks."""

    class Tripled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    as_on_an_accelerator(monkeypatch)
    net = seeded(DiTSpec(16, 3, 2), 2)
    x, logsnr = random(2, 2, 8, 8, dtype=torch.float32), torch.zeros(2)
    before, modulation = net(x, logsnr), net.body[1].modulation
    if how == "subclass":
        modulation.linear.__class__ = Tripled
    elif how == "hook":
        modulation.linear.register_forward_hook(lambda layer, given, out: 3 * out)
    elif how == "before":
        modulation.linear.register_forward_pre_hook(lambda layer, given: (3 * given[0],))
    else:
        nn.init.ones_(modulation.linear.weight)
        modulation.linear.bias = None
    assert float((net(x, logsnr) - before).detach().abs().max()) > 1e-3


def test_blocks_take_the_modulation_of_their_own_layer() -> None:
    """Also a block that is run alone, without the modulations of `Net.run`."""
    block = seeded(DiTSpec(16, 1, 2), 2).double().body[0]
    h, emb = random(2, 6, 16), random(2, 16, role="emb")
    parts = torch.cat(block.modulation(emb), 1)
    alone = block((h,), SideInputs(emb, emb[:, 0]))[0]
    assert torch.equal(block((h,), SideInputs(0 * emb, emb[:, 0], modulation=parts))[0], alone)


# norms


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_norm_is_computed_in_the_dtype_of_the_state(
    affine: bool, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 stays bf16 with weights in float32, also under autocast, and the weights get gradients in float32."""
    as_on_an_accelerator(monkeypatch)
    norm = nn.LayerNorm(64, elementwise_affine=affine)
    h, part = random(3, 5, 64).to(torch.bfloat16), random(3, 64, role="part").to(torch.bfloat16)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(random(64, role="w")), norm.bias.copy_(random(64, role="b"))
    right = norm.double()(h.double())
    norm.float()
    with counted() as kernels, torch.autocast("cpu", torch.bfloat16, enabled=autocast), AutocastOfCuda():
        y, z = normed(h, norm), modulated(h, norm, part, 2 * part)
    assert y.dtype == z.dtype == torch.bfloat16 and not kernels.casts(3)
    # one rounding to 8 bits of the result, and one of each weight
    assert torch.allclose(y.double(), right, rtol=2**-7, atol=2**-6)
    scale = 1 + part.double()[:, None]
    assert torch.allclose(z.double(), right * scale + 2 * part.double()[:, None], rtol=2**-6, atol=2**-4)
    if affine:
        assert norm.weight.grad is None
        y.sum().backward()
        assert norm.weight.grad is not None and norm.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("accelerator", [True, False])
@pytest.mark.parametrize("shape", [(3, 8), (3, 5, 8), (3, 4, 5, 8)], ids=str)
def test_a_modulated_norm_is_its_formula(
    shape: tuple[int, ...], accelerator: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if accelerator:
        as_on_an_accelerator(monkeypatch)
    norm, h = nn.LayerNorm(8, elementwise_affine=False), random(*shape)
    scale, shift = random(3, 8, role="scale"), random(3, 8, role="shift")
    y = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    right = torch.stack([y[k] * (1 + scale[k]) + shift[k] for k in range(3)])
    assert torch.allclose(modulated(h, norm, scale, shift), right)
    assert torch.allclose(modulated_silu(h, norm, scale, shift), right * right.sigmoid())
    assert torch.allclose(normed_silu(h, norm), y * y.sigmoid())


# layouts


def test_each_change_of_the_grid_is_one_copy_to_channels_last() -> None:
    """Doubling is nearest neighbour; folding and unfolding are torch's pixel_unshuffle and pixel_shuffle."""
    h, x = random(2, 12, 3, 5).to(memory_format=LAST), random(2, 3, 6, 10)
    right = h.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :5, :9]
    with counted() as kernels:
        doubled, folded, unfolded = _doubled(h, 5, 9), _folded(x, 2), _unfolded(h, 2)
    assert len(kernels.calls) == 3
    assert torch.equal(doubled, right) and doubled.stride()[1:] == (1, 10 * 12, 12)
    assert torch.equal(folded, nn.functional.pixel_unshuffle(x, 2)) and folded.is_contiguous(memory_format=LAST)
    assert torch.equal(unfolded, nn.functional.pixel_shuffle(h, 2)) and unfolded.is_contiguous()


@pytest.mark.parametrize("accelerator", [True, False])
def test_every_convolution_and_norm_of_a_unet_takes_channels_last(
    accelerator: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another layout would be copied inside the kernel, where no count shows it."""
    if accelerator:
        as_on_an_accelerator(monkeypatch)
    kernels = kernels_of(UNetSpec(32, (1, 2, 2), 2), SMALL)
    convolutions = [call.first for call in kernels.named("convolution")]
    norms = [call.first for call in kernels.named("native_layer_norm")]
    assert len(convolutions) == 41 and len(norms) == 30
    assert all(x is not None and x.is_contiguous(memory_format=LAST) for x in convolutions)
    assert all(x is not None and x.is_contiguous() for x in norms)
    gradients = [call.first for call in kernels.named("convolution_backward")]
    # the gradient of a concatenation is a slice of one tensor; its channels are last all the same
    assert all(g is not None and g.stride(1) == 1 for g in gradients)


# The forms for a CPU launch 426 and 489 kernels, with 73 and 65 casts of states, and 11 and 43 copies.
@pytest.mark.parametrize(
    ("spec", "most", "casts", "copies"), [(PRESET, 330, 130, 4), (DiTSpec(), 285, 75, 1)], ids=["unet", "dit"]
)
def test_a_step_of_a_preset_launches_few_kernels_on_an_accelerator(
    spec: NetSpec, most: int, casts: int, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward in bf16. The only cast of a state is that of x; the others are of weights and gradients.

    The copies of a U-Net are the stem, the doubling, the output and its gradient; that of a DiT is the stem.
    """
    as_on_an_accelerator(monkeypatch)
    kernels = kernels_of(spec, SMALL)
    assert len(kernels.calls) <= most
    assert len(kernels.casts(BATCH)) == 1
    assert len(kernels.named("_to_copy")) <= casts
    assert len(kernels.copies(BATCH)) <= copies


def test_all_modulations_are_one_matrix_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products for the noise level, and one for the six blocks."""
    as_on_an_accelerator(monkeypatch)
    assert len(kernels_of(PRESET, SMALL, backward=False).named("addmm")) == 3


def test_the_angles_of_a_sequence_are_computed_once_a_call() -> None:
    counts = []
    for depth in (1, 4):
        with counted() as kernels:
            seeded(SequenceSpec(16, depth), 2)(torch.zeros(1, 7, 2), torch.zeros(1))
        counts.append(len(kernels.named("arange")))
    assert counts == [2, 2]


# no work on the host


class _OnMeta(TorchDispatchMode):
    """Raises for a tensor with axes, or a number, that an operation puts on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, list | tuple) else (out,):
            if isinstance(each, Tensor) and each.device.type == "cpu":
                raise AssertionError(f"{func} made a tensor on the CPU")
        return out


@EACH_NET
def test_a_call_makes_nothing_on_the_host(spec: NetSpec, shape: tuple[int, ...]) -> None:
    """Each tensor on the CPU is a copy to the device, and breaks the capture of a CUDA graph; so does `item`."""
    image = CondSpec(labels=(("a", 3), ("b", 2)), values=2, context=5, image=0 if spec.axes == "D" else 1)
    grid = () if spec.axes == "D" else (7, 1) if spec.axes == "LC" else (1, *shape[1:])
    net = seeded(spec, 2, image).to("meta")
    device = torch.device("meta")
    given = Cond(
        label=torch.zeros(3, 2, dtype=torch.long, device=device),
        value=torch.zeros(3, 2, device=device),
        context=torch.zeros(3, 4, 5, device=device),
        mask=torch.ones(3, 4, dtype=torch.bool, device=device),
        image=torch.zeros(3, *grid, device=device) if grid else None,
    )
    x, logsnr = torch.zeros(3, *shape, device=device), torch.zeros(3, device=device)
    with _OnMeta():
        for cond in (None, given):
            assert net(x, logsnr, cond).shape == x.shape
            net(x, logsnr, cond).sum().backward()


# torch.compile


@pytest.mark.parametrize(("spec", "shape"), [(PRESET, SMALL), (DiTSpec(32, 2), SMALL)], ids=["unet", "dit"])
def test_a_preset_compiles_whole_and_once(
    spec: NetSpec, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No graph break (`fullgraph` raises for one), and no second compilation for new data."""
    as_on_an_accelerator(monkeypatch)
    torch._dynamo.reset()
    graphs = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    net = seeded(spec, 1).requires_grad_(False)
    compiled = torch.compile(net, backend=counting, fullgraph=True, dynamic=False)
    with torch.autocast("cpu", torch.bfloat16):
        for role in "abc":
            x, logsnr = random(2, *shape, role=role, dtype=torch.float32), random(2, role=role, dtype=torch.float32)
            assert torch.allclose(compiled(x, logsnr), net(x, logsnr))
    torch._dynamo.reset()
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
@pytest.mark.parametrize("which", ["modulated_silu", "normed_silu"])
def test_norm_modulation_and_silu_compile_to_one_kernel(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.utils import run_and_get_code

    as_on_an_accelerator(monkeypatch)
    torch._dynamo.reset()
    h, part = random(2, 49, 64).to(torch.bfloat16), random(2, 64, role="part").to(torch.bfloat16)
    given: tuple[Any, ...] = (h, nn.LayerNorm(64, elementwise_affine=which == "normed_silu"))
    given += (part, part) if which == "modulated_silu" else ()
    function = {"modulated_silu": modulated_silu, "normed_silu": normed_silu}[which]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, code = run_and_get_code(torch.compile(function, fullgraph=True), *given)
        assert torch.allclose(y, function(*given), rtol=2**-6, atol=2**-5)
    torch._dynamo.reset()
    # each kernel is written once, as a string for the compiler
    assert " ".join(code).count("async_compile.cpp") == 1
