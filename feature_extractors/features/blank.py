"""Connections of which nothing is known, as a detector receives them: to have it compile before there is traffic."""

from __future__ import annotations

import numpy as np

from feature_extractors.features.encoding import FIRST_SIZES, Encoded, Features
from feature_extractors.features.schema import PACKET_FIELDS, Schema
from feature_extractors.features.tokens import TOKEN_WIDTH
from feature_extractors.observations import Connections, Stage


def blank(n: int, schema: Schema) -> Encoded:
    """`n` connections at time 0, each of one packet and one log token; columns have the types that they always have."""
    start = np.arange(n + 1, dtype=np.int64)
    count, port, unset = np.zeros(n, np.int64), np.zeros(n, np.uint16), np.full(n, -1, np.int32)
    address = np.zeros((n, 16), np.uint8)
    connections = Connections(
        uid=np.zeros(n, "S20"), ts=np.zeros(n), end=np.zeros(n), stage=np.full(n, Stage.FINAL, np.int8),
        orig_h=address, resp_h=address, orig_p=port, resp_p=port, ip_proto=np.zeros(n, np.uint8), service=[""] * n,
        duration=np.zeros(n), orig_bytes=count, resp_bytes=count, conn_state=np.zeros(n, np.int8), missed_bytes=count,
        history=np.zeros(n, "S64"), orig_pkts=count, orig_ip_bytes=count, resp_pkts=count, resp_ip_bytes=count,
        vlan=unset, inner_vlan=unset, tunneled=np.zeros(n, np.bool_),
    )  # fmt: skip
    features = Features(
        numeric=np.zeros((n, len(schema.numeric)), np.float32),
        categorical=np.zeros((n, len(schema.categorical)), np.int16),
        packets=np.zeros((n, len(PACKET_FIELDS)), np.float32),
        packet_start=start,
        first_packets=np.zeros((n, 2 * FIRST_SIZES), np.float32),
        log_tokens=np.zeros((n, TOKEN_WIDTH), np.int16),
        log_start=start,
        log_summary=np.zeros((n, len(schema.summary)), np.float32),
        name=np.zeros(n, np.uint64),
    )
    return Encoded(
        connections=connections, features=features, schema=schema.digest, modalities=np.ones((n, 3), np.bool_),
        longest_name=count, accepted=np.zeros(n, np.int32), refused=np.zeros(n, np.int32),
        told_by=np.zeros(n, np.int8), domain=[""] * n, subdomain_bits=np.zeros(n, np.float32),
    )  # fmt: skip
