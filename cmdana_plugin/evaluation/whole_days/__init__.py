"""Whole days: who finds which attacks, at how many false incidents, and how soon."""
