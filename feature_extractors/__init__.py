"""Captures and records in, numbers out: no torch, no transport."""

import lazy_loader

from feature_extractors.compiled import caches, mypyc_build

caches.choose()  # before numba is loaded, which reads once where its cache is
mypyc_build.choose()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
