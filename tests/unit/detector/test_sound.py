"""A model may come from a stranger: whatever is wrong in it is refused in one line, and its names are shown escaped."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_windows import block_of, office
from safetensors.numpy import save_file
from small_model import parts, small_checkpoint

from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.detector.cross_modal import DEFAULT_MODEL, CrossModal, load_detector, shipped_checkpoint
from cmdana_plugin.detector.engines.shape import Shape, parameter_shapes
from cmdana_plugin.detector.network import Network
from cmdana_plugin.detector.soundness import shown
from cmdana_plugin.replay import reference
from feature_extractors.errors import CmdanaError
from feature_extractors.features.schema import load_schema

Tensors = dict[str, Any]
Meta = dict[str, str]
Change = Callable[[Tensors, Meta], None]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    checkpoints.save(small_checkpoint(), path)
    return path


def written(source: Path, target: Path, change: Change) -> Path:
    """The model with a change, written without any of the project's checks."""
    tensors, meta = parts(source)
    change(tensors, meta)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, target, meta)
    return target


def put(name: str, value: object) -> Change:
    """A tensor filled with one value."""
    return lambda t, _m: t.__setitem__(name, np.full_like(t[name], value))


def at(name: str, index: object, value: object) -> Change:
    """One element of a tensor."""

    def change(t: Tensors, _m: Meta) -> None:
        t[name] = t[name].copy()
        t[name][index] = value

    return change


def gone(name: str) -> Change:
    return lambda t, _m: t.pop(name)


def more(name: str) -> Change:
    return lambda t, _m: t.__setitem__(name, np.zeros(3, np.float32))


def cut(name: str) -> Change:
    return lambda t, _m: t.__setitem__(name, t[name].reshape(-1)[:1])


def typed(name: str, kind: type) -> Change:
    return lambda t, _m: t.__setitem__(name, t[name].astype(kind))


def said(name: str, text: str | None) -> Change:
    return lambda _t, m: m.pop(name) and None if text is None else m.__setitem__(name, text)


def shaped(**values: object) -> Change:
    return lambda _t, m: m.__setitem__("shape", json.dumps(json.loads(m["shape"]) | values))


def weighed(value: object, name: str = "packets") -> Change:
    return lambda _t, m: m.__setitem__("weights", json.dumps(json.loads(m["weights"]) | {name: value}))


def tailed(k: int, value: object, name: str = "fused") -> Change:
    def change(_t: Tensors, m: Meta) -> None:
        tails = json.loads(m["tails"])
        tails[name][k] = value
        m["tails"] = json.dumps(tails)

    return change


def renamed_tail(name: str) -> Change:
    def change(t: Tensors, m: Meta) -> None:
        tails = json.loads(m["tails"])
        tails[name], t[f"tail.{name}"] = tails["fused"], t["tail.fused"]
        m["tails"] = json.dumps(tails)

    return change


def shared_child(t: Tensors, _m: Meta) -> None:
    """Every node's children are the two that follow it: few nodes, and as many ways through them as Fibonacci says."""
    n = 90
    left = np.arange(1, n + 1)
    left[-2:] = [n - 2, n - 1]
    for name, x in (
        ("left", left), ("feature", np.zeros(n)), ("threshold", np.zeros(n)), ("unset_left", np.zeros(n)),
        ("value", np.zeros(n)),
    ):  # fmt: skip
        t[f"trees.{name}"] = x.astype(t[f"trees.{name}"].dtype)
    t["trees.root"], t["trees.output"] = np.zeros(1, np.int32), np.zeros(1, np.int32)


def chain(t: Tensors, _m: Meta) -> None:
    """A tree as deep as it has splits."""
    n = 20_001
    left = np.where(
        np.arange(n) % 2 == 0, np.minimum(np.arange(n) + 1, n - 1), np.arange(n)
    )  # the even ones split
    for name in ("feature", "threshold", "unset_left", "value"):
        t[f"trees.{name}"] = np.zeros(n, t[f"trees.{name}"].dtype)
    t["trees.left"] = left.astype(np.int32)
    t["trees.root"], t["trees.output"] = np.zeros(1, np.int32), np.zeros(1, np.int32)


def swapped(name: str) -> Change:
    return lambda t, _m: t.__setitem__(name, t[name][..., ::-1])


