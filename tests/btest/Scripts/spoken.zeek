##! Stands in for a detector: found at the start, and what Zeek would tell it is printed.

@load frameworks/cluster/backend/broker

module CMDANA;

redef run_id = "run-1";
redef authentication = "none";

event zeek_init() &priority=-10
	{
	event CMDANA::alive("{\"v\":8,\"instance\":\"i1\",\"n\":1,\"runs\":[\"run-1\"],\"cmdana\":\"0.1.0\",\"model\":\"m-1\",\"schema\":\"s\"}");
	}

event zeek_done() &priority=-100
	{
	print fmt("ended %d sent %d unsent %d judged %d early %d notices %d logs %d refused %d", tally$ended,
	    tally$sent, tally$unsent, tally$judged, tally$judged_early, tally$notices, tally$logs, tally$refused);
	}
