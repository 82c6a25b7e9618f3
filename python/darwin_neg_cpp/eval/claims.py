"""Figures that the model card claims for GPQA Diamond, by decoding mode. They are claims, not our measurements."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocols.protocol import Protocol

SOURCE = "model card of FINAL-Bench/Darwin-9B-NEG"
QUESTIONS = 198  # of GPQA Diamond, all of which the card's figures are for
ACTIVATION_RATE = 0.0436  # share of steps with an active gate, "across the 198-question greedy run"


@dataclass(frozen=True)
class Claim:
    """accuracy: as printed, a share. cost: in inferences of mode 0, as text."""

    accuracy: float
    cost: str


# by our protocol of that name; whether ours is what the card ran is not certain for any of them
CLAIMS = {
    Protocol("mode", 0): Claim(0.5101, "1x"),
    Protocol("mode", 1): Claim(0.6364, "1x"),
    Protocol("mode", 2): Claim(0.7626, "4x"),
    Protocol("mode", 3): Claim(0.8434, "about 20x"),
}
