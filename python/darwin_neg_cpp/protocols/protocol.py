"""Names the ways in which a question is answered: decoding modes, and the controls that they are compared with."""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass
from typing import Literal

from ..checks import check_integer, shown
from ..errors import RequestError

Kind = Literal["mode", "self-consistency"]

MODES = (0, 1, 2, 3)
VOTING_MODES = (2, 3)
MAX_SAMPLES = 1000

_NAME = re.compile(r"(mode|self-consistency) (0|[1-9][0-9]{0,3})")


@dataclass(frozen=True, order=True)
class Protocol:
    """A decoding mode, or plain self-consistency as a control. Modes sort before controls, each by number.

    number: of the mode, 0 to 3; or of the control's samples. Errors: RequestError.
    """

    kind: Kind
    number: int

    def __post_init__(self) -> None:
        if self.kind == "mode":
            number = _check_mode(self.number)
        elif self.kind == "self-consistency":
            number = check_integer("samples", self.number, low=1, high=MAX_SAMPLES)
        else:
            raise RequestError(f"kind must be 'mode' or 'self-consistency', got {shown(self.kind)}")
        object.__setattr__(self, "number", number)

    @property
    def name(self) -> str:
        """As reports and ledgers write it: "mode 3", "self-consistency 20"."""
        return f"{self.kind} {self.number}"

    @property
    def is_mode(self) -> bool:
        return self.kind == "mode"

    @property
    def votes(self) -> bool:
        """Whether it decides by the votes of several candidates."""
        return not self.is_mode or self.number in VOTING_MODES

    @classmethod
    def parse(cls, name: object) -> Protocol:
        """Reads a name back. Errors: RequestError."""
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise RequestError(f"protocol must be a name like 'mode 3' or 'self-consistency 20', got {shown(name)}")
        return cls("mode" if match[1] == "mode" else "self-consistency", int(match[2]))


def _check_mode(mode: object) -> int:
    # not `in MODES` alone: 1.0 and True are equal to 1
    if isinstance(mode, bool) or not isinstance(mode, numbers.Integral) or mode not in MODES:
        raise RequestError(f"mode must be 0, 1, 2 or 3, got {shown(mode)}")
    return int(mode)
