"""Names of link layers, for whoever has a capture of one that is not read (https://www.tcpdump.org/linktypes.html)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LINK_NAMES: Final = {
    3: "AX.25", 6: "IEEE 802.5 token ring", 7: "ARCNET", 8: "SLIP", 11: "ATM (RFC 1483)",
    100: "ATM (RFC 1483)", 107: "Frame Relay", 109: "OpenBSD's encapsulated IPsec", 114: "Apple LocalTalk",
    117: "OpenBSD's pflog", 118: "Cisco IOS packets", 122: "IP over Fibre Channel", 123: "SunATM",
    129: "ARCNET on Linux", 138: "IP over IEEE 1394", 139: "SS7 MTP2 with a pseudo-header", 140: "SS7 MTP2",
    141: "SS7 MTP3", 142: "SS7 SCCP", 143: "DOCSIS", 144: "Linux IrDA",
    149: "private use 2, which older macOS took for PKTAP", 165: "BACnet MS/TP",
    166: "PPP of pppd with direction", 169: "GPRS LLC", 177: "Linux LAPD",
    178: "Ethernet with Juniper's header", 182: "Frame Relay with a MUX header", 187: "Bluetooth HCI UART",
    189: "Linux USB", 192: "PPI around a framing that is not read", 195: "IEEE 802.15.4", 197: "Endace ERF",
    201: "Bluetooth HCI UART with a pseudo-header", 202: "AX.25 in KISS", 203: "LAPD",
    204: "PPP with direction", 205: "Cisco HDLC with direction", 206: "Frame Relay with direction",
    209: "Linux IPMB", 212: "LIN", 215: "IEEE 802.15.4 with a PHY header", 220: "Linux USB, memory-mapped",
    224: "Fibre Channel FC-2", 226: "Solaris IP with a header", 227: "SocketCAN",
    230: "IEEE 802.15.4 without checksum", 231: "D-Bus", 235: "DVB-CI",
    240: "Ethernet with Hilscher netANALYZER", 242: "IP over InfiniBand", 243: "MPEG-2 transport stream",
    247: "InfiniBand", 248: "SCTP", 249: "USBPcap", 250: "RTAC serial lines", 251: "Bluetooth Low Energy",
    253: "Linux netlink", 254: "Bluetooth of the Linux monitor",
    256: "Bluetooth Low Energy with a PHY header", 258: "PKTAP around a framing that is not read",
    259: "Ethernet PON", 262: "Z-Wave R1 and R2", 264: "ISO 14443", 266: "USB of macOS", 270: "LoRaTap",
    272: "Nordic's Bluetooth Low Energy sniffer", 273: "DOCSIS 3.1", 274: "Ethernet with mPackets",
    275: "DisplayPort AUX", 278: "OpenVizsla USB", 280: "Elektrobit high-speed links",
    281: "Broadcom Ethernet switch tags", 282: "Broadcom Ethernet switch tags", 283: "IEEE 802.15.4 TAP",
    284: "Marvell DSA tags", 285: "Marvell EDSA tags", 286: "Elvis wire", 289: "ATSC link-layer protocol",
    290: "a telecom's event stream",
}  # fmt: skip
_EXPECTED: Final = "Ethernet, raw IP, loopback, PPP, HDLC, Linux cooked, 802.11, PPI, NFLOG, PKTAP or FDDI"


def refusal(links: Iterable[int]) -> str:
    """The message that none of these link types is read, with their names and what to capture instead.

    A number without a name here is private use or newer than this list.
    """
    found = " and ".join(
        f"{LINK_NAMES.get(n, 'a framing without a known name')} (link type {n})" for n in sorted(links)
    )
    return (
        f"found frames of {found}; expected {_EXPECTED}. Where IP or Ethernet begins at a fixed byte N of each frame, "
        "Wireshark's `editcap -C N -T rawip IN OUT` (or `-T ether`) makes a capture that is read"
    )
