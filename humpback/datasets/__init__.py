"""Inputs as records, and tfds builders for them. Importing a builder's module (`humpback.datasets.oasst_seed`) registers it with tfds."""
