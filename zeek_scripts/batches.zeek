##! What Zeek tells is gathered into batches, because one event for each record would cost more than the record.
##! Nothing is kept for a detector that is not there: such connections are counted as unjudged.

@load base/frameworks/cluster
@load base/frameworks/telemetry
@load ./types
@load ./seal

module CMDANA;

export {
	## Records in a batch at most.
	option batch_records: count = 100;

	## Bytes in a batch at most, roughly, and one record more.
	option batch_bytes: count = 262144;

	## For how long (network time) a record waits for others at most.
	option batch_interval: interval = 50msec;

	## Into how many shards the originators are divided, each told to a detector of its own, by a keyed hash of its
	## address. Must match ``[endpoint] shard`` = "2/8" in plugin.toml, the second of eight; 1 tells all to one.
	const shards = 1 &redef;

	## Connections of this node, by what became of them. Final connections only.
	type Tally: record {
		## Ended.
		ended: count &default=0;
		## Published to the detector.
		sent: count &default=0;
		## Not published: no detector was there, or Zeek was already stopping.
		unsent: count &default=0;
		## Verdicts that came back to this node.
		judged: count &default=0;
		## Early verdicts that came back to this node.
		judged_early: count &default=0;
		## Notices raised.
		notices: count &default=0;
		## Log records published, or too long for it.
		logs: count &default=0;
		## Log records not published because of :zeek:id:`CMDANA::max_log_bytes`.
		logs_too_long: count &default=0;
		## Messages that could not be read or were not the detector's.
		refused: count &default=0;
	};

	## The running count since Zeek's start.
	global tally = Tally();

	## One shard: its detector, what waits for it, and what became of its hosts' connections on this node.
	type Shard: record {
		## From 1 on.
		number: count;
		topic: string;
		## Whether its detector is there and has been accepted.
		ready: bool &default=F;
		## The start of the detector that has been accepted last.
		instance: string &default="";
		## What Zeek calls that one's connection, where it is one to this node.
		connection_of: string &default="";
		## What that one said last.
		detector: Alive &optional;
		last_alive: time &optional;
		was_lost: bool &default=F;
		lost_since: time &optional;
		absence_noticed: bool &default=F;
		sent: count &default=0;
		unsent: count &default=0;
		judged: count &default=0;
		## ``unsent`` as it was when the detector was lost, or as Zeek began.
		unsent_before: count &default=0;
		records: vector of string &default=vector();
		record_bytes: count &default=0;
		finals: count &default=0;
		batches_sent: count &default=0;
		finals_sent: count &default=0;
		timer_runs: bool &default=F;
	};

	## All of them.
	global all_shards: vector of Shard = vector();

	## The shard that an originator belongs to.
	global shard_of: function(orig: addr): Shard;

	## The topic on which a detector of one of so many shards listens.
	global topic_of: function(number: count, of_all: count): string;

	## Whether any detector is there and has been accepted.
	global detector_ready = F;

	## Adds one record, rendered as a JSON array, to the shard's batch.
	global enqueue_record: function(s: Shard, rendered: string);

	## Publishes the batches.
	##
	## last: nothing follows.
	global flush: function(last: bool &default=F);

	## Publishes the batch of one shard.
	global flush_shard: function(s: Shard, last: bool &default=F);

	## Forgets the batch, for there is nobody to read it.
	global discard_batch: function(s: Shard);

	## This start of this node, unlike any other.
	global run_id = "" &redef;
}

event flush_due(number: count) &is_used
	{
	if ( is_remote_event() )
		return;

	all_shards[number - 1]$timer_runs = F;
	flush_shard(all_shards[number - 1]);
	}

function topic_of(number: count, of_all: count): string
	{
	return of_all <= 1 ? topic_observations : fmt("%s/%d/%d", topic_observations, number, of_all);
	}

function shard_of(orig: addr): Shard
	{
	return all_shards[shards == 1 ? 0 : part_of(orig, shards)];
	}

function enqueue_record(s: Shard, rendered: string)
	{
	s$records += rendered;
	s$record_bytes += |rendered|;

	if ( |s$records| >= batch_records || s$record_bytes >= batch_bytes )
		flush_shard(s);
	else if ( ! s$timer_runs )
		{
		s$timer_runs = T;
		schedule batch_interval { flush_due(s$number) };
		}
	}

function begin_batch(s: Shard)
	{
	s$records = vector();
	s$record_bytes = 0;
	s$finals = 0;
	}

function discard_batch(s: Shard)
	{
	tally$sent -= s$finals;
	tally$unsent += s$finals;
	s$sent -= s$finals;
	s$unsent += s$finals;
	begin_batch(s);
	}

function flush_shard(s: Shard, last: bool)
	{
	if ( |s$records| == 0 && ! last )
		return;

	++s$batches_sent;
	local head = fmt("{\"v\":%d,\"node\":\"%s\",\"run\":\"%s\",\"to\":\"%s\",\"seq\":%d,\"before\":%d,\"finals\":%d,\"records\":%d,\"now\":%.6f,\"last\":%s,\"r\":[",
	    wire_version, peer_description, run_id, s$instance, s$batches_sent, s$finals_sent, s$finals, |s$records|,
	    network_time(), last ? "true" : "false");
	Cluster::publish(s$topic, observations,
	    sealed("CMDANA::observations", head + join_string_vec(s$records, ",") + "]}"));
	s$finals_sent += s$finals;
	begin_batch(s);
	}

function flush(last: bool)
	{
	for ( _, s in all_shards )
		flush_shard(s, last);
	}

event zeek_init() &priority=50
	{
	if ( run_id == "" )
		run_id = fmt("%s-%d-%.6f", peer_description, getpid(), current_time());

	if ( shards < 1 || shards > 256 )
		Reporter::fatal(fmt("cmdana: CMDANA::shards: found %d; expected 1 to 256", shards));

	while ( |all_shards| < shards )
		all_shards += Shard($number=|all_shards| + 1, $topic=topic_of(|all_shards| + 1, shards));
	}

global counters_cf = Telemetry::register_counter_family(Telemetry::MetricOpts(
    $prefix="zeek",
    $name="cmdana",
    $unit="",
    $label_names=vector("what"),
    $help_text="Connections and log records told to the CMDANA detector, and what came back"
));

hook Telemetry::sync()
	{
	Telemetry::counter_family_set(counters_cf, vector("ended"), tally$ended);
	Telemetry::counter_family_set(counters_cf, vector("sent"), tally$sent);
	Telemetry::counter_family_set(counters_cf, vector("unsent"), tally$unsent);
	Telemetry::counter_family_set(counters_cf, vector("judged"), tally$judged);
	Telemetry::counter_family_set(counters_cf, vector("judged_early"), tally$judged_early);
	Telemetry::counter_family_set(counters_cf, vector("notices"), tally$notices);
	Telemetry::counter_family_set(counters_cf, vector("logs"), tally$logs);
	Telemetry::counter_family_set(counters_cf, vector("logs_too_long"), tally$logs_too_long);
	Telemetry::counter_family_set(counters_cf, vector("refused"), tally$refused);
	}
