"""labels.csv: connections found by tuple and time, verdicts and notices counted against the truth."""

import lzma
from pathlib import Path

import madeup
import pytest

from cmdana_plugin.logs.labels import LabelError, labels_by_capture, read_labels

HEADER = "capture,uid,ts,proto,orig_h,orig_p,resp_h,resp_p,label,family,strength,reason\n"


def line(v: madeup.Verdict, label: str, family: str = "", capture: str = "") -> str:
    return f"{capture},{v.uid},{v.ts},{v.proto},{v.orig_h},{v.orig_p},{v.resp_h},{v.resp_p},{label},{family},strict,r\n"


def conn(i: int, p: float, orig: str = "10.0.0.5") -> madeup.Verdict:
    return madeup.verdict(madeup.START + i * 1000, i, orig, f"192.0.2.{i}", 443, "ssl", p)


def test_a_label_is_found_in_either_direction_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    v = conn(1, 0.5)
    path.write_text(HEADER + line(v, "malicious", "scan"))
    labels = read_labels(path)
    one, other = (v.orig_h, v.orig_p), (v.resp_h, v.resp_p)
    for a, b, ts, there in [
        (one, other, v.ts, True),
        (other, one, v.ts + 0.09, True),
        (one, other, v.ts + 0.2, False),
        (one, (v.resp_h, 444), v.ts, False),
    ]:
        assert (labels.find("tcp", a, b, ts) is not None) is there
    assert labels.find("udp", one, other, v.ts) is None


def test_verdicts_and_notices_are_counted_by_what_they_rest_on(tmp_path: Path) -> None:
    attack, missed, false, good, unknown = (
        conn(1, 1e-6),
        conn(2, 0.5),
        conn(3, 1e-6, "10.0.0.6"),
        conn(4, 0.5),
        conn(5, 0.5),
    )
    madeup.write_logs(tmp_path, [attack, missed, false, good, unknown])
    path = tmp_path / "labels.csv.xz"
    gone = conn(9, 0.5)
    path.write_bytes(
        lzma.compress(
            (
                HEADER + line(attack, "malicious", "scan") + line(missed, "malicious", "worm")
                + line(false, "benign") + line(good, "benign") + line(gone, "benign")
            ).encode()
        )
    )  # fmt: skip
    found = read_labels(path).count(tmp_path)
    assert found.connections == {"malicious": 2, "benign": 2}
    assert found.flagged == {"malicious": 1, "benign": 1}
    assert found.families == {"scan": (1, 1, True), "worm": (1, 0, False)}
    assert found.said == {
        "scan": {"anomalous": 1}, "worm": {"benign": 1}, "benign": {"anomalous": 1, "benign": 1},
    }  # fmt: skip
    assert (found.true_notices, found.false_notices, found.unlabelled_notices) == (1, 1, 0)
    assert (found.unlabelled, found.unscored) == (1, 1)


def test_labels_keep_their_captures_apart(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        HEADER + line(conn(1, 0.5), "benign", capture="a.pcap") + line(conn(1, 0.5), "malicious", "x")
    )
    assert sorted(labels_by_capture(path)) == ["", "a.pcap"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column ts, proto"),
        (b"a,b\n1,2\n", "no column ts, proto"),
        (HEADER.encode(), "holds no label"),
        (
            HEADER.encode() + b",C,soon,tcp,1.1.1.1,1,2.2.2.2,2,benign,,,\n",
            ":2: ts: found 'soon'; expected seconds since the epoch",
        ),
        (
            HEADER.encode() + b",C,1,tcp,1.1.1.1,1,2.2.2.2,2,bad,,,\n",
            ":2: label: found 'bad'; expected benign",
        ),
        (HEADER.encode() + b",C,1\n", ":2: "),
        (b"\xff\xfe\x00", "no label file"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_wrong_label_file_is_named_with_its_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError) as error:
        read_labels(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
