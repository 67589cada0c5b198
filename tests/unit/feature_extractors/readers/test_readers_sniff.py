"""Live frames through scapy's sniffing socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from feature_extractors.errors import CaptureError
from feature_extractors.readers.scapy_reader import ScapySniffer


def test_an_interface_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match="cannot listen on interface nowhere0"):
        ScapySniffer("nowhere0")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not Path("/sys/class/net/lo").exists(), reason="needs root")
def test_frames_of_a_live_interface_arrive_while_it_is_listened_on() -> None:
    sniffer = ScapySniffer("lo")
    token = os.urandom(24)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(token, ("127.0.0.1", 9))
    found = False
    for block in sniffer:
        starts = zip(block.start.tolist(), block.captured.tolist(), block.link.tolist(), strict=True)
        links = {link for start, n, link in starts if token in block.data[start : start + n].tobytes()}
        if links:
            assert links == {1}  # Linux gives loopback frames an Ethernet header
            found = True
            sniffer.stop()  # and so the loop ends
    assert found
    assert sniffer.counts.by_reason == {}
