##! What the detector found: a row in cmdana.log for each connection, and notices for the odd ones.
##!
##! Notices are worded by the detector and raised here, through Zeek's notice framework: what a site does with them
##! stays with its :zeek:id:`Notice::policy`.

@load base/frameworks/notice
@load policy/frameworks/notice/community-id
@load ./batches

module CMDANA;

export {
	redef enum Log::ID += { LOG };

	redef enum Notice::Type += {
		## An incident that is one connection, unlike the network's own normal.
		Anomalous_Connection,
		## An incident: what one host, or several that do the same, have done over many connections.
		Anomalous_Host,
		## An incident that a supervised model recognises.
		Known_Attack,
		## The network's own normal has moved away from what the model learned.
		Traffic_Drift,
		## The detector is gone, or has never come; nothing is judged until it is there.
		Detector_Lost,
		## The detector is back, after so many connections that nobody judged.
		Detector_Back,
	};

	redef record Notice::Info += {
		## What a notice of CMDANA rests on, so that no policy and no reader of notice.log has to read its words.
		cmdana: NoticeFields &log &optional;
	};

	## For how long a notice of the same identifier is not repeated. Not of incidents: the detector tells of one again
	## only where it has grown tenfold, is by then known for what it is, or does something
	## else beside.
	option suppress_for = 1hr;

	## Whether benign verdicts are logged as well. Without, they are counted, and what belongs to an incident is logged
	## whatever its own verdict: a row for each connection costs Zeek a third to a half of all that CMDANA costs it.
	option log_benign = F;

	## A default logging policy hook for the stream.
	global log_policy: Log::PolicyHook;

	## Raised for each verdict as it is logged.
	global log_cmdana: event(rec: Info);

	## Whether this is said by an accepted detector, and for the first time.
	global is_news: function(who: string, n: count): bool;

	## Whether this node logs verdicts and raises notices: the manager, or a Zeek on its own.
	global is_judging_node: function(): bool;
}

global unreadable = 0;

const notice_types: table[string] of Notice::Type = {
	["CMDANA::Anomalous_Connection"] = Anomalous_Connection,
	["CMDANA::Anomalous_Host"] = Anomalous_Host,
	["CMDANA::Known_Attack"] = Known_Attack,
	["CMDANA::Traffic_Drift"] = Traffic_Drift,
};

const protos = vector(unknown_transport, tcp, udp, icmp);
const stages = vector("early", "final", "revised");
const nothing: vector of string = vector();

# By the sum in CMDANA::Answer.
const modality_sets: table[count] of set[string] = {
	[0] = set(),
	[1] = set("packet"),
	[2] = set("connection"),
	[3] = set("packet", "connection"),
	[4] = set("log"),
	[5] = set("packet", "log"),
	[6] = set("connection", "log"),
	[7] = set("packet", "connection", "log"),
};

# The number of the last message of each detector, by its instance; those of one that is gone cannot be said again.
global last_said: table[string] of count = table();

function is_newer(who: string, n: count): bool
	{
	# Without a secret a number proves nothing.
	if ( authentication == "none" )
		return T;

	if ( who in last_said && n <= last_said[who] )
		return F;

	last_said[who] = n;
	return T;
	}

# The shard of each detector that has been accepted last.
global shard_number: table[string] of count = table();

function is_news(who: string, n: count): bool
	{
	return who in shard_number && is_newer(who, n);
	}

function is_judging_node(): bool
	{
	return ! Cluster::is_enabled() || Cluster::local_node_type() == Cluster::MANAGER;
	}

# In Zeek 8.0 there is no such thing as no backend.
@ifdef ( Cluster::CLUSTER_BACKEND_NONE )
function has_backend(): bool
	{
	return Cluster::backend != Cluster::CLUSTER_BACKEND_NONE;
	}
@else
function has_backend(): bool
	{
	return T;
	}
@endif

# The connection is often gone by now, so the notice is filled from the wire and not from a connection record.
function raise_notice(w: RaisedNotice)
	{
	if ( w$note !in notice_types )
		{
		++tally$refused;
		return;
		}

	local n = Notice::Info($note=notice_types[w$note], $ts=w$ts, $msg=w$msg, $sub=w$sub,
	    $identifier=unforeseen(w$identifier), $suppress_for=(w$fields?$incident ? 0secs : suppress_for),
	    $cmdana=w$fields);

	if ( w?$uid )
		n$uid = w$uid;
	if ( w?$orig_h && w?$orig_p && w?$resp_h && w?$resp_p )
		n$id = conn_id($orig_h=w$orig_h, $orig_p=w$orig_p, $resp_h=w$resp_h, $resp_p=w$resp_p);
	if ( w?$src )
		n$src = w$src;
	if ( w?$dst )
		n$dst = w$dst;
	if ( w?$p )
		n$p = w$p;
	if ( w?$n )
		n$n = w$n;
	if ( w?$community_id )
		n$community_id = w$community_id;

	++tally$notices;
	NOTICE(n);
	}

