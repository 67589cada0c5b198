"""Flat tables of public data sets: rankings, heads that name classes, and how the tables are read."""
