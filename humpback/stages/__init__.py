"""The paper, one verb a file; `run.py` is the algorithm on one page."""
