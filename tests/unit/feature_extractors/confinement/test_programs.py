"""Other programs: not from the folder we stand in, not by a file's name, and with next to nothing of ours."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from feature_extractors.compiled import caches
from feature_extractors.confinement import confine, programs
from feature_extractors.errors import CaptureError
from feature_extractors.readers.captures import open_capture
from feature_extractors.readers.native import NativeReader

TRACES = Path(__file__).parents[3] / "traces"
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
HOUR = 3600


def program(path: Path, script: str = "exit 0") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("entry", ["", ".", "bin", "./bin", "{here}", "{here}/", "{here}/../here"])
def test_the_working_folder_is_never_searched(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    program(here / "tshark")
    program(here / "bin" / "tshark")
    real = program(tmp_path / "programs" / "tshark")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", os.pathsep.join([entry.format(here=here), str(real.parent)]))
    assert programs.find("tshark") == str(real)


def test_nor_a_folder_or_a_program_that_everybody_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "open" / "x").parent.chmod(0o777)
    program(tmp_path / "loose" / "x").chmod(0o777)
    monkeypatch.setenv("PATH", f"{tmp_path}/open:{tmp_path}/loose")
    assert programs.find("x") is None
    (tmp_path / "loose" / "x").chmod(0o755)
    assert programs.find("x") == f"{tmp_path}/loose/x"


def test_a_relative_path_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    for name in ("./x", "../x", "", "y/x"):
        assert programs.find(name) is None
    assert programs.find(str(path)) == str(path)


def said(script: str) -> str:
    """What a confined Python printed."""
    with programs.confined([sys.executable, "-I", "-c", script], seconds=HOUR, memory=2**31) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.decode()


def test_a_confined_program_has_an_empty_home_and_none_of_our_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LD_PRELOAD", "WIRESHARK_CONFIG_DIR", "PYTHONPATH", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "/tmp/evil")
    words = said(
        "import os; print(dict(os.environ)); print(os.listdir('.')); print(os.getcwd(), os.environ['HOME'])"
    )
    assert "evil" not in words
    _, inside, places = words.splitlines()
    assert inside == "[]"
    where, home = places.split()
    assert where == home
    assert not Path(home).exists()


ATTEMPTS = """
import os, socket, sys
for attempt in (
    lambda: os.unlink(sys.argv[1] + "/precious"), lambda: open(sys.argv[1] + "/precious", "w"),
    lambda: open(sys.argv[1] + "/new", "w"), lambda: open("here", "w"), lambda: open("/dev/null", "w"),
    lambda: os.unlink("/dev/cmdana-is-not-there"), socket.socket, os.fork,
):
    try:
        attempt()
        print("done")
    except PermissionError:
        print("refused")
"""


@pytest.mark.skipif(not confine.probe().seccomp, reason="needs a kernel with seccomp")
def test_it_writes_nowhere_and_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    assert said(ATTEMPTS.replace("sys.argv[1]", repr(str(tmp_path)))).split() == ["refused"] * 8
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("precious", "x")]


def test_it_has_a_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with programs.confined([sys.executable, "-c", "while True: pass"], seconds=1, memory=2**30) as process:
        process.communicate(timeout=120)
    assert process.returncode < 0
    monkeypatch.setattr(programs, "_CLOCK_SECONDS_PER_CPU_SECOND", 1)
    with programs.confined(["/bin/sh", "-c", "exec sleep 600"], seconds=1, memory=2**30) as process:
        process.communicate(timeout=120)
    assert process.returncode < 0


def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run from now on."""
    seen: list[list[str]] = []
    real = programs.subprocess.Popen

    def recording(command: list[str], **options: object) -> object:
        seen.append(list(command))
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(programs.subprocess, "Popen", recording)
    return seen


K12 = (
    "+---------+---------------+----------+\n12:00:00,000,000   ETHER\n"
    "|0   |02|00|00|00|00|02|02|00|00|00|00|01|08|00|45|00|00|1d|00|01|00|00|40|11|00|00|c0|00|02|0a|c6|33|64|35|"
    "cf|09|00|35|00|09|00|00|78|\n\n"
) * 2  # fmt: skip


