# @TEST-DOC: A detector is found, refused for its version or its schema, not before it names this run, replaced, and lost when it says goodbye.
# @TEST-EXEC: python3 $TEST_BASE/make_traces.py .
# @TEST-EXEC: zeek -b -C -r dns.pcap base/protocols/conn $CMDANA frameworks/cluster/backend/broker %INPUT 2>&1 | grep "cmdana: \|^ready\|^lost" >out
# @TEST-EXEC: zeek-cut note msg sub <notice.log >>out
# @TEST-EXEC: TEST_DIFF_CANONIFIER=$TEST_BASE/Scripts/canon btest-diff out

module CMDANA;

redef expected_schema = "s";
redef authentication = "none";
redef run_id = "run-1";

function say(v: count, instance: string, schema: string, leaving: string, runs: string &default="\"run-0\",\"run-1\"")
	{
	event CMDANA::alive(fmt("{\"v\":%d,\"instance\":\"%s\",\"cmdana\":\"0.1.0\",\"model\":\"m\",\"schema\":\"%s\",\"leaving\":%s,\"runs\":[%s],\"unknown\":1}", v, instance, schema, leaving, runs));
	}

event detector_found(who: Alive) { print "ready", who$instance; }
event detector_lost(why: string) { print "lost", why; }

event zeek_init() &priority=-20
	{
	say(9, "future", "s", "false");
	say(wire_version, "other-model", "t", "false");
	event CMDANA::alive("{nonsense");
	event CMDANA::alive("sealed");
	say(wire_version, "a", "s", "false", "");
	say(wire_version, "a", "s", "false", "\"run-0\"");
	say(wire_version, "a", "s", "false");
	say(wire_version, "b", "s", "false");
	say(wire_version, "a", "s", "false");
	say(wire_version, "a", "s", "true");
	say(wire_version, "b", "s", "true");
	say(wire_version, "c", "s", "false");
	}
