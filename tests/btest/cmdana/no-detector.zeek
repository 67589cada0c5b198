# @TEST-DOC: Without a detector Zeek's own logs are whole, and every connection is counted as not sent.
# @TEST-EXEC: python3 $TEST_BASE/make_traces.py .
# @TEST-EXEC: zeek -b -C -r dns.pcap base/protocols/conn base/protocols/dns $CMDANA frameworks/cluster/backend/broker %INPUT >out 2>&1
# @TEST-EXEC: zeek-cut uid <conn.log | wc -l | tr -d ' ' >>out
# @TEST-EXEC: test ! -e cmdana.log
# @TEST-EXEC: TEST_DIFF_CANONIFIER=$TEST_BASE/Scripts/canon btest-diff out

event zeek_done() &priority=-100
	{
	print CMDANA::tally$ended, CMDANA::tally$sent, CMDANA::tally$unsent;
	}
