"""The page beside other tools says what the page of results has, and is written anew with it."""

from __future__ import annotations

import re

import pytest
from pages import ROOT

RESULTS = (ROOT / "docs" / "results.md").read_text()
PAGE = (ROOT / "docs" / "guide" / "comparison.md").read_text()


@pytest.mark.parametrize(("detector", "row"), [
    (r"\*\*cmdana\*\* \| ours", "cmdana, trained on"), ("zeek-scripts \\| peer", "Zeek's own scan"),
    ("rita \\| peer", "RITA 5's formulas"),
])  # fmt: skip
def test_the_figures_of_whole_days_are_those_of_the_results(detector: str, row: str) -> None:
    whole_days = RESULTS.partition("## Whole days")[2].partition("\n## ")[0]
    found = re.findall(rf"^\| {detector} \| \d+ \| ([\d.]+) of (\d+) \| ([\d.]+) \|", whole_days, re.M)
    assert found
    attacks, of = sum(float(n) for n, _, _ in found), sum(int(n) for _, n, _ in found)
    false = ", ".join(rate for _, _, rate in found)
    assert f"found, of {of} |" in PAGE
    assert re.search(rf"^\| {row}[^|]*\| {attacks:.0f} \| {re.escape(false)} \|$", PAGE, re.M), (
        f"docs/guide/comparison.md: {row}: results.md now has {attacks:.0f} of {of} at {false}"
    )


def test_the_figures_of_single_connections_are_those_of_the_results() -> None:
    captures = RESULTS.partition("| detector | labels | seeds | TPR at 1e-2 |")[2].partition("\n\n")[0]
    for detector, row in (
        (r"\*\*cmdana\*\*", "cmdana as shipped"),
        ("kitsune", "Kitsune's"),
        ("cmdana without labels", "cmdana without labels"),
    ):  # fmt: skip
        rates = re.search(rf"^\| {detector} \| \w+ \| \d+ \| ([\d.]+) ±[^|]*\| ([\d.]+) ±", captures, re.M)
        assert rates
        said = re.search(rf"^\| {row}[^|]*\| \w+ \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M)
        assert said
        for measured, told in zip(rates.groups(), said.groups(), strict=True):
            assert abs(float(measured) - float(told)) <= 0.0051, f"{row}: results.md now has {rates.groups()}"
