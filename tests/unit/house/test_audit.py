"""`make audit` never says that nothing is known where nobody was asked."""

import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[3] / ".ci/audit"
GOOD = "No known vulnerabilities found\n"
SKIPPED = "".join(
    f"p{i}  Dependency not found on PyPI and could not be audited: p{i} (1.0)\n" for i in range(9999)
)


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        (GOOD, 0, "no fault is known of"),
        ("Found 2 known vulnerabilities in 1 package\n", 1, "Found 2"),
        ("requests.exceptions.ConnectionError: no route\n", 2, "could not be asked"),
        (GOOD + SKIPPED, 2, "could not be asked about 9999 of"),
        ("", 2, "could not be asked"),
    ],
)
def test_what_is_known_is_told_apart_from_what_could_not_be_asked(
    tmp_path: Path, said: str, status: int, words: str
) -> None:
    (tmp_path / "said").write_text(said)
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\ncat {tmp_path / 'said'}\n")
    tool.chmod(0o755)
    done = subprocess.run(
        ["sh", str(AUDIT), str(tool), sys.executable], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status
    assert words in done.stdout + done.stderr
