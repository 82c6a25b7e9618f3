"""Many prompts from one file, answered into another.

requests: the lines of prompts, checked. reply: one line's answer. answers_file: every answer on disk, so that a run can
be resumed. source: the model that answers. batch: all of it in one call.
"""
