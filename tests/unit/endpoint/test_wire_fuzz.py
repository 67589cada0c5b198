"""Whatever Zeek's side says, it is taken, a bad record, or a refusal in words, and what follows is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from fuzz_wire import ATOMS, ME, SECRET, TOPIC, Fuzzer, bases, fuzz

from cmdana_plugin.endpoint import observed, wire
from cmdana_plugin.endpoint.seal import sealed_by_zeek
from cmdana_plugin.endpoint.wire import Event

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("trusting", [True, False])
def test_a_hostile_value_in_any_place_of_any_message_is_borne(trusting: bool) -> None:
    fuzzer = Fuzzer(1)
    while fuzzer.session.trusting is not trusting:
        fuzzer.begin_anew()
    for which, base in enumerate(fuzzer.bases):
        name = wire.WELCOME if which == len(fuzzer.bases) - 1 else wire.OBSERVATIONS
        for begin, end in fuzzer.spans[which]:
            told = [base[:begin] + atom + base[end:] for atom in ATOMS]
            # A run for each, so that none is passed over for its number.
            runs = [text.replace('"run":"r"', f'"run":"r{begin}-{i}"') for i, text in enumerate(told)]
            events = [Event(TOPIC, name, text) for text in runs]
            if not trusting:
                events = [
                    sealed_by_zeek(
                        SECRET, Event(TOPIC, e.name, e.payload.encode("utf-8", "replace").decode())
                    )
                    for e in events
                ]
            fuzzer.take(events)
    fuzzer.ordinary()
    counted = fuzzer.refused()
    assert counted["message_refused"] > 1000
    assert counted["bad_record"] > 1000


def test_some_thousand_mutated_messages_are_borne() -> None:
    counted = fuzz(4000, seed=14, keep=None)
    assert counted["connections taken"] > 60
    assert counted["message_refused"] > 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


LOGS = st.tuples(st.just("weird"), st.dictionaries(st.sampled_from(["ts", "uid", "name", "n"]), JSON))


@given(records=st.lists(JSON | st.lists(JSON, min_size=3, max_size=3) | LOGS))
@settings(deadline=None)
def test_any_records_whatever_in_a_batch_are_counted_and_an_ordinary_one_beside_them_is_judged(
    records: list[object],
) -> None:
    fuzzer = Fuzzer(2)
    ordinary = json.loads(bases()[1])
    mixed = ordinary["r"] + records
    text = json.dumps(ordinary | {"r": mixed, "records": len(mixed), "to": ME}, separators=(",", ":"))
    batch = observed.decode_batch(text)
    assert [row.uid for row in batch.connections][:1] == ["C1"]
    assert batch.bad <= len(records)
    fuzzer.aligner.receive([batch])