DEEP = "[" * 100_000
NETWORK = "network.counts.0.weight"
FAULTS: dict[str, tuple[Change, str]] = {
    "weights that are no number": (put(NETWORK, np.nan), NETWORK),
    "one weight that is infinite": (at("network.connection.slope", (0, 0), np.inf), "connection.slope"),
    "one weight too large to multiply": (at(NETWORK, (0, 0), 1e30), NETWORK),
    "a half-life of no time": (put("network.log_half_life", -100.0), "log_half_life"),
    "a weight of another shape": (cut(NETWORK), NETWORK),
    "a weight of another type": (typed(NETWORK, np.float64), "float64"),
    "a weight missing": (gone(NETWORK), "found nothing"),
    "a weight too many": (more("network.door"), "network.door"),
    "a tensor nobody knows": (more("door"), "door"),
    "no shape": (said("shape", None), "shape: found nothing"),
    "a shape that is no JSON": (said("shape", "x"), "expected JSON"),
    "a shape nested deeply": (said("shape", DEEP), "expected JSON"),
    "a shape that is a list": (said("shape", "[]"), "shape"),
    "an empty shape": (said("shape", "{}"), "shape"),
    "a shape with more": (shaped(door=1), "shape"),
    "a width that is huge": (shaped(width=200_000), "shape width"),
    "a width below nothing": (shaped(width=-1), "shape width"),
    "a width that is true": (shaped(width=True), "shape width"),
    "a width that is no whole number": (shaped(width=16.0), "shape width"),
    "a width that the heads do not divide": (shaped(heads=3), "shape heads"),
    "no heads": (shaped(heads=0), "shape heads"),
    "another width": (shaped(width=32), "network."),
    "another count of features": (shaped(numeric=15), "shape numeric"),
    "other categories": (shaped(categorical=[1]), "shape categorical"),
    "targets of another length": (shaped(targets=[16, 25, 35, 1]), "shape targets"),
    "a flag that is a number": (shaped(cross=1), "shape cross"),
    "trees of no number": (put("trees.value", np.nan), "trees.value"),
    "a leaf too large": (at("trees.value", 0, 1e300), "trees.value"),
    "a feature far out of range": (put("trees.feature", 2_000_000_000), "trees.feature"),
    "a feature below nothing": (at("trees.feature", 0, -1), "trees.feature"),
    "a feature one out of range": (at("isolation.feature", 0, 10_000), "isolation.feature"),
    "a tree that is a circle": (at("trees.left", slice(0, 2), [1, 0]), "trees.left"),
    "a child that is not there": (put("trees.left", 10**8), "trees.left"),
    "a right child that is not there": (lambda t, m: at("trees.left", 0, len(t["trees.left"]) - 1)(t, m), "trees.left"),
    "nodes that share their children": (shared_child, "twice"),
    "a tree as deep as it has splits": (chain, "trees.left"),
    "a root that is not there": (at("trees.root", 0, 10**6), "trees.root"),
    "a root that another tree has": (put("trees.root", 0), "trees.left"),
    "no trees": (lambda t, _m: t.update({f"trees.{k}": t[f"trees.{k}"][:0] for k in ("root", "output")}), "trees.root"),
    "an output that is huge": (put("trees.output", 2_000_000_000), "trees.output"),
    "an output below nothing": (put("trees.output", -5), "trees.output"),
    "a class without an output": (put("namer.output", 0), "namer.output"),
    "a threshold of no number": (at("trees.threshold", 0, np.nan), "trees.threshold"),
    "nodes of another number": (lambda t, _m: t.__setitem__("trees.feature", t["trees.feature"][:-1]), "trees.feature"),
    "trees in part": (gone("trees.left"), "trees.left"),
    "no trees for what they weigh": (
        lambda t, _m: [t.pop(k) for k in list(t) if k.startswith("trees.")] and None, "weights attack"
    ),
    "no forest for isolation": (
        lambda t, _m: [t.pop(k) for k in list(t) if k.startswith("isolation.")] and None, "isolation"
    ),
    "names without trees": (
        lambda t, _m: [t.pop(k) for k in list(t) if k.startswith("namer.")] and None, "classes"
    ),
    "fewer names than outputs": (said("classes", '["a"]'), "namer.output"),
    "names that are numbers": (said("classes", "[1, 2, 3]"), "classes"),
    "names twice": (said("classes", '["a", "a", "b"]'), "classes"),
    "a name that means benign": (said("classes", '["a", "benign", "b"]'), "classes"),
    "an empty name": (said("classes", '["a", " ", "b"]'), "classes"),
    "names nested deeply": (said("classes", DEEP), "classes"),
    "a tail of no number": (put("tail.fused", np.nan), "tail.fused"),
    "a tail that falls": (swapped("tail.fused"), "tail.fused"),
    "a share above 1": (at("tail.fused", (1, 0), 1.5), "tail.fused"),
    "a tail too long": (
        lambda t, _m: t.__setitem__("tail.fused", np.repeat(t["tail.fused"], 30, axis=1)), "tail.fused"
    ),
    "a tail without its numbers": (lambda t, _m: t.__setitem__("tail.log.9", t["tail.fused"]), "tails"),
    "a tail without its values": (gone("tail.fused"), "tails"),
    "a tail of another name": (renamed_tail("door.all"), "door"),
    "a tail of no stratum": (renamed_tail("log.-1"), "log.-1"),
    "a tail of a stratum spelt otherwise": (renamed_tail("log.007"), "log.007"),
    "a size below nothing": (tailed(0, -1), "tails fused"),
    "a size that is no whole number": (tailed(0, 1.5), "tails fused"),
    "a scale of nothing": (tailed(3, 0.0), "tails fused"),
    "a scale of no number": (tailed(3, float("nan")), "tails fused"),
    "a start that is infinite": (tailed(1, float("inf")), "tails fused"),
    "a shape that is text": (tailed(2, "0.1"), "tails fused"),
    "tails that are a list": (said("tails", "[]"), "tails"),
    "weights that are all 0": (
        lambda _t, m: m.__setitem__("weights", json.dumps(dict.fromkeys(json.loads(m["weights"]), 0.0))), "weights"
    ),
    "a weight that is no number": (weighed(float("nan")), "weights packets"),
    "a weight below nothing": (weighed(-1.0), "weights packets"),
    "a weight that is infinite": (weighed(float("inf")), "weights packets"),
    "an integer of thousands of digits": (
        lambda _t, m: m.__setitem__("weights", '{"packets": ' + "9" * 5000 + "}"), "weights"
    ),
    "a weight of a component nobody knows": (weighed(1.0, "door"), "weights"),
    "no weights": (said("weights", "{}"), "weights"),
    "Gaussians of no number": (put("mixture.mean", np.nan), "mixture.mean"),
    "a covariance that is none": (put("mixture.root", 0.0), "mixture.root"),
    "a covariance with a full root": (put("mixture.root", 1.0), "mixture.root"),
    "determinants of other roots": (put("mixture.constant", 5.0), "mixture.constant"),
    "shares that sum to more than 1": (put("mixture.weight", 0.5), "mixture.weight"),
    "Gaussians of another width": (cut("mixture.mean"), "mixture.mean"),
    "bins that fall": (swapped("preparation.numeric"), "preparation.numeric"),
    "bins of another shape": (cut("preparation.summary"), "preparation.summary"),
    "bins of no number": (put("preparation.first_packets", np.nan), "preparation.first_packets"),
    "a spread of nothing": (put("preparation.state_scale", 0.0), "preparation.state_scale"),
    "a mean that is infinite": (at("preparation.numeric_scale", (0, 0), np.inf), "preparation.numeric_scale"),
    "another format": (said("format", "\x1b[2J"), "model format"),
    "metadata of many entries": (lambda _t, m: m.update({f"x{i}": "" for i in range(100)}), "metadata"),
    "metadata of many characters": (said("recipe", "x" * 100_000), "metadata recipe"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_in_a_model_is_said_in_one_line(small: Path, tmp_path: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    path = written(small, tmp_path / "m.safetensors", change)
    with pytest.raises(CmdanaError) as found:
        checkpoints.load(path, load_schema())
    line = str(found.value)
    assert line.startswith(f"{path}: ")
    assert "found" in line
    assert "expected" in line
    assert words in line
    assert line.isprintable()
    assert len(line) < 500


def test_a_refusal_is_one_line_of_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdana_plugin.cli import app as cli

    monkeypatch.chdir(tmp_path)  # where no plugin.toml is
    path = tmp_path / "m\x1b[2J\n.safetensors"
    path.write_bytes(b"no model")
    monkeypatch.setattr(
        "sys.argv", ["cmdana", "calibrate", "--model", str(path), "--out", str(tmp_path / "o"), "x"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert r"m\x1b[2J\x0a.safetensors: found no readable model" in said


def test_a_model_without_a_fault_is_loaded_as_it_was(small: Path, tmp_path: Path) -> None:
    again = written(small, tmp_path / "m.safetensors", lambda _t, _m: None)
    one, two = (checkpoints.load(p, load_schema()) for p in (small, again))
    assert one.about == two.about
    windows = office(60, seed=3, scan=10)
    first, second = (CrossModal(c, load_schema(), hosts=64).receive(block_of(windows)) for c in (one, two))
    assert np.array_equal(first.score, second.score)
    assert np.isfinite(first.score).all()


def header(text: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + rest


FILES = {
    "nothing": b"",
    "a few bytes": b"\x01\x02",
    "a header longer than the file": struct.pack("<Q", 2**63),
    "a header that is no JSON": header(b"{" * 10),
    "a header nested deeply": header(b'{"x":' + b"[" * 50_000),
    "a header that is a list": header(b"[]"),
    "a header that is not UTF-8": header(b'{"\xff\xfe":1}'),
    "a tensor beyond the file": header(b'{"x":{"dtype":"F32","shape":[100000000000],"data_offsets":[0,400000000000]}}'),
    "offsets backwards": header(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"\0" * 4),
    "offsets that overlap": header(
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0" * 4,
    ),
    "a shape that overflows": header(
        b'{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "a type of another kind": header(b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}', b"\0" * 4),
    "no metadata": header(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_lies_about_itself_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(FILES[kind])
    with pytest.raises(CmdanaError, match=r"m\.safetensors: found") as found:
        checkpoints.load(path, load_schema())
    assert str(found.value).isprintable()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "none"):
        with pytest.raises(CmdanaError, match="expected"):
            checkpoints.load(path, load_schema())


NAMES = ["\x1b[2Jpwned\x07", "<script>alert(1)</script>", "a\tb\nc"]


def test_names_are_escaped_when_they_are_loaded(small: Path, tmp_path: Path) -> None:
    def change(_t: Tensors, m: Meta) -> None:
        m["classes"], m["name"] = json.dumps(NAMES), "\x1b]0;x\x07[bold]\tmodel\n#close\u202e"

    loaded = load_detector(written(small, tmp_path / "m.safetensors", change), threads=1, hosts=64)
    assert loaded.checkpoint.classes == (r"\x1b[2Jpwned\x07", "<script>alert(1)</script>", r"a\x09b\x0ac")
    assert loaded.name == r"\x1b]0;x\x07[bold]\x09model\x0a#close\u202e"


def test_a_name_is_cut_to_a_sane_length() -> None:
    assert len(shown("x" * 10_000)) == 100
    assert shown("scan") == "scan"


def test_the_shapes_of_the_parameters_are_those_of_a_network() -> None:
    shape = Shape(3, (4, 5), 6, 4, 8, 32, (2, 5, 3), width=16, latents=3, heads=2)
    assert {k: tuple(v.shape) for k, v in Network(shape).state_dict().items()} == parameter_shapes(shape)


def test_the_model_that_ships_is_the_one_whose_digest_is_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert shipped_checkpoint().about["name"] == "cmdana-3"
    other = checkpoints.Shipped("0" * 64, "[]")
    monkeypatch.setattr(checkpoints, "shipped_model", lambda: other)
    with pytest.raises(CmdanaError, match=rf"{DEFAULT_MODEL}: found SHA-256 .* expected 000000000000"):
        shipped_checkpoint()


def test_the_model_that_ships_scores_the_built_in_capture_as_packed() -> None:
    found = reference.scores(load_detector(threads=1, hosts=1024))
    assert len(found) >= 10
    assert reference.differs(found, checkpoints.shipped_model().reference) == ""


def test_a_model_tells_its_scores_and_a_change_of_its_weights_shows(small: Path, tmp_path: Path) -> None:
    told = reference.with_reference(checkpoints.load(small, load_schema()))
    expected = told.about[reference.ENTRY]
    checkpoints.save(told, tmp_path / "m.safetensors")
    again = load_detector(tmp_path / "m.safetensors", threads=1, hosts=1024)
    assert reference.differs(reference.scores(again), again.checkpoint.about[reference.ENTRY]) == ""

    def shift(t: Tensors, _m: Meta) -> None:
        for name in ("tail.whole.all", "tail.whole.3"):
            t[name] = t[name] + np.array([[1e3], [0.0]])

    path = written(tmp_path / "m.safetensors", tmp_path / "n.safetensors", shift)
    changed = load_detector(path, threads=1, hosts=1024)
    assert "differ" in reference.differs(reference.scores(changed), expected)


@pytest.mark.parametrize("text", ["x", "{}", "[2]", "[NaN]", '["a"]', "[true]", "[" * 50_000])
def test_told_scores_that_are_none_are_said(text: str) -> None:
    assert "expected a list of scores" in reference.differs([0.5], text)


def test_fewer_connections_than_told_are_said() -> None:
    assert "found 1 connections" in reference.differs([0.5], "[0.5, 0.5]")
