"""Notices and odd verdicts in the words of other programs, and the roads to them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
