from .captures import find_captures as find_captures
from .captures import open_capture as open_capture
from .captures import open_captures as open_captures
from .folders import files_below as files_below
from .in_order import first_frame as first_frame
from .in_order import in_order as in_order
from .scapy_reader import ScapySniffer as ScapySniffer
from .zeek_logs import ZeekLogs as ZeekLogs
