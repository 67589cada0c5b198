"""Every analyzer by the name that ports, signatures and other analyzers call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from feature_extractors.content.analyzers.base import Analyzer, Session
from feature_extractors.content.analyzers.chat import Irc, Xmpp
from feature_extractors.content.analyzers.dhcp import Dhcp
from feature_extractors.content.analyzers.dns import Dns
from feature_extractors.content.analyzers.dpd import Detector
from feature_extractors.content.analyzers.ftp import Announced, Ftp
from feature_extractors.content.analyzers.http import Http
from feature_extractors.content.analyzers.industrial import Dnp3, Dnp3Udp, Modbus
from feature_extractors.content.analyzers.mail import Imap, Pop3, Smtp
from feature_extractors.content.analyzers.mqtt import Mqtt
from feature_extractors.content.analyzers.mysql import Mysql
from feature_extractors.content.analyzers.ntp import Ntp
from feature_extractors.content.analyzers.radius import Radius
from feature_extractors.content.analyzers.remote import Rdp, RdpUdp, Rfb, Socks
from feature_extractors.content.analyzers.sip import Sip
from feature_extractors.content.analyzers.snmp import Snmp
from feature_extractors.content.analyzers.ssh import Ssh
from feature_extractors.content.analyzers.syslog import Syslog
from feature_extractors.content.analyzers.tls import Dtls, Tls
from feature_extractors.content.analyzers.tunnels import Ayiya, Geneve, Gtpv1, Teredo, Vxlan
from feature_extractors.content.analyzers.websocket import WebSocket
from feature_extractors.content.analyzers.windows_auth import Kerberos, KerberosTcp
from feature_extractors.content.analyzers.windows_files import DceRpc, Smb


def _ftp_data(session: Session) -> Analyzer:
    return Announced(session, "ftp-data")


def _irc_dcc_data(session: Session) -> Analyzer:
    return Announced(session, "irc-dcc-data")


ANALYZERS: Final[dict[str, Callable[[Session], Analyzer]]] = {
    "ayiya": Ayiya,
    "dce_rpc": DceRpc,
    "dhcp": Dhcp,
    "dnp3_tcp": Dnp3,
    "dnp3_udp": Dnp3Udp,
    "dns": Dns,
    "dtls": Dtls,
    "ftp": Ftp,
    "ftp-data": _ftp_data,
    "geneve": Geneve,
    "gtpv1": Gtpv1,
    "http": Http,
    "imap": Imap,
    "irc": Irc,
    "irc-dcc-data": _irc_dcc_data,
    "krb": Kerberos,
    "krb_tcp": KerberosTcp,
    "modbus": Modbus,
    "mqtt": Mqtt,
    "mysql": Mysql,
    "ntp": Ntp,
    "pia": Detector,
    "pop3": Pop3,
    "radius": Radius,
    "rdp": Rdp,
    "rdpeudp": RdpUdp,
    "rfb": Rfb,
    "sip": Sip,
    "smb": Smb,
    "smtp": Smtp,
    "snmp": Snmp,
    "socks": Socks,
    "ssh": Ssh,
    "ssl": Tls,
    "syslog": Syslog,
    "teredo": Teredo,
    "vxlan": Vxlan,
    "websocket": WebSocket,
    "xmpp": Xmpp,
}


def create(name: str, session: Session) -> Analyzer | None:
    """A new analyzer of that name; None where no analyzer knows the protocol."""
    if name == "http":  # the frequent ones, called by name: compiled code calls them at once
        return Http(session)
    if name == "dns":
        return Dns(session)
    if name == "ssl":
        return Tls(session)
    make = ANALYZERS.get(name)
    return make(session) if make else None
