"""Instruments of deepinv, in both directions. `to_deepinv` needs the extra: pip install "softmix[deepinv]"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .deepinv_operator import LinearPhysicsOperator, PhysicsOperator, probe
from .instrument import Instrument
from .noise import GaussianNoise, Noise, PoissonNoise, RoundingNoise
from .operator import LinearOperator, Operator


def from_deepinv(physics: Any, shape: Sequence[int] | None = None, noise: Noise | None = None) -> Instrument:
    """The instrument of a deepinv physics.

    physics : a `deepinv.physics.Physics`, or an object with its methods: `A`, and `A_adjoint` and `A_dagger` if it is
        linear, and its attributes `noise_model`, `sensor_model` and `img_size`.
    shape : of an item; None for `physics.img_size`.
    noise : in place of the noise model of the physics. It is needed for a model other than Gaussian and Poisson.

    With Gaussian noise, or a given one, x0 and y are those of the physics, as they stand. A linear physics may see
    x0 in [-1, 1]: for x = (1 + x0) / 2 its measurement is that of x0 / 2, and a constant. With a Poisson model the
    physics counts light, which is not negative: it sees (1 + x0) / 2, and y = 2 y' - 1 for the measurement y' of
    deepinv. This operator is not linear.

    A linear physics is solved by conjugate gradients. Its picture is A^T y if y is on the grid of x0, else
    `A_dagger(y)`. Elements of y that are 0 for every x0 do not exist. The physics is computed in its own precision. For
    data on another device it is copied there, once.

    Raises ValueError if the shape is not known, if `A_adjoint` is not the adjoint of A, and for a noise level of each
    item; TypeError for y in several parts or in complex numbers, for a sensor that changes y, and for another noise.
    """
    shape = _shape_of(physics) if shape is None else tuple(shape)
    light = noise is None and _is_a(physics.noise_model, "PoissonNoise")
    noise = noise or _noise_of(physics.noise_model)
    linear = _is_a(physics, "LinearPhysics") or (not _is_a(physics, "Physics") and hasattr(physics, "A_adjoint"))
    if linear and not light:
        operator: PhysicsOperator = LinearPhysicsOperator(physics, shape)
    else:
        operator = PhysicsOperator(physics, shape, light)
    _require_no_sensor(physics, operator(probe(physics, shape)))
    return Instrument(operator, noise)


def to_deepinv(instrument: Instrument) -> Any:
    """The physics of an instrument: a `deepinv.physics.LinearPhysics` for a linear operator, else a `Physics`.

    `A`, `A_adjoint`, `A_adjoint_A`, `A_dagger` and `prox_l2` are those of the operator, so that a closed form stays
    one; settings for the solver of deepinv have no effect. x and y are x0 and y of softmix, as they stand.

    `RoundingNoise` becomes Gaussian noise with the rounding as `sensor_model`. `PoissonNoise` counts light, as that of
    deepinv does: the physics sees x in [0, 1], with x0 = 2 x - 1, and is not linear; y of softmix is
    2 (y' - dark / peak) - 1 for the measurement y' of deepinv.

    Raises ImportError without deepinv, and TypeError for another noise.
    """
    physics = _deepinv()
    operator, noise = instrument.operator, instrument.noise
    forward: Callable[[Tensor], Tensor] = operator
    settings: dict[str, Any] = {}
    if isinstance(noise, GaussianNoise):
        settings["noise_model"] = physics.GaussianNoise(sigma=noise.scale)
    elif isinstance(noise, RoundingNoise):
        step = noise.step
        settings["noise_model"] = physics.GaussianNoise(sigma=noise.scale)
        settings["sensor_model"] = lambda y: (y / step).round() * step
    elif isinstance(noise, PoissonNoise):
        settings["noise_model"] = physics.PoissonNoise(gain=1 / noise.peak)
        forward = _light(operator, noise)
    else:
        raise TypeError(
            f"deepinv has no counterpart of {type(noise).__name__}: give Gaussian, Poisson or rounding noise"
        )
    if isinstance(operator, LinearOperator) and not isinstance(noise, PoissonNoise):
        kind = _linear_physics(physics.LinearPhysics, operator)
        found = kind(_one(forward), _one(operator.adjoint), img_size=operator.shape, **settings)
    else:
        found = _masked_noise(physics.Physics, operator)(_one(forward), **settings)
        found.img_size = operator.shape
    return found


def _deepinv() -> Any:
    """The module deepinv.physics."""
    try:
        import deepinv.physics as found
    except ImportError as error:
        raise ImportError(f'to_deepinv needs deepinv, and {error}: pip install "softmix[deepinv]"') from error
    return found


def _is_a(part: object, name: str) -> bool:
    """Whether a class of this name is among those of an object, so that deepinv need not be imported."""
    return any(each.__name__ == name for each in type(part).__mro__)


def _shape_of(physics: Any) -> tuple[int, ...]:
    size = getattr(physics, "img_size", None)
    if size is None or len(size) != 3:
        raise ValueError(
            f"{type(physics).__name__} has img_size = {size}, and no shape of an item was given: give shape=(C, H, W)"
        )
    return tuple(size)


def _noise_of(model: Any) -> Noise:
    if _is_a(model, "GaussianNoise"):
        return GaussianNoise(_number(model.sigma, "sigma"))
    if _is_a(model, "PoissonNoise"):
        if not bool(model.normalize):
            raise TypeError(
                "a PoissonNoise with normalize=False gives counts: take normalize=True, for y in units of x"
            )
        return PoissonNoise(1 / _number(model.gain, "gain"), 0.0)
    raise TypeError(
        f"softmix has no counterpart of the noise model {type(model).__name__}: give the noise, such as "
        "noise=GaussianNoise(0.01)"
    )


def _number(value: Any, name: str) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} of the noise model has {value.numel()} values: one for all items is needed")
    return float(value)


def _require_no_sensor(physics: Any, clean: Tensor) -> None:
    sensor = getattr(physics, "sensor_model", None)
    tried = torch.cat([clean, 10 * clean, -10 * clean])
    if sensor is not None and not torch.equal(sensor(tried), tried):
        raise TypeError(
            f"the sensor of {type(physics).__name__} changes y, and its noise has no known density: take it out, and "
            "give noise=RoundingNoise(step, scale) for rounding"
        )


def _one(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A function of deepinv, which also gets the arguments that are meant for the noise."""
    return lambda x, **_: function(x)


def _light(operator: Operator, noise: PoissonNoise) -> Callable[[Tensor], Tensor]:
    return lambda x: (1 + operator(2 * x - 1)).clamp(min=0) / 2 + noise.dark / noise.peak


def _masked_noise(base: Any, operator: Operator) -> Any:
    """A physics that has 0 at elements of y that do not exist."""

    class MaskedNoise(base):  # type: ignore[misc]
        def noise(self, x: Tensor, **settings: Any) -> Tensor:
            y: Tensor = super().noise(x, **settings)
            return y if operator.seen is None else torch.where(operator.constant("seen", y) > 0, y, 0)

    return MaskedNoise


def _linear_physics(base: Any, operator: LinearOperator) -> Any:
    """A physics with the solutions of an operator."""

    class SolvedPhysics(_masked_noise(base, operator)):  # type: ignore[misc]
        def A_adjoint_A(self, x: Tensor, **_: Any) -> Tensor:
            return operator.normal(x)

        def A_dagger(self, y: Tensor, **_: Any) -> Tensor:
            return operator.pseudo_inverse(y)

        def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor, *_: Any, **__: Any) -> Tensor:
            return operator.solve(operator.adjoint(y) + z / gamma, 1 / gamma)

    return SolvedPhysics
