##! What a stranger at an open port could do to Zeek besides speaking to CMDANA: any event can be published on any topic
##! that a node listens to, and Zeek tells only by the event where it came from. Of the events that base scripts act on,
##! those that end Zeek or tell its variables are not obeyed while such a port is open.

@load base/frameworks/cluster
@load base/frameworks/control
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

function close_doors()
	{
	if ( ! obey_control && has_module_events("Control") )
		disable_module_events("Control");

	# A Zeek on its own has no supervisor to hear.
	if ( ! Cluster::is_enabled() && ! Supervisor::is_supervisor() && ! Supervisor::is_supervised() )
		Cluster::unsubscribe(SupervisorControl::topic_prefix);
	}
