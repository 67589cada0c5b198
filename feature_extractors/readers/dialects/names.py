"""The Zeek stream that a file's name says it holds, for files that do not say so themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from feature_extractors.readers.folders import files_below

# Logs about Zeek itself, or about hosts: they name no connection.
ABOUT_ZEEK: Final = frozenset(
    (
        "analyzer_debug", "broker", "capture_loss", "cluster", "config", "known_certs", "known_hosts", "known_services",
        "loaded_scripts", "packet_filter", "print", "prof", "reporter", "software", "stats", "stderr",
        "stdout", "telemetry", "telemetry_histogram",
    )
)  # fmt: skip
_KNOWN: Final = ABOUT_ZEEK | frozenset(
    (
        "analyzer", "cmdana", "conn", "dce_rpc", "dhcp", "dnp3", "dns", "dpd", "files", "ftp", "http", "intel", "irc",
        "kerberos", "ldap", "ldap_search", "modbus", "modbus_register_change", "mqtt_connect", "mqtt_publish",
        "mqtt_subscribe", "mysql", "notice", "notice_alarm", "ntlm", "ntp", "ocsp", "pe", "postgresql", "quic",
        "radius", "rdp", "redis", "rfb", "signatures", "sip", "smb_cmd", "smb_files", "smb_mapping", "smtp", "snmp",
        "socks", "ssh", "ssl", "syslog", "traceroute", "tunnel", "websocket", "weird", "x509",
    )
)  # fmt: skip
_OTHER_NAMES: Final = {"connection": "conn", "connections": "conn", "file": "files"}  # as shippers call them
_SUMMARIES: Final = re.compile(r"[a-z0-9_-]*[_-]conns?|conns?[_-][a-z0-9_-]*", re.ASCII)

PACKED: Final = (".gz", ".bz2", ".xz", ".zst")
_KINDS: Final = frozenset((".log", ".json", ".ndjson", ".jsonl", ".tsv", ".csv", ".parquet", ".labeled"))
_LOG: Final = re.compile(r"(?:^|[._-])log(?:$|[._-])", re.ASCII)
_LEFT_BEHIND: Final = re.compile(r"(?:\.(?:bak|orig|partial|swp|tmp|lock|md5|sha1|sha256|sig)|~)$", re.ASCII)
_FIRST: Final = re.compile(r"([a-z][a-z0-9_]*?)(?:__|[-_]?\d{4}-?\d\d-?\d\d|[-.]|$)", re.ASCII)
_WORDS: Final = re.compile(r"[a-z][a-z0-9]*", re.ASCII)
# In a file's name `sensor1_conn` and `conn-dmz` are of a sensor: only these words make another log of it.
_OF_SUMMARY: Final = "open|long|short|red|summary|summaries|agg|bursts?|stats|doctor|durations?|updates?|half"
_SUMMARY: Final = re.compile(
    rf"(?:^|[._-])((?:{_OF_SUMMARY})[_-]conns?|conns?[_-](?:{_OF_SUMMARY}))(?:$|[._-])", re.ASCII
)


def is_summary(stream: str) -> bool:
    """Whether its rows are those of conn.log again: `open_conn`, `conn_long`, `conn_red`, `conn-summary`."""
    return _SUMMARIES.fullmatch(stream) is not None


def is_known(stream: str) -> bool:
    """Whether it is a log of Zeek's own, or ours."""
    return stream in _KNOWN


def stream_of(stream: str) -> str:
    """Zeek's name of a stream that may be named otherwise."""
    stream = stream.lower()
    return _OTHER_NAMES.get(stream, stream)


def told_stream(path: str) -> str:
    """The stream that a header's `#path` says, which some rotated logs have with the time."""
    return stream_of(_plain(path) or path)


def named_stream(name: str) -> str:
    """The stream that a file's name says, "" where it says none.

    Zeek, its supervisor, rotation, logrotate, Corelight and sensors give names such as `conn.log`,
    `conn.2026-01-01-00-00-00.log`, `conn__2026-01-01-00-00-00__2026-01-01-01-00-00__.log`, `conn.log.1`,
    `conn-20260101.log.gz`, `json_streaming_conn.1.log`, `sensor1_conn.log` and `conn.sensor.log`.
    """
    stem = _plain(name)
    if not stem:
        return ""
    summary = _SUMMARY.search(stem)
    if summary is not None:
        return summary[1]
    words = _WORDS.findall(stem)
    joined = ["_".join(words[i : i + size]) for size in (3, 2, 1) for i in range(len(words) - size + 1)]
    found = [stream_of(name) for name in joined if stream_of(name) in _KNOWN]
    if "conn" in found:
        return "conn"
    for one in (*(name for name in found if name not in ABOUT_ZEEK), *found):
        return one
    first = _FIRST.match(stem)
    return first[1] if first else ""


def may_be_log(path: Path) -> bool:
    """Whether a file below a folder is looked into for Zeek's records."""
    name = path.name.lower()
    if name.startswith(".") or _LEFT_BEHIND.search(name):
        return False
    while name.endswith(PACKED):
        name = name.rpartition(".")[0]
    suffix = Path(name).suffix
    if suffix in (".csv", ".pcap", ".pcapng", ".txt", ".html", ".toml", ".safetensors"):
        return suffix == ".csv" and named_stream(path.name) in _KNOWN
    return bool(_LOG.search(name)) or suffix in _KINDS or named_stream(path.name) in _KNOWN


def log_files(path: Path) -> Iterator[Path]:
    """The file itself, or those below the folder that may be logs."""
    if path.is_dir():
        yield from (file for file in files_below(path) if may_be_log(file))
    else:
        yield path


def _plain(name: str) -> str:
    """The name without what says how the file is packed, of what kind it is, and when it was rotated."""
    stem = name.lower()
    while True:
        shorter = stem
        for end in (*PACKED, *_KINDS):
            shorter = shorter.removesuffix(end)
        shorter = re.sub(r"[._-]\d[\d:._+-]*$", "", shorter)
        if shorter == stem:
            return stem
        stem = shorter
