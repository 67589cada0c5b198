##! The first packets of each connection: time, direction, size, flags, window, TTL and sequence number.
##!
##! Why not :zeek:id:`new_packet`: it is raised for every packet there is. Generic packet thresholds are raised for
##! the first ones only, while the packet is still at hand.

@load ./batches

module CMDANA;

export {
	## How many packets of each connection are described. 32 at most, which is all that the detector looks at;
	## each costs Zeek about two microseconds.
	const packets_described = 32 &redef;

	## The packets of one connection so far.
	type Packets: record {
		## The originator when the first packet was seen; roles may be changed later.
		first_h: addr;
		first_p: port;
		rows: vector of string &default=vector();
		## What the counters showed before this packet, for packets inside a tunnel.
		orig_pkts: count &default=0;
		ip_bytes: count &default=0;
	};

	redef record connection += {
		cmdana: Packets &optional;
	};

	## Adds the packet at hand to its connection.
	global describe_packet: function(c: connection);

	## Renders the packets of a connection as one flat JSON array, and says whether roles were changed.
	global packet_rows: function(c: connection): string;
}

redef ConnThreshold::generic_packet_thresholds += { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32 };

# The header at hand is the outermost one, so a packet inside a tunnel is known by what it adds to the counters.
function tunnelled_packet(c: connection, k: Packets, offset: interval)
	{
	local ip_bytes = c$orig$num_bytes_ip + c$resp$num_bytes_ip;
	if ( |k$rows| > 0 || c$orig$num_pkts + c$resp$num_pkts == 1 )
		k$rows += fmt("%.6f,%d,%d,-1,-1,-1,-1,-1", offset, c$orig$num_pkts > k$orig_pkts ? 1 : 0,
		    ip_bytes - k$ip_bytes);
	k$orig_pkts = c$orig$num_pkts;
	k$ip_bytes = ip_bytes;
	}

function describe_packet(c: connection)
	{
	if ( ! c?$cmdana )
		c$cmdana = Packets($first_h=c$id$orig_h, $first_p=c$id$orig_p);

	local k = c$cmdana;
	local offset = network_time() - c$start_time;

	if ( c?$tunnel && |c$tunnel| > 0 )
		{
		tunnelled_packet(c, k, offset);
		return;
		}

	local h = get_current_packet_header();
	local src: addr;
	local length: count;
	local payload: int;
	local ttl: count;

	if ( h?$ip )
		{
		src = h$ip$src;
		length = h$ip$len;
		payload = length - h$ip$hl;
		ttl = h$ip$ttl;
		}
	else if ( h?$ip6 )
		{
		src = h$ip6$src;
		payload = h$ip6$len;
		length = h$ip6$len + 40;
		ttl = h$ip6$hlim;
		}
	else
		return;

	local first = src == k$first_h;
	if ( first && c$id$orig_h == c$id$resp_h )
		# A host that talks to itself is told apart by its ports.
		first = h?$tcp ? h$tcp$sport == k$first_p : (h?$udp ? h$udp$sport == k$first_p : T);

	if ( h?$tcp )
		{
		local t = h$tcp;
		k$rows += fmt("%.6f,%d,%d,%d,%d,%d,%d,%d", offset, first, length, t$dl, t$flags, t$win, ttl, t$seq);
		}
	else
		k$rows += fmt("%.6f,%d,%d,%d,-1,-1,%d,-1", offset, first, length,
		    h?$udp || h?$icmp ? payload - 8 : payload, ttl);
	}

function packet_rows(c: connection): string
	{
	if ( ! c?$cmdana )
		return "0,[]";

	local k = c$cmdana;
	local changed = k$first_h != c$id$orig_h || k$first_p != c$id$orig_p;
	return cat(changed ? "1,[" : "0,[", join_string_vec(k$rows, ","), "]");
	}
