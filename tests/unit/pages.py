"""The pages of the documentation and the commands in them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_PIECE = re.compile(r"(?:^|\| |&& |ExecStart=\S*/?)(cmdana [a-z-][^|&#]*)")


def whole(page: Path) -> Iterator[str]:
    """The `cmdana` commands in the page's console blocks and in those that are set in by four spaces."""
    text = page.read_text()
    blocks = re.findall(r"```(?:console|sh|bash|ini)\n(.*?)```", text, re.S)
    blocks += re.findall(r"(?:^    .*\n)+", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield from (m[1].strip() for m in _PIECE.finditer(line.strip().removeprefix("$ ")))


def of_pages(find: Callable[[Path], Iterator[str]]) -> list[tuple[str, str]]:
    """(page, what `find` finds in it), in the order of the pages."""
    return [(str(page.relative_to(ROOT)), found) for page in PAGES for found in find(page)]
