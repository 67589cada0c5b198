"""Captures in framings that people have: read, with the connections that tshark sees, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_extractors.errors import CaptureError
from feature_extractors.extract import Extractor
from feature_extractors.readers import open_capture

FRAMINGS = Path(__file__).parents[3] / "traces" / "framings"


@pytest.mark.parametrize("name", ["ppi", "ppp-acfc", "ppp-pfc", "pppoe-pfc"])
def test_what_tshark_reads_is_read(name: str) -> None:
    extractor, ends = Extractor(), []
    for block in open_capture(FRAMINGS / f"{name}.pcap"):
        ends.append(extractor.receive(block).connections)
    ends.append(extractor.finish().connections)
    services = sorted(service for c in ends for service in c.service)
    ports = sorted(int(port) for c in ends for port in c.resp_p)
    assert (services, ports) == (["dns", "http"], [53, 80])
    assert not extractor.counts.by_reason


def test_what_is_not_read_is_refused_by_its_name() -> None:
    extractor = Extractor()
    for block in open_capture(FRAMINGS / "wpan.pcap"):
        extractor.receive(block)
    with pytest.raises(CaptureError, match=r"IEEE 802\.15\.4 \(link type 195\).*editcap"):
        extractor.finish()
