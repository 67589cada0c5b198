"""A cable pulled, a lost radio link: for some seconds nothing leaves or reaches this host; what was open stays open."""

from __future__ import annotations

import subprocess
import sys
import time

RULES = """
table inet cut {
  chain in { type filter hook input priority -5; iif != lo drop; }
  chain out { type filter hook output priority -5; oif != lo drop; }
}
"""


def main(seconds: float) -> None:
    subprocess.run(("nft", "-f", "-"), input=RULES, text=True, check=True)
    try:
        time.sleep(seconds)
    finally:
        subprocess.run(("nft", "delete", "table", "inet", "cut"), check=False)


if __name__ == "__main__":
    main(float(sys.argv[1]))
