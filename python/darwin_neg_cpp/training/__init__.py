"""Training of NEG heads for GGUF models, and checks of how well a head predicts.

corpus: documents and their split. capture: hidden states and true entropies on disk. head: the training itself (needs torch).
measure: figures of merit. report: what is written down about a head. train, calibrate: the two commands.
"""
