"""Observations in, numbers in schema order out."""
