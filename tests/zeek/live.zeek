##! What the tests need of a live Zeek: short timeouts, and the tally at the end.

redef CMDANA::log_benign = T;
redef udp_inactivity_timeout = 1sec;
redef tcp_close_delay = 1sec;

event zeek_done() &priority=-100
	{
	print fmt("TALLY %s", to_json(CMDANA::tally));
	}
