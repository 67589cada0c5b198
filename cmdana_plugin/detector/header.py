"""What a model's file says of itself at its beginning, so that traffic can be read while the model is loaded."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from typing import Final

_MOST_BYTES: Final = 1 << 20  # of the header of safetensors: tensors' names and the metadata


def schema_digest(path: Path | None) -> str:
    """The digest of the schema that the model in a file was made with; "" for None and where there is none to be read.

    It is not believed: loading the model checks all of it, and says what is wrong.
    """
    if path is None:
        return ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= _MOST_BYTES else {}
        return str(header["__metadata__"]["schema_digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        return ""
