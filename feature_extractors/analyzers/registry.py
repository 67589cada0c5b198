"""Every analyzer by the name that ports, signatures and other analyzers call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from feature_extractors.analyzers.base import Analyzer, Session
from feature_extractors.analyzers.dns import Dns
from feature_extractors.analyzers.dpd import Detector
from feature_extractors.analyzers.http import Http
from feature_extractors.analyzers.tls import Dtls, Tls

ANALYZERS: Final[dict[str, Callable[[Session], Analyzer]]] = {
    "pia": Detector,
    "dns": Dns,
    "http": Http,
    "ssl": Tls,
    "dtls": Dtls,
}


def create(name: str, session: Session) -> Analyzer | None:
    """A new analyzer of that name; None where no analyzer knows the protocol."""
    make = ANALYZERS.get(name)
    return make(session) if make else None
