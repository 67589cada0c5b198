"""Starts a server for which a folder of the machine is empty: what it would note there is of no host of ours.

Runs in the mount namespace that `ip netns exec` made, which is gone when the server ends.
"""

from __future__ import annotations

import ctypes
import os
import sys


def main(folder: str, argv: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", folder.encode(), b"tmpfs", 0, b"size=1m"):
        sys.exit(f"{folder}: {os.strerror(ctypes.get_errno())}")
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
