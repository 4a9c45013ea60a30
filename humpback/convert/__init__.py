"""Weights and tokenizers in and out: GGUF, Hugging Face folders, this project's own model folders."""
