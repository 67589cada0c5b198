# @TEST-DOC: Without packets none is told and no event is raised for the first of them; early verdicts are kept.
# @TEST-EXEC: python3 $TEST_BASE/make_traces.py .
# @TEST-EXEC: zeek -b -C -r long.pcap --load-seeds $TEST_BASE/seeds.txt base/protocols/conn $CMDANA $CMDANA/without-packets.zeek $TEST_BASE/Scripts/spoken.zeek %INPUT >long 2>&1
# @TEST-EXEC: grep -v "listening\|detector found" long >out
# @TEST-EXEC: TEST_DIFF_CANONIFIER=$TEST_BASE/Scripts/canon btest-diff out

module CMDANA;

event conn_generic_packet_threshold_crossed(c: connection, threshold: count) &priority=-4
	{
	print fmt("threshold %d, packets %s", threshold, c$cmdana$seen);
	}

event connection_state_remove(c: connection) &priority=-101
	{
	print fmt("%s, packets told: %s", c$conn$conn_state, c?$cmdana ? cat(c$cmdana$seen) : "none");
	}
