"""A real Zeek on an interface of its own, traffic for it, and an endpoint beside it; everything ends with the test.

Needs root for a network namespace; nothing leaves it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cmdana_plugin.endpoint.wire import WIRE_VERSION

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "zeek_scripts"
SECRET = "00112233445566778899aabbccddeeff" * 2  # shared by the Zeeks and endpoints of the tests
WATCHED = "cm-zeek"  # the interface that Zeek watches
SENDING = "cm-wire"  # its other end


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90.0) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def can_make_namespaces() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """A network namespace with loopback and one cable, both ends inside."""
    name = f"cmdana-{os.getpid()}-{time.monotonic_ns() % 100000}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        _ip(
            "-n",
            name,
            "link",
            "add",
            WATCHED,
            "mtu",
            "65535",
            "type",
            "veth",
            "peer",
            "name",
            SENDING,
            "mtu",
            "65535",
        )
        for end in (WATCHED, SENDING):
            inside(name, "sysctl", "-qw", f"net.ipv6.conf.{end}.disable_ipv6=1").wait()
            _ip("-n", name, "link", "set", end, "arp", "off", "up")
        yield name
    finally:
        _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def inside(ns: str, *command: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["ip", "netns", "exec", ns, *map(str, command)], **options)


def secret_in(folder: Path) -> Path:
    """The secret as a file that its owner alone can read."""
    path = folder / "secret"
    if not path.exists():
        path.touch(0o600)
        path.write_text(SECRET + "\n")
    return path


class Program:
    """A process whose output is kept in a file."""

    def __init__(self, ns: str, folder: Path, name: str, *command: str | Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        secret_in(folder)
        self.output = folder / f"{name}.out"
        with self.output.open("ab") as out:
            self.process = inside(
                ns, *command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def rss(self) -> int:
        """Resident memory in KiB; `ip netns exec` becomes the program."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Zeek(Program):
    """Zeek on the watched interface with CMDANA, a way to listen on loopback, and JSON logs in `folder`."""

    def __init__(self, ns: str, folder: Path, *more: str | Path, listen: str = "listen-websocket") -> None:
        super().__init__(
            ns, folder, "zeek", "zeek", "-C", "-i", WATCHED, SCRIPTS, SCRIPTS / f"{listen}.zeek",
            HERE / "live.zeek", "LogAscii::use_json=T", f"CMDANA::secret_file={folder / 'secret'}", *more,
        )  # fmt: skip
        wait_for(lambda: "listening on" in self.said() or self.process.poll() is not None, "Zeek to listen")
        assert self.process.poll() is None, self.said()

    def rows(self, stream: str) -> list[dict[str, Any]]:
        path = self.folder / f"{stream}.log"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]

    def tally(self) -> dict[str, int]:
        """What CMDANA counted, as it said when Zeek stopped."""
        words = [line for line in self.said().splitlines() if "TALLY " in line]
        return dict(json.loads(words[-1].split("TALLY ", 1)[1]))


class Endpoint(Program):
    """`cmdana run` with a detector that finds nothing odd and says so at once, or after `slow` seconds a batch.

    To responders whose address ends in `mild` each connection is a little odd.
    """

    def __init__(
        self,
        ns: str,
        folder: Path,
        *,
        slow: float = 0.0,
        config: str = "",
        wire: int = WIRE_VERSION,
        mild: int = 256,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        told = config or "[endpoint]\nreconnect_max = 1.0\n"
        if "secret_file" not in told and "authentication" not in told:
            told = told.replace("[endpoint]\n", f'[endpoint]\nsecret_file = "{folder / "secret"}"\n')
        (folder / "plugin.toml").write_text(told)
        words = (HERE / "endpoint.py", folder / "plugin.toml", str(slow), str(wire), str(mild))
        super().__init__(ns, folder, "endpoint", sys.executable, *words)


def send(ns: str, *words: str | Path) -> subprocess.Popen[bytes]:
    """Traffic onto the cable; see traffic.py for the words."""
    return inside(ns, sys.executable, HERE / "traffic.py", SENDING, *words, stdout=subprocess.PIPE)
