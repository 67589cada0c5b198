"""Research: the protocol, its baselines, ablations and attacks; nothing but the command line imports it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
