"""Texts from the network are cut where it harms least."""

from __future__ import annotations

from cmdana_plugin.analyst.printing import printable, whole_reasons


def test_reasons_are_left_out_whole_and_from_the_middle() -> None:
    parts = [f"reason {i} of a host that does what it never did" for i in range(12)]
    assert whole_reasons("; ".join(parts[:4])) == "; ".join(parts[:4])
    cut = whole_reasons("; ".join(parts), 165)
    assert len(cut) <= 165
    assert cut.split("; ") == [parts[0], parts[1], "…", parts[11]]


def test_reasons_of_the_network_are_made_safe_and_bounded() -> None:
    assert whole_reasons("a\x1b[31m; b") == "a\\x1b[31m; b"
    assert len(whole_reasons("x" * 5000 + "; " + "y" * 5000)) <= 400
    assert len(whole_reasons("; ".join("z" * 9000))) <= 400
    assert whole_reasons("") == printable("") == ""
