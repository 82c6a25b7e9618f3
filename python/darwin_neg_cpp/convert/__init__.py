"""Converts Hugging Face checkpoints of the Qwen3.5 family to GGUF, with numpy and gguf alone: no torch, no engine.

source: a folder or a repository. checkpoint: what lies in a folder. config, tensors, tokenizer, model_card: the parts
of a model in GGUF. plan: all of it together, before anything is written. rows, write: the plan to a file, streaming.
"""
