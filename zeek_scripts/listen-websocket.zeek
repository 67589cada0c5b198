##! Opens Zeek's WebSocket API to the detector, on a Zeek of its own or on a cluster's manager.
##!
##! The API has no authentication of its own: whoever reaches the port can publish any event. Of CMDANA's those without
##! its seal are passed over (``seal.zeek``), and those that would stop Zeek are closed (``doors.zeek``). Leave it on
##! loopback, or set all three PEM files: then only who has a certificate of your authority can connect at all.

@load base/frameworks/cluster
@load ./doors

# From Zeek 8.1 on a Zeek of its own has no backend, and the WebSocket needs one. Where Broker is not built in, the site
# loads another.
@ifdef ( Cluster::CLUSTER_BACKEND_NONE )
@if ( Cluster::backend == Cluster::CLUSTER_BACKEND_NONE && |Cluster::nodes| == 0 )
@ifdef ( Broker::listen )
@load frameworks/cluster/backend/broker
@endif
@endif
@endif

module CMDANA;

export {
	## Address to listen on.
	const websocket_addr = 127.0.0.1 &redef;

	## Port to listen on. Must match ``[endpoint] url`` in plugin.toml.
	const websocket_port = 27759/tcp &redef;

	## PEM files that turn on TLS (wss) where both are set.
	const websocket_cert_file = "" &redef;
	const websocket_key_file = "" &redef;

	## PEM file of the authority that clients need a certificate of, where it is set; needs the other two.
	const websocket_ca_file = "" &redef;

	## How often a silent client is asked for a sign of life; negative is never.
	const websocket_ping = 5sec &redef;
}

event zeek_init() &priority=-100
	{
	if ( websocket_ca_file == "" )
		close_doors();

	if ( Cluster::is_enabled() && Cluster::local_node_type() != Cluster::MANAGER )
		return;

	local options = Cluster::WebSocketServerOptions($listen_addr=websocket_addr, $listen_port=websocket_port,
	    $ping_interval=websocket_ping);
	if ( (websocket_cert_file == "") != (websocket_key_file == "") )
		Reporter::fatal("cmdana: found one of CMDANA::websocket_cert_file and CMDANA::websocket_key_file; TLS needs both");
	if ( websocket_ca_file != "" && websocket_cert_file == "" )
		Reporter::fatal("cmdana: found CMDANA::websocket_ca_file without CMDANA::websocket_cert_file; without TLS no client can show a certificate");
	for ( _, pem in vector(websocket_cert_file, websocket_key_file, websocket_ca_file) )
		{
		if ( pem != "" && file_size(pem) <= 0 )
			Reporter::fatal(fmt("cmdana: cannot read %s, which CMDANA::websocket_cert_file, websocket_key_file or websocket_ca_file names", pem));
		}
	if ( websocket_cert_file != "" )
		options$tls_options = Cluster::WebSocketTLSOptions($cert_file=websocket_cert_file,
		    $key_file=websocket_key_file, $enable_peer_verification=websocket_ca_file != "",
		    $ca_file=websocket_ca_file);

	if ( ! Cluster::listen_websocket(options) )
		Reporter::fatal(fmt("cmdana: cannot listen on %s:%d for the detector; is the port taken? CMDANA::websocket_port is where to choose another",
		    websocket_addr, websocket_port));
	}
