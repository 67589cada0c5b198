"""Captures replayed through a Zeek process with the detector beside it: `cmdana replay --engine zeek`."""

from __future__ import annotations

import gzip
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cmdana_plugin.endpoint.live import VERSION, Live
from cmdana_plugin.endpoint.transport import make_transport
from feature_extractors import CmdanaError
from feature_extractors.confinement import programs

if TYPE_CHECKING:
    from cmdana_plugin.config import Config
    from cmdana_plugin.decision import Judge
    from cmdana_plugin.replay import Summary


class ZeekError(CmdanaError):
    """The Zeek that a replay needs cannot be started, or stopped too early."""


def replay_through_zeek(
    captures: Sequence[Path | str],
    out: Path,
    settings: Config,
    load: Callable[[], Judge],
    progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """The summary of reading each capture with a Zeek that has CMDANA loaded and writes its logs and notices to `out`.

    Several captures are read one after another in the order of their first frames, each into a folder of its own
    below `out`, and the detector remembers the earlier ones. Raises `ZeekError` where Zeek or its scripts are missing
    or Zeek fails.
    """
    from cmdana_plugin.replay import Summary, sources

    found = _by_first_frame(sources([str(c) for c in captures]), settings)
    zeek, scripts = zeek_program(settings), scripts_folder(settings)
    judge = load()
    summary = Summary([str(c) for c in found])
    for capture in found:
        folder = out if len(found) == 1 else out / Path(capture).name
        folder.mkdir(parents=True, exist_ok=True)
        with _readable(capture) as readable:
            _replay_one(readable, folder, settings, judge, zeek, scripts, summary, progress)
    summary.finish(judge)
    return summary


def _by_first_frame(captures: list[Path | str], settings: Config) -> list[Path | str]:
    """The captures in the order of their first frames. Raises `CaptureError` for what is none."""
    if len(captures) < 2 or "-" in captures:
        return captures
    from feature_extractors.readers import first_frame, open_captures

    first = [first_frame(reader) for reader in open_captures(captures, settings.capture.reader)]
    return [captures[i] for i in sorted(range(len(captures)), key=first.__getitem__)]


def zeek_program(settings: Config) -> str:
    """The path of the Zeek program to run. Raises `ZeekError`."""
    found = programs.find(settings.zeek.path)
    if found is None:
        raise ZeekError(
            f"[zeek] path: found no program {settings.zeek.path!r}; expected Zeek 8.0 or later on the PATH, "
            "or use the embedded engine, which needs none"
        )
    return found


def scripts_folder(settings: Config) -> Path:
    """The folder with CMDANA's Zeek scripts. Raises `ZeekError`."""
    places = (
        [Path(settings.zeek.scripts)]
        if settings.zeek.scripts
        else [
            Path(__file__).parents[2] / "zeek_scripts",
            Path(sysconfig.get_path("data")) / "share" / "cmdana" / "zeek_scripts",
        ]
    )
    for place in places:
        if (place / "replay.zeek").is_file():
            return place.resolve()
    raise ZeekError(
        f"[zeek] scripts: found no replay.zeek in {' or '.join(map(str, places))}; "
        "expected the folder of CMDANA's Zeek scripts"
    )


def _replay_one(
    capture: Path,
    folder: Path,
    settings: Config,
    judge: Judge,
    zeek: str,
    scripts: Path,
    summary: Summary,
    progress: Callable[[Summary], None],
) -> None:
    port = _free_port()
    endpoint = settings.endpoint.model_copy(
        update={
            "transport": "websocket",
            "shard": "",
            "url": f"ws://127.0.0.1:{port}/v1/messages/json",
            "reconnect_min": 0.05,
            "reconnect_max": 0.2,
            "queue_records": 2**40,
            "queue_bytes": 2**40,  # Zeek itself waits for us while it reads a capture
            "batch_records": 4096,  # nobody waits for a single verdict
            "batch_seconds": 0.25,
        }
    )
    command = [
        zeek, "-C", "-r", str(capture.resolve()), str(scripts), str(scripts / "replay.zeek"),
        f"Log::default_logdir={folder.resolve()}",
        f"CMDANA::websocket_port={port}/tcp", f"CMDANA::topic_observations={endpoint.topic_events}",
        f"CMDANA::topic_verdicts={endpoint.topic_verdicts}",
        f"CMDANA::early_verdicts={'T' if settings.verdict.early else 'F'}",
        f"CMDANA::suppress_for={settings.verdict.suppress_for}sec",
        f"LogAscii::use_json={'T' if settings.logs.format == 'json' else 'F'}",
    ]  # fmt: skip
    secret = secrets.token_bytes(32)  # of this one run; others cannot see the environment of our programs
    # Zeek looks for scripts in its working folder before its own: that must hold none of the capture's owner's.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory(prefix="cmdana-") as empty:
        process = subprocess.Popen(
            command, cwd=empty, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            env=os.environ | {"CMDANA_SECRET": secret.hex()},
        )  # fmt: skip
        live = Live(endpoint, judge, make_transport(endpoint, VERSION), lambda _: None, secret=secret)
        live.start()
        try:
            for judged in live.judged(0.1, lambda: process.poll() is not None):
                summary.receive(judged)
                progress(summary)
        finally:
            live.drain.stop()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        said.seek(0)
        words = said.read().decode("utf-8", "replace").strip().splitlines()
    summary.undecoded.update({name: n for name, n in live.counters().items() if n and name in _WORTH_TELLING})
    read = [found for line in words if (found := _READ.fullmatch(line))]
    if read:
        summary.frames += int(read[-1][1])
        summary.bytes += int(read[-1][2])
    if not live.session.finished:
        last = words[-1] if words else "it said nothing"
        raise ZeekError(f"{capture}: Zeek stopped with status {process.returncode} before the end: {last}")


_READ: Final = re.compile(r"cmdana: read (\d{1,18}) frames of (\d{1,18}) bytes")  # as replay.zeek has it
_WORTH_TELLING: Final = frozenset(
    (
        "connections_lost",
        "late_log",
        "log_evicted",
        "log_without_connection",
        "message_refused",
        "message_not_authentic",
        "bad_record",
        "session_restarted",
        "verdict_events_unsent",
    )
)


@contextmanager
def _readable(capture: Path | str) -> Iterator[Path]:
    """A capture as a plain file: Zeek reads neither gzip nor our standard input."""
    if capture != "-" and not _is_gzip(Path(capture)):
        yield Path(capture)
        return
    with tempfile.NamedTemporaryFile(suffix=".pcap") as plain:
        if capture == "-":
            shutil.copyfileobj(sys.stdin.buffer, plain)
        else:
            try:
                with gzip.open(capture) as packed:
                    shutil.copyfileobj(packed, plain)
            except (OSError, EOFError) as error:
                raise ZeekError(f"{capture}: cannot be unpacked: {error}") from None
        plain.flush()
        yield Path(plain.name)


def _is_gzip(capture: Path) -> bool:
    try:
        with capture.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise ZeekError(f"{capture}: cannot be read: {error.strerror}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
