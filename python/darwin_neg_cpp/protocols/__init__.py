"""Answering multiple-choice questions in the card's decoding modes 0 to 3.

question: questions and the orders their choices are shown in. prompts: what the model is asked. extract: the letter in an answer. voting: the written rule
by which votes decide, and when they have. modes: the modes as plans of candidates. sampler: where candidates come from. runner: plans, executed in one batch.
"""

from .modes import ModeConfig, Plan, control, plan
from .question import Question
from .runner import Answer, Candidate, Cost, Task, answer, answer_many, run

__all__ = [
    "Answer",
    "Candidate",
    "Cost",
    "ModeConfig",
    "Plan",
    "Question",
    "Task",
    "answer",
    "answer_many",
    "control",
    "plan",
    "run",
]