@needs_tshark
@pytest.mark.parametrize("kind", ["commview", "k12"])
def test_a_format_that_tshark_cannot_write_is_read_whole_and_nothing_is_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = tmp_path / "capture"
    if kind == "commview":
        shutil.copy(TRACES / "formats" / "commview.ncf", capture)
    else:
        capture.write_text(K12)
    ran = commands(monkeypatch)
    reader = open_capture(capture)
    frames = sum(len(block) for block in reader)
    assert frames == (12 if kind == "commview" else 2)
    assert reader.counts.by_reason == {}
    (command,) = ran
    assert os.path.isabs(command[0])
    assert "-w" not in command
    assert "-n" in command
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["capture"]


@needs_tshark
def test_a_files_name_is_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-w out.pcap", "--help", "-Xlua_script:x.lua"):
        shutil.copy(TRACES / "formats" / "commview.ncf", name)
        assert sum(len(block) for block in open_capture(name)) == 12
    assert not (tmp_path / "out.pcap").exists()


@needs_tshark
def test_settings_beside_the_capture_are_not_tsharks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(TRACES / "formats" / "commview.ncf", tmp_path / "c.ncf")
    ran = program(tmp_path / "tshark", f"touch {tmp_path}/ran")
    # pyshark's own captures take the program's path from this file.
    (tmp_path / "config.ini").write_text(f"[tshark]\ntshark_path = {ran}\n")
    (tmp_path / "init.lua").write_text("error('run')\n")
    for folder in (".config/wireshark", ".wireshark", ".local/lib/wireshark/plugins"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "init.lua").write_text("error('run')\n")
        (tmp_path / folder / "preferences").write_text("gui.nonsense: TRUE\n")
        (tmp_path / folder / "disabled_protos").write_text("frame\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.chdir(tmp_path)
    assert sum(len(block) for block in open_capture("c.ncf")) == 12
    assert not (tmp_path / "ran").exists()


@needs_tshark
def test_pyshark_takes_packets_apart_and_starts_nothing(tmp_path: Path) -> None:
    shutil.copy(TRACES / "formats" / "commview.ncf", tmp_path / "c.ncf")
    ran = program(tmp_path / "mine" / "tshark", f"touch {tmp_path}/ran")
    (tmp_path / "config.ini").write_text(f"[tshark]\ntshark_path = {ran}\n")
    script = """
import sys
sys.path[:0] = eval(sys.argv[1])
from feature_extractors.readers import open_capture
started, opened, parsed = [], [], 0

def watch(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        started.append(arguments[0])
    elif event == "open":
        opened.append(str(arguments[0]))

def profile(frame, event, _):
    global parsed
    code = frame.f_code
    parsed += event == "call" and code.co_name == "packet_from_json_packet" and "pyshark" in code.co_filename

sys.addaudithook(watch)
sys.setprofile(profile)
frames = sum(len(block) for block in open_capture("c.ncf"))
sys.setprofile(None)
print(frames, parsed, started, [path for path in opened if path.endswith("config.ini")])
"""
    home = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, repr([p for p in sys.path if p])],
        cwd=tmp_path, env=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"12 12 [{programs.find('tshark')!r}] []\n"
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "home").exists()


