"""A block of windows in, scores out, each from the past only."""
