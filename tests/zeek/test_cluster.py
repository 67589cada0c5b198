"""A cluster: workers tell what they see, the detector answers on the manager, and the manager writes the notices."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rig import (
    HERE,
    SCRIPTS,
    SENDING,
    WATCHED,
    Endpoint,
    Program,
    can_make_namespaces,
    namespace,
    send,
    wait_for,
)

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


@pytest.mark.parametrize("backend", ["broker", "zeromq"])
def test_both_workers_connections_are_judged_and_logged_by_the_manager(backend: str, tmp_path: Path) -> None:
    (tmp_path / "cluster-layout.zeek").write_text(LAYOUT)
    zeekpath = os.popen("zeek-config --zeekpath").read().strip()
    nodes: list[Program] = []
    with namespace() as ns:

        def node(name: str, *more: str) -> Program:
            settings = ("env", f"CLUSTER_NODE={name}", f"ZEEKPATH={tmp_path}:{zeekpath}")
            scripts = (
                f"frameworks/cluster/backend/{backend}",
                SCRIPTS,
                SCRIPTS / "listen-websocket.zeek",
                HERE / "live.zeek",
            )
            return Program(
                ns, tmp_path / name, "zeek", *settings, "zeek", "-C", *more, *scripts, "LogAscii::use_json=T",
                f"CMDANA::secret_file={tmp_path / name / 'secret'}",
            )  # fmt: skip

        try:
            nodes += [node("manager"), node("logger"), node("proxy")]
            # Each worker watches one end of the cable, so both see every connection, each under a uid of its own.
            nodes += [node("worker-1", "-i", WATCHED), node("worker-2", "-i", SENDING)]
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
