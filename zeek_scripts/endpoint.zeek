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

	## If set, only a model made with this schema digest is accepted.
	option expected_schema = "";

	## Raised when a detector has been accepted; also when it is back.
	global detector_found: event(who: Alive);

	## Raised when the detector is gone.
	global detector_lost: event(why: string);

	## Raised with each heartbeat of the accepted detector.
	global detector_alive: event(who: Alive);
}

global instance = "";
global last_alive: time;
global refused_instances: set[string] &create_expire=1hr;
global replaced_instances: set[string] &create_expire=1hr;
global was_lost = F;

function answer_detector(accepted: bool, why: string, parted: bool &default=F)
	{
	local w = Welcome($v=wire_version, $node=peer_description, $run=run, $zeek=zeek_version(),
	    $accepted=accepted, $why=why, $parted=parted);
	if ( judges() )
		w$benign = log_benign;
	Cluster::publish(topic_observations, welcome, to_json(w));
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

function lose_detector(why: string)
	{
	if ( ! detector_ready )
		return;

	detector_ready = F;
	was_lost = T;
	forget();

	if ( judges() )
		NOTICE(Notice::Info($note=Detector_Lost, $ts=network_time(), $identifier="detector",
		    $suppress_for=suppress_for, $msg="The CMDANA detector is gone; connections are not judged until it is back",
		    $sub=why));
	event detector_lost(why);
	}

event CMDANA::alive(words: string)
	{
	local parsed = from_json(words, Alive);
	local who = parsed$valid ? (parsed$v as Alive) : Alive();
	local why = objection(who);

	if ( why != "" )
		{
		if ( who$instance !in refused_instances )
			Reporter::warning(fmt("cmdana: a detector (%s %s) is refused: %s", who$model, who$cmdana, why));
		add refused_instances[who$instance];
		answer_detector(F, why);
		return;
		}

	last_alive = current_time();

	if ( who$leaving )
		{
		if ( who$instance == instance )
			{
			flush();
			lose_detector("it was stopped");
			# After all that was sent to it, so that it knows that nothing more comes.
			answer_detector(F, "", T);
			}
		return;
		}

	if ( who$instance != instance )
		{
		if ( instance != "" )
			add replaced_instances[instance];
		instance = who$instance;
		want_logs(who$streams, who$brief);
		}

	answer_detector(T, "");

	if ( ! detector_ready )
		{
		detector_ready = T;
		Reporter::info(fmt("cmdana: detector %s: cmdana %s, model %s, schema %s",
		    was_lost ? "is back" : "found", who$cmdana, who$model, who$schema));
		event detector_found(who);
		}

	event detector_alive(who);
	}

event check_detector() &is_used
	{
	if ( detector_ready && current_time() - last_alive > detector_timeout )
		lose_detector(fmt("no heartbeat for %.0f seconds", detector_timeout));

	schedule 1sec { check_detector() };
	}

# The node that it was connected to knows at once; the others by the heartbeat.
event Cluster::websocket_client_lost(endpoint: Cluster::EndpointInfo, code: count, reason: string)
	{
	if ( endpoint?$application_name && starts_with(endpoint$application_name, "cmdana/") )
		lose_detector(fmt("its connection was closed (code %d)", code));
	}

event zeek_init() &priority=4
	{
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
	# In a cluster the workers say what they sent, and the manager what came back.
	if ( tally$ended > 0 || tally$judged > 0 )
		Reporter::info(fmt("cmdana: %d connections ended: %d sent to the detector, %d not; %d verdicts, %d early ones, %d notices",
		    tally$ended, tally$sent, tally$unsent, tally$judged, tally$judged_early, tally$notices));
	}
