"""Work on the nodes of a Ray cluster, with one engine on each.

connect: the only file that imports Ray. nodes: engines on nodes that come and go, and calls that run until they
succeed. worker: what runs on a node. batch, evaluation, capture: the three kinds of work, in the place of a model in
this process.
"""
