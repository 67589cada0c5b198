"""Mutates messages of Zeek and sends them through all that they pass: frame, seal, queue, session, decoding, alignment.

    fuzz_wire.py [MESSAGES] [--seed N] [--keep DIR]

Texts are cut, joined, repeated, their bytes changed; numbers and strings in them are replaced by hostile ones; trees
are changed in place. Nine in ten are sealed as a Zeek that lies would seal them, the others as they are, as a stranger
would send them; half of the sessions believe everybody, and there it is the other way round. Ends with an error at the
first that raises anything, that makes a time or a count that cannot be, or that takes more than a second of processor
time; the messages around it are then in DIR. The ordinary messages sent in between must be judged: a message is taken,
a bad record, or a refusal in words, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from cmdana_plugin.endpoint import observed, wire
from cmdana_plugin.endpoint.aligner import Aligner
from cmdana_plugin.endpoint.seal import Seal, sealed_by_zeek
from cmdana_plugin.endpoint.session import Identity, Session
from cmdana_plugin.endpoint.transport import Inbox
from cmdana_plugin.endpoint.wire import Event, PeerError, WireError
from feature_extractors.features.encoding import encoded
from feature_extractors.features.schema import load_schema
from feature_extractors.frames import Counts

SECRET = bytes(range(32))
ME = "f" * 16
TOPIC = "zeek/cmdana/observations"
TOGETHER = 64  # messages that are taken together
SLOWEST = 1.0  # seconds of processor time for one message
ATOMS = (
    "1e999", "-1e999", "1" + "0" * 400, "9" * 5000, "-0", "-1", "1.5", "1e300", "1e12", "253402300800", "2" * 25,
    "18446744073709551616", "9223372036854775807", "null", "true", "[]", "{}", '""', '"-"', '"nan"', '"inf"', '"1_0"',
    r'"\ud800"', r'"\udfff\ud800"', '"\ud800"', r'"\u0000"', '"\x1b[2J"', '"' + "x" * 5000 + '"', '"C1 nan nan nan"',
    "[" * 60 + "]" * 60, "[" * 960 + "]" * 960, '{"a":' * 60 + "1" + "}" * 60, '{"port":[1],"proto":1}',
    '{"port":1,"proto":"tcp"}', "NaN", "-Infinity", '"::"', '"1.2.3.4.5"', '["\udfff",[[]],{}]', "[1e400]",
)  # fmt: skip
WORDS = (
    "nan", "inf", "-inf", "1e999", "-", "", "\ud800", "\0", "9" * 5000, "1" + "0" * 400, "x" * 300, "::", "-1e11",
    "1.2.3.4.5", "fe80::1%eth0", "0x10", "1_000", "\u0661", "CCCC", "253402300800",
)  # fmt: skip
CODES = (0, 9, 34, 44, 48, 57, 91, 92, 93, 123, 125, 0xD800, 0x1F43E)
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|\[\]|\{\}')


def bases() -> list[str]:
    """Well-formed messages of each kind."""
    sample = json.loads(observed.sample())
    records = sample["r"]
    welcome = {"v": wire.WIRE_VERSION, "node": "z", "run": "r", "zeek": "8.2.2", "accepted": True, "why": "", "to": ME,
               "n": 1, "parted": False, "benign": True}  # fmt: skip
    full = ["http", {"ts": 1.0, "uid": "C2", "status_code": 200, "host": "a", "resp_mime_types": ["text/html"],
                     "watched": {"port": 80, "proto": "tcp"}, "certificate": {"key": {"length": 2048}}}]  # fmt: skip
    x509 = ["x509", {"ts": 1.0, "fingerprint": "ab", "san": {"dns": ["a.example"]}}]
    ssl = ["ssl", {"ts": 1.0, "uid": "C3", "cert_chain_fps": ["ab", "cd"], "version": "TLSv12"}]

    def batch(some: list[object]) -> str:
        finals = sum(1 for r in some if isinstance(r, list) and isinstance(r[1], list) and r[1][0] == 1)
        told = {"run": "r", "node": "z", "to": ME, "r": some, "records": len(some), "finals": finals}
        return json.dumps(sample | told, separators=(",", ":"))

    made = [batch(records), batch([records[0], records[1]]), batch([full, x509, ssl, records[6]]), batch([])]
    return [*made, *[batch([r]) for r in records], json.dumps(welcome, separators=(",", ":"))]


class Fuzzer:
    """One seeded stream of messages and the session that takes them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.bases = bases()
        self.spans = [[m.span() for m in _VALUE.finditer(base)] for base in self.bases]
        self.schema = load_schema()
        self.counts: Counter[str] = Counter()
        self.aligner = Aligner(max_uids=1000, max_bytes=1 << 20)
        self._seq = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """Another session, as after a reconnection."""
        trusting = self.rng.random() < 0.5
        self.seal = Seal(None if trusting else SECRET, ME)
        self.session = Session(Identity(ME, "0.1", "m", "d"), "verdicts", trusting=trusting)
        self.inbox = Inbox(10_000, Counts(), 1 << 24)

    def message(self) -> Event:
        """The next one, not yet sealed."""
        rng = self.rng
        which = rng.randrange(len(self.bases))
        text, spans = self.bases[which], self.spans[which]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            text = self._mutated(text, spans)
            spans = []
        if rng.random() < 0.7:
            self._seq += rng.choice((1, 1, 1, 1, 2, 0, -3, 10**7, 2**62))
            if self._seq > 2**62:
                self._seq = 1
            text = text.replace('"seq":1,', f'"seq":{self._seq},').replace('"n":1,', f'"n":{self._seq},')
        if rng.random() < 0.05:
            text = text.replace('"run":"r"', f'"run":"r{rng.randrange(2000)}"')
        name = wire.OBSERVATIONS if which < len(self.bases) - 1 or rng.random() < 0.02 else wire.WELCOME
        return Event(TOPIC, name, text)

    def _mutated(self, text: str, spans: list[tuple[int, int]]) -> str:
        rng = self.rng
        kind = rng.random()
        if not text:
            return rng.choice(ATOMS)
        if kind < 0.55 and spans:
            begin, end = rng.choice(spans)
            old = text[begin:end]
            if " " in old and rng.random() < 0.7:
                words = old[1:-1].split(" ")
                words[rng.randrange(len(words))] = rng.choice(WORDS)
                return f'{text[:begin]}"{" ".join(words)}"{text[end:]}'
            return text[:begin] + rng.choice(ATOMS) + text[end:]
        at, other = rng.randrange(len(text)), rng.randrange(len(text))
        if kind < 0.65:
            return text[:at] + chr(rng.choice(CODES)) + text[at + 1 :]
        if kind < 0.73:
            return text[: min(at, other)] + text[max(at, other) :]
        if kind < 0.8:
            return text[:at] + text[min(at, other) : max(at, other)] + text[at:]
        if kind < 0.85:
            return text[:at] + rng.choice(self.bases)[other:]
        if kind < 0.88:
            return text[:at]
        if kind < 0.93:  # a name said twice
            return text.replace("{", f'{{"seq":7,"r":[],"v":{wire.WIRE_VERSION},', 1)
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            return text[at:]
        if isinstance(tree, dict) and isinstance(tree.get("r"), list) and tree["r"]:
            records = tree["r"]
            records[rng.randrange(len(records))] = rng.choice(
                (records, [records[0]], {"a": 1}, records[0], None)
            )
            tree["records"] = rng.choice((len(records), len(records), 0, 10**9))
            try:
                return json.dumps(tree, separators=(",", ":"))
            except (ValueError, RecursionError):
                return text
        return text

    def received(self, event: Event) -> Event | PeerError | None:
        """The message as it comes out of the transport."""
        rng = self.rng
        try:
            if (rng.random() < 0.1) is self.session.trusting:
                event = sealed_by_zeek(SECRET, event)
        except UnicodeEncodeError:
            pass  # what Zeek cannot write
        if rng.random() < 0.9:
            return event
        frame = wire.encode_frame(event).encode("utf-8", "surrogatepass")
        if rng.random() < 0.5:
            at = rng.randrange(len(frame))
            frame = frame[:at] + bytes([rng.randrange(256)]) + frame[at + rng.randrange(2) :]
        try:
            return wire.decode_frame(frame)
        except WireError:
            self.counts["frames refused"] += 1
            return None

    def take(self, received: list[Event | PeerError]) -> None:
        """What the endpoint does with what has come."""
        good, _ = self.seal.opened(received)
        self.inbox.put(good, 0.0)
        taken = self.inbox.take(10**9, 0.0, 0.0, lambda: 1.0)
        windows = self.aligner.receive(self.session.receive(taken))
        self.session.news.clear()
        c = windows.connections
        assert np.isfinite(c.ts).all(), "a time that is not finite"
        assert np.isfinite(c.end).all(), "a time that is not finite"
        assert 0 <= self.session.lost < 2**64, "a number of lost connections that cannot be"
        self.counts["connections taken"] += len(c)
        if len(c) and self.rng.random() < 0.05:
            encoded(windows, self.schema)

    def ordinary(self) -> None:
        """One well-formed batch of a run of its own; whatever was said before, it is judged."""
        text = self.bases[1].replace('"run":"r"', f'"run":"o{self.rng.randrange(10**9)}"')
        before = self.counts["connections taken"]
        event = Event(TOPIC, wire.OBSERVATIONS, text)
        self.take([event if self.session.trusting else sealed_by_zeek(SECRET, event)])
        assert self.counts["connections taken"] == before + 1, "an ordinary batch is not judged"

    def refused(self) -> Counter[str]:
        """What the session counted."""
        return Counter(self.session.counts.by_reason) + Counter(self.seal.counts.by_reason)


