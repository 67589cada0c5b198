##! The detector comes and goes: the handshake, the heartbeat, and the notice when it is lost.
##!
##! Every node listens to the heartbeat, so that a worker sends nothing while nobody is there to judge it.

@load base/frameworks/cluster
@load base/frameworks/notice
@load ./verdicts
@load ./logs

module CMDANA;

export {
	## Without a heartbeat for so long (wall clock) the detector is lost.
	option detector_timeout = 10sec;

	## A Zeek to which no detector has come for so long says so.
	option never_after = 40sec;

	## If set, only a model made with this schema digest is accepted.
	option expected_schema = "";

	## Raised when a detector has been accepted; also when it is back.
	global detector_found: event(who: Alive);

	## Raised when the detector is gone.
	global detector_lost: event(why: string);

	## Raised with each heartbeat of the accepted detector.
	global detector_alive: event(who: Alive);
}

global refused_instances: set[string] &create_expire=1hr;
global replaced_instances: set[string] &create_expire=1hr;
global began: time;
global losses = 0;
global welcomes = 0;
global replays = 0;

# "the detector", or the one of which shard.
function named(s: Shard): string
	{
	return shards == 1 ? "detector" : fmt("detector of shard %d of %d", s$number, shards);
	}

function answer_detector(topic: string, to: string, accepted: bool, why: string, parted: bool &default=F)
	{
	local w = Welcome($v=wire_version, $node=peer_description, $run=run_id, $zeek=zeek_version(),
	    $accepted=accepted, $why=why, $to=to, $n=++welcomes, $parted=parted);
	if ( is_judging_node() )
		{
		w$benign = log_benign;
		if ( shards > 1 )
			{
			w$detectors = vector();
			for ( _, s in all_shards )
				w$detectors += (s$ready ? s$instance : "");
			}
		}
	Cluster::publish(topic, welcome, sealed("CMDANA::welcome", to_json(w)));
	}

function objection(who: Alive): string
	{
	if ( who$v != wire_version )
		return fmt("found wire version %d; expected %d: install the same version of the Zeek package and of the Python package",
		    who$v, wire_version);
	if ( who$shards != shards || who$shard < 1 || who$shard > shards )
		return fmt("found shard %d of %d; CMDANA::shards is %d: [endpoint] shard in plugin.toml must agree", who$shard,
		    who$shards, shards);
	if ( expected_schema != "" && who$schema != expected_schema )
		return fmt("found a model of schema %s; CMDANA::expected_schema is %s", who$schema, expected_schema);
	if ( who$instance in replaced_instances )
		return "a newer detector has taken over";
	return "";
	}

# One identifier for each, and never suppressed: a loss is a loss, however soon it follows another.
function notice_detector(note: Notice::Type, msg: string, sub: string, n: count)
	{
	NOTICE(Notice::Info($note=note, $ts=network_time(), $identifier=unforeseen(fmt("%s %d", run_id, losses)), $suppress_for=0sec,
	    $msg=msg, $sub=sub, $n=n));
	}

function lose_detector(s: Shard, why: string)
	{
	if ( ! s$ready )
		return;

	s$ready = F;
	s$connection_of = "";
	s$was_lost = T;
	s$lost_since = s$last_alive;
	s$unsent_before = s$unsent;
	++losses;
	discard_batch(s);
	detector_ready = F;
	for ( _, other in all_shards )
		{
		if ( other$ready )
			detector_ready = T;
		}

	# In a cluster the workers know what they sent, and the manager what came back.
	local unanswered = s$sent > s$judged ? s$sent - s$judged : 0;
	if ( is_judging_node() )
		notice_detector(Detector_Lost, shards == 1 ?
		    "The CMDANA detector is gone; connections are not judged until it is back" :
		    fmt("The CMDANA %s is gone; connections of its hosts are not judged until it is back or another stands in", named(s)),
		    Cluster::is_enabled() ? fmt("%s; last heard of at %.6f", why, s$lost_since) :
		        fmt("%s; last heard of at %.6f; %d connections that it was told of are not answered", why,
		            s$lost_since, unanswered), unanswered);
	event detector_lost(why);
	}

function find_detector(s: Shard, who: Alive)
	{
	local missed = s$unsent - s$unsent_before;
	local since = s$was_lost ? s$lost_since : began;
	s$ready = T;
	detector_ready = T;
	Reporter::info(fmt("cmdana: %s %s: cmdana %s, model %s, schema %s; %d connections ended unjudged since %.6f",
	    named(s), s$was_lost ? "is back" : "found", who$cmdana, who$model, who$schema, missed, since));

	# Each node knows of its own connections alone.
	if ( (s$was_lost || s$absence_noticed) && (is_judging_node() || missed > 0) )
		notice_detector(Detector_Back, who$stands_in == 0 ?
		    (shards == 1 ? "The CMDANA detector is back; connections are judged again" :
		        fmt("The CMDANA %s is back; connections of its hosts are judged again", named(s))) :
		    fmt("The CMDANA detector of shard %d stands in for that of shard %d of %d; connections of its hosts are judged again",
		        who$stands_in, s$number, shards),
		    fmt("%d connections of %s ended unjudged since %.6f%s", missed, peer_description, since,
		        shards > 1 && who$known != "" ? fmt("; it %s", who$known) : ""),
		    missed);
	s$unsent_before = s$unsent;
	event detector_found(who);
	}

