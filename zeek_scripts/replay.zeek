##! Reads a capture with the detector at its side, for ``cmdana replay --engine zeek``: waits until the detector is
##! there, judges every connection, those open at the capture's end too, and ends when all verdicts are in.

@load ./__load__
@load ./listen-websocket

module CMDANA;

export {
	## Reading pauses while more verdicts than this are outstanding, so that neither side fills its memory.
	const replay_window = 20000 &redef;
}

redef exit_only_after_terminate = T;

# A capture is read to be looked at, and no traffic waits meanwhile.
redef log_benign = T;

# In a capture, time passes as fast as the packets are read: batches are cut by their size.
redef batch_interval = 365days;
redef websocket_ping = -1sec;

# No timer fires after the capture's end, so what is open then is found by our own record.
global open_connections: table[string] of connection = table();
global paused = T;
global file_ended = F;

event zeek_init() &priority=-200
	{
	suspend_processing();
	}

event CMDANA::detector_found(who: Alive)
	{
	if ( paused && ! is_remote_event() )
		{
		paused = F;
		continue_processing();
		}
	}

event CMDANA::detector_lost(why: string)
	{
	if ( zeek_is_terminating() || is_remote_event() )
		return;

	Reporter::error(fmt("cmdana: the detector is gone before the capture's end: %s", why));
	terminate();
	}

event new_connection(c: connection)
	{
	if ( is_remote_event() )
		return;

	open_connections[c$uid] = c;
	}

event connection_state_remove(c: connection) &priority=-200
	{
	if ( is_remote_event() )
		return;

	delete open_connections[c$uid];

	if ( ! paused && tally$sent > tally$judged + replay_window )
		{
		paused = T;
		flush();
		suspend_processing();
		}
	}

event CMDANA::verdicts(answer: string) &priority=-10
	{
	if ( paused && detector_ready && tally$sent < tally$judged + replay_window / 2 )
		{
		paused = F;
		continue_processing();
		}
	}

event Pcap::file_done(path: string)
	{
	if ( is_remote_event() )
		return;

	for ( uid, c in open_connections )
		{
		# Brings the record up to date. Zeek does not find ICMP this way: there our own record has to do, which
		# stands at the last packet that was described.
		if ( connection_exists(c$id) )
			lookup_connection(c$id);

		if ( ! c?$cmdana )
			c$cmdana = Packets();

		# Its removal while Zeek stops is not another end.
		c$cmdana$final_published = T;
		publish_final(c);
		}

	file_ended = T;
	flush(T);

	# For the summary; Zeek's standard output is read when it has ended.
	local read = get_net_stats();
	print fmt("cmdana: read %d frames of %d bytes", read$pkts_recvd, read$bytes_recvd);

	# Nothing is left to read; without this Zeek would turn in circles until the last verdict is there.
	suspend_processing();
	}

event CMDANA::detector_alive(who: Alive)
	{
	if ( file_ended && who$finished == run_id && ! is_remote_event() )
		terminate();
	}
