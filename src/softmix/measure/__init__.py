"""What is measured of an item, y = A x0 + n, and how sampling keeps to it."""

from .replace import replacing

__all__ = ["replacing"]
