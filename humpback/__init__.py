"""Humpback: instruction backtranslation (Li et al., arXiv 2308.06259) in JAX."""

__version__ = "0.1.0"
