"""The history of a site's models is signed, and says which of them judges."""

import json
from pathlib import Path

import pytest

from cmdana_plugin.training import Lineage
from cmdana_plugin.training.shadow.lineage import LineageError

SALT = 1 << 100


def begun(tmp_path: Path) -> Lineage:
    (tmp_path / "models").mkdir()
    return Lineage(tmp_path, SALT)


def proposed(lineage: Lineage, content: bytes, refusal: str = "") -> str:
    lineage.shadow.write_bytes(content)
    return lineage.propose("finds 9 of 9", refusal).model


def test_a_site_begins_with_the_configured_model(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, SALT)
    assert (lineage.judging, lineage.model, lineage.entries) == ("", None, [])
    assert lineage.roll_back() is None
    with pytest.raises(LineageError, match="no model is proposed"):
        lineage.promote()


def test_what_was_proposed_is_promoted_and_taken_back_step_by_step(tmp_path: Path) -> None:
    lineage = begun(tmp_path)
    one = proposed(lineage, b"one")
    assert lineage.judging == ""
    assert lineage.promote().judging == one
    two = proposed(lineage, b"two")
    assert lineage.judging == one
    lineage.promote()
    again = Lineage(tmp_path, SALT)
    assert again.entries == lineage.entries
    assert again.judging == two
    assert again.model is not None
    assert again.model.read_bytes() == b"two"
    assert [
        step.judging if step else None for step in (again.roll_back(), again.roll_back(), again.roll_back())
    ] == [
        one,
        "",
        None,
    ]
    assert Lineage(tmp_path, SALT).model is None


def test_what_was_found_to_be_worse_is_not_promoted_and_says_why(tmp_path: Path) -> None:
    lineage = begun(tmp_path)
    proposed(lineage, b"worse", "it finds fewer")
    step = lineage.promote()
    assert (step.refusal, step.judging, lineage.model) == ("it finds fewer", "", None)
    with pytest.raises(LineageError, match="no model is proposed"):
        lineage.promote()


def test_a_model_that_is_another_one_by_now_is_not_promoted_and_does_not_judge(tmp_path: Path) -> None:
    lineage = begun(tmp_path)
    proposed(lineage, b"one")
    lineage.shadow.write_bytes(b"other")
    with pytest.raises(LineageError, match="is not the model that was proposed"):
        lineage.promote()
    proposed(lineage, b"one")
    lineage.promote()
    assert lineage.model is not None
    lineage.model.write_bytes(b"other")
    with pytest.raises(LineageError, match="is not the model that was promoted"):
        _ = lineage.model


@pytest.mark.parametrize("how", ["changed", "left out", "in between", "swapped", "no entry"])
def test_a_history_that_was_changed_is_refused(tmp_path: Path, how: str) -> None:
    lineage = begun(tmp_path)
    for content in (b"one", b"two"):
        proposed(lineage, content)
        lineage.promote()
    path = tmp_path / "models" / "history.jsonl"
    lines = path.read_text().splitlines()
    if how == "changed":
        lines[1] = json.dumps({**json.loads(lines[1]), "judging": "f" * 64})
    elif how == "left out":
        del lines[1]
    elif how == "in between":
        lines.insert(2, lines[0])
    elif how == "swapped":
        lines[1], lines[3] = lines[3], lines[1]
    else:
        lines[2] = "[1]"
    path.write_text("\n".join(lines))
    with pytest.raises(
        LineageError, match="no entry of a history" if how == "no entry" else "not what was signed"
    ):
        Lineage(tmp_path, SALT)


def test_another_site_cannot_read_it(tmp_path: Path) -> None:
    proposed(begun(tmp_path), b"one")
    with pytest.raises(LineageError, match="not with this key"):
        Lineage(tmp_path, SALT + 1)
