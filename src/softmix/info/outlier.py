"""How well numbers of items tell two data sets apart, and the length of compressed items as a baseline."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor


def area_above(here: Tensor, there: Tensor) -> float:
    """The share of pairs of which `there` is larger, equal ones half: the area under the ROC curve (AUROC).

    here, there : a number for each item of the own data and of others, [N] and [M].
    When to choose: for nats as a score of what a model was not trained on.
    """
    above = (there[:, None] > here).double() + 0.5 * (there[:, None] == here).double()
    return float(above.mean())


def compressed_nats(pixels: Tensor) -> Tensor:
    """The length of each item as compressed by zlib, in nats, float64 [N]. pixels : uint8 [N, ...].

    Smooth items are short for every model of images. -log p less this length is a score without that part.
    Source: after Serra et al., "Input complexity and out-of-distribution detection with likelihood-based generative
    models", ICLR 2020, who take other compressors.
    """
    sizes = [len(zlib.compress(each.cpu().contiguous().numpy().tobytes(), 9)) for each in pixels]
    return torch.tensor(sizes, dtype=torch.float64, device=pixels.device) * 8 * math.log(2)
