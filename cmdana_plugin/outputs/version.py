"""The version of this installation, as other programs are told it."""

from __future__ import annotations

import importlib.metadata
from typing import Final

VERSION: Final = importlib.metadata.version("cmdana")
