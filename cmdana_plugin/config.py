"""`plugin.toml` read, checked and frozen: what an operator may change, and a clear word on each mistake."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_extractors.errors import CmdanaError

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
    """What the embedded engine's connection table may hold (`feature_extractors.state.TrackerLimits`)."""

    connections: Count = 262_144
    blocks_per_direction: Count = 256
    fragments: Count = 256


class Content(_Table):
    """How much of application content may wait to be parsed (`feature_extractors.analyzers.base.ContentLimits`)."""

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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    max_hosts: Count = 131_072
    site_history: bool = True
    state_key: str = ""


class Learning(_Table):
    """`cmdana train --live`."""

    max_connections: Count = 2_000_000


class Verdict(_Table):
    """The budget and the notices."""

    alerts_per_day: Annotated[float, Field(gt=0)] = 20.0
    connections_per_day: Count = 20_000
    early: bool = True
    suppress_for: Seconds = 3600.0
    max_reasons: Annotated[int, Field(ge=1, le=20)] = 3
    allow: tuple[str, ...] = ()


class Incident(_Table):
    """Odd connections of one host, merged."""

    evidence: Annotated[float, Field(gt=0)] = 8.0
    allowance: Annotated[float, Field(gt=0)] = 1.0
    quiet: Seconds = 1800.0
    max_hosts: Count = 100_000


class Drift(_Table):
    """When the traffic has moved away from what the model learned (`cmdana_plugin.drift`)."""

    window: Seconds = 3600.0
    windows: Count = 3
    lift: Annotated[float, Field(gt=1)] = 3.0
    least: Count = 300
    hosts: Count = 5
    per_host: Annotated[int, Field(ge=1, le=60_000)] = 50
    suppress_for: Seconds = 86_400.0


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
    topic_events: str = "zeek/cmdana/observations"
    topic_verdicts: str = "zeek/cmdana/verdicts"
    queue_records: Count = 200_000
    batch_records: Count = 1024
    batch_seconds: Seconds = 0.05
    reconnect_min: Seconds = 0.5
    reconnect_max: Seconds = 30.0
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    sniff: str = ""
    sniff_connections: Annotated[int, Field(ge=1, le=10_000_000)] = 65_536


class Zeek(_Table):
    """The Zeek program, for `replay --engine zeek` and `doctor`."""

    path: str = "zeek"
    scripts: str = ""


class Logs(_Table):
    """The logs that the embedded engine writes."""

    format: Literal["tsv", "json"] = "tsv"
    local_nets: tuple[str, ...] = (
        "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
        "::1/128", "fc00::/7", "fe80::/10",
    )  # fmt: skip


class Config(_Table):
    """The whole of `plugin.toml`, tables in the order of the walk."""

    capture: Capture = Capture()
    tracker: Tracker = Tracker()
    content: Content = Content()
    model: Model = Model()
    learning: Learning = Learning()
    verdict: Verdict = Verdict()
    incident: Incident = Incident()
    drift: Drift = Drift()
    endpoint: Endpoint = Endpoint()
    zeek: Zeek = Zeek()
    logs: Logs = Logs()


def load(path: Path | None) -> Config:
    """The configuration in `path`; without one, in `./plugin.toml`; without that, the defaults.

    Raises `ConfigError` with one line for the first mistake.
    """
    if path is None:
        path = Path("plugin.toml")
        if not path.exists():
            return Config()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def parse(text: bytes, name: str) -> Config:
    """The configuration written in `text`. Raises `ConfigError` as `load` does."""
    try:
        tables = tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}; TOML must be UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from None
    try:
        # TOML has arrays only; our frozen tables hold tuples.
        return Config.model_validate(_frozen(tables))
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
    where = [str(part) for part in first["loc"]]
    key = f"[{where[0]}] {'.'.join(where[1:])}" if len(where) > 1 else f"[{where[0]}]"
    if first["type"] == "extra_forbidden":
        known = _known(where[:-1])
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{name}: unknown key {key}; {hint}"
    expected = first["msg"][0].lower() + first["msg"][1:]
    return f"{name}: {key}: found {first['input']!r}; {expected}"


def _known(where: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in where:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
