##! What Zeek tells is gathered into batches, because one event for each record would cost more than the record.
##! Nothing is kept for a detector that is not there: such connections are counted as unjudged.

@load base/frameworks/cluster
@load base/frameworks/telemetry
@load ./seal

module CMDANA;

export {
	## Records in a batch at most.
	option batch_records: count = 100;

	## Bytes in a batch at most, roughly, and one record more.
	option batch_bytes: count = 262144;

	## For how long (network time) a record waits for others at most.
	option batch_interval: interval = 50msec;

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

	## Whether a detector is there and has been accepted.
	global detector_ready = F;

	## The start of the detector that has been accepted last.
	global instance = "";

	## Adds one record, rendered as a JSON array, to the batch.
	global enqueue_record: function(rendered: string);

	## Publishes the batch.
	##
	## last: nothing follows.
	global flush: function(last: bool &default=F);

	## Forgets the batch, for there is nobody to read it.
	global discard_batch: function();

	## This start of this node, unlike any other.
	global run_id = "" &redef;
}

global records: vector of string = vector();
global record_bytes = 0;
global finals = 0;
global batches_sent = 0;
global finals_sent = 0;
global timer_runs = F;

event flush_due() &is_used
	{
	if ( is_remote_event() )
		return;

	timer_runs = F;
	flush();
	}

function enqueue_record(rendered: string)
	{
	records += rendered;
	record_bytes += |rendered|;

	if ( |records| >= batch_records || record_bytes >= batch_bytes )
		flush();
	else if ( ! timer_runs )
		{
		timer_runs = T;
		schedule batch_interval { flush_due() };
		}
	}

function begin_batch()
	{
	records = vector();
	record_bytes = 0;
	finals = 0;
	}

function discard_batch()
	{
	tally$sent -= finals;
	tally$unsent += finals;
	begin_batch();
	}

function flush(last: bool)
	{
	if ( |records| == 0 && ! last )
		return;

	++batches_sent;
	local head = fmt("{\"v\":%d,\"node\":\"%s\",\"run\":\"%s\",\"to\":\"%s\",\"seq\":%d,\"before\":%d,\"finals\":%d,\"records\":%d,\"now\":%.6f,\"last\":%s,\"r\":[",
	    wire_version, peer_description, run_id, instance, batches_sent, finals_sent, finals, |records|,
	    network_time(), last ? "true" : "false");
	Cluster::publish(topic_observations, observations,
	    sealed("CMDANA::observations", head + join_string_vec(records, ",") + "]}"));
	finals_sent += finals;
	begin_batch();
	}

event zeek_init() &priority=50
	{
	if ( run_id == "" )
		run_id = fmt("%s-%d-%.6f", peer_description, getpid(), current_time());
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
