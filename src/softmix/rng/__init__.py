"""Ground floor: randomness as a pure function, without hidden state.

Every random number of softmix is a function of (seed, role, item, draw, position). So item k of a batch of n has the
same numbers as in a batch of one, on any device, with any batch size, number of workers or number of processes. A
resumed run needs only a counter.

Integers and uniform numbers are equal on every device, bit for bit. Normal numbers differ between devices by a few
units in the last place.

    stream   `Rng`, the random numbers of a batch, and `permutation`
    plain    the equations, by torch operations for any device
    cpu      the same for a CPU, by numpy
    kernels  the same for CUDA, by Triton
    cuda     the choice between `kernels` and `plain`
"""

from __future__ import annotations

from .stream import Rng, permutation

__all__ = ["Rng", "permutation"]
