"""What the tests of web pages share."""

from __future__ import annotations

import re

import numpy as np


def contrast(a: str, b: str) -> float:
    """WCAG's contrast of two rgb(...) colours."""

    def luminance(colour: str) -> float:
        parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)
