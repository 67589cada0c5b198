# @TEST-DOC: Each originator has its shard, the same as the detector says; its records go to that one's detector alone, and the losses and returns are that one's.
# @TEST-EXEC: python3 $TEST_BASE/make_traces.py .
# @TEST-EXEC: zeek -b -C -r dns.pcap base/protocols/conn base/protocols/dns $CMDANA frameworks/cluster/backend/broker %INPUT 2>&1 | grep -v "listening" >out
# @TEST-EXEC: zeek-cut note msg sub <notice.log >>out
# @TEST-EXEC: TEST_DIFF_CANONIFIER=$TEST_BASE/Scripts/canon btest-diff out

module CMDANA;

redef shards = 8;
redef run_id = "run-1";
redef authentication = "none";

# As tests/unit/endpoint/test_shards.py has them.
const hosts = vector(10.0.0.1, 10.0.0.2, 192.168.17.254, 255.255.255.255, [::1], [2001:db8::1], [2001:db8:0:1::],
    [fe80::aede:48ff:fe00:1122]);

function parts(): string
	{
	local out = "";
	for ( _, host in hosts )
		out += fmt(" %d", part_of(host, 8) + 1);
	return out;
	}

function say(instance: string, shard: count, n: count, of_all: count &default=8, more: string &default="")
	{
	event CMDANA::alive(fmt("{\"v\":8,\"instance\":\"%s\",\"n\":%d,\"cmdana\":\"0.1.0\",\"model\":\"m\",\"schema\":\"s\",\"runs\":[\"run-1\"],\"shard\":%d,\"shards\":%d%s}", instance, n, shard, of_all, more));
	}

event zeek_init() &priority=-20
	{
	print "without a secret", parts();
	learn_secret("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
	print "with one", parts();
	local own = shard_of(10.0.0.1)$number;
	print all_shards[0]$topic, all_shards[7]$topic;

	# Of another number of shards, and none that there is.
	say("x", 2, 1, 4);
	say("y", 9, 1);
	say("a", own, 1);
	say("b", 1, 1);
	}

event detector_found(who: Alive) { print "found", who$instance, who$shard; }
event detector_lost(why: string) { print "lost", why; }

hook Log::log_stream_policy(rec: any, id: Log::ID) &priority=-100
	{
	if ( id != DNS::LOG )
		return;

	for ( _, s in all_shards )
		{
		if ( |s$records| > 0 )
			print "told", s$number, |s$records|;
		}

	local own = shard_of(10.0.0.1)$number;
	say("a", own, 2, 8, ",\"leaving\":true");
	say("c", own, 1, 8, ",\"stands_in\":1,\"known\":\"goes on from what was known\"");
	}
