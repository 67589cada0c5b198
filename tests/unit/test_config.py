"""plugin.toml: the shipped file says the defaults, and each mistake gets one line that names it."""

import os
from dataclasses import fields
from pathlib import Path

import pytest

from cmdana_plugin import config as configuration
from cmdana_plugin.config import Config, ConfigError, find, load, parse
from cmdana_plugin.replay.embedded import limits_of
from feature_extractors.content.analyzers.base import ContentLimits
from feature_extractors.extract import ExtractorLimits
from feature_extractors.tracker.state import TrackerLimits

SHIPPED = Path(__file__).parents[2] / "plugin.toml"


def test_the_shipped_file_holds_every_key_with_its_default() -> None:
    text = SHIPPED.read_text()
    assert load(SHIPPED) == Config()
    for table, model in Config():
        assert f"[{table}]" in text
        for key, _ in model:
            assert f"\n{key} = " in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"[verdict]\nalert_per_day = 3.0",
            "unknown key [verdict] alert_per_day; did you mean 'alerts_per_day'?",
        ),
        (b"[verdicts]\n", "unknown key [verdicts]; did you mean 'verdict'?"),
        (
            b"[endpoint]\nsniff = 'eth0'",
            "unknown key [endpoint] sniff; the endpoint no longer sniffs packets",
        ),
        (
            b"[endpoint]\nsniff_connections = 9",
            "unknown key [endpoint] sniff_connections; the endpoint no longer sniffs",
        ),
        (
            b"[endpoint]\nmost_connections = 9",
            "unknown key [endpoint] most_connections; known here: transport, url",
        ),
        (b"[zzz]\n", "unknown key [zzz]; known here: capture, tracker"),
        (
            b"[verdict]\nalerts_per_day = 'many'",
            "[verdict] alerts_per_day: found 'many'; input should be a valid number",
        ),
        (b"[verdict]\nalerts_per_day = -1.0", "found -1.0; input should be greater than 0"),
        (b"[endpoint]\nbroker_port = 70000", "found 70000; input should be less than or equal to 65535"),
        (
            b"[endpoint]\ntransport = 'carrier-pigeon'",
            "found 'carrier-pigeon'; input should be 'websocket' or 'broker'",
        ),
        (b"[model]\nthreads = true", "found True; input should be a valid integer"),
        (b"[verdict\n", "not TOML"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
    ],
)
def test_a_mistake_is_named_with_what_was_found_and_expected(text: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "plugin.toml")
    assert str(error.value).startswith("plugin.toml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_a_missing_file_that_was_asked_for_is_an_error_and_a_missing_default_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None) == Config()
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read: No such file or directory"):
        load(Path("nowhere.toml"))


def test_the_limits_of_the_extractors_are_all_settable_and_have_the_same_defaults() -> None:
    assert limits_of(Config()) == ExtractorLimits()
    assert {name for name, _ in Config().tracker} == {f.name for f in fields(TrackerLimits)}
    assert {name for name, _ in Config().content} == {f.name for f in fields(ContentLimits)}


HOSTILE = """
[capture]
engine = "zeek"
[zeek]
path = "./.x"
scripts = "scripts"
[verdict]
allow = ["0.0.0.0/0"]
alerts_per_day = 0.001
connections_per_day = 1000000000
suppress_for = 1e9
max_reasons = 7
[model]
path = "blind.safetensors"
state_key = "known.key"
max_hosts = 1
[incident]
quiet = 1e9
[endpoint]
url = "ws://192.0.2.1/"
[logs]
format = "json"
"""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and beside it a home without any configuration."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path / "here"


def test_a_file_of_the_working_folder_runs_redirects_and_hides_nothing(alone: Path) -> None:
    (alone / "plugin.toml").write_text(HOSTILE)
    found = find(None)
    want = Config()
    assert found.config == want.model_copy(
        update={
            "verdict": want.verdict.model_copy(update={"max_reasons": 7}),
            "logs": want.logs.model_copy(update={"format": "json"}),
        }
    )
    assert found.ignored == (
        "[capture] engine", "[model] path", "[model] max_hosts", "[model] state_key",
        "[verdict] alerts_per_day", "[verdict] connections_per_day", "[verdict] suppress_for", "[verdict] allow",
        "[incident] quiet", "[endpoint] url", "[zeek] path", "[zeek] scripts",
    )  # fmt: skip
    assert all(key in found.words() for key in found.ignored)
    assert "plugin.toml of the working folder" in found.words()
    assert "\n" not in found.words()


def test_it_may_show_more_than_the_defaults_do(alone: Path) -> None:
    (alone / "plugin.toml").write_text("[verdict]\nalerts_per_day = 50.0\nsuppress_for = 60.0\n")
    found = find(None)
    assert (found.config.verdict.alerts_per_day, found.config.verdict.suppress_for) == (50.0, 60.0)
    assert found.ignored == ()


def test_one_whose_keys_would_take_gigabytes_is_refused_unread(alone: Path) -> None:
    (alone / "plugin.toml").write_text("a" + ".a" * 30_000 + " = 1\n")
    with pytest.raises(ConfigError, match=r"^plugin\.toml: is too long for one of the working folder"):
        find(None)
    (alone / "plugin.toml").write_text("a" + ".a" * 1_000 + " = 1\n")
    with pytest.raises(ConfigError, match=r"^plugin\.toml: (unknown key|not TOML)"):
        find(None)


def test_every_key_but_a_few_is_an_operators_alone() -> None:
    # A key that is added to the configuration is an operator's until somebody thinks about it.
    free = {
        "capture reader", "model device", "model threads", "verdict alerts_per_day", "verdict connections_per_day",
        "verdict suppress_for", "verdict max_reasons", "logs format", "logs local_nets", "logs streams",
    }  # fmt: skip
    assert {" ".join(key) for key in configuration._ANYWHERE} == free


@pytest.mark.parametrize("place", ["home/.config", "xdg"])
def test_an_operators_file_comes_first_and_counts_whole(
    place: str, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "xdg":
        monkeypatch.setenv("XDG_CONFIG_HOME", str(alone.parent / "xdg"))
    file = alone.parent / place / "cmdana" / "plugin.toml"
    file.parent.mkdir(parents=True)
    file.write_text(
        '[zeek]\npath = "bin/zeek"\n[verdict]\nallow = ["192.0.2.0/24"]\n[model]\npath = "a.safetensors"\n'
    )
    (alone / "plugin.toml").write_text(HOSTILE)
    found = find(None)
    assert found.path == file
    assert found.config.verdict.allow == ("192.0.2.0/24",)
    # Not in the working folder, but beside the file.
    assert found.config.zeek.path == str(file.parent / "bin/zeek")
    assert found.config.model.path == str(file.parent / "a.safetensors")


@pytest.mark.parametrize("name", ["", ".", "relative"])
def test_a_home_that_is_the_working_folder_is_none(
    name: str, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", name)
    monkeypatch.setenv("XDG_CONFIG_HOME", name)
    assert [str(f) for f in configuration.operators_files()] == ["/etc/cmdana/plugin.toml"]


def test_a_file_named_on_the_command_line_counts_whole_even_in_the_working_folder(alone: Path) -> None:
    (alone / "plugin.toml").write_text('[zeek]\npath = "/opt/zeek/bin/zeek"\n')
    assert find(Path("plugin.toml")).config.zeek.path == "/opt/zeek/bin/zeek"


@pytest.mark.parametrize(
    ("mode", "folder", "says"),
    [
        (0o646, 0o755, "everybody can write it (mode 646)"),
        (0o644, 0o777, "everybody can write it (mode 777)"),
    ],
)
def test_an_operators_file_that_others_can_write_names_no_program(
    mode: int, folder: int, says: str, alone: Path
) -> None:
    file = alone / "mine.toml"
    file.write_text('[zeek]\npath = "/opt/zeek/bin/zeek"\n')
    file.chmod(mode)
    alone.chmod(folder)
    with pytest.raises(ConfigError) as error:
        find(file)
    assert says in str(error.value)
    assert "[zeek] path is not taken from it; chown and chmod go-w it" in str(error.value)
    file.write_text('[logs]\nformat = "json"\n')  # what anybody may say is taken
    assert find(file).config.logs.format == "json"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_nor_does_one_that_belongs_to_another_user(alone: Path) -> None:
    file = alone / "mine.toml"
    file.write_text('[zeek]\npath = "/opt/zeek/bin/zeek"\n')
    os.chown(file, 65534, 65534)
    with pytest.raises(ConfigError, match="user 65534 owns it"):
        find(file)


def test_a_group_of_the_owner_alone_is_nobody_else() -> None:
    own = os.stat_result((0o100664, 0, 0, 1, os.geteuid(), os.getegid(), 0, 0, 0, 0))
    assert configuration.writable_by_others(own) == ""
    other = os.stat_result((0o100664, 0, 0, 1, os.geteuid(), 54321, 0, 0, 0, 0))
    assert "group 54321 can write it" in configuration.writable_by_others(other)


@pytest.mark.parametrize("kind", ["fifo", "link", "device", "folder", "long"])
def test_what_is_no_plain_file_of_the_working_folder_is_refused_at_once(kind: str, alone: Path) -> None:
    path = alone / "plugin.toml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match=r"^plugin\.toml: (is a link|cannot be read|is too long)"):
        find(None)


@pytest.mark.parametrize(
    "text",
    [
        b"a = " + b"[" * 100_000,
        b"a = " + b"9" * 100_000,
        b'"\\u001b[2J" = 1\n',
        b"[verdict]\nallow = '\x1b[2J'\n",
        b"[logs]\nformat = '" + b"x" * 100_000 + b"'",
        b'[logs]\nlocal_nets = ["no net"]\n',
    ],
)
def test_a_hostile_file_is_one_short_line_that_moves_no_cursor(text: bytes) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "plugin.toml")
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()
