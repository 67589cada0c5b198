##! Leaves the packets to a detector that sniffs the same interface itself (``[endpoint] sniff`` in plugin.toml), which
##! spares Zeek an event for each of a connection's first packets.

@load ./__load__

module CMDANA;

redef packets_described = 0;

# Others stay for early verdicts.
redef ConnThreshold::generic_packet_thresholds -= { 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
