"""Hugging Face checkpoints of the Qwen3.5 family to GGUF, with numpy and gguf alone: no torch, and no compiled part of ours.

checkpoint: what lies in a folder. qwen35: the family's tensors and keys in GGUF. tokenizer: its vocabulary. plan: all of it
together, before anything is written. write: the plan to a file, streaming.
"""
