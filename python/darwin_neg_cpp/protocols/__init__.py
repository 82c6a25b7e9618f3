"""Answering multiple-choice questions in the card's decoding modes 0 to 3, or in as much of them as needed.

question: questions, and the orders in which their choices are shown. prompts: what the model is asked. extract: the
letter in an answer; plain_text, answer_rules and statements are its parts. voting: the written rule by which votes
decide, and when they have decided. protocol: names of modes and controls. modes: the modes as plans of candidates.
sampler: where candidates come from. signals: of their certainty. escalation: when mode auto is sure, and when an answer
is withheld. runner: carries plans out in one batch. answer: what comes back.
"""

from .answer import Answer, Candidate, Cost
from .modes import ModeConfig, Plan, control, plan
from .protocol import Protocol
from .question import Question
from .runner import Task, answer, answer_many, run
from .signals import SIGNALS, Signals

__all__ = [
    "SIGNALS",
    "Answer",
    "Candidate",
    "Cost",
    "ModeConfig",
    "Plan",
    "Protocol",
    "Question",
    "Signals",
    "Task",
    "answer",
    "answer_many",
    "control",
    "plan",
    "run",
]
