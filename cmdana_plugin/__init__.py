"""Observations in, verdicts out. In a notebook: read, extract, encode, load_detector, judge, fit, calibrate."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
