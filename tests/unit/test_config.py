"""plugin.toml: the shipped file says the defaults, and each mistake gets one line that names it."""

from dataclasses import fields
from pathlib import Path

import pytest

from cmdana_plugin.config import Config, ConfigError, load, parse
from cmdana_plugin.replay import limits_of
from feature_extractors.analyzers.base import ContentLimits
from feature_extractors.extract import ExtractorLimits
from feature_extractors.state import TrackerLimits

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
