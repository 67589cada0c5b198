##! CMDANA: tells a detector outside Zeek what Zeek sees, and writes what it finds into cmdana.log and notice.log.
##!
##! This alone costs nothing: it waits for a detector to say hello through the cluster backend. For a Zeek that is
##! not part of a cluster, load ``cmdana/listen-websocket`` (or ``cmdana/listen-broker``) besides.

@load base/misc/version

@if ( Version::number < 80000 )

event zeek_init() &priority=100
	{
	Reporter::fatal(fmt("cmdana: found Zeek %s; expected 8.0 or later: update Zeek, or unload cmdana", zeek_version()));
	}

@else

@load ./types
@load ./batches
@load ./packets
@load ./connections
@load ./logs
@load ./verdicts
@load ./endpoint

@endif
