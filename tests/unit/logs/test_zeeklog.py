"""Reading Zeek logs back: every form that Zeek leaves them in, and a clear word on those that are broken."""

import contextlib
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdana_plugin.detector import score_of
from cmdana_plugin.logs.reader import find_logs, number, p_value_in, read_rows, text, texts
from feature_extractors.errors import RecordError
from feature_extractors.readers.dialects.lines import LogLines, PassedOver

HEADER = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tx\n"
    "#open\t2026-11-22-00-00-00\n#fields\tts\tuid\tn\tok\tname\ttags\n#types\ttime\tstring\tcount\tbool\tstring\tset[string]\n"
)
ROW = "1.500000\tC1\t7\tT\ta\\x09b\tx,y\\x2cz\n"
FOUND = {"ts": 1.5, "uid": "C1", "n": 7, "ok": True, "name": "a\tb", "tags": ["x", "y,z"]}


def write(path: Path, content: str) -> Path:
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.log", "x.log.gz"])
@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROW,
        HEADER + ROW + "#close\t2026-11-22-00-00-00\n",
        HEADER + ROW + "2.0\tC2\t",  # cut in the middle
        HEADER.replace("\n", "\r\n") + ROW.replace("\n", "\r\n"),
        json.dumps(FOUND) + "\n",
        json.dumps({**FOUND, "ts": "1970-01-01T00:00:01.500000Z"}) + "\n",
        json.dumps(FOUND) + "\n" + '{"ts": 2.0, "uid": "C',  # cut in the middle
    ],
    ids=[
        "tsv",
        "closed",
        "tsv half-written",
        "carriage returns",
        "json",
        "json with ISO times",
        "json half-written",
    ],
)
def test_every_form_reads_as_the_same_record(tmp_path: Path, name: str, content: str) -> None:
    assert list(read_rows(write(tmp_path / name, content))) == [FOUND]


def test_a_header_in_the_middle_changes_the_columns(tmp_path: Path) -> None:
    newer = HEADER.replace("\tn\t", "\tnew_field\tn\t").replace("\tcount", "\tstring\tcount")
    path = write(tmp_path / "x.log", HEADER + ROW + newer + "2.0\tC2\tfuture\t8\tF\t-\t(empty)\n")
    first, second = read_rows(path)
    assert first == FOUND
    assert second == {"ts": 2.0, "uid": "C2", "new_field": "future", "n": 8, "ok": False, "tags": []}


def test_only_the_fields_asked_for_are_read_and_missing_ones_stay_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.log", HEADER + ROW)
    assert list(read_rows(path, only={"uid", "absent"})) == [{"uid": "C1"}]


def test_lines_without_the_text_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "x.log", HEADER + ROW + "broken line without a tab\n" + ROW.replace("C1", "C2"))
    assert [r["uid"] for r in read_rows(path, containing="C2")] == ["C2"]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("\\x2d", "-"),
        ("\\x28empty)", "(empty)"),
        ("(empty)", ""),
        ("\\\\x41", "\\x41"),
        ("\\x00\\xc3\\xa9", "\x00é"),
        ("é\\xff", "é\\xff"),
        ("日本\\x09", "日本\t"),
    ],
)
def test_escapes_are_undone_and_bytes_that_are_no_text_stay_visible(
    tmp_path: Path, cell: str, value: str
) -> None:
    path = write(tmp_path / "x.log", HEADER + ROW.replace("a\\x09b", cell))
    assert next(iter(read_rows(path)))["name"] == value


BROKEN = [
    (HEADER + "1.0\tC1\n", "a line of 2 fields; the header names 6", "fields do not match the header"),
    (HEADER + ROW.replace("1.5", "soon"), "no time, or one out of range", "no time, or one out of range"),
    (HEADER + ROW.replace("7", "many"), "invalid literal", "fields do not match the header"),
    ('{"ts": }\n', "no record", "no JSON record"),
    ('{"ts": "soon"}\n', "no time", "no time, or one out of range"),
    ("{" * 100_000 + "\n", "no record", "no JSON record"),
]


@pytest.mark.parametrize(("content", "message", "reason"), BROKEN)
def test_a_line_that_is_no_record_is_named_or_counted(
    tmp_path: Path, content: str, message: str, reason: str
) -> None:
    path = write(tmp_path / "x.log", content)
    with pytest.raises(RecordError, match=r"x\.log: found a line that is no record") as error:
        list(read_rows(path))
    assert message in str(error.value)
    skipped = PassedOver()
    assert list(read_rows(path, passed=skipped)) == []
    assert skipped.by_file == {str(path): {reason: 1}}


