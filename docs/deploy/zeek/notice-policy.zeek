##! What a site may want done with notices of cmdana. Copy what you need into local.zeek, after `@load cmdana`.
##!
##! An incident is told again when it has grown tenfold or is by then known for what it is, so mail about it is rare.

module SiteCmdana;

export {
	## Kinds of incidents that are worth a mail at once, as docs/logs.md names them.
	option mailed_kinds: set[string] = {
		"password guessing", "lateral movement", "exfiltration", "beacon", "persistence", "tunnel",
	};

	## Evidence above which any incident is mailed: one in ten to the power of it of normal hosts' hours holds as much.
	option mailed_evidence = 4.0;

	## Scanners of the site's own: what they do is logged and not mailed.
	option own_scanners: set[subnet] = {};

	## Raised for what a site may want to block, such as with NetControl::drop_address. Nothing here does so: a verdict
	## says how unusual something is, not that it is an attack.
	global may_block: hook(n: Notice::Info);
}

hook Notice::policy(n: Notice::Info)
	{
	if ( ! n?$cmdana || ! n$cmdana?$kind )
		return;

	local host = n$cmdana?$host ? n$cmdana$host : ( n?$src ? n$src : 0.0.0.0 );
	if ( host in own_scanners )
		{
		n$suppress_for = 1day;
		return;
		}

	local grave = n$cmdana$kind in mailed_kinds;
	local much = n$cmdana?$evidence && n$cmdana$evidence >= mailed_evidence;
	if ( grave || much || n$note == CMDANA::Known_Attack )
		add n$actions[Notice::ACTION_EMAIL];

	if ( grave && much )
		hook may_block(n);
	}

# Without a detector nothing is judged: somebody should know.
hook Notice::policy(n: Notice::Info)
	{
	if ( n$note == CMDANA::Detector_Lost )
		add n$actions[Notice::ACTION_EMAIL];
	}
