##! Opens a Broker port to a detector that uses Broker's Python bindings (``[endpoint] transport = "broker"``).
##!
##! Broker encrypts by default but knows its peer only where certificates are configured (Broker::ssl_cafile and
##! kin): leave it on loopback otherwise.

@load base/frameworks/cluster
@load ./doors

# Zeek 9 deprecates Broker; a Zeek may be built without it.
@ifdef ( Broker::listen )

@ifdef ( Cluster::CLUSTER_BACKEND_NONE )
@if ( Cluster::backend == Cluster::CLUSTER_BACKEND_NONE && |Cluster::nodes| == 0 )
@load frameworks/cluster/backend/broker
@endif
@endif

module CMDANA;

export {
	## Address to listen on.
	const broker_addr = "127.0.0.1" &redef;

	## Port to listen on. Must match ``[endpoint] broker_port`` in plugin.toml.
	const broker_port = 9999/tcp &redef;
}

event zeek_init() &priority=-100
	{
	if ( Broker::disable_ssl || Broker::ssl_cafile == "" )
		close_doors();

	if ( Cluster::is_enabled() && Cluster::local_node_type() != Cluster::MANAGER )
		return;

	if ( Cluster::backend != Cluster::CLUSTER_BACKEND_BROKER )
		Reporter::fatal(fmt("cmdana: listen-broker needs the cluster backend Broker, found %s; use listen-websocket",
		    Cluster::backend));

	if ( Broker::listen(broker_addr, broker_port, 0sec) == 0/tcp )
		Reporter::fatal(fmt("cmdana: cannot listen on %s:%d for the detector; is the port taken? CMDANA::broker_port is where to choose another",
		    broker_addr, broker_port));
	}

@else

event zeek_init() &priority=100
	{
	Reporter::fatal("cmdana: this Zeek is built without Broker; load cmdana/listen-websocket instead of listen-broker");
	}

@endif
