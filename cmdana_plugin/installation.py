"""The first settings of a site: `plugin.toml`, the secret and a unit of systemd, written where each is looked for."""

from __future__ import annotations

import os
import pwd
import re
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cmdana_plugin import config as configuration
from cmdana_plugin import files, keyfile
from cmdana_plugin.config import Config, Verdict
from cmdana_plugin.logs import find_logs, number, read_rows
from feature_extractors import CmdanaError
from feature_extractors.readers import PassedOver

_HOST_FOLDER: Final = Path("/etc/cmdana")
_UNITS: Final = Path("/etc/systemd/system")
_UNIT: Final = "cmdana.service"
_DAY: Final = 86400.0  # seconds
_LEAST_SPAN: Final = 3600.0  # seconds of logs from which a day is reckoned
_PLAIN: Final = re.compile(r"[\w/.+-]+")  # a path that systemd takes as it is


@dataclass(frozen=True, slots=True)
class Answers:
    """What is asked of whoever installs."""

    connections_per_day: int = Verdict().connections_per_day
    alerts_per_day: float = Verdict().alerts_per_day
    user: str = ""  # that Zeek and the detector run as; "" is whoever asks


@dataclass(frozen=True, slots=True)
class Written:
    """The files that are there now, and which of them were there before and were left alone."""

    configuration: Path
    secret: Path
    unit: Path | None
    kept: tuple[Path, ...]


def write(answers: Answers, into: Path | None, *, unit: bool | None, force: bool) -> Written:
    """Writes configuration, secret and unit: for the host where root asks, else for the user; or all `into` a folder.

    `unit` None writes one where root asks, there is systemd and no folder is named. A secret that is there stays.
    Raises `CmdanaError` before anything is written where a file is there already and not `force`, or an answer cannot
    be.
    """
    root = os.geteuid() == 0
    owner = _owner(answers.user)
    folder = into or (_HOST_FOLDER if root else configuration.operators_files()[0].parent)
    with_unit = (root and into is None and _UNITS.is_dir()) if unit is None else unit
    if with_unit and into is None and not root:
        raise CmdanaError("--unit: needs root, or --into and a folder of your own")
    toml = folder / "plugin.toml"
    service = (into or _UNITS) / _UNIT if with_unit else None
    settings = _settings(answers, beside=into is not None)
    words = _unit_text(toml, answers.user) if service else ""
    for path in (toml, service):
        if path and path.exists() and not force:
            raise CmdanaError(f"{path}: is there already; --force writes it anew")
    secret = folder / "secret"
    kept = (secret,) if secret.exists() else ()
    try:
        folder.mkdir(mode=0o755 if root else 0o700, parents=True, exist_ok=True)
        if not kept:
            keyfile.new_secret(str(secret))
            if owner is not None:
                os.chown(secret, *owner)
        files.replace(toml, settings.encode(), 0o644)
        if service:
            files.replace(service, words.encode(), 0o644)
    except OSError as error:
        raise CmdanaError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    return Written(toml, secret, service, kept)


def next_steps(done: Written, scripts: Path) -> list[str]:
    """What is left to do, a line each."""
    steps = [
        "in Zeek's local.zeek:",
        f"    @load {scripts}",
        f"    @load {scripts}/listen-websocket",
    ]
    if done.secret.parent not in (_HOST_FOLDER, configuration.operators_files()[0].parent):
        steps.append(f'    redef CMDANA::secret_file = "{done.secret.absolute()}";')
    steps.append("then zeekctl deploy, or start Zeek anew")
    if done.unit and done.unit.parent == _UNITS:
        steps.append("systemctl daemon-reload && systemctl enable --now cmdana")
    else:
        steps.append(f"{_program()} run --config {done.configuration}")
    return steps


def connections_a_day(logs: Sequence[Path]) -> int:
    """How many connections a day the conn.logs there hold. Raises `CmdanaError` for none, or less than an hour."""
    passed = PassedOver()
    rows, first, last = 0, float("inf"), 0.0
    for file in find_logs(logs, "conn"):
        for row in read_rows(file, "conn", passed, only=("ts",)):
            ts = number(row, "ts")
            rows, first, last = rows + 1, min(first, ts), max(last, ts)
    if last - first < _LEAST_SPAN:
        raise CmdanaError(
            f"{', '.join(map(str, logs))}: found no hour of conn.log, which a day is reckoned from"
        )
    return max(1, round(rows * _DAY / (last - first)))


def _owner(user: str) -> tuple[int, int] | None:
    if not user:
        return None
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise CmdanaError(
            f"--user: found no user {user!r}; expected the one that Zeek runs as, or make one: "
            f"useradd --system --shell /usr/sbin/nologin {user}"
        ) from None
    if os.geteuid() != 0 and found.pw_uid != os.geteuid():
        raise CmdanaError("--user: only root can give the secret to another user")
    return found.pw_uid, found.pw_gid


def _settings(answers: Answers, *, beside: bool) -> str:
    """`plugin.toml` as it ships, with the answers in it."""
    text = _shipped("plugin.toml").read_text(encoding="utf-8")
    values = {
        "connections_per_day": str(answers.connections_per_day),
        "alerts_per_day": repr(answers.alerts_per_day),
    }
    if beside:
        values["secret_file"] = '"secret"'  # noqa: S105  # a path
    for key, value in values.items():
        text, found = re.subn(rf"(?m)^({key} = )\S+", rf"\g<1>{value}", text)
        if found != 1:
            raise CmdanaError(
                f"plugin.toml: found {key} {found} times in the one that ships; install cmdana again"
            )
    checked: Config = configuration.parse(text.encode(), "plugin.toml")
    assert checked.verdict.connections_per_day == answers.connections_per_day
    return text


def _unit_text(toml: Path, user: str) -> str:
    text = _shipped(_UNIT).read_text(encoding="utf-8")
    program, settings = str(_program()), str(toml.absolute())
    for path in (program, settings):
        if not _PLAIN.fullmatch(path):
            raise CmdanaError(
                f"{path}: is no path that a unit can hold; install without spaces, or use --no-unit"
            )
    text = re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={program} run --config {settings}", text)
    return re.sub(r"(?m)^User=.*$", f"User={user or pwd.getpwuid(os.geteuid()).pw_name}", text)


def _program() -> Path:
    return Path(sys.executable).parent / "cmdana"


def _shipped(name: str) -> Path:
    """A file of the installation, or of the repository where it runs from there."""
    repository = Path(__file__).parents[1]
    places = (
        repository / name,
        repository / "docs" / "deploy" / "systemd" / name,
        Path(sysconfig.get_path("data")) / "share" / "cmdana" / name,
    )
    for place in places:
        if place.is_file():
            return place
    raise CmdanaError(f"{name}: is not in {' or '.join(str(p.parent) for p in places)}; install cmdana again")