event CMDANA::alive(words: string)
	{
	local message = opened("CMDANA::alive", words);
	if ( message == "" )
		{
		++tally$refused;
		return;
		}

	local parsed = from_json(message, Alive);
	local who = parsed$valid ? (parsed$v as Alive) : Alive();
	local topic = topic_of(who$shard, who$shards);
	local why = objection(who);

	if ( why != "" )
		{
		if ( who$instance !in refused_instances )
			Reporter::warning(fmt("cmdana: a detector (%s %s) is refused: %s", who$model, who$cmdana, why));
		if ( |refused_instances| < 1000 )
			add refused_instances[who$instance];
		answer_detector(topic, who$instance, F, why);
		return;
		}

	if ( ! is_newer(who$instance, who$n) )
		{
		++tally$refused;
		if ( ++replays == 1 )
			Reporter::warning("cmdana: a message of a detector came a second time and is passed over; somebody repeats what he has heard");
		return;
		}

	# What it said to another start of Zeek is not said to this one.
	local is_named = F;
	for ( _, r in who$runs )
		{
		if ( r == run_id )
			is_named = T;
		}
	if ( ! is_named )
		{
		if ( ! who$leaving )
			answer_detector(topic, who$instance, F, "");
		return;
		}

	local s = all_shards[who$shard - 1];

	if ( who$leaving )
		{
		if ( who$instance == s$instance )
			{
			s$last_alive = current_time();
			flush_shard(s);
			lose_detector(s, "it was stopped");
			}
		# After all that was sent to it, so that it knows that nothing more comes.
		answer_detector(topic, who$instance, F, "", T);
		return;
		}

	s$last_alive = current_time();

	if ( who$instance != s$instance )
		{
		# What is gathered was begun for the other.
		flush_shard(s);
		if ( s$instance != "" )
			{
			add replaced_instances[s$instance];
			delete shard_number[s$instance];
			}
		s$instance = who$instance;
		shard_number[s$instance] = s$number;
		s$detector = who;
		want_logs();
		}

	s$connection_of = who$endpoint;
	answer_detector(topic, who$instance, T, "");

	if ( ! s$ready )
		find_detector(s, who);

	event detector_alive(who);
	}

# Detectors tell one another through the node that hosts the WebSocket, which takes only events that it knows.
event CMDANA::evidence(words: string) &is_used
	{
	}

event check_detector() &is_used
	{
	if ( is_remote_event() )
		return;

	local absent = "";
	local unsent = 0;
	for ( _, s in all_shards )
		{
		if ( s$ready && current_time() - s$last_alive > detector_timeout )
			lose_detector(s, fmt("no heartbeat for %.0f seconds", detector_timeout));

		if ( ! s$ready && ! s$was_lost && ! s$absence_noticed && current_time() - began > never_after )
			{
			s$absence_noticed = T;
			absent += fmt("%s%d", absent == "" ? "" : ", ", s$number);
			unsent += s$unsent;
			}
		}

	if ( absent != "" && is_judging_node() )
		notice_detector(Detector_Lost, shards == 1 ?
		    "No CMDANA detector has come since Zeek started; connections are not judged" :
		    fmt("No CMDANA detector of shards %s of %d has come since Zeek started; connections of their hosts are not judged",
		        absent, shards),
		    fmt("%s; %d connections of %s ended unjudged since %.6f",
		        can_trust() ? "does cmdana run?" : "this Zeek has no secret, so none is believed", unsent,
		        peer_description, began), unsent);

	schedule 1sec { check_detector() };
	}

# The node that it was connected to knows at once; the others by the heartbeat.
event Cluster::websocket_client_lost(endpoint: Cluster::EndpointInfo, code: count, reason: string)
	{
	if ( is_remote_event() )
		return;

	for ( _, s in all_shards )
		{
		if ( s$connection_of != "" && endpoint$id == s$connection_of )
			lose_detector(s, fmt("its connection was closed (code %d)", code));
		}
	}

event zeek_init() &priority=4
	{
	began = current_time();

	if ( ! has_backend() )
		{
		Reporter::warning("cmdana: no cluster backend is loaded, so no detector can reach this Zeek; load cmdana/listen-websocket besides");
		return;
		}

	Cluster::subscribe(topic_verdicts + "/alive");

	# In a capture the time of the packets says nothing of the detector.
	if ( ! reading_traces() )
		schedule 1sec { check_detector() };
	}

event zeek_done() &priority=-50
	{
	if ( is_remote_event() )
		return;

	# In a cluster the workers say what they sent, and the manager what came back.
	if ( tally$ended > 0 || tally$judged > 0 )
		Reporter::info(fmt("cmdana: %d connections ended: %d sent to the detector, %d not; %d verdicts, %d early ones, %d notices",
		    tally$ended, tally$sent, tally$unsent, tally$judged, tally$judged_early, tally$notices));
	}
