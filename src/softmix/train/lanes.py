"""A step of one process: pieces of a batch side by side, one on each core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from .optimise import Optimisers


class Lanes:
    """Computes a batch in pieces, some of them at the same time.

    Small images keep one core busy and not several: an operation is over before the cores have agreed to share it.
    With a piece each they need not agree. The sums are taken in the order of the pieces, so the bits do not depend on
    the order in which the threads finish.
    """

    def __init__(self, optimisers: Optimisers):
        self._optimisers = optimisers
        self._pool: ThreadPoolExecutor | None = None

    # the losses are no attribute: a bound method of the trainer would make a cycle, and keep its memory
    def backward(
        self,
        losses: Callable[[Tensor, str], Tensor],
        items: Tensor,
        pieces: int,
        lanes: int,
        turn: str = "model",
        scale: float | Tensor | None = None,
    ) -> float:
        """Add the gradient of the mean loss of these items to the parameters of a turn. Returns the mean loss.

        losses : (items, turn) -> the loss of each item, [B].
        pieces : the number of pieces of the batch.
        lanes : the number of pieces at the same time.
        scale : a factor of the gradient, but not of the result; None for 1.
        """
        total = 0.0
        for loss in self._pieces(losses, items, pieces, lanes, turn, scale):
            total += float(loss)
        return total

    def backward_unread(
        self,
        losses: Callable[[Tensor, str], Tensor],
        items: Tensor,
        pieces: int,
        turn: str = "model",
        scale: float | Tensor | None = None,
    ) -> Tensor:
        """The same with one piece at a time. The mean loss stays on its device, as a float64 without axes."""
        total = torch.zeros((), dtype=torch.float64, device=items.device)
        for loss in self._pieces(losses, items, pieces, 1, turn, scale):
            total = total + loss.double()
        return total

    def _pieces(
        self,
        losses: Callable[[Tensor, str], Tensor],
        items: Tensor,
        pieces: int,
        lanes: int,
        turn: str,
        scale: float | Tensor | None,
    ) -> Iterator[Tensor]:
        """Add the gradient of each piece, and yield its share of the mean loss."""
        chunks = items.chunk(pieces)

        def gradient(chunk: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
            loss = losses(chunk, turn).sum() / len(items)
            scaled = loss if scale is None else loss * scale
            return loss.detach(), torch.autograd.grad(scaled, self._optimisers.parameters(turn), allow_unused=True)

        for start in range(0, len(chunks), lanes):
            for loss, each in self._map(gradient, chunks[start : start + lanes]):
                self._optimisers.add(turn, each)
                yield loss

    def _map(
        self, gradient: Callable[[Tensor], tuple[Tensor, Sequence[Tensor | None]]], chunks: Sequence[Tensor]
    ) -> list[tuple[Tensor, Sequence[Tensor | None]]]:
        if len(chunks) == 1:
            return [gradient(chunks[0])]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(chunks), initializer=torch.set_num_threads, initargs=(1,))
        return list(self._pool.map(gradient, chunks))
