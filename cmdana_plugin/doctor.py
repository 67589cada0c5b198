"""What is installed and reachable, what is missing or wrong, and what to do about each."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from cmdana_plugin import compile_cache as compiled
from cmdana_plugin import config as configuration
from cmdana_plugin.config import Config
from cmdana_plugin.keyfile import KeyFileError, read_key, secret_path, state_key_path
from feature_extractors import CmdanaError
from feature_extractors.compiled import caches
from feature_extractors.compiled import mypyc_build as ahead
from feature_extractors.confinement import confine, programs

State = Literal["ok", "missing", "wrong"]

_ANSWER_SECONDS: Final = 20.0  # seconds for a program to answer
_OLDEST_ZEEK: Final = (8, 0)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `wrong` is broken; `missing` is absent, and needed only if `required`."""

    what: str
    state: State
    found: str
    advice: str = ""
    required: bool = False

    @property
    def fails(self) -> bool:
        return self.state == "wrong" or (self.state == "missing" and self.required)


def examine(path: Path | None, model: Path | None = None) -> Iterator[Finding]:
    """The findings as they are made, in the order of the walk, for this configuration and model."""
    settings = Config()
    yield _python()
    try:
        used = configuration.find(path)
        settings = used.config
        where = used.words().removeprefix("configuration: ") or "none, so the defaults"
        yield Finding("configuration", "ok", where)
    except CmdanaError as error:
        yield Finding(
            "configuration", "wrong", str(error), "correct that line; the rest is checked with the defaults"
        )
    yield _torch(settings)
    yield _numba()
    yield _analyzers()
    yield _lightgbm()
    yield from _model(settings, model)
    yield _state_key(settings)
    yield _sandbox()
    yield from _tshark(settings)
    yield from _zeek(settings)
    yield _broker(settings)
    yield _secret(settings)
    yield _endpoint(settings)


def finding_object(finding: Finding) -> dict[str, object]:
    """A finding as an object for `--json`."""
    return asdict(finding) | {"fails": finding.fails}


def _python() -> Finding:
    version = sys.version.split()[0]
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("Python", "wrong", version, "expected 3.11, 3.12 or 3.13")
    return Finding("Python", "ok", version)


def _torch(settings: Config) -> Finding:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        wanted = settings.model.device == "cuda"
        return Finding(
            "torch", "missing", str(error), "only to train, and for a GPU: pip install torch", wanted
        )
    there = torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if there else "no GPU, runs on the CPU"
    if settings.model.device == "cuda" and not there:
        return Finding(
            "torch", "wrong", f'{torch.__version__}; [model] device = "cuda", but torch sees no GPU',
            'install a CUDA build of torch and its driver, or set [model] device = "auto"',
        )  # fmt: skip
    return Finding("torch", "ok", f"{torch.__version__}, {device}")


def _numba() -> Finding:
    try:
        numba = importlib.import_module("numba")
    except ImportError as error:
        return Finding("numba", "missing", str(error), "pip install numba", required=True)
    if caches.refused():
        return Finding(
            "numba", "missing", f"{numba.__version__}, {caches.refused()}",
            "set NUMBA_CACHE_DIR to a folder that only this user may write",
        )  # fmt: skip
    cache = compiled.folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        return Finding(
            "numba", "missing", f"{numba.__version__}, but its cache {cache} cannot be written: {error.strerror}",
            "every start compiles for a minute: set NUMBA_CACHE_DIR to a folder that this user may write",
        )  # fmt: skip
    kept = compiled.kept()
    state = (
        f"{kept} functions compiled"
        if kept
        else "empty: the first run compiles for a minute or two; cmdana doctor --compile does so now"
    )
    return Finding("numba", "ok", f"{numba.__version__}, cache {state}")


def _analyzers() -> Finding:
    if ahead.built():
        return Finding("analyzers", "ok", "compiled")
    return Finding(
        "analyzers", "missing", "protocol analyzers run as plain Python",
        "for captures read in half the time: apt-get install gcc python3-dev, then install cmdana once more",
    )  # fmt: skip


def _lightgbm() -> Finding:
    from cmdana_plugin.detector import trees_fault

    fault, _, advice = trees_fault().rpartition(": ")
    if fault:
        return Finding(
            "lightgbm", "missing", fault, f"`cmdana train` learns no behaviour without it: {advice}"
        )
    return Finding("lightgbm", "ok", importlib.metadata.version("lightgbm"))


