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
		## When each was seen, since the connection began.
		at: vector of interval &log &default=vector();
		## IP bytes that the originator had sent by then.
		orig: vector of count &log &default=vector();
		## IP bytes that the responder had sent by then.
		resp: vector of count &log &default=vector();
	};

	redef record connection += {
		cmdana: Packets &optional;
	};

	## Describes the packet at hand, the threshold-th of its connection.
	global describe_packet: function(c: connection, threshold: count);
}

redef ConnThreshold::generic_packet_thresholds += { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

function describe_packet(c: connection, threshold: count)
	{
	local k = c$cmdana;

	# A detector that came in mid-connection is not told of a second packet as if it were the first.
	if ( |k$at| + 1 != threshold )
		return;

	k$at += network_time() - c$start_time;
	k$orig += c$orig$num_bytes_ip;
	k$resp += c$resp$num_bytes_ip;
	}
