"""Grids of times for samplers. A sampler accepts any falling list of times.

Every grid has n + 1 times, float64, from 1 down to 0. The last step goes to t = 0, where logsnr is infinite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .noised import Process


def _checked(n: int) -> int:
    if n < 1:
        raise ValueError(f"{n} steps were asked for; a sampler needs at least 1")
    return n


def uniform(process: Process, n: int) -> Tensor:
    """t_i = 1 - i / n.

    When to choose: for many steps, and for samplers that draw from an exact posterior.
    """
    return torch.linspace(1, 0, _checked(n) + 1, dtype=torch.float64)


def uniform_logsnr(process: Process, n: int, last: float = 10.0) -> Tensor:
    """Equal steps of logsnr from t = 1 to logsnr = `last`, then t = 0: n - 1 steps and one.

    When to choose: for many steps over the whole range of noise. For few steps take `few`.
    """
    if _checked(n) == 1:
        return uniform(process, 1)
    first = float(process.logsnr(1.0))
    return _from_one(even_logsnr(process, n, first, max(last, first)))


def even_logsnr(process: Process, n: int, first: float, last: float) -> Tensor:
    """n times in equal steps of logsnr from `first` to `last`, then t = 0: n steps in all. It need not begin at t = 1.

    When to choose: for a range of noise levels of your own, for example that of a discrete model.
    """
    if last < first:
        raise ValueError(f"levels of logsnr from {first:g} to {last:g} were asked for; they have to rise")
    times = process.time(torch.linspace(first, last, _checked(n), dtype=torch.float64))
    return torch.cat([times, times.new_zeros(1)])


def rest(process: Process, n: int, first: float) -> Tensor:
    """A grid for a start between: from t = `first` in equal steps of logsnr, then t = 0: n steps in all.

    The steps of logsnr end at 6, or 1 above the first if that is more.
    When to choose: for a start at t < 1; `sample(..., start=..., at=...)` takes it.
    """
    if not 0 < first <= 1:
        raise ValueError(f"a start at t = {first} was asked for; give a time above 0 and at most 1")
    low = float(process.logsnr(first))
    times = even_logsnr(process, n, low, max(6.0, low + 1))
    times[0] = first
    return times


def few(process: Process, n: int) -> Tensor:
    """t = 1, then equal steps of logsnr from -6 to min(n, 6), then t = 0. t = 1 takes the place of -6.

    A process with logsnr(1) above -6 begins at its own end.

    When to choose: for few steps, and for second-order solvers, on data of unit size in 64 dimensions and more. Below
    -6 nothing is decided, above 6 nothing is left to decide. With few steps the end is at a lower logsnr, so that no
    step is too long (measurements: docs/experiments.md).
    """
    if _checked(n) == 1:
        return uniform(process, 1)
    first = max(-6.0, float(process.logsnr(1.0)))
    return _from_one(even_logsnr(process, n, first, max(min(6.0, n), first + 1)))


def after_draw(process: Process, n: int, second: float = -2.0) -> Tensor:
    """t = 1, then equal steps of logsnr from `second` to min(n, 6), then t = 0. From n = 8 on it is `few`, and for a
    process with logsnr(1) above `second`.

    No step is longer than 2.5, so that with 2, 3 and 4 steps the second time is at logsnr 2, 0.5 and -1.

    When to choose: for `soft_adams` with 3 to 7 steps, if the draws of the model are good; measure it against `few`. At
    the second time of `few`, a logsnr of -2.7 with 4 steps, the mean decides again what the draw has decided. Later it
    refines the draw. With 4 to 6 steps a model of 1.6 million images gained 30 to 47 %, and models of 150,000 lost up
    to 22 %; with 3 steps all gained (docs/experiments.md).
    """
    if _checked(n) == 1 or n >= 8 or float(process.logsnr(1.0)) > second:
        return few(process, n)
    end = min(6.0, n)
    inner = even_logsnr(process, n - 1, max(second, end - 2.5 * (n - 2)), end)
    return torch.cat([inner.new_ones(1), inner])


def karras(process: Process, n: int, last: float = 10.0, rho: float = 7.0) -> Tensor:
    """Equal steps of (sigma/alpha)^(1/rho) from t = 1 to logsnr = `last`, then t = 0.

    When to choose: for models that begin near sigma / alpha = 80, such as EDM.
    Source: Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, eq. 5.
    """
    if _checked(n) == 1:
        return uniform(process, 1)
    high = float((-process.logsnr(1.0) / 2).exp())
    low = float(torch.tensor(-last / 2, dtype=torch.float64).exp())
    times = process.time(-2 * even_in_root(high, low, n, rho).log())
    return _from_one(torch.cat([times, times.new_zeros(1)]))


def even_in_root(high: float, low: float, n: int, rho: float = 7.0) -> Tensor:
    """n numbers from high down to low in equal steps of their rho-th root, float64."""
    return torch.linspace(high ** (1 / rho), low ** (1 / rho), n, dtype=torch.float64) ** rho


def trailing(process: Process, n: int, train_steps: int = 1000) -> Tensor:
    """The times of n of the `train_steps` integer steps of a discrete model, counted from the noisy end.

    t_i = round(train_steps - i train_steps / n) / train_steps. t = 1 is always the first, for any n up to train_steps,
    also if n does not divide it.
    When to choose: for models that were trained on integer times.
    """
    if _checked(n) > train_steps:
        raise ValueError(f"{n} steps were asked for, but the model has {train_steps}")
    places = torch.linspace(train_steps, 0, n + 1, dtype=torch.float64).round()
    return places / train_steps


def _from_one(times: Tensor) -> Tensor:
    times[0] = 1.0
    return times
