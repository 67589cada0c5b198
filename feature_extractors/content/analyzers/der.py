"""A small walk through DER: enough for the names, times and keys of an X.509 certificate, and for Kerberos and SNMP.

Every length is checked against what encloses it; depth is the caller's, which never recurses on the data's word.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterator
from typing import Final

from feature_extractors.content.analyzers.base import MAX_ITEMS, Fields, ParseError, text
from feature_extractors.content.analyzers.ip import address

MAX_NAMES: Final = 500  # of a certificate (X509::default_max_field_container_elements)

Item = tuple[int, bytes, int, int]  # tag, the bytes it lies in, where its content starts and ends


def item(data: bytes, pos: int, end: int) -> Item:
    """The element at `pos`. Raises `ParseError` where it does not fit before `end`."""
    if pos + 2 > end:
        raise ParseError("der_too_short")
    tag = data[pos]
    length = data[pos + 1]
    pos += 2
    if length & 0x80:
        n = length & 0x7F
        if n > 4 or pos + n > end or n == 0:
            raise ParseError("der_bad_length")
        length = int.from_bytes(data[pos : pos + n], "big")
        pos += n
    if pos + length > end:
        raise ParseError("der_too_short")
    return tag, data, pos, pos + length


def items(parent: Item) -> Iterator[Item]:
    """The elements inside a constructed one, in order."""
    _, data, pos, end = parent
    while pos < end:
        child = item(data, pos, end)
        yield child
        pos = child[3]


def value(one: Item) -> bytes:
    return one[1][one[2] : one[3]]


def integer(one: Item) -> int:
    """A signed INTEGER or ENUMERATED of at most 16 bytes. Raises `ParseError` for longer ones."""
    raw = value(one)
    if len(raw) > 16:
        raise ParseError("der_integer_too_long")
    return int.from_bytes(raw, "big", signed=True)


_ATTRIBUTES: Final = {
    "550403": "CN", "550406": "C", "550407": "L", "550408": "ST", "550409": "street", "55040a": "O", "55040b": "OU",
    "550405": "serialNumber", "550404": "SN", "55040c": "title", "55042a": "GN", "55040d": "description",
    "2a864886f70d010901": "emailAddress", "0992268993f22c640119": "DC", "0992268993f22c640101": "UID",
    "55040f": "businessCategory", "550411": "postalCode", "2b0601040182373c020103": "jurisdictionC",
    "2b0601040182373c020102": "jurisdictionST", "2b0601040182373c020101": "jurisdictionL", "55042b": "initials",
    "2a864886f70d010908": "unstructuredAddress", "2a864886f70d010902": "unstructuredName", "55042e": "dnQualifier",
    "550429": "name",
}  # fmt: skip
_ALGORITHMS: Final = {
    "2a864886f70d010101": "rsaEncryption", "2a864886f70d010102": "md2WithRSAEncryption",
    "2a864886f70d010104": "md5WithRSAEncryption", "2a864886f70d010105": "sha1WithRSAEncryption",
    "2a864886f70d01010b": "sha256WithRSAEncryption", "2a864886f70d01010c": "sha384WithRSAEncryption",
    "2a864886f70d01010d": "sha512WithRSAEncryption", "2a864886f70d01010e": "sha224WithRSAEncryption",
    "2a864886f70d01010a": "rsassaPss", "2a8648ce3d0201": "id-ecPublicKey", "2a8648ce3d040301": "ecdsa-with-SHA224",
    "2a8648ce3d040302": "ecdsa-with-SHA256", "2a8648ce3d040303": "ecdsa-with-SHA384",
    "2a8648ce3d040304": "ecdsa-with-SHA512", "2a8648ce3d0401": "ecdsa-with-SHA1", "2a8648ce380401": "dsaEncryption",
    "2a8648ce380403": "dsaWithSHA1", "2b0e03021d": "sha1WithRSA", "2b6570": "ED25519", "2b6571": "ED448",
    "608648016503040302": "dsa_with_SHA256",
}  # fmt: skip
_CURVES: Final = {
    "2a8648ce3d030107": ("prime256v1", 256), "2b81040022": ("secp384r1", 384), "2b81040023": ("secp521r1", 521),
    "2b81040021": ("secp224r1", 224), "2b8104000a": ("secp256k1", 256),
}  # fmt: skip


def certificate(der: bytes, fingerprint: str) -> Fields:
    """The fields of x509.log for one certificate, whose SHA-256 is `fingerprint`. Raises `ParseError`."""
    outer = list(items(item(der, 0, len(der))))
    if len(outer) < 3:
        raise ParseError("certificate_malformed")
    tbs = list(items(outer[0]))
    version = 1
    if tbs and tbs[0][0] == 0xA0:
        version = integer(next(items(tbs[0]), tbs[0])) + 1
        tbs = tbs[1:]
    if len(tbs) < 6:
        raise ParseError("certificate_malformed")
    serial = value(tbs[0])
    serial = serial[1:] if len(serial) > 1 and serial[0] == 0 else serial
    fields: Fields = {
        "fingerprint": fingerprint,
        "certificate.version": version,
        "certificate.serial": serial[:64].hex().upper(),
        "certificate.subject": name(tbs[4]),
        "certificate.issuer": name(tbs[2]),
    }
    validity = [moment(t) for t in items(tbs[3])]
    if len(validity) == 2:
        fields["certificate.not_valid_before"], fields["certificate.not_valid_after"] = validity
    _public_key(tbs[5], fields)
    algorithm = next(items(outer[1]), None)
    if algorithm is not None:
        fields["certificate.sig_alg"] = _oid_name(algorithm)
    for extra in tbs[6:]:
        if extra[0] == 0xA3:
            for extensions in items(extra):
                for extension in items(extensions):
                    _extension(extension, fields)
    return fields


def _oid_name(oid: Item) -> str:
    raw = value(oid)
    return _ALGORITHMS.get(raw.hex()) or dotted(raw)


def dotted(raw: bytes) -> str:
    """An object identifier as numbers joined by dots; one longer than 64 bytes is cut."""
    raw = raw[:64]
    if not raw:
        return ""
    numbers: list[int] = []
    n = 0
    for byte in raw:
        n = n << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(n)
            n = 0
    if not numbers:
        return ""
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _public_key(info: Item, fields: Fields) -> None:
    parts = list(items(info))
    if len(parts) < 2:
        return
    algorithm = list(items(parts[0]))
    if not algorithm:
        return
    kind = _oid_name(algorithm[0])
    fields["certificate.key_alg"] = kind
    if kind in ("rsaEncryption", "rsassaPss"):
        fields["certificate.key_type"] = "rsa"
        bits = value(parts[1])
        numbers = list(items(item(bits, 1, len(bits))))
        if len(numbers) == 2:
            fields["certificate.key_length"] = len(value(numbers[0]).lstrip(b"\0")) * 8
            modulus = value(numbers[0]).lstrip(b"\0")
            if modulus:
                fields["certificate.key_length"] = len(modulus) * 8 - 8 + modulus[0].bit_length()
            fields["certificate.exponent"] = str(int.from_bytes(value(numbers[1])[:16], "big"))
    elif kind == "id-ecPublicKey" and len(algorithm) > 1:
        fields["certificate.key_type"] = "ecdsa"
        curve = _CURVES.get(value(algorithm[1]).hex())
        if curve:
            fields["certificate.curve"], fields["certificate.key_length"] = curve


def _extension(extension: Item, fields: Fields) -> None:
    parts = list(items(extension))
    if len(parts) < 2:
        return
    oid = value(parts[0]).hex()
    content = value(parts[-1])
    if oid == "551d11":
        kinds = {0x81: "san.email", 0x82: "san.dns", 0x86: "san.uri", 0x87: "san.ip"}
        for alternative in items(item(content, 0, len(content))):
            key = kinds.get(alternative[0])
            if key is None:
                continue
            raw = value(alternative)
            said = address(raw) if key == "san.ip" and len(raw) in (4, 16) else text(raw, 512)
            found = fields.setdefault(key, [])
            if isinstance(found, list) and len(found) < MAX_NAMES:
                found.append(said)
    elif oid == "551d13":
        constraints = list(items(item(content, 0, len(content))))
        is_ca = bool(constraints and constraints[0][0] == 1 and value(constraints[0]) != b"\0")
        fields["basic_constraints.ca"] = is_ca
        if constraints and constraints[-1][0] == 2:
            fields["basic_constraints.path_len"] = integer(constraints[-1])


_PLAIN: Final = re.compile(rb"[!$-*\-.-:=?-[\]-~](?:[ !#-*\-.-:=?-[\]-~]*[!#-*\-.-:=?-[\]-~])?")


def name(rdn_sequence: Item) -> str:
    """A distinguished name as RFC 2253 writes it: last part first, special characters escaped."""
    parts: list[str] = []
    for rdn in items(rdn_sequence):
        said = []
        for attribute in items(rdn):
            pair = list(items(attribute))
            if len(pair) < 2:
                continue
            oid = value(pair[0])
            raw = value(pair[1])
            if pair[1][0] == 0x1E:  # BMPString
                raw = raw.decode("utf-16-be", "replace").encode("utf-8")
            elif pair[1][0] == 0x14:  # T61String, taken as Latin-1
                raw = raw.decode("latin-1").encode("utf-8")
            said.append(f"{_ATTRIBUTES.get(oid.hex()) or dotted(oid)}={_escaped(raw[:1024])}")
        parts.append("+".join(said))
        if len(parts) >= MAX_ITEMS:
            break
    return ",".join(reversed(parts))[:4096]


def _escaped(raw: bytes) -> str:
    if _PLAIN.fullmatch(raw):
        return raw.decode("ascii")
    out: list[str] = []
    for i, byte in enumerate(raw):
        char = chr(byte)
        special = char in ',+"\\<>;' or (char == "#" and i == 0) or (char == " " and i in (0, len(raw) - 1))
        if special:
            out.append("\\" + char)
        elif 32 <= byte < 127:
            out.append(char)
        else:
            out.append(f"\\{byte:02X}")
    return "".join(out)


def moment(one: Item) -> float:
    """A UTCTime or GeneralizedTime in seconds since the epoch. Raises `ParseError`."""
    raw = value(one)
    if one[0] == 0x17:
        if len(raw) < 10:
            raise ParseError("bad_time")
        raw = (b"19" if raw[:1] >= b"5" else b"20") + raw
    digits = raw[:14].rstrip(b"Z")
    if not digits.isdigit() or len(digits) < 12:
        raise ParseError("bad_time")
    digits = digits.ljust(14, b"0")
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:8])
    hour, minute, second = int(digits[8:10]), int(digits[10:12]), int(digits[12:14])
    if not (1 <= month <= 12 and 1 <= day <= 31 and year >= 1):
        raise ParseError("bad_time")
    return float(timegm((year, month, 1, hour, minute, second)) + 86400 * (day - 1))


def matches(server_name: str, leaf: Fields) -> bool:
    """Whether a certificate is for this host, by its alternative names or else its common name (RFC 6125)."""
    names = leaf.get("san.dns")
    addresses = leaf.get("san.ip")
    if not isinstance(names, list):
        subject = leaf.get("certificate.subject")
        names = [part[3:] for part in str(subject).split(",") if part.startswith("CN=")]
    candidates = [*names, *(addresses if isinstance(addresses, list) else [])]
    wanted = server_name.lower()
    for candidate in candidates:
        if not isinstance(candidate, str):
            continue
        pattern = candidate.lower()
        if pattern == wanted:
            return True
        if pattern.startswith("*."):
            label, dot, rest = wanted.partition(".")
            if label and dot and rest == pattern[2:] and "." in rest:
                return True
    return False
