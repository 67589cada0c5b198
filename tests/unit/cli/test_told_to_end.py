"""A command that is told to end does so even where Python loses the exception that says it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

LOST = {
    "a finalizer": """
class Loses:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        for _ in range(10): pass
def work():
    Loses()
    while True: time.sleep(.01)
""",
    "a name given": """
class Loses:
    def __set_name__(self, owner, name):
        signal.raise_signal(signal.SIGTERM)
        for _ in range(10): pass
def work():
    type("Owner", (), {"it": Loses()})
    while True: time.sleep(.01)
""",
    "cleaning up takes long": """
def work():
    try:
        signal.raise_signal(signal.SIGTERM)
        while True: time.sleep(.01)
    finally:
        for _ in range(60): time.sleep(.01)
        print("cleaned up")
""",
}


@pytest.mark.parametrize("lost", LOST)
def test_the_exception_is_raised_again_until_it_is_on_its_way(lost: str) -> None:
    script = "import signal, time\nfrom cmdana_plugin.cli import app\n"
    script += LOST[lost] + "app.main = work\napp.entry()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr.decode()
    assert (b"cleaned up" in done.stdout) == ("cleaning" in lost)
