"""From web pages to segments: readers → segments (by text, nuisances) → filters → duplicates."""
