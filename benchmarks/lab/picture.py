"""Pictures of a recording: connections over time by service above, attacks by family below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # the backend must be chosen before

from benchmarks.lab.truth import Label, service

BINS = 120
ROW = 0.17  # inches of height for each family
SHOWN = 9  # services with a colour of their own


def draw(labels: Sequence[Label], path: Path, title: str) -> None:
    """Write one picture; the file's ending chooses PNG or SVG."""
    benign = [found for found in labels if found.label == "benign"]
    attacks = [found for found in labels if found.label == "malicious"]
    start = min((found.flow.start for found in labels), default=0.0)
    end = max((found.flow.start for found in labels), default=1.0)
    edges = np.linspace(0.0, max(1.0, end - start), BINS + 1)
    begins: dict[str, float] = {}
    for found in attacks:
        begins.setdefault(found.family, found.flow.start)
    families = sorted(begins, key=lambda family: -begins[family])  # the first attack on top
    sizes = (4.0, 0.7 + ROW * max(5, len(families)))
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, sum(sizes)), sharex=True, height_ratios=sizes)
    common = [name for name, _ in Counter(service(found.flow.key) for found in benign).most_common(SHOWN)]
    groups = {name: [f for f in benign if service(f.flow.key) == name] for name in common}
    groups["other"] = [found for found in benign if service(found.flow.key) not in common]
    heights = [np.histogram([f.flow.start - start for f in group], edges)[0] for group in groups.values()]
    width = edges[1] - edges[0]
    above.stackplot(edges[:-1], np.array(heights) / width, labels=list(groups), step="post")
    above.set_ylabel("ordinary connections / s")
    above.set_ylim(0, 1.25 * max(1.0, float(np.sum(heights, axis=0).max() / width)))  # room for the legend
    above.legend(ncols=5, fontsize=8, frameon=False, loc="upper left")
    above.set_title(title, loc="left", fontsize=10, wrap=True)
    counts = Counter(found.family for found in attacks)
    for row, family in enumerate(families):
        times = [found.flow.start - start for found in attacks if found.family == family]
        below.axhline(row, color="0.92", linewidth=0.8, zorder=0)
        below.plot(times, [row] * len(times), "|", markersize=8, color="tab:red", alpha=0.6)
    if not families:
        below.text(0.5, 0.5, "none", transform=below.transAxes, ha="center", color="tab:gray")
    below.set_yticks(range(len(families)), [f"{family}  {counts[family]}" for family in families], fontsize=8)
    below.set_ylim(-0.7, max(0.7, len(families) - 0.3))
    below.set_xlabel("seconds of the recording")
    below.set_ylabel("attacks")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
