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

# What Zeek calls the accepted detector's connection, where it is one to this node.
global connection_of = "";
global last_alive: time;
global refused_instances: set[string] &create_expire=1hr;
global replaced_instances: set[string] &create_expire=1hr;
global was_lost = F;
global began: time;
global absence_noticed = F;
global losses = 0;
global lost_since: time;
# As it was when the detector was lost, or as Zeek began.
global unsent_before = 0;
global welcomes = 0;
global replays = 0;

function answer_detector(to: string, accepted: bool, why: string, parted: bool &default=F)
	{
	local w = Welcome($v=wire_version, $node=peer_description, $run=run_id, $zeek=zeek_version(),
	    $accepted=accepted, $why=why, $to=to, $n=++welcomes, $parted=parted);
	if ( is_judging_node() )
		w$benign = log_benign;
	Cluster::publish(topic_observations, welcome, sealed("CMDANA::welcome", to_json(w)));
	}

function objection(who: Alive): string
	{
	if ( who$v != wire_version )
		return fmt("found wire version %d; expected %d: install the same version of the Zeek package and of the Python package",
		    who$v, wire_version);
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

function lose_detector(why: string)
	{
	if ( ! detector_ready )
		return;

	detector_ready = F;
	connection_of = "";
	was_lost = T;
	lost_since = last_alive;
	unsent_before = tally$unsent;
	++losses;
	discard_batch();

	# In a cluster the workers know what they sent, and the manager what came back.
	local unanswered = tally$sent > tally$judged ? tally$sent - tally$judged : 0;
	if ( is_judging_node() )
		notice_detector(Detector_Lost, "The CMDANA detector is gone; connections are not judged until it is back",
		    Cluster::is_enabled() ? fmt("%s; last heard of at %.6f", why, lost_since) :
		        fmt("%s; last heard of at %.6f; %d connections that it was told of are not answered", why,
		            lost_since, unanswered), unanswered);
	event detector_lost(why);
	}

function find_detector(who: Alive)
	{
	local missed = tally$unsent - unsent_before;
	detector_ready = T;
	Reporter::info(fmt("cmdana: detector %s: cmdana %s, model %s, schema %s; %d connections ended unjudged since %.6f",
	    was_lost ? "is back" : "found", who$cmdana, who$model, who$schema, missed, was_lost ? lost_since : began));

	# Each node knows of its own connections alone.
	if ( (was_lost || absence_noticed) && (is_judging_node() || missed > 0) )
		notice_detector(Detector_Back, "The CMDANA detector is back; connections are judged again",
		    fmt("%d connections of %s ended unjudged since %.6f", missed, peer_description, was_lost ? lost_since : began),
		    missed);
	unsent_before = tally$unsent;
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
	local why = objection(who);

	if ( why != "" )
		{
		if ( who$instance !in refused_instances )
			Reporter::warning(fmt("cmdana: a detector (%s %s) is refused: %s", who$model, who$cmdana, why));
		if ( |refused_instances| < 1000 )
			add refused_instances[who$instance];
		answer_detector(who$instance, F, why);
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
	local named = F;
	for ( _, r in who$runs )
		{
		if ( r == run_id )
			named = T;
		}
	if ( ! named )
		{
		if ( ! who$leaving )
			answer_detector(who$instance, F, "");
		return;
		}

	if ( who$leaving )
		{
		if ( who$instance == instance )
			{
			last_alive = current_time();
			flush();
			lose_detector("it was stopped");
			}
		# After all that was sent to it, so that it knows that nothing more comes.
		answer_detector(who$instance, F, "", T);
		return;
		}

	last_alive = current_time();

	if ( who$instance != instance )
		{
		# What is gathered was begun for the other.
		flush();
		if ( instance != "" )
			add replaced_instances[instance];
		instance = who$instance;
		want_logs(who$streams, who$brief);
		}

	connection_of = who$endpoint;
	answer_detector(who$instance, T, "");

	if ( ! detector_ready )
		find_detector(who);

	event detector_alive(who);
	}

event check_detector() &is_used
	{
	if ( is_remote_event() )
		return;

	if ( detector_ready && current_time() - last_alive > detector_timeout )
		lose_detector(fmt("no heartbeat for %.0f seconds", detector_timeout));

	if ( ! detector_ready && ! was_lost && ! absence_noticed && current_time() - began > never_after )
		{
		absence_noticed = T;
		if ( is_judging_node() )
			notice_detector(Detector_Lost, "No CMDANA detector has come since Zeek started; connections are not judged",
			    fmt("%s; %d connections of %s ended unjudged since %.6f",
			        can_trust() ? "does cmdana run?" : "this Zeek has no secret, so none is believed", tally$unsent,
			        peer_description, began), tally$unsent);
		}

	schedule 1sec { check_detector() };
	}

# The node that it was connected to knows at once; the others by the heartbeat.
event Cluster::websocket_client_lost(endpoint: Cluster::EndpointInfo, code: count, reason: string)
	{
	if ( connection_of != "" && endpoint$id == connection_of && ! is_remote_event() )
		lose_detector(fmt("its connection was closed (code %d)", code));
	}

event zeek_init() &priority=4
	{
	began = current_time();

	if ( Cluster::backend == Cluster::CLUSTER_BACKEND_NONE )
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
