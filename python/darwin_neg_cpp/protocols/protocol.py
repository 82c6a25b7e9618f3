"""Names the ways in which a question is answered: decoding modes, and the controls that they are compared with."""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass
from typing import Literal

from ..checks import check_integer, shown
from ..errors import RequestError

Kind = Literal["mode", "mode auto", "self-consistency"]
Mode = int | Literal["auto"]

MODES = (0, 1, 2, 3)
VOTING_MODES = (2, 3)
AUTO: Literal["auto"] = "auto"
MAX_SAMPLES = 1000

_NAME = re.compile(r"(mode|self-consistency) (0|[1-9][0-9]{0,3})|(mode auto)")


@dataclass(frozen=True, order=True)
class Protocol:
    """A decoding mode, or plain self-consistency as a control. Modes sort before controls, each by number, "auto" last.

    number: of the mode, 0 to 3; or of the control's samples; 0 for "mode auto". Errors: RequestError.
    """

    kind: Kind
    number: int

    def __post_init__(self) -> None:
        if self.kind == "mode":
            number = _check_number(self.number)
        elif self.kind == "mode auto":
            number = 0
        elif self.kind == "self-consistency":
            number = check_integer("samples", self.number, low=1, high=MAX_SAMPLES)
        else:
            raise RequestError(f"kind must be 'mode', 'mode auto' or 'self-consistency', got {shown(self.kind)}")
        object.__setattr__(self, "number", number)

    @property
    def name(self) -> str:
        """As reports and ledgers write it: "mode 3", "mode auto", "self-consistency 20"."""
        return self.kind if self.is_auto else f"{self.kind} {self.number}"

    @property
    def is_mode(self) -> bool:
        return self.kind != "self-consistency"

    @property
    def is_auto(self) -> bool:
        return self.kind == "mode auto"

    @property
    def mode(self) -> Mode:
        """What names the mode in calls."""
        assert self.is_mode
        return AUTO if self.is_auto else self.number

    @property
    def votes(self) -> bool:
        """Whether it decides by the votes of several candidates."""
        return not self.is_mode or self.is_auto or self.number in VOTING_MODES

    @classmethod
    def of_mode(cls, mode: object) -> Protocol:
        """The protocol of a mode, 0 to 3 or "auto". Errors: RequestError."""
        return cls("mode auto", 0) if isinstance(mode, str) and mode == AUTO else cls("mode", _check_number(mode))

    @classmethod
    def parse(cls, name: object) -> Protocol:
        """Reads a name back. Errors: RequestError."""
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise RequestError(f"protocol must be a name like 'mode 3' or 'self-consistency 20', got {shown(name)}")
        if match[3]:
            return cls("mode auto", 0)
        return cls("mode" if match[1] == "mode" else "self-consistency", int(match[2]))


def _check_number(mode: object) -> int:
    # not `in MODES` alone: 1.0 and True are equal to 1
    if isinstance(mode, bool) or not isinstance(mode, numbers.Integral) or mode not in MODES:
        raise RequestError(f"mode must be 0, 1, 2 or 3, or 'auto', got {shown(mode)}")
    return int(mode)
