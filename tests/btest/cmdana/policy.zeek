# @TEST-DOC: The examples of Notice::policy in the documentation load without a warning and mail what they say.
# @TEST-EXEC: python3 $TEST_BASE/make_traces.py .
# @TEST-EXEC: zeek -b -C -r dns.pcap base/protocols/conn base/frameworks/notice $CMDANA $TEST_BASE/Scripts/spoken.zeek $TEST_BASE/../../docs/deploy/zeek/notice-policy.zeek %INPUT >/dev/null 2>err
# @TEST-EXEC: grep -c notice-policy err >out || true
# @TEST-EXEC: zeek-cut note cmdana.kind cmdana.host suppress_for actions <notice.log | awk -F'\t' '{print $1, $2, $3, $4, ($5 ~ /EMAIL/ ? "mail" : "-"), ($5 ~ /ALARM/ ? "block" : "-")}' | sort >>out
# @TEST-EXEC: btest-diff out

redef Notice::mail_dest = "";
redef SiteCmdana::own_scanners += { 10.0.0.9/32 };

function raised(note: Notice::Type, kind: string, host: addr, evidence: double)
	{
	NOTICE([$note=note, $msg=kind, $src=host, $identifier=cat(kind, host),
	    $cmdana=[$kind=kind, $host=host, $evidence=evidence, $role="originator"]]);
	}

event zeek_init() &priority=-20
	{
	raised(CMDANA::Anomalous_Host, "scan", 10.0.0.1, 2.0);
	raised(CMDANA::Anomalous_Host, "scan", 10.0.0.2, 4.5);
	raised(CMDANA::Anomalous_Host, "beacon", 10.0.0.3, 2.0);
	raised(CMDANA::Anomalous_Host, "exfiltration", 10.0.0.4, 6.0);
	raised(CMDANA::Anomalous_Host, "exfiltration", 10.0.0.9, 6.0);
	raised(CMDANA::Known_Attack, "scan", 10.0.0.5, 2.0);
	NOTICE([$note=CMDANA::Detector_Lost, $msg="gone", $identifier="d"]);
	}

hook SiteCmdana::may_block(n: Notice::Info)
	{
	add n$actions[Notice::ACTION_ALARM];
	}
