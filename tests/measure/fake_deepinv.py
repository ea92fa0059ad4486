"""Objects with the interface of deepinv's physics and noise models, written for the tests.

The names of the classes are those of deepinv: `from_deepinv` knows them by these names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class GaussianNoise(nn.Module):
    def __init__(self, sigma: Any = 0.1):
        super().__init__()
        self.register_buffer("sigma", torch.as_tensor(sigma))

    def forward(self, y: Tensor, **_: Any) -> Tensor:
        return y + self.sigma * torch.randn_like(y)


class PoissonNoise(nn.Module):
    def __init__(self, gain: Any = 1.0, normalize: bool = True):
        super().__init__()
        self.gain, self.normalize = torch.as_tensor(gain), torch.as_tensor(normalize)

    def forward(self, y: Tensor, **_: Any) -> Tensor:
        return torch.poisson(y / self.gain) * self.gain


class ZeroNoise(nn.Module):
    def forward(self, y: Tensor, **_: Any) -> Tensor:
        return y


class Physics(nn.Module):
    """y = sensor(noise(A(x)))."""

    def __init__(
        self,
        A: Callable[..., Any] = lambda x, **_: x,
        noise_model: nn.Module | None = None,
        sensor_model: Callable[[Tensor], Tensor] = lambda y: y,
    ):
        super().__init__()
        self.forw, self.noise_model, self.sensor_model = A, noise_model or ZeroNoise(), sensor_model

    def A(self, x: Tensor, **settings: Any) -> Any:
        return self.forw(x, **settings)

    def noise(self, y: Tensor, **settings: Any) -> Tensor:
        found: Tensor = self.noise_model(y, **settings)
        return found

    def forward(self, x: Tensor, **settings: Any) -> Tensor:
        return self.sensor_model(self.noise(self.A(x, **settings), **settings))


class LinearPhysics(Physics):
    def __init__(
        self,
        A: Callable[..., Any] = lambda x, **_: x,
        A_adjoint: Callable[..., Tensor] = lambda y, **_: y,
        img_size: tuple[int, ...] | None = None,
        **settings: Any,
    ):
        super().__init__(A, **settings)
        self.A_adj, self.img_size = A_adjoint, img_size

    def A_adjoint(self, y: Tensor, **settings: Any) -> Tensor:
        return self.A_adj(y, **settings)

    def A_dagger(self, y: Tensor, **_: Any) -> Tensor:
        raise NotImplementedError


class Halves(LinearPhysics):
    """The left half of each image twice as large, of a physics in float32."""

    def __init__(self, shape: tuple[int, ...], **settings: Any):
        super().__init__(img_size=shape, **settings)
        self.half = shape[-1] // 2
        self.register_buffer("factor", torch.tensor([2.0]))

    def A(self, x: Tensor, **_: Any) -> Tensor:
        return self.factor * x[..., : self.half]

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return self.factor * torch.cat([y, torch.zeros_like(y)], -1)

    def A_dagger(self, y: Tensor, **_: Any) -> Tensor:
        return torch.cat([y, torch.zeros_like(y)], -1) / self.factor


class Plain:
    """A linear physics that is no module: half of the elements, in any precision."""

    def __init__(self, img_size: tuple[int, ...], noise_model: nn.Module | None = None):
        self.img_size, self.noise_model = img_size, noise_model or GaussianNoise(0.1)

    def A(self, x: Tensor) -> Tensor:
        return x * self._even(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y * self._even(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A_adjoint(y)

    @staticmethod
    def _even(x: Tensor) -> Tensor:
        return (torch.arange(x.shape[-1], device=x.device) % 2 == 0).to(x)
