"""Scores in, verdicts, incidents and notices out, as data."""
