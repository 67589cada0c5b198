"""A cluster: workers tell what they see, the detector answers on the manager, and the manager writes the notices."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rig import (
    HERE,
    SCRIPTS,
    SECRET,
    SENDING,
    WATCHED,
    Endpoint,
    Program,
    can_make_namespaces,
    namespace,
    send,
    wait_for,
)

from cmdana_plugin.endpoint.shards import Shares

pytestmark = [
    pytest.mark.zeek,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("zeek") is None, reason="needs a real Zeek on the PATH"),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root for a network namespace"),
]
LAYOUT = """
redef Cluster::manager_is_logger = F;
redef Cluster::nodes = {
	["manager"] = [$node_type=Cluster::MANAGER, $ip=127.0.0.1, $p=27760/tcp],
	["logger"] = [$node_type=Cluster::LOGGER, $ip=127.0.0.1, $p=27764/tcp, $manager="manager"],
	["proxy"] = [$node_type=Cluster::PROXY, $ip=127.0.0.1, $p=27761/tcp, $manager="manager"],
	["worker-1"] = [$node_type=Cluster::WORKER, $ip=127.0.0.1, $p=27762/tcp, $manager="manager"],
	["worker-2"] = [$node_type=Cluster::WORKER, $ip=127.0.0.1, $p=27763/tcp, $manager="manager"],
};
"""


def rows(folder: Path, stream: str) -> list[dict[str, Any]]:
    path = folder / f"{stream}.log"
    return (
        [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        if path.exists()
        else []
    )


def _is_there(folder: Path, script: str) -> bool:
    return (folder / script).is_dir() or (folder / f"{script}.zeek").is_file()


def node(ns: str, folder: Path, backend: str, name: str, *more: str) -> Program:
    """A node of the cluster, of whose layout `folder` has the file."""
    zeekpath = os.popen("zeek-config --zeekpath").read().strip()
    settings = ("env", f"CLUSTER_NODE={name}", f"ZEEKPATH={folder}:{zeekpath}")
    # Zeek 8.0 has Broker without a script, and loads what connects nodes by ZeroMQ by name alone.
    loads = (f"frameworks/cluster/backend/{backend}", f"frameworks/cluster/backend/{backend}/connect")
    scripts = (
        *(script for script in loads if any(_is_there(Path(at), script) for at in zeekpath.split(":"))),
        SCRIPTS,
        SCRIPTS / "listen-websocket.zeek",
        HERE / "live.zeek",
    )
    return Program(
        ns, folder / name, "zeek", *settings, "zeek", "-C", *more, *scripts, "LogAscii::use_json=T",
        f"CMDANA::secret_file={folder / name / 'secret'}",
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["broker", "zeromq"])
def test_both_workers_connections_are_judged_and_logged_by_the_manager(backend: str, tmp_path: Path) -> None:
    (tmp_path / "cluster-layout.zeek").write_text(LAYOUT)
    nodes: list[Program] = []
    with namespace() as ns:
        try:
            nodes += [node(ns, tmp_path, backend, name) for name in ("manager", "logger", "proxy")]
            # Each worker watches one end of the cable, so both see every connection, each under a uid of its own.
            nodes += [
                node(ns, tmp_path, backend, "worker-1", "-i", WATCHED),
                node(ns, tmp_path, backend, "worker-2", "-i", SENDING),
            ]
            endpoint = Endpoint(ns, tmp_path / "endpoint")
            nodes.append(endpoint)
            for name in ("manager", "worker-1", "worker-2"):
                wait_for(lambda n=name: f"(node {n}) welcomes us" in endpoint.said(), f"{name}'s welcome")
            out, _ = send(ns, "dns", "20", "5").communicate()
            n = 2 * int(out)
            assert n > 100
            logger = tmp_path / "logger"
            wait_for(lambda: len(rows(logger, "cmdana")) == n, "every verdict")
            endpoint.stop()
            wait_for(lambda: rows(logger, "notice"), "the notice of the loss")
        finally:
            for program in reversed(nodes):
                program.stop(signal.SIGKILL)
        judged = Counter(r["uid"] for r in rows(logger, "cmdana"))
        assert judged == Counter(r["uid"] for r in rows(logger, "conn"))
        assert [r["note"] for r in rows(logger, "notice")] == ["CMDANA::Detector_Lost"]


@pytest.mark.parametrize("backend", ["broker", "zeromq"])
def test_four_detectors_share_the_hosts_and_a_server_that_all_find_odd_is_one_notice(
    backend: str, tmp_path: Path
) -> None:
    (tmp_path / "cluster-layout.zeek").write_text(LAYOUT)
    nodes: list[Program] = []
    more = ("CMDANA::shards=4", "CMDANA::detector_timeout=3sec")
    with namespace() as ns:

        def endpoint(number: int) -> Endpoint:
            config = f'[endpoint]\nreconnect_max = 1.0\nshard = "{number}/4"\n'
            return Endpoint(ns, tmp_path / f"endpoint-{number}", config=config, mild=53)

        try:
            nodes += [node(ns, tmp_path, backend, name, *more) for name in ("manager", "logger", "proxy")]
            nodes += [
                node(ns, tmp_path, backend, "worker-1", "-i", WATCHED, *more),
                node(ns, tmp_path, backend, "worker-2", "-i", SENDING, *more),
            ]
            endpoints = {number: endpoint(number) for number in range(1, 5)}
            nodes += endpoints.values()
            for one in endpoints.values():
                for name in ("manager", "worker-1", "worker-2"):
                    wait_for(lambda n=name, e=one: f"(node {n}) welcomes us" in e.said(), f"{name}'s welcome")
            out, _ = send(ns, "dns", "20", "10").communicate()
            n = 2 * int(out)
            logger = tmp_path / "logger"

            def final() -> list[dict[str, Any]]:
                return [r for r in rows(logger, "cmdana") if r["stage"] == "final"]

            wait_for(lambda: len(rows(logger, "conn")) == n, "every connection's end")
            wait_for(lambda: len(final()) == n, "every verdict")
            assert Counter(r["uid"] for r in final()) == Counter(r["uid"] for r in rows(logger, "conn"))
            shares = Shares(4, bytes.fromhex(SECRET))
            # Each host's connections were judged by its shard's detector, and each has some.
            home = shares.of("10.0.0.53")
            of_server = wait_for(
                lambda: [r for r in rows(logger, "notice") if r.get("cmdana.host") == "10.0.0.53"],
                "the notice",
            )
            assert {r["cmdana.role"] for r in of_server} == {"responder"}
            assert len({r["cmdana.incident"] for r in of_server}) == 1

            def of_shards() -> set[int]:
                revised = [r for r in rows(logger, "cmdana") if r["stage"] == "revised"]
                return {shares.of(r["id.orig_h"]) for r in revised}

            wait_for(lambda: of_shards() == {1, 2, 3, 4}, "rows of all shards")

            lost = home % 4 + 1
            endpoints[lost].stop(signal.SIGKILL)
            (gone,) = wait_for(
                lambda: [r for r in rows(logger, "notice") if r["note"] == "CMDANA::Detector_Lost"],
                "the loss",
            )
            assert f"shard {lost} of 4" in gone["msg"]
            before = len(final())
            time.sleep(4)  # until the workers know it too, by the heartbeat
            out, _ = send(ns, "dns", "20", "5", "1000").communicate()
            theirs = [k for k in range(1000, 1000 + int(out)) if shares.of(f"10.1.0.{1 + k % 200}") != lost]
            wait_for(lambda: len(final()) == before + 2 * len(theirs), "the verdicts of the others")
            nodes.append(endpoint(lost))
            back = wait_for(
                lambda: [
                    r for r in rows(logger, "notice")
                    if r["note"] == "CMDANA::Detector_Back" and "of manager ended" in r["sub"]
                ], "the return",
            )  # fmt: skip
            assert f"shard {lost} of 4 is back" in back[0]["msg"]
            for number, one in endpoints.items():
                if number != lost:
                    one.stop()
                    judged = int(re.findall(r"(\d+) connections_judged", one.said())[-1])
                    assert judged == sum(shares.of(r["id.orig_h"]) == number for r in final())
        finally:
            for program in reversed(nodes):
                program.stop(signal.SIGKILL)