def fuzz(messages: int, seed: int, keep: Path | None) -> Counter[str]:
    """The counts of so many messages. Raises what the first fault raises."""
    fuzzer = Fuzzer(seed)
    total: Counter[str] = Counter()
    slowest = 0.0
    told = time.monotonic()
    for begin in range(0, messages, TOGETHER):
        some = [fuzzer.message() for _ in range(min(TOGETHER, messages - begin))]
        received = [r for r in map(fuzzer.received, some) if r is not None]
        start = time.process_time()
        try:
            fuzzer.take(received)
            took = time.process_time() - start
            assert took < SLOWEST * TOGETHER, f"took {took:.1f} s"
            if begin // TOGETHER % 16 == 0:
                fuzzer.ordinary()
        except BaseException:
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                lines = [json.dumps([e.name, e.payload]) for e in received if isinstance(e, Event)]
                (keep / f"wire-{seed}-{begin}.jsonl").write_text("\n".join(lines) + "\n")
            raise
        slowest = max(slowest, took)
        if begin // TOGETHER % 500 == 499:
            total += fuzzer.refused()
            fuzzer.begin_anew()
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{begin:,} messages, slowest {TOGETHER} in {slowest:.3f} s", file=sys.stderr, flush=True)
    total += fuzzer.refused() + fuzzer.counts + Counter(fuzzer.aligner.counts.by_reason)
    total["slowest, in ms for 64 messages"] = round(1000 * slowest)
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("messages", type=int, nargs="?", default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-wire"))
    words = parser.parse_args()
    started = time.monotonic()
    counted = fuzz(words.messages, words.seed, words.keep)
    print(f"{words.messages:,} messages in {time.monotonic() - started:.0f} s, no fault")
    for what, n in counted.most_common():
        print(f"{n:12,} {what}")
