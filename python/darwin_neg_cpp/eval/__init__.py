"""Measuring the decoding modes on multiple-choice questions.

csv_rows, data: question files of several forms, checked. gpqa_hub: GPQA from the hub. settings: what results depend on. ledger: every answer on disk, so that a
run goes on where it was. run: the questions through the modes. statistics, summary: figures. claims: the card's. report, report_page: for people to read.
"""