def _model(settings: Config, model: Path | None) -> Iterator[Finding]:
    path = model or (Path(settings.model.path) if settings.model.path else None)
    try:
        from cmdana_plugin.detector import load_detector, shipped_model
        from cmdana_plugin.replay import reference

        detector = load_detector(path, device="cpu", threads=1, hosts=1024)
    except ImportError as error:
        yield Finding("model", "missing", str(error), "install what is missing above first", required=True)
        return
    except (CmdanaError, OSError) as error:
        yield Finding(
            "model", "wrong", str(error),
            "install cmdana again" if path is None else "train one (cmdana train), or name another with [model] path",
        )  # fmt: skip
        return
    shipped = f"the one shipped, SHA-256 {shipped_model().sha256[:12]}… as packed"
    where = f"{detector.name} ({path or shipped}), schema {detector.schema_digest[:12]}"
    yield Finding("model", "ok", where)
    expected = detector.checkpoint.about.get(reference.ENTRY) if path else shipped_model().reference
    found = reference.scores(detector)
    if expected is None:
        yield Finding(
            "model's scores", "missing", f"judged {len(found)} connections of the built-in capture; the model, made by "
            "an older version, does not say what they were", "cmdana calibrate writes one that does",
        )  # fmt: skip
    elif differing := reference.differs(found, expected):
        yield Finding(
            "model's scores", "wrong", differing,
            "was the file changed, or made by another version of cmdana? Train or calibrate again",
        )  # fmt: skip
    else:
        yield Finding(
            "model's scores", "ok", f"those of {len(found)} connections of the built-in capture are as told"
        )


def _state_key(settings: Config) -> Finding:
    path = state_key_path(settings.model.state_key)
    try:
        read_key(path)
    except KeyFileError as error:
        if path.exists():
            return Finding(
                "state key", "wrong", str(error), "correct that; or delete it, and a new one is made"
            )
        if os.access(next(p for p in path.absolute().parents if p.exists()), os.W_OK):
            return Finding("state key", "ok", f"{path}, made at the first start")
        return Finding(
            "state key", "missing", f"{path} cannot be made",
            "each start hashes with a key of its own; to keep one, set [model] state_key to a file that this user "
            "may write",
        )  # fmt: skip
    return Finding("state key", "ok", str(path))


def _sandbox() -> Finding:
    found = confine.probe()
    if found.whole:
        return Finding("sandbox", "ok", f"extraction and tshark: {found}")
    return Finding(
        "sandbox", "missing", f"extraction and tshark have only: {found}",
        "a capture that takes one of them over could do more: run on Linux 5.13 or later with seccomp and Landlock",
    )  # fmt: skip


def _tshark(settings: Config) -> Iterator[Finding]:
    wanted = settings.capture.reader == "pyshark"
    need = "" if wanted else "only for captures in formats that the native reader does not know: "
    program = programs.find("tshark")
    if program is None:
        yield Finding("tshark", "missing", "not on the PATH", f"{need}apt-get install tshark", wanted)
    else:
        environment = programs.environment(os.devnull)
        yield Finding(
            "tshark", "ok", f"{_first_line(_answer_of([program, '--version'], environment))} ({program})"
        )
    try:
        yield Finding("pyshark", "ok", importlib.metadata.version("pyshark"))
    except importlib.metadata.PackageNotFoundError:
        yield Finding("pyshark", "missing", "not installed", f"{need}pip install 'cmdana[pyshark]'", wanted)


def _zeek(settings: Config) -> Iterator[Finding]:
    from cmdana_plugin.endpoint import scripts_folder, zeek_program

    wanted = settings.capture.engine == "zeek"
    try:
        scripts: Path | None = scripts_folder(settings)
        yield Finding("Zeek scripts", "ok", str(scripts))
    except CmdanaError as error:
        scripts = None
        yield Finding("Zeek scripts", "wrong", str(error), "install cmdana again, or set [zeek] scripts")
    try:
        zeek = zeek_program(settings)
    except CmdanaError:
        advice = (
            "needed for `cmdana run` and --engine zeek only: https://docs.zeek.org/en/current/install.html"
        )
        yield Finding("Zeek", "missing", f"no program {settings.zeek.path!r}", advice, wanted)
        return
    answer = _first_line(_answer_of([zeek, "--version"]))
    version = re.search(r"version (\d+)\.(\d+)", answer)
    if version is None:
        yield Finding("Zeek", "wrong", f"{zeek} says {answer!r}", "[zeek] path: expected Zeek's own program")
        return
    if (int(version[1]), int(version[2])) < _OLDEST_ZEEK:
        yield Finding("Zeek", "wrong", f"{zeek}: {answer}", "expected Zeek 8.0 or later", wanted)
        return
    yield Finding("Zeek", "ok", f"{answer} ({zeek})")
    if scripts is not None:
        command = [zeek, "--parse-only", str(scripts), str(scripts / "listen-websocket.zeek")]
        fault = _failed(command)
        yield (
            Finding(
                "Zeek loads the scripts", "wrong", fault, "are scripts and Python package of one version?"
            )
            if fault
            else Finding("Zeek loads the scripts", "ok", f"@load {scripts}")
        )


