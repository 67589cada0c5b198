##! The detector is not told of packets: that modality is missing, and Zeek raises no event for any of them but those by
##! which a long connection is judged early.
##!
##! Why: on a network of short connections the first packets are a sixth of what CMDANA costs Zeek (docs/zeek.md). The
##! detector masks them, as it does where it reads Zeek's logs.

@load ./connections

module CMDANA;

redef packets_described = 0;

redef ConnThreshold::generic_packet_thresholds -= { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
