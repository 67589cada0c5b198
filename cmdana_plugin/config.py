"""`plugin.toml` read, checked and frozen: what an operator may change, and a clear word on each mistake."""

from __future__ import annotations

import difflib
import grp
import ipaddress
import os
import pwd
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from errno import ELOOP
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from feature_extractors import CmdanaError

MAX_SHARDS: Final = 256  # as in zeek_scripts/batches.zeek
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class ConfigError(CmdanaError):
    """`plugin.toml` cannot be used; the message names the file, the key, what was found and what was expected."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Capture(_Table):
    """How captures are read."""

    engine: Literal["auto", "embedded", "zeek"] = "auto"
    reader: Literal["auto", "native", "scapy", "pyshark"] = "auto"


class Tracker(_Table):
    """What the embedded engine's connection table may hold (`feature_extractors.tracker.state.TrackerLimits`)."""

    connections: Count = 262_144
    blocks_per_direction: Count = 256
    fragments: Count = 256


class Content(_Table):
    """How much of application content may wait to be parsed (`feature_extractors.content.ContentLimits`)."""

    pending_bytes: Count = 256 * 1024
    pending_segments: Count = 128
    pending_total: Count = 64 * 1024 * 1024
    log_entries: Count = 10_000
    log_entries_total: Count = 2_000_000
    log_bytes: Count = 16 * 1024 * 1024
    log_bytes_total: Count = 512 * 1024 * 1024
    buffer_bytes: Count = 128 * 1024
    decoded_bytes: Count = 4 * 1024 * 1024
    examined_bytes: Count = 256 * 1024 * 1024
    transactions: Count = 100


class Model(_Table):
    """The detector."""

    path: str = ""
    detector: Literal[
        "auto",
        "dependency-network",
        "cross-modal",
        "residual-attention",
        "residual-attention-fields",
        "spatio-temporal",
    ] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    max_hosts: Count = 131_072
    site_history: bool = True
    state_key: str = ""


class Behaviour(_Table):
    """What runs of connections look like (`cmdana_plugin.behaviour`)."""

    max_hosts: Count = 32_768


class Learning(_Table):
    """`cmdana train --live`."""

    max_connections: Count = 2_000_000


class Verdict(_Table):
    """The budget and the notices."""

    alerts_per_day: Annotated[float, Field(gt=0)] = 10.0
    connections_per_day: Count = 10_000
    early: bool = True
    suppress_for: Seconds = 3600.0
    max_reasons: Annotated[int, Field(ge=1, le=20)] = 3
    allow: tuple[str, ...] = ()


class Incident(_Table):
    """What one host does over many connections, as one."""

    quiet: Seconds = 1800.0
    max_hosts: Count = 100_000


class Drift(_Table):
    """When the traffic has moved away from what the model learned (`cmdana_plugin.decision.drift`)."""

    window: Seconds = 3600.0
    windows: Count = 3
    lift: Annotated[float, Field(gt=1)] = 3.0
    least: Count = 300
    hosts: Count = 5
    per_host: Annotated[int, Field(ge=1, le=60_000)] = 50
    suppress_for: Seconds = 86_400.0


class Adaptation(_Table):
    """What may follow the site by itself (`cmdana_plugin.decision.adaptation`)."""

    mode: Literal["off", "calibration", "always", "shadow"] = "calibration"
    step: Annotated[float, Field(gt=0, le=12)] = 1.0
    passes: Literal[1, 2] = 1

    @property
    def reads_twice(self) -> bool:
        """Whether captures and logs have a first pass that listens."""
        return self.passes > 1 and self.mode != "off"


class State(_Table):
    """What is known of the site, kept on disk (`cmdana_plugin.statefile`)."""

    folder: str = ""
    seconds: Seconds = 60.0


