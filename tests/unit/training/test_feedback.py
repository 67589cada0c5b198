"""Labels and the allow-list: kept whole, one row per connection, and read by what uses them."""

import threading
from pathlib import Path

import madeup
import pytest

from cmdana_plugin import config
from cmdana_plugin.analyst import label as feedback
from cmdana_plugin.config import ConfigError
from cmdana_plugin.decision.incidents import AllowList
from cmdana_plugin.logs.labels import LabelError, labels_by_capture, read_labels
from cmdana_plugin.logs.reader import read_rows
from cmdana_plugin.training import sources as learn
from feature_extractors.errors import RecordError


def logs(folder: Path, n: int = 3) -> list[madeup.Verdict]:
    rows = [madeup.verdict(madeup.START + i, i, "10.0.0.5", "2001:db8::1", 443, "ssl", 0.5) for i in range(n)]
    madeup.write_logs(folder, rows)
    return rows


def test_the_latest_label_of_a_connection_is_kept_and_the_next_training_reads_it(tmp_path: Path) -> None:
    first, second, _ = logs(tmp_path)
    store = tmp_path / "labels.csv"
    one, two = feedback.find(first.uid, tmp_path), feedback.find(second.uid, tmp_path)
    assert feedback.store(one, "benign", store) is None
    assert feedback.store(two, "benign", store) is None
    assert feedback.store(one, "malicious", store, family="beacon") == "benign"
    labels = read_labels(store)
    assert len(labels) == 2
    found = labels.find("tcp", ("10.0.0.5", first.orig_p), ("2001:db8::1", 443), first.ts)
    assert found is not None
    assert (found.label, found.family) == ("malicious", "beacon")


def test_what_the_store_does_not_name_is_normal_to_the_next_training(tmp_path: Path) -> None:
    rows = logs(tmp_path / "logs", 5)
    store = tmp_path / "labels.csv"
    feedback.store(feedback.find(rows[1].uid, tmp_path / "logs"), "malicious", store, family="beacon")
    feedback.store(feedback.find(rows[2].uid, tmp_path / "logs"), "unknown", store)
    truth = labels_by_capture(store)
    (recording,) = learn.recordings([str(tmp_path / "logs")], config.Config(), truth, learn.Learned(""))
    assert recording.label is not None
    order = recording.windows.connections.uid.astype(str).tolist()
    found = dict(zip(order, recording.label.tolist(), strict=True))
    assert [found[r.uid] for r in rows] == [0, 1, -1, 0, 0]
    assert recording.family[order.index(rows[1].uid)] == "beacon"


def test_labels_written_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    rows = logs(tmp_path, 12)
    store = tmp_path / "labels.csv"
    threads = [
        threading.Thread(target=feedback.store, args=(feedback.find(r.uid, tmp_path), "benign", store))
        for r in rows
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_labels(store)) == 12


def test_a_file_of_another_kind_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    first, *_ = logs(tmp_path)
    store = tmp_path / "labels.csv"
    store.write_text("name,phone\nx,1\n")
    with pytest.raises(LabelError, match="no column ts"):
        feedback.store(feedback.find(first.uid, tmp_path), "benign", store)
    assert store.read_text() == "name,phone\nx,1\n"


def test_a_uid_that_is_unknown_or_borne_by_several_connections_is_refused(tmp_path: Path) -> None:
    logs(tmp_path / "a")
    with pytest.raises(RecordError, match="no verdict on uid Cnope"):
        feedback.find("Cnope", tmp_path)
    twin = madeup.verdict(madeup.START + 99, 0, "10.0.0.6", "192.0.2.1", 80, "http", 0.5)
    madeup.write_logs(tmp_path / "b", [twin])
    with pytest.raises(RecordError, match="several connections bear the uid"):
        feedback.find(twin.uid, tmp_path)
    assert feedback.find(twin.uid, tmp_path / "b")["id.orig_h"] == "10.0.0.6"


@pytest.mark.parametrize(
    ("orig", "resp", "entry"),
    [
        ("10.0.0.5", "10.0.0.9", "10.0.0.5 -> 10.0.0.9:445/tcp"),
        ("fe80::1", "2001:db8::1", "fe80::1 -> [2001:db8::1]:445/tcp"),
    ],
)
def test_the_allow_entry_of_a_connection_matches_it_and_no_other_port(
    tmp_path: Path, orig: str, resp: str, entry: str
) -> None:
    verdict = madeup.verdict(madeup.START, 1, orig, resp, 445, None, 1e-5)
    other = madeup.verdict(madeup.START, 1, orig, resp, 446, None, 1e-5)
    madeup.write_logs(tmp_path, [verdict])
    (row,) = read_rows(tmp_path / "cmdana.log")
    assert feedback.allow_entry(row) == entry
    known, unknown = ((v.orig_h, v.resp_h, v.resp_p, v.proto) for v in (verdict, other))
    assert AllowList([entry]).allows(known, 0.0)
    assert not AllowList([entry]).allows(unknown, 0.0)


SHIPPED = (Path(__file__).parents[3] / "plugin.toml").read_text()


@pytest.mark.parametrize(
    "toml",
    [
        None,
        "",
        "[model]\nthreads = 1\n",
        "[verdict]\nalerts_per_day = 5.0",
        "[verdict]  # ours\n\n[logs]\nformat = 'json'\n",
        '[verdict]\nallow = ["192.0.2.0/24"]  # the scanner\nearly = false\n',
        '[verdict]\nallow = [  # ours\n  "192.0.2.0/24",\n  "fe80::1 -> [2001:db8::1]:443/tcp",\n]\n[logs]\n',
        "[verdict]\nallow=[ ]\n",
        SHIPPED,
    ],
)
def test_an_entry_goes_into_the_file_and_nothing_else_changes(tmp_path: Path, toml: str | None) -> None:
    path = tmp_path / "plugin.toml"
    if toml is not None:
        path.write_text(toml)
    before = config.parse((toml or "").encode(), "x")
    entry = "10.0.0.5 -> 10.0.0.9:445/tcp"
    assert feedback.allow(entry, path)
    after = config.load(path)
    assert set(after.verdict.allow) == {entry, *before.verdict.allow}
    same = after.model_copy(
        update={"verdict": after.verdict.model_copy(update={"allow": before.verdict.allow})}
    )
    assert same == before
    kept = path.read_text()
    assert all(line.split("#", 1)[1] in kept for line in (toml or "").splitlines() if "#" in line)
    assert not feedback.allow(entry, path)
    assert path.read_text() == kept


def test_a_file_that_cannot_be_edited_safely_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "plugin.toml"
    path.write_text("verdict = { alerts_per_day = 5.0 }\n")
    with pytest.raises(ConfigError, match=r"add .* by hand"):
        feedback.allow("10.0.0.5", path)
    assert path.read_text() == "verdict = { alerts_per_day = 5.0 }\n"
    path.write_text("[verdict]\nallow = [\n")
    with pytest.raises(ConfigError, match="not TOML"):
        feedback.allow("10.0.0.5", path)
