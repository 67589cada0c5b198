"""The road between a running Zeek and the detector: the wire, the session over it, and two transports."""