def _broker(settings: Config) -> Finding:
    from cmdana_plugin.endpoint import bindings

    wanted = settings.endpoint.transport == "broker"
    try:
        module = bindings()
    except (CmdanaError, ImportError) as error:
        advice = 'only for [endpoint] transport = "broker": build Zeek with them, or apt-get install python3-broker'
        return Finding("Broker bindings", "missing", str(error), advice, wanted)
    return Finding("Broker bindings", "ok", str(module.__file__))


def _endpoint(settings: Config) -> Finding:
    from cmdana_plugin.endpoint import WebSocketTransport

    endpoint = settings.endpoint
    if endpoint.transport == "broker":
        where = f"{endpoint.broker_host}:{endpoint.broker_port}"
        try:
            socket.create_connection((endpoint.broker_host, endpoint.broker_port), timeout=3.0).close()
        except OSError as error:
            advice = "needed for `cmdana run` only: start Zeek with cmdana/listen-broker"
            return Finding("running Zeek", "missing", f"{where}: {error.strerror or error}", advice)
        return Finding("running Zeek", "ok", f"listens at {where}")
    try:
        # Under a name of its own: a Zeek of an older version takes any client of the detector's name for it.
        transport = WebSocketTransport(
            endpoint.url, "zeek/cmdana/doctor", _version(),
            ca_file=endpoint.ca_file, cert_file=endpoint.cert_file, key_file=endpoint.key_file, name="doctor",
        )  # fmt: skip
    except CmdanaError as error:
        return Finding(
            "running Zeek", "wrong", str(error), "correct [endpoint] url, ca_file, cert_file or key_file"
        )
    try:
        peer = transport.open()
    except CmdanaError as error:
        advice = "needed for `cmdana run` only: start Zeek with cmdana and cmdana/listen-websocket"
        return Finding("running Zeek", "missing", str(error), advice)
    transport.close()
    return Finding("running Zeek", "ok", f"{peer} at {endpoint.url}")


def _secret(settings: Config) -> Finding:
    endpoint = settings.endpoint
    if endpoint.authentication == "none":
        return Finding(
            "shared secret", "missing", '[endpoint] authentication = "none": whoever reaches the port is believed',
            'make one with `cmdana doctor --init-secret`, and set authentication = "hmac" here and in Zeek',
        )  # fmt: skip
    path = secret_path(endpoint.secret_file)
    try:
        read_key(path)
    except KeyFileError as error:
        if path.exists():
            return Finding(
                "shared secret", "wrong", str(error), "as it says; Zeek must be able to read the same"
            )
        return Finding(
            "shared secret", "missing", f"no file {path}",
            "needed for `cmdana run` only: make it with `cmdana doctor --init-secret`",
        )  # fmt: skip
    return Finding("shared secret", "ok", str(path))


def secret_made(path: Path) -> str:
    """What to do with a new secret, in words."""
    return (
        f"{path}: made, for its owner only. Zeek finds it there if it runs as the same user; elsewhere copy it (chmod "
        '600, owned by the user that Zeek runs as) and say so: redef CMDANA::secret_file = "..."; every node of a '
        "cluster needs it"
    )


def _version() -> str:
    return importlib.metadata.version("cmdana")


def _answer_of(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=_ANSWER_SECONDS,
            stdin=subprocess.DEVNULL, cwd=os.sep, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout or done.stderr


def _failed(command: list[str]) -> str:
    """What a program said when it failed, in one line; "" when it did not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, errors="replace", timeout=_ANSWER_SECONDS,
                cwd=folder, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return (lines[0] if lines else f"exit status {done.returncode}") if done.returncode else ""


def _first_line(text: str) -> str:
    return text.strip().split("\n", maxsplit=1)[0]
