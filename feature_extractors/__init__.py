"""Captures and records in, numbers out: no torch, no transport."""

from feature_extractors import ahead

ahead.choose()
