"""Secret keys in files that only their owner can read: the one that logs are anonymised with, and that of the state."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from feature_extractors.errors import CmdanaError

_KEY_BYTES: Final = 32


class KeyFileError(CmdanaError):
    """A key file cannot be used; the message says why and what to do."""


def new_key(path: Path) -> None:
    """Writes a new random key that only its owner can read. Raises `KeyFileError` where there is a file already."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(
            f"{path}: is there already; a new key would make other addresses of the same hosts"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from None
    with os.fdopen(file, "w", encoding="ascii") as out:
        out.write(secrets.token_hex(_KEY_BYTES) + "\n")


def read_key(path: Path) -> bytes:
    """The key in a file of 64 hexadecimal digits. Raises `KeyFileError` for another, or one that others can read."""
    try:
        mode = path.stat().st_mode
        words = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}; --new-key makes one") from None
    except UnicodeDecodeError:
        words = ""
    if mode & 0o077:
        raise KeyFileError(f"{path}: others can read it (mode {mode & 0o777:03o}); chmod 600 {path}")
    try:
        key = bytes.fromhex(words)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise KeyFileError(f"{path}: no key; expected {2 * _KEY_BYTES} hexadecimal digits")
    return key


def state_key_path(configured: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the key of the state's hashes lies: as configured, in systemd's StateDirectory, or in the user's home."""
    if configured:
        return Path(configured)
    if service := environment.get("STATE_DIRECTORY"):
        return Path(service.split(":")[0]) / "state.key"
    home = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "cmdana" / "state.key"


def state_salt(configured: str, environment: Mapping[str, str] = os.environ) -> int:
    """128 secret bits for the hashes of hosts and names, from the site's key, which is made if it is not there.

    Where it can neither be read nor made in its usual place, the bits are of this process only: no state outlives a
    process, so that nothing is lost but that two runs are alike to the last bit of a full table. Raises `KeyFileError`
    for a key that was configured and cannot be used, and for one that others can read.
    """
    path = state_key_path(configured, environment)
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
    except (OSError, KeyFileError) as error:
        if configured:
            raise KeyFileError(f"[model] state_key: {path}: cannot be made: {error}") from None
        return secrets.randbits(128)
    return int.from_bytes(
        hashlib.blake2b(read_key(path), digest_size=16, person=b"cmdana state").digest(), "little"
    )


def _make(path: Path) -> None:
    """A new key under its name in one move, so that two that start at once agree on one."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    new_key(partial)
    try:
        os.link(partial, path)  # fails where another was first
    except FileExistsError:
        pass
    finally:
        partial.unlink()