def test_without_pyshark_the_refusal_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = tmp_path / "capture"
    capture.write_bytes(b"snoop\0\0\0" + bytes(40))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for reader in ("auto", "pyshark"):
        with pytest.raises(CaptureError, match=r"pip install 'cmdana\[pyshark\]'") as error:
            open_capture(capture, reader)  # type: ignore[arg-type]
        assert str(capture) in str(error.value)


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    capture.write_bytes(b"snoop\0\0\0" + bytes(40))
    program(tmp_path / "bin" / "tshark")
    (tmp_path / "gone").mkdir()
    script = f"""
import os, sys
sys.path[:0] = eval(sys.argv[1])
from feature_extractors.errors import CaptureError
from feature_extractors.readers import open_capture
os.rmdir(os.getcwd())
try:
    open_capture({str(capture)!r}, "pyshark")
except CaptureError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, repr([p for p in sys.path if p])],
        cwd=tmp_path / "gone", env={"PATH": f"{tmp_path}/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "pyshark needs to know the working folder: No such file or directory\n"


def test_a_tshark_that_takes_no_end_or_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = tmp_path / "capture"
    capture.write_bytes(b"snoop\0\0\0" + bytes(40))
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin" / "tshark", "kill -SEGV $$").parent))
    with pytest.raises(CaptureError, match="tshark was killed by SIGSEGV"):
        open_capture(capture, "pyshark")
    program(tmp_path / "bin" / "tshark", "exec cat /dev/zero")
    monkeypatch.setattr("feature_extractors.readers.pyshark_reader._CPU_SECONDS", 1)
    begun = time.monotonic()
    with pytest.raises(CaptureError, match="tshark was killed by"):
        open_capture(capture, "pyshark")
    assert time.monotonic() - begun < 120


def printed(time: str = "1.5") -> str:
    """A packet as tshark prints it."""
    return (
        '  {\n    "_source": {"layers": {"frame_raw": ["00ff", 0, 2], "frame": {"frame.encap_type": "1",\n'
        f'    "frame.time_epoch": "{time}", "frame.len": "2", "frame.protocols": ""}}}}}}\n  }}'
    )


def test_lines_of_tshark_that_make_no_sense_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = tmp_path / "capture"
    capture.write_bytes(b"snoop\0\0\0" + bytes(40))
    good = printed()
    bad = [
        "  {", "  {\n  }", good.replace("00ff", "0"), good.replace('"1.5"', '"x"'), good.replace('"2"', "[]"),
        good.replace('"2"', "Infinity"), good.replace('"2"', "-1"), good.replace('["00ff"', "[{}"),
        good.replace('["00ff", 0, 2]', "[]"), good.replace('"frame.protocols"', '"frame.protocol"'),
        good.replace('"1.5"', '"9999999-01-01T00:00:00Z"'), "  {\n" + "[" * 50_000 + "\n  }",
        good.replace("00ff", "00ff" * 1_100_000), good.removesuffix("\n  }"),
    ]  # fmt: skip
    lines = tmp_path / "lines"
    lines.write_text("[\n" + ",\n".join([*bad, good, good]) + "\n]\n" + "  {\n")
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin" / "tshark", f"exec /bin/cat {lines}").parent))
    reader = open_capture(capture, "pyshark")
    (block,) = reader
    assert (len(block), block.data.tobytes(), block.ts.tolist()) == (2, b"\x00\xff" * 2, [1.5, 1.5])
    assert reader.counts.by_reason == {"unreadable_frame": len(bad) + 1}
    lines.write_text("[\n" + bad[0] + "\n]\n")
    with pytest.raises(CaptureError, match=r"finds no frame in .*capture that a network carried"):
        open_capture(capture, "pyshark")  # as of a text


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("1767225599.520000000", 1767225599.52),
        ("2025-12-31T23:59:59.520000999Z", 1767225599.52),
        ("-0.500000000", -0.5),
        ("1969-12-31T23:59:59.500000000Z", -0.5),
    ],
)
def test_times_are_read_as_each_tshark_writes_them(
    time: str, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "capture").write_bytes(b"snoop\0\0\0" + bytes(40))
    (tmp_path / "lines").write_text(f"[\n{printed(time)}\n]\n")
    tshark = program(tmp_path / "bin" / "tshark", f"exec /bin/cat {tmp_path}/lines")
    monkeypatch.setenv("PATH", str(tshark.parent))
    (block,) = open_capture(tmp_path / "capture", "pyshark")
    assert block.ts.tolist() == [expected]


def test_a_cache_that_others_can_write_is_not_numbas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_refused", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for wanted in (str(shared), str(shared / "below"), "relative"):
        monkeypatch.setenv("NUMBA_CACHE_DIR", wanted)
        caches.choose()
        assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "mine/cmdana/numba")
        assert wanted in caches.refused()
    assert (tmp_path / "mine/cmdana/numba").stat().st_mode & 0o077 == 0
    shared.chmod(0o755)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(shared))
    caches.choose()
    assert os.environ["NUMBA_CACHE_DIR"] == str(shared)


def test_without_a_private_folder_the_cache_is_one_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "_refused", [])
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "here")
    caches.choose()
    made = Path(os.environ["NUMBA_CACHE_DIR"])
    assert made.is_absolute()
    assert made.stat().st_mode & 0o077 == 0
    made.rmdir()


def test_native_captures_need_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = commands(monkeypatch)
    assert isinstance(open_capture(TRACES / "demo" / "demo.pcap.gz"), NativeReader)
    assert ran == []
