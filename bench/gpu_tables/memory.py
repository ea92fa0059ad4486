"""Memory: the peak of a training, and the batch that `sample` ends with when the first is too large."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import torch
from throughput import smd, soft, trainer

import softmix
from softmix.sampler import sample

from .contract import Bench, Row, Table

# the memory that the tensors may take when `sample` is given too large a batch, in bytes
LIMIT = 2 * 10**9


def memory(bench: Bench) -> Iterator[Row]:
    """The peak memory of tensors in training, and the batch of `sample` in little memory."""
    if not bench.gpu:
        yield {"row": "no GPU: torch counts the memory of tensors on GPUs alone"}
        return
    for batch in bench.batches:
        base = bench.config(batch)
        for name, config, second in (
            ("plain", base, False),
            ("smd, second part", smd(base), True),
            ("energy score, decoder, m = 8", soft(base, "decoder", 8), False),
        ):
            bench.free()
            torch.cuda.reset_peak_memory_stats()
            made = trainer(config, second=second)
            for _ in range(3):
                made.advance()
            peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            yield {"row": name, "batch": batch, "peak, GB": peak / 1e9, "reserved, GB": reserved / 1e9}
            del made
    yield little_memory(bench)


def little_memory(bench: Bench) -> Row:
    """`sample` with a batch that does not fit: its last batch, and whether the images are those of a small batch."""
    total = torch.cuda.get_device_properties(bench.device).total_memory
    model, n = softmix.load("fashion"), 32_768
    denoiser = model.denoiser.to(bench.device)

    def draw(count: int, batch: int) -> torch.Tensor:
        return sample(denoiser, count, 1, sampler=model.sampler, batch=batch, device=bench.device)

    bench.free()
    # tensors that are there already do not count
    allowed = (LIMIT + torch.cuda.memory_allocated(bench.device)) / total
    # this function of torch refuses a device without a number
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed), torch.cuda.current_device())
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x = draw(n, n)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, torch.cuda.current_device())
    numbers = [re.search(r"now (\d+)", str(each.message)) for each in caught]
    found = [int(match[1]) for match in numbers if match]
    apart = float((x[:256] - draw(256, 256)).abs().max())
    return {
        "row": f"sample, {LIMIT / 1e9:g} GB allowed",
        "batch": n,
        "ends with batch": found[-1] if found else n,
        "apart from batch 256": apart,
    }


TABLES = {
    "memory": Table("Memory", "Peak memory of tensors (torch.cuda.max_memory_allocated), 28 x 28, bf16.", memory, 60)
}
