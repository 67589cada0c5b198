##! The first packets of each connection: when each was seen, and what each side had sent by then. From this the
##! detector knows the time, direction and size of each.
##!
##! Why not :zeek:id:`new_packet`: it is raised for every packet there is. Generic packet thresholds are raised for
##! the first ones only.

@load ./batches

module CMDANA;

export {
	## How many packets of each connection are described; 16 is what the detector looks at.
	const packets_described = 16 &redef;

	## The packets of one connection so far, described from the first on without a gap.
	type Packets: record {
		## For each, microseconds since the connection began, and the IP bytes that the originator and the responder
		## had sent by then: three numbers, one after another, because one vector costs less than three.
		seen: vector of int &default=vector();
	};

	redef record connection += {
		cmdana: Packets &optional;
	};
}

redef ConnThreshold::generic_packet_thresholds += { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
