"""The road between a running Zeek and the detector: the wire, the session over it, and two transports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
