"""What a model says of the small capture that comes with cmdana: told where it is made, compared by `cmdana doctor`.

Libraries, processors and a file that was changed can make a sound model score otherwise; this is how it shows.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from cmdana_plugin.detector import Checkpoint, CrossModal

ENTRY: Final = "reference"  # of a checkpoint's metadata
_CAPTURE: Final = "reference.pcap.gz"
_MAX_HOSTS: Final = 1024
_SCORE_TOLERANCE: Final = 0.01  # of a score, 0..1: what rounding on another processor may come to
_MAX_VERDICTS: Final = 10_000


def scores(detector: CrossModal) -> list[float]:
    """The scores of the capture's connections in order, from an empty state; the detector is reset."""
    from cmdana_plugin.config import Config
    from cmdana_plugin.replay.embedded import extract
    from cmdana_plugin.replay.summary import Summary
    from feature_extractors.features import encoded

    detector.reset()
    found: list[float] = []
    with resources.as_file(resources.files("cmdana_plugin") / "models" / _CAPTURE) as capture:
        further = detector.schema.further is None
        for windows in extract([capture], Config(), Summary([]), brief=not further, whole=further):
            found += np.round(detector.receive(encoded(windows, detector.schema)).score, 4).tolist()
    detector.reset()
    return found


def with_reference(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint with its scores of the capture in its metadata."""
    from cmdana_plugin.detector import detector_of, renamed
    from feature_extractors.features import load_schema

    detector = detector_of(checkpoint, load_schema(), hosts=_MAX_HOSTS)
    return renamed(checkpoint, **{ENTRY: json.dumps(scores(detector))})


def differs(found: list[float], expected: str) -> str:
    """How scores differ from the `expected` ones of a model's metadata, in words; "" within .01 of each."""
    try:
        listed = json.loads(expected)
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list) or len(listed) > _MAX_VERDICTS or not all(map(_is_score, listed)):
        return f"metadata {ENTRY}: found {expected[:40]!r}, expected a list of scores of 0..1"
    if len(listed) != len(found):
        return f"found {len(found)} connections in the built-in capture, expected {len(listed)} as where it was made"
    apart = [i for i, (a, b) in enumerate(zip(found, listed, strict=True)) if abs(a - b) > _SCORE_TOLERANCE]
    if not apart:
        return ""
    worst = max(apart, key=lambda i: abs(found[i] - listed[i]))
    return (
        f"{len(apart)} of {len(found)} scores of the built-in capture differ: connection {worst} found "
        f"{found[worst]:.4f}, expected {listed[worst]:.4f}"
    )


def _is_score(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) and 0.0 <= x <= 1.0


def _write_shipped() -> None:
    """Writes what the package says of its model, after a new one has been put there."""
    import hashlib
    from pathlib import Path

    from cmdana_plugin.detector import DEFAULT_MODEL, SHIPPED, detector_of, load
    from feature_extractors.features import load_schema

    folder = Path(__file__).parents[1] / "models"
    model = folder / DEFAULT_MODEL
    detector = detector_of(load(model, load_schema()), load_schema(), hosts=_MAX_HOSTS)
    entry = {"sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "reference": scores(detector)}
    (folder / SHIPPED).write_text(json.dumps(entry) + "\n", encoding="ascii")


if __name__ == "__main__":
    _write_shipped()
