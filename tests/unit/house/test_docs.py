"""The documentation says what is so: its commands are understood, its fields and messages exist."""

import ast
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pages import PAGES, of_pages, whole

from cmdana_plugin.analyst import label as feedback
from cmdana_plugin.cli import app as cli
from cmdana_plugin.config import Config
from cmdana_plugin.decision import judge as pipeline
from cmdana_plugin.decision.notice import NOTICE_TYPES
from cmdana_plugin.logs.streams import CMDANA, NOTICE, NOTICE_FIELDS

ROOT = Path(__file__).parents[3]


def mentioned(page: Path) -> Iterator[str]:
    """Those of its sentences, in backticks: a command with some of its options."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    yield from re.findall(r"`(cmdana (?:--)?[a-z-]+(?: [^`]*)?)`", prose)


COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def test_the_pages_for_every_reader_are_there() -> None:
    names = {page.name for page in PAGES}
    assert {
        "README.md",
        "analyst.md",
        "operator.md",
        "engineer.md",
        "researcher.md",
        "logs.md",
        "privacy.md",
    } <= names
    assert len(of_pages(whole)) > 15
    assert len(of_pages(mentioned)) > 15


@pytest.mark.parametrize(("page", "command"), of_pages(whole))
def test_the_real_command_line_understands_every_command_of_the_docs(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--install-completion", "--show-completion")
        return
    assert words[0] in COMMANDS, f"{page}: no command {words[0]}"
    COMMANDS[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize(("page", "command"), of_pages(mentioned))
def test_every_command_and_option_that_a_sentence_mentions_is_there(page: str, command: str) -> None:
    _, name, *words = command.split()
    if name in ("--help", "--install-completion", "--show-completion"):
        return
    assert name in COMMANDS, f"{page}: no command {name}"
    known = {o for p in COMMANDS[name].params for o in p.opts}
    assert {w for w in words if w.startswith("-") and w != "-"} <= known | {"--help"}


@pytest.mark.parametrize("stream", [CMDANA, NOTICE], ids=lambda s: s.path)
def test_the_fields_of_the_logs_are_documented_with_their_types(stream) -> None:  # type: ignore[no-untyped-def]
    section = (ROOT / "docs" / "logs.md").read_text().split(f"## {stream.path}.log\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `([^`]+)` \| ([^ |]+) \|", section, re.M)
    fields = [(name, kind) for name, kind in documented if not name.startswith("CMDANA::")]
    assert fields
    if stream is CMDANA:
        assert fields == list(stream.fields)
    else:  # Zeek's columns: those that we fill
        assert set(fields) <= set(stream.fields)
        ours = [(name, kind) for name, kind in fields if name.startswith("cmdana.")]
        assert ours == [(f"cmdana.{name}", kind) for name, kind in NOTICE_FIELDS.items()]


def test_every_notice_type_is_documented() -> None:
    page = (ROOT / "docs" / "logs.md").read_text()
    for note in NOTICE_TYPES:
        assert f"| `{note}` |" in page


def test_every_reason_that_is_a_component_is_documented() -> None:
    page = (ROOT / "docs" / "analyst.md").read_text()
    assert [words for words in pipeline.COMPONENT_WORDS.values() if f"| `{words}` |" not in page] == []


def sources() -> str:
    files = [
        f for d in ("cmdana_plugin", "feature_extractors", "zeek_scripts") for f in (ROOT / d).rglob("*")
    ]
    text = "".join(f.read_text() for f in sorted(files) if f.suffix in (".py", ".zeek"))
    return re.sub(r'"\s*\n\s*f?"', "", text)  # a message may be written over two lines


def test_every_message_of_troubleshooting_is_one_that_the_code_says() -> None:
    text = sources().replace('\\"', '"')
    headings = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(headings) > 10
    assert [h for h in headings if h not in text] == []


def test_every_key_that_the_docs_name_is_one_of_plugin_toml() -> None:
    tables = {table: set(type(model).model_fields) for table, model in Config()}
    named = {
        (table, key)
        for page in PAGES
        for table, key in re.findall(r"`\[([a-z]+)\] ([a-z_]+)", page.read_text())
    }
    assert len(named) > 10
    assert [(t, k) for t, k in sorted(named) if k not in tables.get(t, ())] == []


def test_the_image_is_made_of_what_there_is_and_starts_what_there_is() -> None:
    docker = (ROOT / "docs" / "deploy" / "docker" / "Dockerfile").read_text()
    words = json.loads(re.findall(r"^CMD (.+)$", docker, re.M)[0])
    COMMANDS[words[0]].make_context(words[0], words[1:])
    assert 'ENTRYPOINT ["cmdana"]' in docker
    let_in = re.findall(
        r"^!(.+)$", (ROOT / "docs" / "deploy" / "docker" / "Dockerfile.dockerignore").read_text(), re.M
    )
    assert [name for name in let_in if not (ROOT / name).exists()] == []
    assert set(re.findall(r"/src/([\w.]+)", docker)) <= set(let_in)


def test_the_compose_file_mounts_what_there_is_and_shares_one_secret() -> None:
    folder = ROOT / "docs" / "deploy" / "docker"
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    build = services["cmdana"]["build"]
    assert (folder / build["context"] / build["dockerfile"]).is_file()
    mounted = [
        v.rpartition(":ro")[0].rpartition(":")[::2]
        for s in services.values()
        for v in s["volumes"]
        if ":ro" in v
    ]
    assert [here for here, _ in mounted if "SITE" not in here and not (folder / here).exists()] == []
    assert sorted(there for _, there in mounted).count("/etc/cmdana/secret") == 2
    assert {s["network_mode"] for s in services.values()} == {"host"}


def test_every_page_that_is_linked_is_there() -> None:
    broken = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_site_and_every_page_of_the_site_is_there() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]

    def leaves(nav: list[Any]) -> Iterator[str]:
        for entry in nav:
            for where in entry.values():
                yield from leaves(where) if isinstance(where, list) else [where]

    there = {
        str(page.relative_to(ROOT / "docs"))
        for page in PAGES
        if page.name != "README.md" or "docs" in page.parts
    }
    assert sorted(leaves(site["nav"])) == sorted(there)
    assert site["theme"]["font"] is False  # else its pages ask Google for one


def test_the_metrics_of_the_docs_and_of_the_dashboard_are_ones_that_the_endpoint_has() -> None:
    from cmdana_plugin.decision.counters import Watch
    from cmdana_plugin.decision.drift import Lift
    from cmdana_plugin.endpoint.metrics import _GAUGES, Numbers

    watch = Watch(Config(), pipeline.COMPONENT_WORDS)
    watch.verdicts["final benign"] = 1
    watch.notices["Anomalous_Host"] = 1
    watch.drift.lifts = {"dns": Lift(300, 5, 1.5, 0, False)}
    collector = Numbers(lambda: {"connections_judged": 1}, lambda: dict.fromkeys(_GAUGES, 1.0), watch, 0.5)
    served = {sample.name for family in collector.collect() for sample in family.samples}
    page = (ROOT / "docs" / "operator.md").read_text()
    board = (ROOT / "docs" / "deploy" / "grafana" / "cmdana.json").read_text()
    named = set(re.findall(r"`(cmdana_\w+)[`{]", page)) | set(re.findall(r"\bcmdana_\w+", board))
    assert named == served  # the page says all that there is
    counters = set(re.findall(r'what=\\?"([a-z_]+)\\?"', page + board))
    assert len(counters) >= 5
    code = sources()
    assert [c for c in counters if f'"{c}"' not in code] == []


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    board = json.loads((ROOT / "docs" / "deploy" / "grafana" / "cmdana.json").read_text())
    assert board["title"] == "cmdana"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 6
    for panel in board["panels"]:
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])


def test_the_python_of_the_docs_imports_what_there_is() -> None:
    blocks = [b for page in PAGES for b in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]
    assert blocks
    for block in blocks:
        for node in ast.parse(block).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_the_columns_of_a_label_file_are_documented() -> None:
    assert ",".join(feedback.COLUMNS) in (ROOT / "docs" / "researcher.md").read_text()