class Endpoint(_Table):
    """The road to a running Zeek."""

    transport: Literal["websocket", "broker"] = "websocket"
    url: str = "ws://127.0.0.1:27759/v1/messages/json"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    broker_host: str = "127.0.0.1"
    broker_port: Annotated[int, Field(ge=1, le=65535)] = 9999
    broker_ssl: bool = True
    authentication: Literal["hmac", "none"] = "hmac"
    secret_file: str = ""
    shard: str = ""
    stand_in: Annotated[int, Field(ge=0, le=16)] = 1
    stand_in_seconds: Seconds = 30.0
    topic_events: str = "zeek/cmdana/observations"
    topic_verdicts: str = "zeek/cmdana/verdicts"
    queue_records: Count = 200_000
    queue_bytes: Count = 256 * 1024 * 1024
    batch_records: Count = 400
    batch_seconds: Seconds = 0.05
    log_seconds: Seconds = 3.0
    reconnect_min: Seconds = 0.5
    reconnect_max: Seconds = 30.0
    counts_seconds: Annotated[float, Field(ge=0)] = 60.0
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0

    @field_validator("shard")
    @classmethod
    def _shard(cls, value: str) -> str:
        number, _, of = value.partition("/")
        whole = all(part.isascii() and part.isdigit() and len(part) <= 3 for part in (number, of))
        if value and not (whole and 1 <= int(number) <= int(of) <= MAX_SHARDS):
            raise ValueError(f'expected such as "2/8", the second of eight, of {MAX_SHARDS} at most')
        return value


class Zeek(_Table):
    """The Zeek program, for `replay --engine zeek` and `doctor`."""

    path: str = "zeek"
    scripts: str = ""


class Logs(_Table):
    """The logs that the embedded engine writes."""

    format: Literal["tsv", "json"] = "tsv"
    streams: Literal["none", "conn", "all"] = "conn"
    local_nets: tuple[str, ...] = (
        "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
        "::1/128", "fc00::/7", "fe80::/10",
    )  # fmt: skip

    @field_validator("local_nets")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network, strict=False)
        return value


class Desk(_Table):
    """`cmdana serve`: where else a connection can be looked up, "" nowhere."""

    arkime: str = ""
    zui: str = ""
    kibana: str = ""

    @field_validator("arkime", "zui", "kibana")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not value.startswith(("https://", "http://", "zui://", "brim://")):
            raise ValueError("expected an address that begins with https:// or http://")
        return value


class Config(_Table):
    """The whole of `plugin.toml`, tables in the order of the walk."""

    capture: Capture = Capture()
    tracker: Tracker = Tracker()
    content: Content = Content()
    model: Model = Model()
    behaviour: Behaviour = Behaviour()
    learning: Learning = Learning()
    verdict: Verdict = Verdict()
    incident: Incident = Incident()
    drift: Drift = Drift()
    adaptation: Adaptation = Adaptation()
    state: State = State()
    endpoint: Endpoint = Endpoint()
    zeek: Zeek = Zeek()
    logs: Logs = Logs()
    desk: Desk = Desk()


@dataclass(frozen=True, slots=True)
class Found:
    """The configuration in use, and where it came from."""

    config: Config
    path: Path | None = None  # None: the defaults
    operators: bool = True  # an operator put it there; else it lay in the working folder
    ignored: tuple[str, ...] = ()  # keys of a working folder's file that are not taken from there

    def words(self) -> str:
        """Where the configuration came from, as a sentence for the operator; "" for the defaults."""
        if self.path is None:
            return ""
        if self.operators:
            return f"configuration: {shown(str(self.path))}"
        words = f"configuration: {shown(str(self.path))} of the working folder"
        if not self.ignored:
            return words
        return f"{words}; not taken from there: {', '.join(self.ignored)} (name the file with --config)"

    def object(self) -> dict[str, object] | None:
        """Where the configuration came from, as an object for `--json`; None for the defaults."""
        if self.path is None:
            return None
        return {"file": str(self.path), "operators": self.operators, "ignored": list(self.ignored)}


def load(path: Path | None) -> Config:
    """The configuration that `find` finds."""
    return find(path).config


