"""Model folders: the weights and what travels with them, written, read, verified."""
