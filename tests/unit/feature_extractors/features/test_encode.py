"""Windows as numbers: what they mean, what they never hold, and that hostile values change nothing but themselves."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_windows import changed, office, without_logs

from feature_extractors.features.encoding import (
    COLUMNS,
    Encoded,
    Features,
    concat_encoded,
    concat_features,
    encode,
    encoded,
    take_encoded,
    take_features,
)
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import Connections, LogEntry, take

SCHEMA = load_schema()


def arrays(f: Features) -> dict[str, np.ndarray]:
    return {k: getattr(f, k) for k in Features.__slots__}


def same(a: Features, b: Features) -> bool:
    return all(
        np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        for x, y in zip(arrays(a).values(), arrays(b).values(), strict=True)
    )


def column(f: Features, name: str) -> np.ndarray:
    return f.numeric[:, [n.name for n in SCHEMA.numeric].index(name)]


def code(f: Features, name: str) -> np.ndarray:
    return f.categorical[:, [c.name for c in SCHEMA.categorical].index(name)]


def test_a_row_depends_on_its_own_window_only() -> None:
    windows = office(300)
    whole = encode(windows, SCHEMA)
    pieces = [encode(take(windows, np.arange(i, min(i + 37, 300))), SCHEMA) for i in range(0, 300, 37)]
    assert same(whole, concat_features(pieces))
    order = np.random.default_rng(0).permutation(300)
    assert same(encode(take(windows, order), SCHEMA), take_features(whole, order))


def test_unset_stays_unset_and_zero_means_zero() -> None:
    windows = office(2)
    unset = changed(
        windows,
        duration=np.array([np.nan, 0.0]),
        orig_bytes=np.array([-1, 0]),
        conn_state=np.array([-1, 0], np.int8),
    )
    f = encode(unset, SCHEMA)
    assert np.isnan(column(f, "duration")).tolist() == [True, False]
    assert np.isnan(column(f, "orig_bytes")).tolist() == [True, False]
    assert column(f, "orig_bytes")[1] == 0
    assert code(f, "conn_state").tolist() == [0, 2]


@pytest.mark.parametrize(
    ("what", "columns"),
    [
        ("uids", {"uid": np.array([b"Cother"] * 40, "S20")}),
        ("absolute time", None),
        (
            "addresses of one kind",
            {"orig_h": np.tile(np.array([0] * 10 + [255, 255, 10, 9, 9, 9], np.uint8), (40, 1))},
        ),
        ("the originator's high port", {"orig_p": np.full(40, 60001, np.uint16)}),
        ("which high port answers", {"resp_p": np.full(40, 31337, np.uint16)}),
    ],
)
def test_the_numbers_do_not_hold(what: str, columns: dict[str, np.ndarray] | None) -> None:
    base = (
        changed(office(40), resp_p=np.full(40, 40000, np.uint16))
        if what == "which high port answers"
        else office(40)
    )
    if columns is None:
        c = base.connections
        moved = changed(base, ts=c.ts + 86400 * 365, end=c.end + 86400 * 365)
        moved = replace(moved, packets=replace(moved.packets, ts=moved.packets.ts + 86400 * 365))
        a, b = encode(base, SCHEMA), encode(moved, SCHEMA)
        assert np.allclose(a.packets, b.packets, atol=1e-3)
        assert np.array_equal(a.numeric, b.numeric, equal_nan=True)
        return
    assert same(encode(base, SCHEMA), encode(changed(base, **columns), SCHEMA))


@pytest.mark.parametrize(
    ("service", "listed"),
    [("", None), ("dns", "dns"), ("dns,ssl", "dns"), ("gssapi,smb", "smb"), ("something-new", "other")],
)
def test_service_has_a_code(service: str, listed: str | None) -> None:
    f = encode(changed(office(1), service=[service]), SCHEMA)
    values = next(c for c in SCHEMA.categorical if c.name == "service").values
    want = 0 if listed is None else 1 if listed == "other" else values.index(listed) + 2
    assert code(f, "service").tolist() == [want]


@pytest.mark.parametrize(
    ("octets", "scope"),
    [
        ([0] * 10 + [255, 255, 10, 0, 0, 1], "private"),
        ([0] * 10 + [255, 255, 8, 8, 8, 8], "global"),
        ([0] * 10 + [255, 255, 224, 0, 0, 251], "multicast"),
        ([0] * 10 + [255, 255, 255, 255, 255, 255], "broadcast"),
        ([0] * 10 + [255, 255, 169, 254, 1, 1], "link-local"),
        ([0] * 10 + [255, 255, 172, 32, 0, 1], "global"),
        ([0xFE, 0x80] + [0] * 13 + [1], "link-local"),
        ([0xFF, 0x02] + [0] * 13 + [1], "multicast"),
        ([0] * 15 + [1], "loopback"),
        ([0x20, 0x01] + [0] * 13 + [1], "global"),
    ],
)
def test_addresses_are_known_by_their_kind(octets: list[int], scope: str) -> None:
    f = encode(changed(office(1), resp_h=np.array([octets], np.uint8)), SCHEMA)
    values = next(c for c in SCHEMA.categorical if c.name == "resp_scope").values
    assert code(f, "resp_scope").tolist() == [values.index(scope) + 2]


def test_a_window_without_logs_or_packets_has_none_in_numbers() -> None:
    windows = without_logs(office(30))
    windows = replace(
        windows, packets=take(windows, np.arange(0)).packets, packet_start=np.zeros(31, np.int64)
    )
    f = encode(windows, SCHEMA)
    assert len(f.log_tokens) == len(f.packets) == 0
    assert np.isnan(f.log_summary).all()
    assert np.isnan(f.first_packets).all()
    assert (f.name == 0).all()


def test_no_windows_give_no_features() -> None:
    assert len(encode(take(office(3), np.arange(0)), SCHEMA)) == 0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=600),
    lambda v: st.lists(v, max_size=3),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SCHEMA.log_fields), VALUES)
def test_any_log_value_is_encoded_and_touches_its_own_row_only(field, value) -> None:  # type: ignore[no-untyped-def]
    windows = without_logs(office(3))
    entry = LogEntry(field.stream, 0.0, "", {field.name: value})
    f = encode(replace(windows, logs=[entry], log_start=np.array([0, 0, 1, 1])), SCHEMA)
    assert np.isfinite(f.log_summary[~np.isnan(f.log_summary)]).all()
    assert np.isnan(f.log_summary[[0, 2]]).all()
    assert f.log_start.tolist() in ([0, 0, 0, 0], [0, 0, 1, 1])
    assert (f.log_tokens >= 0).all()
    assert (f.log_tokens < SCHEMA.log_buckets).all()


@pytest.mark.parametrize("name", ["a\0b", "\udcff.example", "\xff" * 5000, "", "x" * 256])
def test_hostile_names_do_not_shift_other_values(name: str) -> None:
    windows = office(3)
    plain = encode(windows, SCHEMA)
    spoiled = [windows.logs[0]._replace(fields={**windows.logs[0].fields, "query": name}), *windows.logs[1:]]
    f = encode(replace(windows, logs=spoiled), SCHEMA)
    assert np.array_equal(f.log_summary[1:], plain.log_summary[1:], equal_nan=True)
    assert np.array_equal(f.log_tokens[f.log_start[1] :], plain.log_tokens[plain.log_start[1] :])


def test_case_of_a_name_is_no_difference() -> None:
    windows = office(1)
    loud = [
        windows.logs[0]._replace(
            fields={**windows.logs[0].fields, "query": windows.logs[0].fields["query"].upper()},
        )
    ]  # type: ignore[union-attr]
    assert encode(replace(windows, logs=loud), SCHEMA).name == encode(windows, SCHEMA).name != 0


def equal(a: Encoded, b: Encoded) -> bool:
    connections = all(
        np.array_equal(
            getattr(a.connections, f.name), getattr(b.connections, f.name), equal_nan=f.name == "duration"
        )
        for f in fields(Connections)
    )
    return (
        connections
        and same(a.features, b.features)
        and a.schema == b.schema
        and list(a.domain) == list(b.domain)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)
    )


def test_encoded_windows_are_cut_and_joined_as_windows_are() -> None:
    windows = office(300, seed=2)
    whole = encoded(windows, SCHEMA)
    order = np.random.default_rng(1).permutation(300)
    assert equal(encoded(take(windows, order), SCHEMA), take_encoded(whole, order))
    parts = [take_encoded(whole, np.arange(i, min(i + 37, 300))) for i in range(0, 300, 37)]
    assert equal(concat_encoded(parts), whole)
    with pytest.raises(ValueError, match="at least one"):
        concat_encoded([])


def test_encoded_windows_have_no_other_columns_than_are_cut_joined_and_sent() -> None:
    apart = {"connections", "features", "schema", "domain"}
    assert {f.name for f in fields(Encoded)} == {*COLUMNS, *apart}


def test_encoded_windows_tell_how_what_was_asked_for_ended_and_whose_names_they_ask() -> None:
    windows = office(300, seed=2)
    block = encoded(windows, SCHEMA)
    told = [SCHEMA.outcomes[k - 1].stream if k else "" for k in block.told_by]
    streams = [windows.logs[a].stream if a < b else "" for a, b in pairwise(windows.log_start.tolist())]
    assert told == [s if s in ("dns", "http") else "" for s in streams]
    assert block.accepted.tolist() == [int(bool(t)) for t in told]
    assert not block.refused.any()
    assert set(block.domain) == {"firm.example", "news.example", "shop.example"}
    assert (block.subdomain_bits > 0).any()


def test_encoded_windows_say_what_was_seen_of_them() -> None:
    windows = office(300, seed=2)
    block = encoded(windows, SCHEMA)
    packets, logs = np.diff(windows.packet_start) > 0, np.diff(windows.log_start) > 0
    assert np.array_equal(block.modalities, np.stack([packets, np.ones(300, bool), logs], axis=1))
    queries = [
        max((len(str(e.fields.get("query", ""))) for e in windows.logs[a:b] if e.stream == "dns"), default=0)
        for a, b in pairwise(windows.log_start.tolist())
    ]
    asked = np.array(queries) > 0
    assert asked.any()
    assert np.array_equal(block.longest_name[asked], np.array(queries)[asked])
