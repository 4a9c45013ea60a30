"""Examples to weights: the loop, its optimizer, checkpoints, and the measure that judges the result."""
