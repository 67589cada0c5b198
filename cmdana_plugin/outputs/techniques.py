"""The names of those techniques and tactics of MITRE ATT&CK (Enterprise) that an incident may bear."""

from __future__ import annotations

from typing import Final, NamedTuple

URL: Final = "https://attack.mitre.org/techniques/"


class Technique(NamedTuple):
    """A technique, or a sub-technique, whose name is then its own without the parent's."""

    id: str
    name: str
    tactic_id: str
    tactic: str

    @property
    def parent(self) -> str:
        """The technique's id without that of the sub-technique."""
        return self.id.partition(".")[0]

    @property
    def url(self) -> str:
        """Its page."""
        return URL + self.id.replace(".", "/") + "/"


_TACTICS: Final = {
    "TA0006": "Credential Access", "TA0007": "Discovery", "TA0008": "Lateral Movement", "TA0010": "Exfiltration",
    "TA0011": "Command and Control", "TA0040": "Impact", "TA0043": "Reconnaissance",
}  # fmt: skip
_NAMES: Final = {
    "T1021": ("Remote Services", "TA0008"), "T1021.001": ("Remote Desktop Protocol", "TA0008"),
    "T1021.002": ("SMB/Windows Admin Shares", "TA0008"),
    "T1021.003": ("Distributed Component Object Model", "TA0008"), "T1021.004": ("SSH", "TA0008"),
    "T1021.005": ("VNC", "TA0008"), "T1021.006": ("Windows Remote Management", "TA0008"),
    "T1046": ("Network Service Discovery", "TA0007"),
    "T1048": ("Exfiltration Over Alternative Protocol", "TA0010"),
    "T1071": ("Application Layer Protocol", "TA0011"), "T1071.001": ("Web Protocols", "TA0011"),
    "T1071.003": ("Mail Protocols", "TA0011"), "T1071.004": ("DNS", "TA0011"),
    "T1095": ("Non-Application Layer Protocol", "TA0011"),
    "T1110": ("Brute Force", "TA0006"), "T1498": ("Network Denial of Service", "TA0040"),
    "T1568": ("Dynamic Resolution", "TA0011"), "T1568.002": ("Domain Generation Algorithms", "TA0011"),
    "T1595": ("Active Scanning", "TA0043"), "T1595.003": ("Wordlist Scanning", "TA0043"),
}  # fmt: skip


def technique(id: str) -> Technique | None:
    """The technique of this id; None for one that no incident of ours bears."""
    found = _NAMES.get(id)
    return Technique(id, found[0], found[1], _TACTICS[found[1]]) if found else None
