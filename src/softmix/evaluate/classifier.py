"""The small classifier for the features of images, and its training. Its penultimate layer gives the features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..memory import is_memory_error
from ..precision import full_fp32
from ..rng import permutation
from ..shape import cell_shares

WIDTH = 64
GRID = 4
EPOCHS = 20
MOST_STEPS = 600
BATCH = 128
RATE = 2e-3


class Pool(nn.AdaptiveAvgPool2d):
    """The average over a 4 x 4 grid of cells, which may overlap.

    On a GPU it is a product with the shares of the cells, because torch's own pooling there sums its gradient in a
    random order.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return super().forward(x)
        rows, columns = (cell_shares(size, GRID, x.device, x.dtype) for size in x.shape[-2:])
        return rows @ x @ columns.T


class Classifier(nn.Module):
    """A convolutional classifier: images [N, C, H, W] to logits [N, K].

    `features` returns the input of the last layer, [N, 64]. The stride of the stem brings every size from 8 to 64
    pixels to a grid of about 8 to 16, so the cost hardly depends on the size. The last pooling keeps a 4 x 4 grid, so
    the features depend on positions.
    """

    def __init__(self, channels: int, classes: int, size: int):
        super().__init__()
        stride = 1 if size < 16 else 2 if size < 40 else 4
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 2 * stride + 1, stride, padding=stride, bias=False),
            nn.BatchNorm2d(32),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.GELU(),
            Pool(GRID),
            nn.Flatten(),
            nn.Linear(64 * GRID**2, WIDTH),
            nn.GELU(),
        )
        self.head = nn.Linear(WIDTH, classes)

    def features(self, x0: Tensor) -> Tensor:
        features: Tensor = self.body(x0.contiguous(memory_format=torch.channels_last))
        return features

    def forward(self, x0: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x0))
        return logits


def build(channels: int, classes: int, size: int, seed: int) -> Classifier:
    """Build a network with weights that depend on the arguments only. Torch's random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerator too
        return Classifier(channels, classes, size)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: then the order of sums does not depend on the caller's threads, and other jobs are not slowed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def repeatable_convolutions() -> Iterator[None]:
    """Let a GPU sum the gradients of convolutions in a fixed order. The setting holds for the whole process."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def on_device(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, or where it is if the memory of the device is too small."""
    try:
        return x.to(device)
    except RuntimeError as error:
        if not is_memory_error(error):
            raise
        return x


@one_thread()
@full_fp32()
@repeatable_convolutions()
@torch.enable_grad()
def fit(net: Classifier, x0: Tensor, labels: Tensor, seed: int) -> None:
    """Train the network in place, on its own device, on x0 [N, C, H, W] and int64 labels [N].

    At most 20 epochs and 600 steps with batches of 128 images. AdamW with weight decay 0.01. The learning rate rises to
    0.002 over the first fifth and falls to almost 0 (one cycle). Each epoch uses the images once, in its own order, and
    leaves out the last incomplete batch.

    No label smoothing: it draws each class together to a point, and the features would no longer show how the images
    of one class differ. No augmentation: the features must notice a shift.

    All images are copied to the device at the start, and no step waits for a result of the device. Images that do not
    fit into its memory stay on the CPU, and each batch is copied.
    """
    device = net.head.weight.device
    x0, labels = on_device(x0, device), on_device(labels, device)
    batch = min(BATCH, len(x0))
    per_epoch = len(x0) // batch
    steps = min(MOST_STEPS, EPOCHS * per_epoch)
    # on a GPU all weights change in one kernel
    fused = True if device.type == "cuda" else None
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2, fused=fused)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=RATE, total_steps=steps, pct_start=0.2)
    net.train()
    for step in range(steps):
        epoch, index = divmod(step, per_epoch)
        if index == 0:
            order = permutation(seed, len(x0), f"classifier epoch {epoch}").to(x0.device)
        chosen = order[index * batch : (index + 1) * batch]
        loss = F.cross_entropy(net(x0[chosen].to(device)), labels[chosen.to(labels.device)].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
