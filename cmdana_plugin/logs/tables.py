"""The fields of Zeek's application logs, in Zeek 8.2.2's order and types (scripts/base, record fields with &log)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cmdana_plugin.logs.streams import Stream

_TYPES: Final = {
    "a": "addr", "b": "bool", "c": "count", "e": "enum", "i": "interval", "p": "port", "s": "string", "t": "time",
    "E": "set[enum]", "S": "set[string]", "va": "vector[addr]", "vc": "vector[count]", "vi": "vector[interval]",
    "vs": "vector[string]",
}  # fmt: skip
_OWN: Final = "uid:s id.orig_h:a id.orig_p:p id.resp_h:a id.resp_p:p "  # of the connection, behind the time

_TABLES: Final = {
    "dce_rpc": _OWN + "rtt:i named_pipe:s endpoint:s operation:s",
    "dhcp": (
        "uids:S client_addr:a server_addr:a mac:s host_name:s client_fqdn:s domain:s requested_addr:a assigned_addr:a "
        "lease_time:i client_message:s server_message:s msg_types:vs duration:i"
    ),
    "dnp3": _OWN + "fc_request:s fc_reply:s iin:c",
    "dns": _OWN + (
        "proto:e trans_id:c rtt:i query:s qclass:c qclass_name:s qtype:c qtype_name:s rcode:c rcode_name:s AA:b TC:b "
        "RD:b RA:b Z:c answers:vs TTLs:vi rejected:b opcode:c opcode_name:s"
    ),
    "files": "fuid:s " + _OWN + (
        "source:s depth:c analyzers:S mime_type:s filename:s duration:i local_orig:b is_orig:b seen_bytes:c "
        "total_bytes:c missing_bytes:c overflow_bytes:c timedout:b parent_fuid:s md5:s sha1:s sha256:s extracted:s "
        "extracted_cutoff:b extracted_size:c"
    ),
    "ftp": _OWN + (
        "user:s password:s command:s arg:s mime_type:s file_size:c reply_code:c reply_msg:s data_channel.passive:b "
        "data_channel.orig_h:a data_channel.resp_h:a data_channel.resp_p:p fuid:s"
    ),
    "http": _OWN + (
        "trans_depth:c method:s host:s uri:s referrer:s version:s user_agent:s origin:s request_body_len:c "
        "response_body_len:c status_code:c status_msg:s info_code:c info_msg:s tags:E username:s password:s proxied:S "
        "orig_fuids:vs orig_filenames:vs orig_mime_types:vs resp_fuids:vs resp_filenames:vs resp_mime_types:vs"
    ),
    "irc": _OWN + (
        "nick:s user:s command:s value:s addl:s dcc_file_name:s dcc_file_size:c dcc_mime_type:s fuid:s"
    ),
    "kerberos": _OWN + (
        "request_type:s client:s service:s success:b error_msg:s from:t till:t cipher:s forwardable:b renewable:b "
        "client_cert_subject:s client_cert_fuid:s server_cert_subject:s server_cert_fuid:s"
    ),
    "modbus": _OWN + "tid:c unit:c func:s pdu_type:s exception:s",
    "mqtt_connect": _OWN + (
        "proto_name:s proto_version:s client_id:s connect_status:s will_topic:s will_payload:s"
    ),
    "mqtt_publish": _OWN + "from_client:b retain:b qos:s status:s topic:s payload:s payload_len:c",
    "mqtt_subscribe": _OWN + "action:e topics:vs qos_levels:vc granted_qos_level:c ack:b",
    "mysql": _OWN + "cmd:s arg:s success:b rows:c response:s",
    "ntlm": _OWN + (
        "username:s hostname:s domainname:s server_nb_computer_name:s server_dns_computer_name:s server_tree_name:s "
        "success:b"
    ),
    "ntp": _OWN + (
        "version:c mode:c stratum:c poll:i precision:i root_delay:i root_disp:i ref_id:s ref_time:t org_time:t "
        "rec_time:t xmt_time:t num_exts:c"
    ),
    "ocsp": (
        "id:s hashAlgorithm:s issuerNameHash:s issuerKeyHash:s serialNumber:s certStatus:s revoketime:t revokereason:s "
        "thisUpdate:t nextUpdate:t"
    ),
    "radius": _OWN + (
        "username:s mac:s framed_addr:a tunnel_client:s connect_info:s reply_msg:s result:s ttl:i"
    ),
    "rdp": _OWN + (
        "cookie:s result:s security_protocol:s client_channels:vs keyboard_layout:s client_build:s client_name:s "
        "client_dig_product_id:s desktop_width:c desktop_height:c requested_color_depth:s cert_type:s cert_count:c "
        "cert_permanent:b encryption_level:s encryption_method:s"
    ),
    "rfb": _OWN + (
        "client_major_version:s client_minor_version:s server_major_version:s server_minor_version:s "
        "authentication_method:s auth:b share_flag:b desktop_name:s width:c height:c"
    ),
    "sip": _OWN + (
        "trans_depth:c method:s uri:s date:s request_from:s request_to:s response_from:s response_to:s reply_to:s "
        "call_id:s seq:s subject:s request_path:vs response_path:vs user_agent:s status_code:c status_msg:s warning:s "
        "request_body_len:c response_body_len:c content_type:s"
    ),
    "smb_files": _OWN + (
        "fuid:s action:e path:s name:s size:c prev_name:s times.modified:t times.accessed:t times.created:t "
        "times.changed:t"
    ),
    "smb_mapping": _OWN + "path:s service:s native_file_system:s share_type:s",
    "smtp": _OWN + (
        "trans_depth:c helo:s mailfrom:s rcptto:S date:s from:s to:S cc:S reply_to:s msg_id:s in_reply_to:s subject:s "
        "x_originating_ip:a first_received:s second_received:s last_reply:s path:va user_agent:s tls:b fuids:vs"
    ),
    "snmp": _OWN + (
        "duration:i version:s community:s get_requests:c get_bulk_requests:c get_responses:c set_requests:c "
        "display_string:s up_since:t"
    ),
    "socks": _OWN + (
        "version:c user:s password:s status:s request.host:a request.name:s request_p:p bound.host:a bound.name:s "
        "bound_p:p"
    ),
    "ssh": _OWN + (
        "version:c auth_success:b auth_attempts:c direction:e client:s server:s cipher_alg:s mac_alg:s "
        "compression_alg:s kex_alg:s host_key_alg:s host_key_fingerprint:s"
    ),
    "ssl": _OWN + (
        "version:s cipher:s curve:s server_name:s resumed:b last_alert:s next_protocol:s established:b ssl_history:s "
        "cert_chain_fps:vs client_cert_chain_fps:vs sni_matches_cert:b"
    ),
    "syslog": _OWN + "proto:e facility:s severity:s message:s",
    "weird": _OWN + "name:s addl:s notice:b peer:s source:s",
    "x509": (
        "fingerprint:s certificate.version:c certificate.serial:s certificate.subject:s certificate.issuer:s "
        "certificate.not_valid_before:t certificate.not_valid_after:t certificate.key_alg:s certificate.sig_alg:s "
        "certificate.key_type:s certificate.key_length:c certificate.exponent:s certificate.curve:s san.dns:vs "
        "san.uri:vs san.email:vs san.ip:va basic_constraints.ca:b basic_constraints.path_len:c host_cert:b "
        "client_cert:b"
    ),
}  # fmt: skip


def _stream(path: str, table: str) -> Stream:
    fields = [one.rpartition(":") for one in table.split()]
    return Stream(path, (("ts", "time"), *((name, _TYPES[kind]) for name, _, kind in fields)))


APPLICATION: Final[Mapping[str, Stream]] = {path: _stream(path, table) for path, table in _TABLES.items()}
