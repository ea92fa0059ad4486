"""The target densities that the command line knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..data import DataError, Origin, Target, logistic_regression
from .target import funnel, phi4, ring_target

_PREFIX = "target:"
TARGETS: Mapping[str, Callable[[], Target]] = {
    "mixture": lambda: ring_target().source(),
    "funnel": lambda: funnel().source(),
    "phi4": lambda: phi4().source(),
    "logistic": logistic_regression,
    "logistic-iris": lambda: logistic_regression("iris"),
}


def is_known_target(name: str) -> bool:
    """Whether a name of data means a target density: target:NAME."""
    return name.startswith(_PREFIX)


def known_target(name: str) -> Target:
    """The target of a name, "target:mixture", "target:funnel", "target:phi4", "target:logistic" (breast-cancer data) or
    "target:logistic-iris".

    Raises DataError for another name.
    """
    make = TARGETS.get(name.removeprefix(_PREFIX)) if is_known_target(name) else None
    if make is None:
        known = ", ".join(_PREFIX + key for key in TARGETS)
        raise DataError(f"{name} was asked for, but there is no such target; there are {known}")
    found = make()
    return Target(found.shape, found.log_density, name, Origin(name))
