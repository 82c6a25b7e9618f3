"""Measuring the decoding modes on multiple-choice questions.

questions, data: question files in several formats, checked. gpqa_hub: GPQA from the hub. settings: what results depend
on. ledger, ledger_lines: every answer on disk, so that a run can be resumed. plans: which protocols are run. run, kept:
the questions through the protocols. statistics, summary: figures. rating: of signals of certainty. abstaining,
spending: thresholds, and what they give. claims: the card's. tables, report_tables, rating_tables, spending_tables,
report, report_page: reports for people to read. evaluate: all of it in one call.
"""
