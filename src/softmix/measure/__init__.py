"""Measurements y = A x0 + n of an item, and samplers that use them. `replacing` is one for measured elements."""

from .replace import replacing

__all__ = ["replacing"]
