"""Which model judges a site, and how it came to that: a signed history beside the models that it names.

Each entry is signed with the site's key (keyed BLAKE2b) over itself and the signature before it, so that none can be
changed, left out or put in between by who has not the key. One who can write the folder can still cut off the end: what
is then left is an earlier history, with models that were promoted once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from cmdana_plugin import files
from cmdana_plugin.keyfile import history_key
from feature_extractors import CmdanaError

FOLDER: Final = "models"  # in the folder of the state
_HISTORY: Final = "history.jsonl"
_SHADOW: Final = "shadow.safetensors"
_LARGEST: Final = 16 * 1024 * 1024  # bytes of a history
Action = Literal["propose", "promote", "roll-back"]


class LineageError(CmdanaError):
    """The history of a site's models cannot be used; the message says which entry and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One step."""

    time: str  # ISO 8601, UTC
    action: str  # of Action
    model: str  # SHA-256 of the model that it is about; "" the one of [model] path
    judging: str  # and of the one that judges from then on
    words: str  # what was found
    refusal: str = ""  # why it was not, or may not be, promoted; "" it was, or may be


class Lineage:
    """The models of a site, in `folder`/models. Raises `LineageError` where the history is not what was signed."""

    def __init__(self, folder: Path, salt: int) -> None:
        """`salt` is the site's (`keyfile.state_salt`)."""
        self.folder = folder / FOLDER
        self._key = history_key(salt)
        self._path = self.folder / _HISTORY
        self._last = ""  # signature
        self.entries = self._read()

    @property
    def shadow(self) -> Path:
        """The path of the model that is proposed, or trained to be."""
        return self.folder / _SHADOW

    @property
    def judging(self) -> str:
        """SHA-256 of the promoted model that judges, "" where that is the one of [model] path."""
        return self.entries[-1].judging if self.entries else ""

    @property
    def model(self) -> Path | None:
        """The path of that model, checked; None where it is the one of [model] path."""
        if not self.judging:
            return None
        path = self._kept(self.judging)
        if _digest(path) != self.judging:
            raise LineageError(
                f"{path}: is not the model that was promoted; cmdana adapt roll-back leaves it"
            )
        return path

    def propose(self, words: str, refusal: str) -> Entry:
        """The model in `shadow` was tried."""
        return self._add("propose", _digest(self.shadow), self.judging, words, refusal)

    def promote(self) -> Entry:
        """Has the model that was proposed last judge from now on; or not, and says why in the entry's `refusal`.

        Raises `LineageError` where none is proposed, or `shadow` is another one by now.
        """
        last = self.entries[-1] if self.entries else None
        if last is None or last.action != "propose":
            raise LineageError(f"{self.folder}: no model is proposed; cmdana adapt propose makes one")
        if last.refusal:
            return self._add("promote", last.model, self.judging, last.words, last.refusal)
        if _digest(self.shadow) != last.model:
            raise LineageError(f"{self.shadow}: is not the model that was proposed; propose again")
        shutil.copyfile(self.shadow, self._kept(last.model))
        self._kept(last.model).chmod(0o600)
        return self._add("promote", last.model, last.model, last.words, "")

    def roll_back(self) -> Entry | None:
        """Has the model judge that judged before the present one was promoted; None where none was promoted."""
        now = self.judging
        if not now:
            return None
        before = next((e.judging for e in reversed(self._until_promotion(now))), "")
        return self._add("roll-back", now, before, "", "")

    def _until_promotion(self, model: str) -> list[Entry]:
        """The entries before the one by which a model came to judge last."""
        at = max(
            i for i, e in enumerate(self.entries) if e.action == "promote" and e.judging == model == e.model
        )
        return self.entries[:at]

    def _kept(self, model: str) -> Path:
        return self.folder / f"{model[:16]}.safetensors"

    def _add(self, action: Action, model: str, judging: str, words: str, refusal: str) -> Entry:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Entry(now, action, model, judging, words, refusal)
        self._last = self._signed(asdict(entry))
        line = json.dumps({**asdict(entry), "signature": self._last})
        before = self._path.read_bytes() if self._path.exists() else b""
        files.replace(self._path, before + line.encode() + b"\n", 0o600)
        self.entries.append(entry)
        return entry

    def _signed(self, entry: Mapping[str, Any]) -> str:
        content = json.dumps([self._last, *(entry[f.name] for f in fields(Entry))])
        return hashlib.blake2b(content.encode(), key=self._key, digest_size=32).hexdigest()

    def _read(self) -> list[Entry]:
        try:
            if not self._path.exists():
                return []
            if self._path.stat().st_size > _LARGEST:
                raise LineageError(f"{self._path}: is larger than {_LARGEST:,} bytes")
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LineageError(f"{self._path}: cannot be read: {error}") from None
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                told = json.loads(line)
                signature = told.pop("signature")
                if not all(isinstance(told[f.name], str) for f in fields(Entry)) or len(told) != len(
                    fields(Entry)
                ):
                    raise ValueError
                self._last, expected = signature, self._signed(told)
                entry = Entry(**told)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                raise LineageError(f"{self._path}:{number}: is no entry of a history") from None
            if entry.action not in get_args(Action) or not hmac.compare_digest(signature, expected):
                raise LineageError(
                    f"{self._path}:{number}: is not what was signed, or not with this key ([model] state_key); delete "
                    f"{self.folder} to go back to the model of [model] path"
                )
            entries.append(entry)
        return entries


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LineageError(f"{path}: cannot be read: {error.strerror}") from None
