"""Curated pairs and answers as a dataset that others load."""
