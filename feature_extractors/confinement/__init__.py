"""What a process that meets hostile bytes gives up, and how other programs are called."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
