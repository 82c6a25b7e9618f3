"""Training of NEG heads for GGUF models, and checks of how well a head predicts.

corpus: documents and their split. own_texts: documents that the model writes itself. capture: hidden states and true
entropies on disk. head: the training itself (needs torch). outputs, report: the files that describe a head.
train, calibrate: the two commands.
"""
