"""Samplers for measured items, y = A x0 + n. `replacing` is for elements that are measured without noise."""

from .replace import replacing

__all__ = ["replacing"]
