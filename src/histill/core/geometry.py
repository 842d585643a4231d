"""Rectangles in level-0 pixels: the only coordinate system in the house."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Region:
    """A rectangle in level-0 pixels: top-left corner, width, height."""

    x: int
    y: int
    w: int
    h: int

    def inside(self, width: int, height: int) -> bool:
        """Whether the region lies wholly inside an image of this size."""
        return (
            self.x >= 0
            and self.y >= 0
            and self.w > 0
            and self.h > 0
            and (self.x + self.w <= width and self.y + self.h <= height)
        )
