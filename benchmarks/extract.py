"""Extraction against its peers, in one run: packets/s, connections/s and peak memory on three kinds of capture.

    python benchmarks/extract.py [--captures DIR] [--scale 1.0] [--stages]

`bulk` is a few long transfers in full segments, `dense` a scan with 1.6 packets per connection; both are made here.
`ordinary` is all captures below DIR one after the other in time. Each tool runs in its own process, in turn: Zeek
(`zeek -r`), nfstream and `tshark -T fields` where they are installed. Ratios hold within one run only.

Start is the processor time of the same command on the first ten packets, so that a fixed second does not hide the
rate; the rate is packets by the processor time past it. `times ours` compares the rates, and in brackets the whole.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
ADDRESS = np.frombuffer(bytes([10, 0, 0, 1]), np.uint8)


def frames(n: int, payload: int) -> NDArray[np.uint8]:
    """`n` pcap records [n, 16 + 54 + payload] of Ethernet, IPv4, TCP, to be filled in."""
    size = 54 + payload
    out = np.zeros((n, 16 + size), np.uint8)
    out[:, 8:16] = np.frombuffer(struct.pack("<II", size, size), np.uint8)
    out[:, 28:30] = (8, 0)
    out[:, 30] = 0x45
    out[:, 32:34] = be(np.full(n, 40 + payload), 2)
    out[:, 38:40] = (64, 6)
    out[:, 62] = 0x50
    out[:, 64:66] = (0xFA, 0xF0)
    return out


def be(values: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    return values.astype(">u8").view(np.uint8).reshape(len(values), 8)[:, 8 - size :]


def stamp(out: NDArray[np.uint8], seconds: NDArray[np.float64]) -> None:
    whole = np.floor(seconds)
    out[:, 0:4] = whole.astype("<u4").view(np.uint8).reshape(-1, 4)
    out[:, 4:8] = ((seconds - whole) * 1e6).astype("<u4").view(np.uint8).reshape(-1, 4)


def address(out: NDArray[np.uint8], src: NDArray[np.int64], dst: NDArray[np.int64]) -> None:
    out[:, 42:46] = be(src, 4)
    out[:, 46:50] = be(dst, 4)


def bulk(path: Path, n: int) -> int:
    """Eight uploads by HTTP side by side, an acknowledgement for every second segment."""
    rng = np.random.default_rng(1)
    with path.open("wb") as file:
        file.write(PCAP_HEADER)
        for transfer in range(8):
            for record in opening(transfer):
                file.write(record)
        written = 32
        turn = 0
        body = rng.integers(0, 256, 1448, np.uint8)
        while written < n:
            k = 3 * 800
            which = (np.arange(k) // 3) % 8
            step = turn * 100 + np.arange(k) // 24
            data = frames(k, 1448)
            data[:, 70:] = body
            is_ack = np.arange(k) % 3 == 2
            seq = 1 + (2 * step + np.arange(k) % 3) * 1448
            address(data, 0x0A000001 + which, 0x0A010001 + which)
            data[:, 50:52] = be(40000 + which, 2)
            data[:, 52:54] = (0x1F, 0x40)
            data[:, 54:58] = be(seq & 0xFFFFFFFF, 4)
            data[:, 63] = 0x10
            stamp(data, 1.6e9 + (written + np.arange(k)) * 1e-5)
            acks = frames(k, 0)
            address(acks, 0x0A010001 + which, 0x0A000001 + which)
            acks[:, 50:52] = (0x1F, 0x40)
            acks[:, 52:54] = be(40000 + which, 2)
            acks[:, 54:58] = be(np.ones(k, np.int64), 4)
            acks[:, 58:62] = be((1 + 2 * (step + 1) * 1448) & 0xFFFFFFFF, 4)
            acks[:, 63] = 0x10
            acks[:, :8] = data[:, :8]
            for i in range(k):
                file.write((acks if is_ack[i] else data)[i].tobytes())
            written += k
            turn += 1
    return written


def opening(transfer: int) -> list[bytes]:
    """Handshake and request of one upload; the body begins at sequence number 1."""
    request = b"POST /upload HTTP/1.1\r\nHost: files.example\r\nContent-Length: 999999999999\r\n\r\n"
    start = -len(request) & 0xFFFFFFFF
    out = []
    for i, (back, flags, seq, ack, payload) in enumerate(
        (
            (False, 0x02, start, 0, b""),
            (True, 0x12, 0, start + 1, b""),
            (False, 0x10, start + 1, 1, b""),
            (False, 0x18, start + 1, 1, request),
        )
    ):
        one = frames(1, len(payload))
        ends = [np.array([0x0A000001 + transfer]), np.array([0x0A010001 + transfer])]
        ports = [be(np.array([40000 + transfer]), 2), be(np.array([8000]), 2)]
        address(one, *(ends[::-1] if back else ends))
        one[:, 50:52], one[:, 52:54] = ports[::-1] if back else ports
        one[:, 54:58] = be(np.array([seq & 0xFFFFFFFF]), 4)
        one[:, 58:62] = be(np.array([ack & 0xFFFFFFFF]), 4)
        one[:, 63] = flags
        if payload:
            one[0, 70:] = np.frombuffer(payload, np.uint8)
        stamp(one, np.array([1.6e9 - 1 + i * 0.01]))
        out.append(one[0].tobytes())
    return out


def dense(path: Path, n: int) -> int:
    """SYNs to ever new hosts and ports, three of five answered by a reset."""
    with path.open("wb") as file:
        file.write(PCAP_HEADER)
        written = 0
        for first in range(0, n * 5 // 8, 50_000):
            k = 50_000
            i = first + np.arange(k)
            syn = frames(k, 0)
            address(syn, np.full(k, 0x0A000001), 0x0A020000 + i // 64)
            syn[:, 50:52] = be(32768 + i % 16384, 2)
            syn[:, 52:54] = be(1 + i % 64, 2)
            syn[:, 54:58] = be(i * 7919 & 0xFFFFFFFF, 4)
            syn[:, 63] = 0x02
            stamp(syn, 1.6e9 + i * 2e-5)
            reset = frames(k, 0)
            reset[:, 42:46], reset[:, 46:50] = syn[:, 46:50], syn[:, 42:46]
            reset[:, 50:52], reset[:, 52:54] = syn[:, 52:54], syn[:, 50:52]
            reset[:, 58:62] = be((i * 7919 + 1) & 0xFFFFFFFF, 4)
            reset[:, 63] = 0x14
            stamp(reset, 1.6e9 + i * 2e-5 + 1e-5)
            both = np.stack([syn, reset], axis=1).reshape(2 * k, -1)
            keep = (np.arange(2 * k) % 2 == 0) | ((np.arange(2 * k) // 2) % 5 < 3)
            file.write(both[keep].tobytes())
            written += int(keep.sum())
    return written


def ordinary(path: Path, captures: Path, n: int) -> int:
    """The captures' Ethernet frames, each capture a minute after the one before it, until there are `n`."""
    from feature_extractors.errors import CaptureError
    from feature_extractors.readers.native import NativeReader

    written, now = 0, 1.6e9
    with path.open("wb") as file:
        file.write(PCAP_HEADER)
        while written < n:
            before = written
            for capture in sorted(p for p in captures.rglob("*") if p.is_file()):
                try:
                    blocks = list(NativeReader(capture))
                except CaptureError:
                    continue
                first = last = None
                for block in blocks:
                    for i in np.flatnonzero(block.link == 1):
                        first = block.ts[i] if first is None else first
                        last = now + min(max(block.ts[i] - first, 0), 3600)
                        begin, size = int(block.start[i]), int(block.captured[i])
                        head = struct.pack(
                            "<IIII", int(last), int(last % 1 * 1e6), size, int(block.length[i])
                        )
                        file.write(head + block.data[begin : begin + size].tobytes())
                        written += 1
                now = (last or now) + 60
                if written >= n:
                    break
            if written == before:
                break
    return written


