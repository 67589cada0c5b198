##! What a stranger at an open port could do to Zeek besides speaking to CMDANA: any event can be published on any topic
##! that a node listens to, and Zeek tells only by the event where it came from. Of the events that base scripts act on,
##! those that end Zeek, tell its variables or silence its notices are not obeyed while such a port is open.

@load base/frameworks/cluster
@load base/frameworks/control
@load base/frameworks/notice
@load base/frameworks/supervisor

module CMDANA;

export {
	## Whether Zeek goes on obeying the Control framework (shutdown, values of variables, net statistics) although
	## strangers can reach it through the port that CMDANA opened. zeekctl's ``print``, ``netstats`` and ``peerstatus``
	## need it; its ``stop`` does not.
	const obey_control = F &redef;

	## Called by what opens a port that does not ask for certificates.
	global close_doors: function();
}

global closed = F;

function close_doors()
	{
	closed = T;

	if ( ! obey_control && has_module_events("Control") )
		disable_module_events("Control");

	# A Zeek on its own has no supervisor to hear.
	if ( ! Cluster::is_enabled() && ! Supervisor::is_supervisor() && ! Supervisor::is_supervised() )
		Cluster::unsubscribe(SupervisorControl::topic_prefix);
	}

# A Zeek on its own is told by nobody else that a notice is to be suppressed. A handler cannot keep an event from others,
# but can have those of a module passed over for one time.
function pass_over_notices(): bool
	{
	return closed && ! Cluster::is_enabled() && is_remote_event();
	}

event Notice::begin_suppression(ts: time, suppress_for: interval, note: Notice::Type, identifier: string) &priority=1000000
	{
	if ( pass_over_notices() )
		disable_module_events("Notice");
	}

event Notice::begin_suppression(ts: time, suppress_for: interval, note: Notice::Type, identifier: string) &priority=-1000000
	{
	if ( pass_over_notices() )
		enable_module_events("Notice");
	}

event Notice::suppression_batch_internal(batch: Notice::SuppressionBatch) &priority=1000000
	{
	if ( pass_over_notices() )
		disable_module_events("Notice");
	}

event Notice::suppression_batch_internal(batch: Notice::SuppressionBatch) &priority=-1000000
	{
	if ( pass_over_notices() )
		enable_module_events("Notice");
	}
