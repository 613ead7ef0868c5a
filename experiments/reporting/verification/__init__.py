"""A run folder against itself: rows, seals, what was run, what was asked, the numbers."""
