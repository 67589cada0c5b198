"""Readers: a capture, or a directory of Zeek logs, as blocks of columns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
