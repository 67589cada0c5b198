"""The analyst's desk: incidents in a queue, what was decided about them, and a live page over both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