def find(path: Path | None) -> Found:
    """The configuration and its origin: in `path`; without one, in the first file of `operators_files`; without
    those, what cannot run or hide anything of `./plugin.toml`; without that, the defaults.

    A path in it that is relative begins at the file's folder. Raises `ConfigError` with one line for the first mistake,
    and for an operator's file that others can write, if it holds what a working folder's may not.
    """
    for file in [path] if path is not None else operators_files():
        if path is None and not file.exists():
            continue
        text, doubt = _read(file)
        config = parse(text, str(file))
        refused = _not_from_anywhere(config)
        if doubt and refused:
            raise ConfigError(
                f"{file}: {doubt}, so {refused[0]} is not taken from it; chown and chmod go-w it"
            )
        return Found(_anchored(config, file), file)
    here = Path("plugin.toml")
    if not os.path.lexists(here):
        return Found(Config())
    text, _ = _read(here, follow=False)
    if (
        len(text) > _MAX_FOLDER_FILE_BYTES or text.count(b".") > _MAX_FOLDER_FILE_DOTS
    ):  # keys in keys take the square of their number
        raise ConfigError(f"{here}: is too long for one of the working folder; name it with --config")
    config = parse(text, str(here))
    ignored = _not_from_anywhere(config)
    return Found(_without(config, ignored), here, operators=False, ignored=ignored)