OURS = """
import sys, time
from feature_extractors.extract import Extractor
from feature_extractors.readers.native import NativeReader
stages = sys.argv[2] == "stages"
def run(content):
    t, cpu = time.perf_counter(), time.process_time()
    extractor = Extractor(content=content)
    packets = rows = 0
    for block in NativeReader(sys.argv[1]):
        packets += len(block)
        rows += len(extractor.receive(block))
    rows += len(extractor.finish())
    return packets, rows, time.perf_counter() - t, time.process_time() - cpu
packets, rows, seconds, cpu = run(True)
print(packets, rows)
if stages:
    t = time.process_time()
    for block in NativeReader(sys.argv[1]): pass
    reading = time.process_time() - t
    tracking = run(False)[3]
    print(f"stages (processor time): read {packets / reading / 1e6:.2f} M packets/s, read and track "
          f"{packets / tracking / 1e6:.2f} M packets/s, with content {packets / cpu / 1e6:.2f} M packets/s")
"""
NFSTREAM = """
import sys
from nfstream import NFStreamer
print(sum(1 for _ in NFStreamer(source=sys.argv[1], n_meters=1)))
"""
TSHARK = [
    "tshark",
    "-n",
    "-T",
    "fields",
    "-e",
    "frame.time_epoch",
    "-e",
    "ip.src",
    "-e",
    "ip.dst",
    "-e",
    "tcp.flags",
]


