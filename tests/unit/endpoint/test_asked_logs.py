"""Which logs a Zeek is asked for: those that a model or an outcome reads, in brief where that is all they read."""

from __future__ import annotations

from cmdana_plugin.endpoint.live import _log_streams
from cmdana_plugin.endpoint.observed import BRIEF
from feature_extractors.features import load_schema

SCHEMA = load_schema()


def test_a_zeek_is_asked_for_every_log_that_is_read() -> None:
    streams, _ = _log_streams(SCHEMA.digest)
    assert set(streams) == {f.stream for f in SCHEMA.log_fields} | {o.stream for o in SCHEMA.outcomes}
    assert {"radius", "ldap", "mqtt_connect", "socks", "rfb", "smb_cmd"} <= set(streams)


def test_in_brief_is_told_all_that_is_read() -> None:
    _, brief = _log_streams(SCHEMA.digest)
    assert set(brief) == set(BRIEF)
    for stream in brief:
        assert SCHEMA.reads()[stream] <= {*BRIEF[stream][0], *BRIEF[stream][1]}


def test_for_a_schema_that_is_not_known_all_logs_are_asked_for_in_full() -> None:
    assert _log_streams("another") == ((), ())
