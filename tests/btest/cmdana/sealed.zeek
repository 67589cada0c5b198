# @TEST-DOC: With a secret a message is believed once, if its seal is of that secret, its direction and its kind; the digests are those of another implementation.
# @TEST-EXEC: zeek -b $CMDANA frameworks/cluster/backend/broker %INPUT >out 2>&1
# @TEST-EXEC: ! grep -q "0a0b0c0d" out
# @TEST-EXEC: TEST_DIFF_CANONIFIER=$TEST_BASE/Scripts/canon btest-diff out

module CMDANA;

redef run_id = "run-1";

event detector_found(who: Alive) { print "found", who$instance; }

event zeek_init() &priority=-20
	{
	print sealed("CMDANA::welcome", "{\"v\":6}");
	print opened("CMDANA::welcome", sealed("CMDANA::welcome", "{}")) == "";
	local said_words = "{\"v\":8,\"cmdana\":\"0.1.0\",\"model\":\"m\",\"schema\":\"s\",\"runs\":[\"run-1\"],\"instance\":\"i1\",\"n\":1}";
	local said = "5be55aecad126a0c2b70af0dbd273bd373e9077f9c2f339bcb6101227704969b" + said_words;
	print opened("CMDANA::alive", said) == said_words;
	print opened("CMDANA::verdicts", said) == "";
	print opened("CMDANA::alive", said_words) == "";
	print opened("CMDANA::alive", "") == "";
	print opened("CMDANA::alive", said[:64]) == "";
	print opened("CMDANA::alive", to_upper(said[:64]) + said[64:]) == "";
	print opened("CMDANA::alive", said + " ") == "";
	learn_secret("ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
	print opened("CMDANA::alive", said) == said_words;
	event CMDANA::alive(said);
	event CMDANA::alive(said);
	}

event zeek_done()
	{
	print tally$refused, fmt("%s", key_to_detector);
	}