# Zeek stops a handler at an index that is not there, so all is looked at before anything is done.
function well_formed(a: Answer): bool
	{
	local n = |a$uid|;

	for ( _, size in vector(|a$ts|, |a$orig_h|, |a$orig_p|, |a$resp_h|, |a$resp_p|, |a$proto|, |a$service|,
	    |a$community_id|, |a$stage|, |a$score|, |a$p_value|, |a$packet_reliance|, |a$connection_reliance|,
	    |a$log_reliance|, |a$state_reliance|, |a$modalities|, |a$incident|) )
		{
		if ( size != n )
			return F;
		}

	local told = 0;
	local again = 0;
	for ( i, stage in a$stage )
		{
		if ( stage > 2 || a$proto[i] > 3 || a$modalities[i] > 7 || a$orig_p[i] > 65535 || a$resp_p[i] > 65535 )
			return F;
		if ( stage == 1 )
			++told;
		else if ( stage == 2 )
			++again;
		}

	# More than are told are counted where benign ones are not written down; of one answer never more than this.
	return told <= a$finals && n - told - again <= a$earlies && a$finals <= 1000000 && a$earlies <= 1000000;
	}

event CMDANA::verdicts(answer: string)
	{
	if ( ! is_judging_node() )
		return;

	local message = opened("CMDANA::verdicts", answer);
	if ( message == "" )
		{
		++tally$refused;
		return;
		}

	local parsed = from_json(message, Answer);
	local why = "";
	if ( ! parsed$valid )
		why = fmt("that cannot be read: %s", parsed$err);
	else if ( (parsed$v as Answer)$v != wire_version )
		why = fmt("of wire version %d; expected %d", (parsed$v as Answer)$v, wire_version);
	else if ( ! well_formed(parsed$v as Answer) )
		why = "that cannot be: columns of different lengths, or a number out of its range";
	else if ( ! is_news((parsed$v as Answer)$instance, (parsed$v as Answer)$n) )
		why = "of another detector, or said a second time";

	if ( why != "" )
		{
		++tally$refused;
		if ( ++unreadable == 1 )
			Reporter::warning(fmt("cmdana: verdicts %s", why));
		return;
		}

	local a = parsed$v as Answer;
	tally$judged += a$finals;
	tally$judged_early += a$earlies;
	all_shards[shard_number[a$instance] - 1]$judged += a$finals;

	local odd_ones: table[count] of NonBenign = table();
	for ( _, o in a$odd )
		odd_ones[o$i] = o;

	for ( i, uid in a$uid )
		{
		local odd = i in odd_ones;
		if ( ! odd && ! log_benign && a$incident[i] == "" )
			next;

		local proto = protos[a$proto[i]];
		local row = Info($ts=a$ts[i], $uid=uid,
		    $id=conn_id($orig_h=a$orig_h[i], $orig_p=count_to_port(a$orig_p[i], proto),
		        $resp_h=a$resp_h[i], $resp_p=count_to_port(a$resp_p[i], proto)),
		    $proto=proto, $community_id=a$community_id[i], $stage=stages[a$stage[i]], $score=a$score[i],
		    $p_value=a$p_value[i], $threshold=a$threshold, $verdict=odd ? odd_ones[i]$verdict : "benign",
		    $packet_reliance=a$packet_reliance[i], $connection_reliance=a$connection_reliance[i],
		    $log_reliance=a$log_reliance[i], $state_reliance=a$state_reliance[i],
		    $modalities=modality_sets[a$modalities[i]], $reasons=odd ? odd_ones[i]$reasons : nothing,
		    $model=a$model);
		if ( a$service[i] != "" )
			row$service = a$service[i];
		if ( a$incident[i] != "" )
			row$incident = a$incident[i];
		Log::write(LOG, row);
		}
	for ( _, w in a$notices )
		raise_notice(w);
	}

event zeek_init() &priority=5
	{
	Log::create_stream(LOG, Log::Stream($columns=Info, $ev=log_cmdana, $path="cmdana", $policy=log_policy));

	if ( is_judging_node() && has_backend() )
		Cluster::subscribe(topic_verdicts);
	}

redef ignored_logs += { LOG };
