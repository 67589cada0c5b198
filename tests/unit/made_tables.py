"""Made-up tables in the forms of public data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmdana_plugin.evaluation.tables import flat_tables as tabular


def nsl(folder: Path, rows: int = 1500) -> Path:
    """Files in the form of NSL-KDD: neptune is many half-open connections, normal is web use."""
    rng = np.random.default_rng(0)
    (folder / "nsl_kdd").mkdir()
    for name in ("Train", "Test"):
        lines = []
        for _ in range(rows):
            attack = rng.random() < 0.3
            fields = dict.fromkeys(tabular._NSL_FIELDS, "0")
            fields |= {
                "protocol_type": "tcp",
                "service": "private" if attack else "http",
                "flag": "S0" if attack else "SF",
            }
            fields |= {"src_bytes": "0" if attack else str(rng.integers(100, 400))}
            fields |= {"dst_bytes": "0" if attack else str(rng.integers(200, 9000))}
            fields |= {"count": str(rng.integers(80, 250) if attack else rng.integers(1, 9))}
            fields |= {"serror_rate": f"{0.9 + 0.1 * rng.random() if attack else 0.0:.2f}"}
            fields |= {"attack": "neptune" if attack else "normal", "difficulty": "21"}
            lines.append(",".join(fields.values()))
        (folder / "nsl_kdd" / f"KDD{name}+.txt").write_text("\n".join(lines) + "\n")
    return folder
