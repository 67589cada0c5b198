# @TEST-DOC: The first packets of a connection with what each side had sent by then; its logs before its end.
# @TEST-EXEC: python3 $TEST_BASE/make_traces.py .
# @TEST-EXEC: zeek -b -C -r long.pcap --load-seeds $TEST_BASE/seeds.txt base/protocols/conn $CMDANA $TEST_BASE/Scripts/spoken.zeek %INPUT >long 2>&1
# @TEST-EXEC: zeek -b -C -r dns.pcap --load-seeds $TEST_BASE/seeds.txt base/protocols/conn base/protocols/dns $CMDANA $TEST_BASE/Scripts/spoken.zeek %INPUT >dns 2>&1
# @TEST-EXEC: cat long dns | grep -v "listening\|detector found" >out
# @TEST-EXEC: TEST_DIFF_CANONIFIER=$TEST_BASE/Scripts/canon btest-diff out

module CMDANA;

redef packets_described = 4;

hook Log::log_stream_policy(rec: any, id: Log::ID) &priority=-100
	{
	if ( id != Conn::LOG )
		print fmt("log %s", id);
	}

event conn_generic_packet_threshold_crossed(c: connection, threshold: count) &priority=-4
	{
	if ( threshold == 4 || threshold == 16 )
		print threshold, c$cmdana$seen;
	}

event connection_state_remove(c: connection) &priority=-101
	{
	print c$cmdana$seen, state_of(c), c$conn$conn_state;
	}
