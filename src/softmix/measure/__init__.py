"""Measurements y = A x0 + n of an item, and samplers that use them. `replacing` puts measured elements into a sample."""

from .replace import replacing

__all__ = ["replacing"]
