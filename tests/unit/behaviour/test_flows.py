"""Flows: encoded windows as behaviour sees them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from made_windows import block_of, office

from cmdana_plugin.behaviour.flows import Flows, concat_flows, flow_rows, flows_of, take_flows
from feature_extractors.observations import Stage

SALT = 1 << 100 | 77


def test_flows_are_the_final_connections_in_the_order_of_the_block() -> None:
    block = block_of(office(60))
    stage = block.connections.stage.copy()
    stage[5] = Stage.EARLY
    block = replace(block, connections=replace(block.connections, stage=stage))
    rows, flows = flow_rows(block), flows_of(block, SALT)
    assert rows.tolist() == [i for i in range(60) if i != 5]
    np.testing.assert_array_equal(flows.ts, block.connections.ts[rows])
    np.testing.assert_array_equal(flows.refused, block.refused[rows])


def test_hosts_and_domains_are_known_by_salted_hashes_alone() -> None:
    block = block_of(office(60))
    one, same, other = flows_of(block, SALT), flows_of(block, SALT), flows_of(block, SALT ^ 1)
    for name in ("orig", "resp", "domain"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert not set(getattr(one, name).tolist()) & set(getattr(other, name).tolist()) - {0}
    hosts = {bytes(h) for h in block.connections.orig_h}
    assert len(set(one.orig.tolist())) == len(hosts)
    assert {bool(d) for d in one.domain} == {bool(name) for name in block.domain}


def test_what_was_not_seen_is_nothing() -> None:
    flows = flows_of(block_of(office(30, scan=30)), SALT)
    for field in fields(Flows):
        column = getattr(flows, field.name)
        assert not np.isnan(column.astype(np.float64)).any()
        assert field.name == "state" or (column >= 0).all()


def test_icmp_has_no_port() -> None:
    block = block_of(office(10))
    proto = block.connections.ip_proto.copy()
    proto[:2] = (1, 58)
    flows = flows_of(replace(block, connections=replace(block.connections, ip_proto=proto)), SALT)
    assert flows.port[:2].tolist() == [0, 0]


def test_flows_are_taken_and_joined() -> None:
    flows = flows_of(block_of(office(20)), SALT)
    again = concat_flows([take_flows(flows, np.arange(12)), take_flows(flows, np.arange(12, 20))])
    for field in fields(Flows):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(flows, field.name))
    with pytest.raises(ValueError, match="at least one"):
        concat_flows([])