@pytest.mark.parametrize("skipped", [None, PassedOver()])
def test_a_file_of_another_kind_is_refused_even_where_broken_lines_are_counted(
    tmp_path: Path, skipped: PassedOver | None
) -> None:
    for name, content, message in [
        ("x.log", b"Nov 22 00:00:00 host syslog: hello\n", "no Zeek log"),
        ("y.log.gz", b"plain\n", "no Zeek log"),
        ("y.pcap.gz", b"plain\n", "no Zeek log: .*; captures are for `cmdana replay`"),
        ("z.log", b"#fields\ta\tb\n#types\tcount\n1\t2\n", "found 1 #types, expected 2"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(RecordError, match=message):
            list(read_rows(path, passed=skipped))
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        list(read_rows(tmp_path / "gone.log", passed=skipped))


def test_a_gzip_file_that_ends_early_gives_what_came_before(tmp_path: Path) -> None:
    import random

    random.seed(1)
    rows = "".join(ROW.replace("C1", f"C{random.getrandbits(64):x}") for _ in range(20_000))
    whole = gzip.compress((HEADER + rows).encode())
    path = tmp_path / "x.log.gz"
    path.write_bytes(whole[: len(whole) // 2])
    skipped = PassedOver()
    assert 0 < len(list(read_rows(path, passed=skipped))) < 20_000
    assert skipped.by_file == {str(path): {"compressed file ends early": 1, "half-written last line": 1}}
    with pytest.raises(RecordError, match="ends early"):
        list(read_rows(path))


def test_logs_are_found_by_zeeks_names_rotated_ones_first(tmp_path: Path) -> None:
    names = [
        "2026-11-21/notice.14:00:00-15:00:00.log.gz",
        "notice.2026-11-22-14-00-00.log",
        "notice.log",
    ]
    others = ["notice_alarm.log", "notice.log.bak", "conn.log", ".notice.log.partial", "mynotice.log"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(f.relative_to(tmp_path)) for f in find_logs([tmp_path], "notice")] == names
    assert find_logs([tmp_path / "conn.log"], "notice") == [tmp_path / "conn.log"]
    with pytest.raises(RecordError, match=r"nowhere: does not exist; expected a notice\.log"):
        find_logs([tmp_path / "nowhere"], "notice")


def test_fields_are_read_with_a_meaning_for_unset() -> None:
    row = {"n": 3, "s": "x", "l": ["a"], "odd": "NaN"}
    assert (number(row, "n"), number(row, "absent"), number(row, "odd", -1.0)) == (3.0, 0.0, -1.0)
    assert (text(row, "s"), text(row, "n"), text(row, "absent")) == ("x", "3", "")
    assert (texts(row, "l"), texts(row, "s"), texts(row, "absent")) == (["a"], [], [])


CELLS = st.lists(
    st.text(st.characters(exclude_characters="\n\t\r", exclude_categories=["Cs"]), max_size=8), max_size=8
)


@given(st.lists(st.one_of(CELLS.map("\t".join), st.text(max_size=40)), max_size=12), st.booleans())
@settings(deadline=None)
def test_whatever_the_lines_are_only_record_errors_are_raised(lines: list[str], json_rows: bool) -> None:
    text_of = "".join(line.replace("\n", "") + "\n" for line in lines)
    start = '{"ts": 1.0}\n' if json_rows else HEADER + ROW
    found = []
    with contextlib.suppress(RecordError):
        lines = LogLines("x", "x", PassedOver())
        for line in (start + text_of).encode().split(b"\n"):
            told = lines.receive(line)
            if told is None:
                continue
            row = told[1]
            found.append(row)
            number(row, "ts")
            texts(row, "tags")
    assert found


def test_logs_behind_a_link_to_a_folder_are_found_once_and_a_ring_of_links_ends(tmp_path: Path) -> None:
    spool = tmp_path / "spool" / "zeek"
    logs = tmp_path / "logs"
    for folder in (spool, logs / "2026-11-22"):
        folder.mkdir(parents=True)
        (folder / "notice.log").write_text("")
    (logs / "current").symlink_to(spool)  # as zeekctl makes it
    (logs / "again").symlink_to(spool)
    (logs / "2026-11-22" / "up").symlink_to(logs)
    assert len(find_logs([logs], "notice")) == 2


@pytest.mark.parametrize(("power", "rest"), [(6.5, 1.0), (9.0, 1.0), (12.0, 3.0), (40.0, 1.0)])
def test_a_p_value_that_zeek_wrote_as_zero_is_read_from_the_score(power: float, rest: float) -> None:
    p_value = rest * 10.0**-power
    score = float(f"{float(score_of(np.array([p_value]))[0]):.6f}")
    assert p_value_in({"score": score, "p_value": 0.0}) == pytest.approx(p_value, rel=0.01)
    assert p_value_in({"score": score, "p_value": 0.25}) == 0.25
    assert p_value_in({"score": score}) == 1.0
    assert p_value_in({"p_value": 0.0}) == 0.0
