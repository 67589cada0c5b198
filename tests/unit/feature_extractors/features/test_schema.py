"""The schema says what it holds, has a digest, and refuses what it cannot read."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from cmdana_plugin.detector.cross_modal import shipped_checkpoint
from feature_extractors.errors import SchemaError
from feature_extractors.features.schema import load_schema

TEXT = (resources.files("feature_extractors.features") / "schema.yaml").read_text()
FORBIDDEN = ("orig_h", "resp_h", "uid", "ts", "mac", "ttl", "seq")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    return path


def test_the_same_content_has_the_same_digest_whatever_the_comments(tmp_path: Path) -> None:
    assert load_schema(written(tmp_path, "# another comment\n" + TEXT)).digest == load_schema().digest


def test_another_content_has_another_digest(tmp_path: Path) -> None:
    assert (
        load_schema(written(tmp_path, TEXT.replace("first: 16", "first: 12"))).digest != load_schema().digest
    )


def test_outcomes_have_a_digest_of_their_own_so_that_a_model_outlives_them(tmp_path: Path) -> None:
    shipped = load_schema()
    other = load_schema(written(tmp_path, TEXT.replace("one: SSH login,", "one: login,")))
    assert (other.digest, other.outcomes_digest == shipped.outcomes_digest) == (shipped.digest, False)
    (tmp_path / "without").mkdir()
    none = load_schema(written(tmp_path / "without", TEXT[: TEXT.index("\noutcomes:")]))
    assert (none.digest, none.outcomes) == (shipped.digest, ())
    assert shipped_checkpoint().about["schema_digest"] == shipped.digest


def test_what_is_read_of_logs_is_what_a_model_sees_and_what_outcomes_ask() -> None:
    reads = load_schema().reads()
    assert {"query", "rcode_name"} <= reads["dns"]
    assert {"established", "last_alert"} <= reads["ssl"]
    assert reads["radius"] == {"result"}
    assert {"request_type", "success", "error_msg"} <= reads["kerberos"]


def test_no_field_names_what_a_model_must_not_see() -> None:
    s = load_schema()
    names = {n.name for n in s.numeric} | {c.name for c in s.categorical} | set(s.state)
    assert names
    assert not names & set(FORBIDDEN)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "malformed"),
        ("version: 2", "expected 1"),
        ("{", "YAML"),
        (TEXT.replace("kind: name", "kind: nonsense", 1), "nonsense"),
        (TEXT.replace("refused: [NXDOMAIN]", "refused: [NXDOMAIN, NOERROR]"), "NOERROR"),
        (TEXT.replace("refused: [NXDOMAIN]", "refused: []"), "nothing"),
        (TEXT.replace("refused: [NXDOMAIN]", "refused: NXDOMAIN"), "list of values"),
        (TEXT.replace("refused: [NXDOMAIN]", "refused: [1.5]"), "1.5"),
        (TEXT.replace("{one: name,", "{wun: name,"), "wun"),
        (TEXT.replace("{one: name,", "{one: 7,"), "words"),
        (TEXT.replace("[is_orig, length, gap_time, index]", "[is_orig]"), "packets.fields"),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SchemaError, match=complaint) as found:
        load_schema(written(tmp_path, text))
    assert "\n" not in str(found.value)
    assert "schema.yaml" in str(found.value)


@pytest.mark.parametrize(("lines", "found"), [
    ("behaviour: [{name: a, words: b}]", "unit"),
    ("behaviour: [{name: a, words: b, unit: 3}]", "expected a name, words and a unit"),
    ("behaviour: [{name: a, words: b, unit: s}, {name: a, words: c, unit: s}]", "found a name twice"),
])  # fmt: skip
def test_a_behaviour_field_is_a_name_words_and_a_unit(tmp_path: Path, lines: str, found: str) -> None:
    with pytest.raises(SchemaError, match=found):
        load_schema(written(tmp_path, TEXT.partition("\nbehaviour:")[0] + "\n" + lines + "\n"))


def test_behaviour_is_no_part_of_the_digest_that_models_carry(tmp_path: Path) -> None:
    without = load_schema(written(tmp_path, TEXT.partition("\nbehaviour:")[0] + "\n"))
    assert without.digest == load_schema().digest
    assert without.behaviour_digest != load_schema().behaviour_digest
