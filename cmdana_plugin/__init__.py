"""Observations in, verdicts out."""
