"""`cmdana anonymise`: no address, name or sentence of the site is left, and what belongs together still does."""

import gzip
import ipaddress
import json
from pathlib import Path

import madeup
import pytest

from cmdana_plugin.analyst.anonymise import Anonymiser, anonymise
from cmdana_plugin.keyfile import KeyFileError, new_key, read_key
from cmdana_plugin.logs.labels import read_labels
from cmdana_plugin.logs.reader import read_rows
from feature_extractors.errors import CmdanaError, RecordError

KEY = bytes(range(32))
SECRETS = ("10.0.0.5", "192.0.2.7", "2001:db8::7", "intranet.example.com", "alice", "report-q3.pdf", "krbtgt")


def site(folder: Path, fmt: str) -> None:
    reasons = ("unusual for 10.0.0.5: intranet.example.com",)
    rows = [
        madeup.verdict(madeup.START, 1, "10.0.0.5", "192.0.2.7", 443, "ssl", 1e-6, reasons),
        madeup.verdict(madeup.START + 9, 2, "10.0.0.5", "2001:db8::7", 443, "ssl", 0.5),
    ]
    madeup.write_logs(folder, rows, fmt)  # type: ignore[arg-type]
    records = {
        "dns": {
            "query": "mail.intranet.example.com",
            "answers": ["192.0.2.7", "intranet.example.com"],
            "qtype_name": "A",
        },
        "http": {
            "host": "intranet.example.com",
            "uri": "/alice/report-q3.pdf",
            "username": "alice",
            "method": "GET",
        },
        "kerberos": {"client": "alice/EXAMPLE.COM", "service": "krbtgt/EXAMPLE.COM", "request_type": "AS"},
        "smb_files": {"name": "report-q3.pdf", "path": "\\\\intranet\\alice"},
        "weird": {"name": "bad_TCP_checksum", "addl": "alice"},
        "own_script": {"method": "alice", "source": "192.0.2.7", "nested": {"proto": "alice", "n": 3}},
    }
    for stream, record in records.items():
        row = {"ts": madeup.START, "uid": f"C{1:017d}", "id.orig_h": "10.0.0.5", "id.orig_p": 40001, **record}
        (folder / f"{stream}.log").write_text(json.dumps(row) + "\n")
    (folder / "labels.csv").write_text(
        "capture,uid,ts,proto,orig_h,orig_p,resp_h,resp_p,label,family,strength,reason\n"
        f"alice.pcap,C{1:017d},{madeup.START},tcp,10.0.0.5,40001,192.0.2.7,443,malicious,beacon,strict,alice said so\n"
    )
    (folder / "notes.txt").write_text("alice")
    (folder / "extract.log").write_text("alice wrote a log of her own\n")


def everything(folder: Path) -> str:
    return "".join(
        (gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes()).decode()
        for f in folder.rglob("*")
        if f.is_file()
    )


@pytest.mark.parametrize("fmt", ["tsv", "json"])
def test_nothing_of_the_site_is_left_and_what_belongs_together_still_does(tmp_path: Path, fmt: str) -> None:
    site(tmp_path / "in", fmt)
    done = anonymise(tmp_path / "in", tmp_path / "out", KEY)
    text = everything(tmp_path / "out")
    for secret in SECRETS:
        assert secret in everything(tmp_path / "in") or fmt == "json"
        assert secret not in text
    assert sorted(done.not_logs) == ["extract.log", "notes.txt"]
    a = Anonymiser(KEY)
    first, second = read_rows(tmp_path / "out" / "cmdana.log")
    assert first["id.orig_h"] == second["id.orig_h"] == a.address("10.0.0.5")
    assert first["service"] == "ssl"
    assert first["uid"] == f"C{1:017d}"
    assert "reasons" not in first
    assert "community_id" not in first
    (dns,) = read_rows(tmp_path / "out" / "dns.log")
    (http,) = read_rows(tmp_path / "out" / "http.log")
    assert dns["answers"] == [a.address("192.0.2.7"), http["host"]]
    assert str(dns["query"]).endswith("." + str(http["host"]))
    assert (dns["qtype_name"], http["method"]) == ("A", "GET")
    (weird,) = read_rows(tmp_path / "out" / "weird.log")
    assert weird["name"] == "bad_TCP_checksum"
    (own,) = read_rows(tmp_path / "out" / "own_script.log")
    assert own["source"] == a.address("192.0.2.7")
    labels = read_labels(tmp_path / "out" / "labels.csv")
    found = labels.find("tcp", (a.address("10.0.0.5"), 40001), (a.address("192.0.2.7"), 443), madeup.START)
    assert found is not None
    assert (found.label, found.family) == ("malicious", "beacon")


def common_bits(a: str, b: str) -> int:
    x, y = ipaddress.ip_address(a), ipaddress.ip_address(b)
    return x.max_prefixlen - (int(x) ^ int(y)).bit_length()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10.0.0.5", "10.0.0.6"),
        ("10.0.0.5", "10.0.255.1"),
        ("10.0.0.5", "192.0.2.1"),
        ("2001:db8::1", "2001:db8:1::1"),
    ],
)
def test_addresses_keep_exactly_their_common_prefix(one: str, other: str) -> None:
    a = Anonymiser(KEY)
    assert common_bits(a.address(one), a.address(other)) == common_bits(one, other)
    assert a.address(one) != Anonymiser(bytes(32)).address(one)


def test_rotated_gzip_logs_keep_their_place_and_broken_lines_are_counted(tmp_path: Path) -> None:
    site(tmp_path / "in", "tsv")
    day = tmp_path / "in" / "2026-11-22"
    day.mkdir()
    data = (tmp_path / "in" / "conn.log").read_text() + "too\tshort\nhalf"
    (day / "conn.00:00:00-01:00:00.log.gz").write_bytes(gzip.compress(data.encode()))
    done = anonymise(tmp_path / "in", tmp_path / "out", KEY)
    name = "2026-11-22/conn.00:00:00-01:00:00.log.gz"
    assert done.files[name] == 2
    assert done.passed.by_file[name] == {"fields do not match the header": 1, "half-written last line": 1}
    assert len(list(read_rows(tmp_path / "out" / name))) == 2


def test_a_folder_that_holds_something_is_not_written_into(tmp_path: Path) -> None:
    site(tmp_path / "in", "tsv")
    with pytest.raises(CmdanaError, match="is not empty"):
        anonymise(tmp_path / "in", tmp_path / "in", KEY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="holds no Zeek log"):
        anonymise(tmp_path / "empty", tmp_path / "out", KEY)


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(KeyFileError, match="cannot be read: No such file or directory; --new-key makes one"):
        read_key(path)
    new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    key = read_key(path)
    assert len(key) == 32
    with pytest.raises(KeyFileError, match="is there already"):
        new_key(path)
    assert read_key(path) == key
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match=r"others can read it \(mode 644\); chmod 600"):
        read_key(path)


@pytest.mark.parametrize("content", [b"", b"0011", b"zz" * 32, b"\xff" * 64])
def test_a_file_that_is_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="no key; expected 64 hexadecimal digits"):
        read_key(path)
