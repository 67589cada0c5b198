##! Each connection once at its end, after its logs, and once early if it lives on.

@load base/protocols/conn
@load base/frameworks/notice
@load ./packets

module CMDANA;

export {
	## Whether a long connection is also judged before its end: at 32 packets, or earlier where it is older than
	## :zeek:id:`CMDANA::early_after` by one of its packets 3 to 16, 20, 24 or 28.
	option early_verdicts = T;

	## Age from which on a connection is judged early.
	option early_after = 10sec;

	## Publishes a connection as it is now to the detector of its shard.
	##
	## final: it has ended, or nothing more of it will be seen.
	global publish_connection: function(s: Shard, c: connection, final: bool);

	## The same at its end, and counts it.
	global publish_final: function(c: connection);
}

redef record Packets += {
	early_published: bool &default=F;
	final_published: bool &default=F;
};

redef ConnThreshold::generic_packet_thresholds += { 3, 20, 24, 28, 32 };

# The same words as in conn.log, for a connection that has none there yet; Zeek keeps its own function to itself
# (base/protocols/conn/main.zeek).
function state_of(c: connection): string
	{
	local o = c$orig$state;
	local r = c$resp$state;
	local proto = get_port_transport_proto(c$id$resp_p);

	if ( proto == udp )
		return o == UDP_ACTIVE ? (r == UDP_ACTIVE ? "SF" : "S0") : (r == UDP_ACTIVE ? "SHR" : "OTH");

	if ( proto != tcp )
		return "OTH";

	local o_silent = o == TCP_INACTIVE || o == TCP_PARTIAL;
	local r_silent = r == TCP_INACTIVE || r == TCP_PARTIAL;

	if ( r == TCP_RESET )
		{
		if ( o == TCP_SYN_SENT || o == TCP_SYN_ACK_SENT
		     || (o == TCP_RESET && c$orig$size == 0 && c$resp$size == 0) )
			return "REJ";
		return o_silent ? "RSTRH" : "RSTR";
		}

	if ( o == TCP_RESET )
		{
		if ( ! r_silent )
			return "RSTO";
		return /\^?S[^HAFGIQ]*R.*/ == c$history ? "RSTOS0" : "OTH";
		}

	if ( o == TCP_CLOSED )
		return r == TCP_CLOSED ? "SF" : (r_silent ? "SH" : "S2");
	if ( r == TCP_CLOSED )
		return o_silent ? "SHR" : "S3";
	if ( o == TCP_SYN_SENT && r == TCP_INACTIVE )
		return "S0";
	return o == TCP_ESTABLISHED && r == TCP_ESTABLISHED ? "S1" : "OTH";
	}

# In three parts: words with a space between, for each quote would be escaped on its way; counts; and the packets. cat
# and to_json cost Zeek half of what fmt costs. -1 is unset. The other half is ConnectionRow in
# cmdana_plugin/endpoint/observed.py.
function publish_connection(s: Shard, c: connection, final: bool)
	{
	local id = c$id;
	local o = c$orig;
	local r = c$resp;
	local logged = c$conn;
	# These are in c$conn once the connection has ended.
	local state = logged?$conn_state ? logged$conn_state : state_of(c);
	local service = logged?$service ? logged$service :
	    (|c$service| > 0 ? to_lower(join_string_set(c$service, ",")) : "");
	local counts = vector(final ? 1 : 0, port_to_count(id$orig_p), port_to_count(id$resp_p), id$proto,
	    logged$missed_bytes, o$num_pkts, o$num_bytes_ip, r$num_pkts, r$num_bytes_ip,
	    c?$tunnel && |c$tunnel| > 0 ? 1 : 0, o$size, r$size);

	if ( c?$vlan )
		{
		counts += int_to_count(c$vlan);
		if ( c?$inner_vlan )
			counts += int_to_count(c$inner_vlan);
		}

	enqueue_record(s, cat("[\"", c$uid, " ", id$orig_h, " ", id$resp_h, " ", state, " ", c$history, " ", service, " ", c$start_time,
	    " ", network_time(), " ", c$duration / 1sec, "\",", to_json(counts), ",",
	    c?$cmdana ? to_json(c$cmdana$seen) : "[]", "]"));
	}

event conn_generic_packet_threshold_crossed(c: connection, threshold: count)
	{
	# What others publish is no traffic.
	if ( ! detector_ready || is_remote_event() )
		return;

	if ( ! c?$cmdana )
		c$cmdana = Packets();

	if ( threshold <= packets_described )
		{
		local seen = c$cmdana$seen;

		# A detector that came in mid-connection is not told of a second packet as if it were the first.
		if ( |seen| == 3 * threshold - 3 )
			{
			seen += double_to_int(c$duration / 1usec);
			seen += c$orig$num_bytes_ip;
			seen += c$resp$num_bytes_ip;
			}
		}

	if ( (c$duration > early_after || threshold == 32) && threshold >= 3 && early_verdicts && ! c$cmdana$early_published )
		{
		c$cmdana$early_published = T;
		local s = shard_of(c$id$orig_h);
		if ( s$ready )
			publish_connection(s, c, F);
		}
	}

function publish_final(c: connection)
	{
	local s = shard_of(c$id$orig_h);
	++tally$ended;

	if ( ! s$ready || zeek_is_terminating() )
		{
		++tally$unsent;
		++s$unsent;
		return;
		}

	++tally$sent;
	++s$sent;
	++s$finals;
	publish_connection(s, c, T);
	}

# After the logs that the same end writes, so that the detector has them when the connection arrives.
event connection_state_remove(c: connection) &priority=-100
	{
	if ( (c?$cmdana && c$cmdana$final_published) || is_remote_event() )
		return;

	publish_final(c);
	}
