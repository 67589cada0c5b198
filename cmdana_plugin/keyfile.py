"""Secret keys in files that only their owner can read: the one that logs are anonymised with, and that of the state."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cmdana_plugin import files
from feature_extractors import CmdanaError

_KEY_BYTES: Final = 32
_HOST_SECRET: Final = Path("/etc/cmdana/secret")


class KeyFileError(CmdanaError):
    """A key file cannot be used; the message says why and what to do."""


def new_key(path: Path) -> None:
    """Writes a new random key that only its owner can read. Raises `KeyFileError` where there is a file already."""
    try:
        files.create(path, _new())
    except FileExistsError:
        raise KeyFileError(
            f"{path}: is there already; a new key would make other addresses of the same hosts"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from None


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
    """The path of the key of the state's hashes: as configured, in systemd's StateDirectory, or in the user's home."""
    if configured:
        return Path(configured)
    if service := environment.get("STATE_DIRECTORY"):
        return Path(service.split(":")[0]) / "state.key"
    home = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "cmdana" / "state.key"


def secret_path(configured: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The path of the secret that Zeek and the detector share: as configured, for the host, or in the user's home.

    Zeek looks in the same places (`CMDANA::secret_file`).
    """
    if configured:
        return Path(configured)
    if _HOST_SECRET.exists():
        return _HOST_SECRET
    home = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "cmdana" / "secret"


def new_secret(configured: str) -> Path:
    """The path of a new secret, made for the whole host where root asks, else in the user's home.

    Raises `KeyFileError` where there is one already.
    """
    path = _HOST_SECRET if not configured and os.geteuid() == 0 else secret_path(configured)
    if path.exists():
        raise KeyFileError(
            f"{path}: is there already; delete it to make another, and give that to every Zeek"
        )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another that started just now was first
            files.create(path, _new())
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be made: {error.strerror}") from None
    return path


def state_salt(configured: str, environment: Mapping[str, str] = os.environ) -> int:
    """128 secret bits for the hashes of hosts and names, from the site's key, which is made if it is not there.

    Where it can neither be read nor made in its usual place, the bits are of this process only, and a state that it
    leaves (`statefile`) is of no use to the next one, which says so. Raises `KeyFileError` for a key that was
    configured and cannot be used, and for one that others can read.
    """
    path = state_key_path(configured, environment)
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another that started just now was first
                files.create(path, _new())
    except (OSError, KeyFileError) as error:
        if configured:
            raise KeyFileError(f"[model] state_key: {path}: cannot be made: {error}") from None
        return secrets.randbits(128)
    return int.from_bytes(
        hashlib.blake2b(read_key(path), digest_size=16, person=b"cmdana state").digest(), "little"
    )


def evidence_key(salt: int) -> tuple[int, int]:
    """The key of the hashes that evidence is held by: of 128 bits, of a site's salt, and no key of anything else."""
    words = hashlib.blake2b(salt.to_bytes(16, "little"), digest_size=16, person=b"cmdana evidence").digest()
    return int.from_bytes(words[:8], "little"), int.from_bytes(words[8:], "little")


def history_key(salt: int) -> bytes:
    """The key that the history of a site's models is signed with: of 128 bits, of a site's salt, and no key else."""
    return hashlib.blake2b(salt.to_bytes(16, "little"), digest_size=32, person=b"cmdana models").digest()


def _new() -> bytes:
    return f"{secrets.token_hex(_KEY_BYTES)}\n".encode()
