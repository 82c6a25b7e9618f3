"""How well a number that says "unsure" tells wrong answers from right ones. NumPy alone: no model, no questions.

selection: AUROC, risk against coverage, accuracy at a coverage. bootstrap: these with intervals, and differences of two
signals. crossfit: thresholds from one half of the items, figures from the other.
"""
