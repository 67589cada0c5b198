from .captures import find_captures as find_captures
from .captures import open_capture as open_capture
from .folders import files_below as files_below
from .scapy_reader import ScapySniffer as ScapySniffer
from .zeek_logs import ZeekLogs as ZeekLogs
