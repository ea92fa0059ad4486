"""`softmix evaluate` of models of tokens: bits per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .common import UsageError, option
from .run_data import training_data, with_held_out

if TYPE_CHECKING:
    from ..train import Model
    from .evaluate import Evaluate

# the masked versions of an item
DRAWS = 16


def evaluate_tokens(asked: Evaluate, models: Sequence[Model]) -> None:
    """Print the bound on the bits per token of held-out items, with its standard error, for each model.

    Raises UsageError for options of other measurements: no samples are drawn, and no report is written.
    """
    import torch

    from ..info import bits_per_token
    from ..precision import computing
    from ..rng import Rng
    from ..train import find_device

    for name in asked.given("steps", "sampler", "eta", "grid", "average", "out"):
        raise UsageError(
            f"{option(name)} was asked for; models of tokens are measured by the bits of held-out items, without "
            "samples and without a report: leave it out"
        )
    if asked.features != "auto":
        raise UsageError(f"--features {asked.features} was asked for; it is for images: leave it out")
    train, held_out, origin = with_held_out(training_data(asked.run, asked.data, "evaluate"))
    n = min(asked.n or len(held_out), len(held_out))
    if held_out.alphabet != train.alphabet or held_out.vocabulary != train.vocabulary:
        raise UsageError(f"the held-out items of {train.name} have other symbols than its training items")
    if asked.dry_run:
        print(f"bits per token of {n} items, {origin}, with {DRAWS} masked versions of each")
        return
    x0, cond = held_out.batch(torch.arange(n, device="cpu"), Rng(asked.seed, n, "items"))
    device = find_device()
    for model in models:
        spec = model.denoiser.cond
        given = None if cond is None or not spec.parts else cond.only(spec.parts).to(device)
        model.denoiser.to(device)
        with computing(asked.precision or "fp32", device, model.denoiser):
            bits = bits_per_token(model.denoiser, x0.to(device), Rng(asked.seed, n, "bits", device), DRAWS, given)
        error = float(bits.std() / n**0.5) if n > 1 else 0.0
        print(f"{model.path.name}: at most {float(bits.mean()):.4f} ± {error:.4f} bits per token ({n} items, {origin})")