def operators_files(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The paths of an operator's configuration, in order of precedence (XDG Base Directory, then /etc)."""
    homes = [environment.get("XDG_CONFIG_HOME", "")]
    if not os.path.isabs(homes[0]):  # a relative one is to be ignored, says the XDG specification
        homes = [f"{environment['HOME']}/.config"] if os.path.isabs(environment.get("HOME", "")) else []
    return [Path(home) / "cmdana" / "plugin.toml" for home in [*homes, "/etc"]]


def to_write(found: Found | None) -> Path:
    """The path of the operator's configuration to change: the one in use, or the user's own."""
    if found is not None and found.path is not None and found.operators:
        return found.path
    return operators_files()[0]


# What may come from a file that an operator did not put there: it runs nothing, names no path, and hides nothing. Where
# a number decides what is shown, it may be set to show more than the default, never less.
_ANYWHERE: Final[Mapping[tuple[str, str], Callable[[Any], bool]]] = {
    ("capture", "reader"): lambda reader: reader != "pyshark",
    ("model", "device"): lambda _: True,
    ("model", "threads"): lambda threads: threads <= 64,
    ("verdict", "alerts_per_day"): lambda n: n >= Verdict().alerts_per_day,
    ("verdict", "connections_per_day"): lambda n: n <= Verdict().connections_per_day,
    ("verdict", "suppress_for"): lambda seconds: seconds <= Verdict().suppress_for,
    ("verdict", "max_reasons"): lambda _: True,
    ("logs", "format"): lambda _: True,
    ("logs", "streams"): lambda streams: streams != "none",
    ("logs", "local_nets"): lambda _: True,
}
_PATHS: Final = (
    ("model", "path"),
    ("model", "state_key"),
    ("state", "folder"),
    ("endpoint", "secret_file"),
    ("endpoint", "ca_file"),
    ("endpoint", "cert_file"),
    ("endpoint", "key_file"),
    ("zeek", "scripts"),
)
_MAX_FILE_BYTES: Final = 1024 * 1024  # bytes of a file
_MAX_FOLDER_FILE_BYTES: Final = 64 * 1024  # bytes of one of the working folder
_MAX_FOLDER_FILE_DOTS: Final = 2000
# similarity (difflib's ratio, 0 to 1) from which a known key is proposed for an unknown one
_MIN_SIMILARITY: Final = 0.75
_NO_SNIFFING: Final = "the endpoint no longer sniffs packets: delete the key"
_REMOVED: Final[Mapping[tuple[str, ...], str]] = {
    ("endpoint", "sniff"): _NO_SNIFFING,
    ("endpoint", "sniff_connections"): _NO_SNIFFING,
}


def _not_from_anywhere(config: Config) -> tuple[str, ...]:
    """The keys, "[table] key", that only an operator may set as they are set here."""
    out = []
    for (table, settings), (_, defaults) in zip(config, Config(), strict=True):
        for key, value in settings:
            allowed = _ANYWHERE.get((table, key), lambda _: False)
            if value != getattr(defaults, key) and not allowed(value):
                out.append(f"[{table}] {key}")
    return tuple(out)


def _without(config: Config, keys: Sequence[str]) -> Config:
    tables: dict[str, Any] = {}
    for name, settings in config:
        back = {key: getattr(type(settings)(), key) for key, _ in settings if f"[{name}] {key}" in keys}
        tables[name] = settings.model_copy(update=back)
    return config.model_copy(update=tables)


def _anchored(config: Config, file: Path) -> Config:
    """Relative paths, which would else be looked for in whatever folder the command is given in, beside the file."""
    folder = os.path.abspath(file.parent)
    tables: dict[str, Any] = {}
    for table, key in _PATHS:
        value = getattr(getattr(config, table), key)
        if value:
            tables.setdefault(table, {})[key] = os.path.join(folder, value)
    if os.sep in config.zeek.path:
        tables.setdefault("zeek", {})["path"] = os.path.join(folder, config.zeek.path)
    return config.model_copy(
        update={t: getattr(config, t).model_copy(update=keys) for t, keys in tables.items()}
    )


def _read(path: Path, *, follow: bool = True) -> tuple[bytes, str]:
    """What a file holds, and in words who else could have written that, "" for nobody."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        file = os.open(path, flags)
    except OSError as error:
        why = "is a link" if error.errno == ELOOP and not follow else f"cannot be read: {error.strerror}"
        raise ConfigError(f"{path}: {why}") from None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        os.close(file)
        raise ConfigError(f"{path}: cannot be read: it is no regular file")
    with open(file, "rb") as opened:
        text = opened.read(_MAX_FILE_BYTES + 1)
    if len(text) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is too long; expected at most {_MAX_FILE_BYTES:,} bytes")
    return text, writable_by_others(found) or _replaceable(path)


def _replaceable(path: Path) -> str:
    """Whether others can put another file in its place: through a folder above it."""
    for folder in Path(os.path.realpath(path)).parents:
        found = folder.stat()
        if not found.st_mode & stat.S_ISVTX and (why := writable_by_others(found)):
            return f"{shown(str(folder))}: {why}"
    return ""


def writable_by_others(found: os.stat_result) -> str:
    """Why somebody but root and this process's user can write a file or folder, in words; "" where nobody can.

    The group counts as nobody where it is the owner's own and has no other member, as Debian and Fedora set up users.
    """
    if found.st_uid not in (0, os.geteuid()):
        return f"user {found.st_uid} owns it"
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH:
        return f"everybody can write it (mode {mode:03o})"
    if mode & stat.S_IWGRP and not _own_group(found):
        return f"group {found.st_gid} can write it (mode {mode:03o})"
    return ""


def _own_group(found: os.stat_result) -> bool:
    try:
        owner, group = pwd.getpwuid(found.st_uid), grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and set(group.gr_mem) <= {owner.pw_name}


def shown(text: str) -> str:
    """A text made safe to print: characters that are not printable are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def parse(text: bytes, name: str) -> Config:
    """The configuration written in `text`. Raises `ConfigError` as `load` does."""
    try:
        tables = tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}; TOML must be UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {shown(str(error))}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, arrays in arrays in arrays
        raise ConfigError(
            f"{name}: not TOML that can be used: a number too long, or nested too deep"
        ) from None
    try:
        # TOML has arrays only; our frozen tables hold tuples.
        return Config.model_validate(_frozen(tables))
    except RecursionError:
        raise ConfigError(f"{name}: not TOML that can be used: nested too deep") from None
    except ValidationError as error:
        raise ConfigError(_sentence(name, error)) from None


def _frozen(value: object) -> object:
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    return value


def _sentence(name: str, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = [shown(str(part)) for part in first["loc"]]
    key = f"[{where[0]}] {'.'.join(where[1:])}" if len(where) > 1 else f"[{where[0]}]"
    if first["type"] == "extra_forbidden":
        if gone := _REMOVED.get(tuple(where)):
            return f"{name}: unknown key {key}; {gone}"
        known = _known(where[:-1])
        near = difflib.get_close_matches(where[-1], known, n=1, cutoff=_MIN_SIMILARITY)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{name}: unknown key {key}; {hint}"
    expected = first["msg"][0].lower() + first["msg"][1:]
    return f"{name}: {key}: found {_short(first['input'])}; {shown(expected)}"


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 200 else f"{words[:200]}..."


def _known(where: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in where:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
