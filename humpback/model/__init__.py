"""The LLaMA model: token ids to logits. Pure functions of arrays; imports nothing else of humpback."""
