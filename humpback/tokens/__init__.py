"""Text to ids and back, and ids to training rows."""