def timed(command: list[str], folder: Path) -> tuple[float, float, float, str]:
    """Seconds, processor seconds, peak memory in MiB of the process, and what it printed."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=errors)
        _, status, usage = _wait(process)
        seconds = time.perf_counter() - begun
        out.seek(0)
        text = out.read(10_000).decode(errors="replace")
        if status:
            errors.seek(0)
            text += errors.read(2000).decode(errors="replace")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int, resource.struct_rusage]:
    import os

    return os.wait4(process.pid, 0)


def first_packets(pcap: Path, target: Path, n: int = 10) -> None:
    """The first packets of a little-endian pcap."""
    with pcap.open("rb") as file:
        raw = file.read(1_000_000)
    at = len(PCAP_HEADER)
    for _ in range(n):
        at += 16 + int.from_bytes(raw[at + 8 : at + 12], "little")
    target.write_bytes(raw[:at])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captures", type=Path, help="folder of captures for the ordinary case")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--stages", action="store_true", help="time reading and tracking alone as well")
    parser.add_argument("--peers", default="zeek,nfstream,tshark")
    args = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = {"bulk": bulk(folder / "bulk.pcap", int(400_000 * args.scale))}
        cases["dense"] = dense(folder / "dense.pcap", int(1_000_000 * args.scale))
        if args.captures:
            cases["ordinary"] = ordinary(
                folder / "ordinary.pcap", args.captures.resolve(), int(600_000 * args.scale)
            )
        print(
            "| capture | tool | packets | connections | wall s | processor s | of it start | packets/s | MiB "
            "| times ours |"
        )
        print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for case, packets in cases.items():
            whole, tiny = folder / f"{case}.pcap", folder / "tiny.pcap"
            first_packets(whole, tiny)
            commands = {
                "cmdana": [sys.executable, "-c", OURS, "CAPTURE", "no"],
                "zeek": ["zeek", "-C", "-r", "CAPTURE"],
                "nfstream": [sys.executable, "-c", NFSTREAM, "CAPTURE"],
                "tshark": [*TSHARK, "-r", "CAPTURE"],
            }
            ours = 0.0, 0.0  # processor seconds of it all, and past the start
            for tool in ("cmdana", *args.peers.split(",")):
                command = commands[tool]
                if not shutil.which(command[0]):
                    continue
                where = root if tool == "cmdana" else folder
                before, after = ([str(p) if w == "CAPTURE" else w for w in command] for p in (tiny, whole))
                timed(before, where)  # warms the compile cache and the page cache
                start = timed(before, where)[1]
                seconds, cpu, memory, text = timed(after, where)
                found = text.strip().splitlines()[-1] if text.strip() else ""
                if tool == "cmdana":
                    ours, found = (cpu, cpu - start), found.split()[-1]
                elif tool == "zeek":
                    log = folder / "conn.log"
                    found = str(sum(1 for line in log.open() if not line.startswith("#")))
                elif tool == "tshark":
                    found = ""
                past = max(cpu - start, 1e-3)
                print(
                    f"| {case} | {tool} | {packets} | {found[:20]} | {seconds:.2f} | {cpu:.2f} | {start:.2f} "
                    f"| {packets / past:,.0f} | {memory:.0f} | {past / ours[1]:.1f} ({cpu / ours[0]:.1f}) |",
                    flush=True,
                )
            if args.stages:
                lines = timed([sys.executable, "-c", OURS, str(whole), "stages"], root)[3].splitlines()
                print("\n".join(f"\n{case} {line}\n" for line in lines[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
