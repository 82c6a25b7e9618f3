"""Many prompts from one file, answered into another.

requests: the lines of prompts, checked. reply: one line's answer. answers_file: every answer on disk, so that a run can
be resumed. source, cluster: the model that answers, in this process or on the nodes of a Ray cluster. batch: all of it
in one call.
"""
