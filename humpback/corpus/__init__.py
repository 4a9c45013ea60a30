"""From web pages to segments: readers → segments (by text, boilerplate) → filters → duplicates."""
