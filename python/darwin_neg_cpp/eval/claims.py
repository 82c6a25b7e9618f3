"""What the model card claims for GPQA Diamond, with how it describes the modes. Claims, not measurements of ours."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "model card of FINAL-Bench/Darwin-9B-NEG"
ACTIVATION_RATE = 0.0436  # share of steps with an active gate, "across the 198-question greedy run"


@dataclass(frozen=True)
class Claim:
    """accuracy: as printed, a share. cost: in inferences of mode 0, as text."""

    accuracy: float
    cost: str


# by protocol of ours; that ours is what the card ran is certain for none of them
CLAIMS = {
    "mode 0": Claim(0.5101, "1x"),
    "mode 1": Claim(0.6364, "1x"),
    "mode 2": Claim(0.7626, "4x"),
    "mode 3": Claim(0.8434, "about 20x"),
}
