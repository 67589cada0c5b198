"""What `pip install` brings works by itself: sdist, wheel of it, a clean environment, the command, a replay."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from pages import ROOT

PACKAGES = ("cmdana_plugin", "feature_extractors")


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=kept | environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*words: str | Path, cwd: Path) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=kept, text=True, capture_output=True, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made of the source distribution, as whoever has only that makes it."""
    folder = tmp_path_factory.mktemp("built")
    tracked = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in tracked:
        if not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "tree" / name)
    build = "import sys, setuptools.build_meta as b; sys.argv = ['setup.py']; b.build_sdist('..')"
    run(sys.executable, "-c", build, cwd=folder / "tree", CMDANA_COMPILE="0")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    words = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    run(sys.executable, *words, cwd=folder, CMDANA_COMPILE="0")
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_what_they_read(built: Path) -> None:
    names = set(zipfile.ZipFile(built).namelist())
    tracked = run("git", "ls-files", "-co", "--exclude-standard", *PACKAGES, cwd=ROOT).splitlines()
    assert [n for n in tracked if (ROOT / n).is_file() and n not in names] == []
    (data,) = {n.partition("/")[0] for n in names if ".data/" in n}
    for name in (
        "plugin.toml",
        "cmdana.service",
        *(f"zeek_scripts/{p.name}" for p in (ROOT / "zeek_scripts").iterdir()),
    ):
        assert f"{data}/data/share/cmdana/{name}" in names
    assert [n for n in names if n.startswith(("tests", "benchmarks"))] == []


def demonstration(folder: Path) -> Path:
    """A folder of this environment's libraries that `make demo` installs, and of no other."""
    folder.mkdir()
    lock = (ROOT / "requirements-demo.lock").read_text()
    for name in re.findall(r"^([a-z0-9-]+)==[^;]*?$", lock, re.MULTILINE):
        distribution = importlib.metadata.distribution(name)
        for top in {f.parts[0] for f in distribution.files or () if f.parts[0] not in ("..", "__pycache__")}:
            (folder / top).symlink_to(distribution.locate_file(top))
    return folder


@pytest.mark.slow
def test_in_a_clean_environment_it_replays_the_demonstration(built: Path, tmp_path: Path) -> None:
    """Its libraries are those of `make demo` out of this environment; what numba compiled is copied beside the modules.

    What needs more, to train for one, says so in a line.
    """
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        built,
        cwd=tmp_path,
    )
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(f"{demonstration(tmp_path / 'libraries')}\n")
    for source in (p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        there = site / source.relative_to(ROOT)
        os.utime(there, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    for kept in (p for package in PACKAGES for p in (ROOT / package).rglob("*.nb[ci]")):
        (site / kept.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy2(kept, site / kept.relative_to(ROOT))
    cmdana = tmp_path / "venv" / "bin" / "cmdana"
    assert "replay" in run(cmdana, "--help", cwd=tmp_path)
    where = run(python, "-c", "import cmdana_plugin; print(cmdana_plugin.__file__)", cwd=tmp_path)
    assert where.startswith(str(site))
    demo = ROOT / "tests" / "traces" / "demo" / "demo.pcap.gz"
    said = json.loads(run(cmdana, "replay", demo, "--out", "out", "--json", cwd=tmp_path))
    assert said["connections"] > 2000
    assert "CMDANA::Anomalous_Host" in (tmp_path / "out" / "notice.log").read_text()
    assert refused(cmdana, "train", "--out", "site.safetensors", demo, cwd=tmp_path) == (
        "cmdana: torch is not installed, which this command needs: `make install` in the repository, or "
        "pip install cmdana, brings it\n"
    )
    made = run(cmdana, "export", "out", "--format", "ocsf", cwd=tmp_path)
    assert json.loads(made.splitlines()[0])["class_uid"] == 2004
    found = json.loads(run(cmdana, "init", "--into", "site", "--unit", "--json", cwd=tmp_path))
    assert f"ExecStart={cmdana} run" in (tmp_path / "site" / "cmdana.service").read_text()
    assert found["next"][1].endswith("share/cmdana/zeek_scripts")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_it_replays_the_demonstration_on_other_pythons(version: str) -> None:
    """With libraries from the index of packages, and all compiled anew: the command that CI has, too."""
    python = shutil.which(f"python{version}")
    # A version manager has a shim for each Python that it knows, chosen or not.
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"needs python{version} on the PATH")
    assert f"python{version}." in run(ROOT / ".ci" / "wheel", python, cwd=ROOT)
