"""Prompts → text: the engine (ids only), sampling, and the resumable run over a record file."""
