"""Memory of Zeek and of the endpoint over a long looped replay: `live_soak.py MINUTES CAPTURE [PPS]`, as root.

A classic Ethernet pcap is sent again and again to a live Zeek in a network namespace, judged by the shipped model.
Prints one line for each half minute, and at the end the slope of both memories over the second half and the account
of all connections.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "zeek"))
import rig


def main(minutes: float, capture: Path, pps: float) -> None:
    with tempfile.TemporaryDirectory() as name, rig.namespace() as ns:
        folder = Path(name)
        zeek = rig.Zeek(ns, folder / "zeek", "Log::default_rotation_interval=0sec")
        (folder / "plugin.toml").write_text(f'[endpoint]\nsecret_file = "{rig.secret_in(folder)}"\n')
        endpoint = rig.Program(
            ns,
            folder,
            "endpoint",
            sys.executable,
            "-m",
            "cmdana_plugin.cli",
            "run",
            "--config",
            folder / "plugin.toml",
        )
        rig.wait_for(lambda: "welcomes us" in endpoint.said(), "the handshake")
        sender = rig.send(ns, "loop", capture.resolve(), str(pps), str(minutes * 60))
        samples: list[tuple[float, float, float]] = []
        start = time.monotonic()
        while sender.poll() is None:
            time.sleep(30)
            samples.append((time.monotonic() - start, zeek.rss() / 1024, endpoint.rss() / 1024))
            print(
                f"{samples[-1][0]:7.0f} s  Zeek {samples[-1][1]:7.1f} MiB  endpoint {samples[-1][2]:7.1f} MiB  "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            # Zeek's own logs of a looped capture would fill the disk.
            for log in (folder / "zeek").glob("*.log"):
                if log.stat().st_size > 256 * 1024 * 1024:
                    os.truncate(log, 0)
        time.sleep(10)
        zeek.stop()
        endpoint.stop(seconds=300)
        print("tally", json.dumps(zeek.tally()))
        print("endpoint", endpoint.said().splitlines()[-1])
        half = np.array(samples)[len(samples) // 2 :]
        for what, column in (("Zeek", 1), ("endpoint", 2)):
            slope = np.polyfit(half[:, 0] / 3600, half[:, column], 1)[0] if len(half) > 2 else float("nan")
            print(f"{what}: {slope:+.1f} MiB an hour over the second half")


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 2000.0)
