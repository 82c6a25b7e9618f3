"""Axes of SVG charts: from values to coordinates, with a line and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Values from 0 to `top`, drawn from coordinate `first` to coordinate `last`."""

    first: float
    last: float
    top: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        return self.first + value / self.top * (self.last - self.first)

    def ticks(self, intervals: int = 5) -> dict[float, str]:
        """Whole values, about `intervals` apart, with their labels."""
        return {
            float(value): str(value)
            for value in sorted({round(self.top * k / intervals) for k in range(intervals + 1)})
        }


def draw_axes(
    x: Axis, y: Axis, x_labels: Mapping[float, str], y_labels: Mapping[float, str], *, line: str = 'class="axis"'
) -> str:
    """The two axes, which meet at their zeros. line: attributes of the stroke."""
    frame = f'<path {line} d="M{x.first:.1f} {y.last:.1f}V{y.first:.1f}H{x.last:.1f}"/>'
    return frame + labels_below(x, y.first, x_labels) + labels_beside(y, x.first, y_labels)


def labels_below(x: Axis, bottom: float, labels: Mapping[float, str]) -> str:
    return "".join(
        f'<text x="{x(value):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{label}</text>'
        for value, label in labels.items()
    )


def labels_beside(y: Axis, left: float, labels: Mapping[float, str]) -> str:
    return "".join(
        f'<text x="{left - 5:.1f}" y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>'
        for value, label in labels.items()
    )
