"""The schema says what it holds, has a digest, and refuses what it cannot read."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

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
        (TEXT.replace("[is_orig, length, gap_time, index]", "[is_orig]"), "packets.fields"),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SchemaError, match=complaint) as found:
        load_schema(written(tmp_path, text))
    assert "\n" not in str(found.value)
    assert "schema.yaml" in str(found.value)
