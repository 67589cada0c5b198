# @TEST-DOC: A verdict becomes a row of cmdana.log, a notice one of notice.log; what cannot be read is counted.
# @TEST-EXEC: python3 $TEST_BASE/make_traces.py .
# @TEST-EXEC: zeek -b -C -r dns.pcap base/protocols/conn $CMDANA $TEST_BASE/Scripts/spoken.zeek %INPUT 2>err | tail -1 >out
# @TEST-EXEC: zeek-cut -n ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service community_id stage score p_value threshold verdict packet_reliance connection_reliance log_reliance state_reliance modalities reasons model incident <cmdana.log >rows; zeek-cut <cmdana.log >>out
# @TEST-EXEC: zeek-cut ts uid id.orig_h id.resp_p note msg sub src p n suppress_for community_id cmdana.verdict cmdana.score cmdana.p_value cmdana.threshold cmdana.role cmdana.host cmdana.peers cmdana.services cmdana.service_count cmdana.evidence cmdana.reasons cmdana.latest_reasons cmdana.traffic cmdana.tail cmdana.share cmdana.hosts cmdana.window cmdana.windows cmdana.incident cmdana.kind cmdana.technique cmdana.first_seen cmdana.last_seen cmdana.connections cmdana.odd cmdana.actors cmdana.actor_count cmdana.targets cmdana.refused cmdana.sent cmdana.limit <notice.log >>out
# @TEST-EXEC: grep -c "verdicts that cannot be" err >>out
# @TEST-EXEC: TEST_DIFF_CANONIFIER=$TEST_BASE/Scripts/canon btest-diff out

redef CMDANA::log_benign = T;

const answer = "{\"v\":8,\"instance\":\"i1\",\"n\":2,\"finals\":1,\"earlies\":1,\"model\":\"m-1\",\"threshold\":0.5,\"uid\":[\"C1\",\"C2\",\"C3\"],\"ts\":[1700000000.5,1700000001,1700000002],\"orig_h\":[\"10.0.0.1\",\"10.0.0.3\",\"10.0.0.5\"],\"orig_p\":[2000,8,40000],\"resp_h\":[\"2001:db8::1\",\"10.0.0.4\",\"10.0.0.6\"],\"resp_p\":[53,0,22],\"proto\":[2,3,1],\"service\":[\"\",\"ping,pong\",\"ssh\"],\"community_id\":[\"1:abc\",\"1:def\",\"1:ghi\"],\"stage\":[1,0,2],\"score\":[0.75,0.1,0.2],\"p_value\":[1e-9,0.5,0.04],\"packet_reliance\":[0.25,0,0.5],\"connection_reliance\":[0.5,1,0.5],\"log_reliance\":[0,0,0],\"state_reliance\":[0.25,0,0],\"modalities\":[1,2,3],\"incident\":[\"\",\"\",\"in1\"],\"odd\":[{\"i\":0,\"verdict\":\"anomalous\",\"reasons\":[\"a \\\"b\\\"\\tc\",\"d\"]},{\"i\":2,\"verdict\":\"anomalous\",\"reasons\":[\"e\"]}],\"notices\":[%s,%s,%s]}";
const notice = "{\"ts\":1700000000.5,\"note\":\"%s\",\"msg\":\"odd\",\"sub\":\"why\",\"identifier\":\"i\",\"uid\":\"C1\",\"orig_h\":\"10.0.0.1\",\"orig_p\":\"2000/udp\",\"resp_h\":\"10.0.0.2\",\"resp_p\":\"53/udp\",\"src\":\"10.0.0.1\",\"dst\":null,\"p\":\"53/udp\",\"n\":3,\"community_id\":\"1:abc\",\"fields\":{\"verdict\":\"anomalous\",\"score\":0.75,\"p_value\":1e-9,\"threshold\":0.5,\"role\":\"originator\",\"host\":\"10.0.0.1\",\"peers\":2,\"services\":[\"53/udp\",\"dns,quic\"],\"service_count\":5,\"evidence\":12.5,\"reasons\":[\"a, b\",\"c\"],\"traffic\":\"dns\",\"tail\":0.01,\"share\":0.25,\"hosts\":8,\"window\":3600.0,\"windows\":3}}";

event zeek_init() &priority=-20
	{
	local odd = fmt(notice, "CMDANA::Anomalous_Connection");
	local unknown = fmt(notice, "CMDANA::No_Such_Notice");
	event CMDANA::verdicts(fmt(answer, odd, odd, unknown));
	event CMDANA::verdicts("{\"v\":8,\"instance\":\"i1\",\"n\":3,\"finals\":1,\"earlies\":0,\"verdicts\":[{}],\"notices\":[]}");
	event CMDANA::verdicts("{not json \xff");
	# Ragged columns, numbers out of their range, more verdicts than counted, another detector: nothing of it is done.
	local good = fmt(answer, odd, odd, odd);
	event CMDANA::verdicts(subst_string(good, "\"ts\":[1700000000.5,", "\"ts\":["));
	event CMDANA::verdicts(subst_string(good, "\"proto\":[2", "\"proto\":[4"));
	event CMDANA::verdicts(subst_string(good, "\"modalities\":[1", "\"modalities\":[8"));
	event CMDANA::verdicts(subst_string(good, "\"orig_p\":[2000", "\"orig_p\":[65536"));
	event CMDANA::verdicts(subst_string(good, "\"finals\":1", "\"finals\":0"));
	event CMDANA::verdicts(subst_string(good, "\"finals\":1", "\"finals\":1000000000000000000"));
	event CMDANA::verdicts(subst_string(good, "\"instance\":\"i1\"", "\"instance\":\"i2\""));
	}
