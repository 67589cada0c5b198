"""Captures and records in, numbers out: no torch, no transport."""

from feature_extractors import ahead, caches

caches.choose()  # before numba is loaded, which reads once where its cache is
ahead.choose()
