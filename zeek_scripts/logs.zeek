##! Every log record of every stream that belongs to a connection, as the detector's third modality.

@load base/frameworks/logging
@load base/files/x509
@load base/frameworks/files
@load base/protocols/conn
@load base/frameworks/notice
@load ./batches

module CMDANA;

export {
	## Log streams that the detector is not told of although their records carry a uid.
	const ignored_logs: set[Log::ID] = { Conn::LOG, Notice::LOG, Notice::ALARM_LOG } &redef;

	## Length in bytes of a log record, as it is told, above which it is counted and not told.
	option max_log_bytes: count = 1048576;
}

# The path of each stream seen so far; "" for those not told.
global paths: table[Log::ID] of string = table();

# The logs that the detector looks at; empty: all.
global wanted_logs: set[string] = set();

# Those of which the fields below are enough for it.
global brief_logs: set[string] = set();

# In brief, because to_json of a whole record, and the way of its bytes to the detector, cost Zeek three times as much:
# words that Zeek has chosen in one string with a space between, "-" for unset, then what the traffic can choose, which
# must pass to_json. Of the answers only their number is told. The other half is BRIEF in
# cmdana_plugin/endpoint/observed.py.
global compact_renderers: table[Log::ID] of function(rec: any): string = table();

@ifdef ( DNS::LOG )
function brief_dns(rec: any): string
	{
	local d = rec as DNS::Info;
	return cat("[\"dns\",\"", d$uid, " ", d$ts, " ", d?$qtype_name ? d$qtype_name : "-", " ",
	    d?$rcode_name ? d$rcode_name : "-", " ", d?$rtt ? cat(d$rtt / 1sec) : "-", " ",
	    d?$answers ? cat(|d$answers|) : "-", "\",", d?$query ? to_json(d$query) : "null", ",",
	    d?$TTLs ? to_json(d$TTLs, F, /^_/, T) : "null", "]");
	}

event zeek_init()
	{
	compact_renderers[DNS::LOG] = brief_dns;
	}
@endif

@ifdef ( HTTP::LOG )
function brief_http(rec: any): string
	{
	local h = rec as HTTP::Info;
	return cat("[\"http\",\"", h$uid, " ", h$ts, " ", h$request_body_len, " ", h$response_body_len, " ",
	    h?$status_code ? cat(h$status_code) : "-", "\",", h?$method ? to_json(h$method) : "null", ",",
	    h?$host ? to_json(h$host) : "null", ",", h?$uri ? to_json(h$uri) : "null", ",",
	    h?$user_agent ? to_json(h$user_agent) : "null", ",", h?$referrer ? to_json(h$referrer) : "null", ",",
	    h?$resp_mime_types ? to_json(h$resp_mime_types) : "null", ",",
	    h?$orig_mime_types ? to_json(h$orig_mime_types) : "null", "]");
	}

event zeek_init()
	{
	compact_renderers[HTTP::LOG] = brief_http;
	}
@endif

@ifdef ( SSL::LOG )
function brief_ssl(rec: any): string
	{
	local s = rec as SSL::Info;
	return cat("[\"ssl\",\"", s$uid, " ", s$ts, " ", s?$version ? s$version : "-", " ", s?$cipher ? s$cipher : "-", " ",
	    s?$curve ? s$curve : "-", " ", s?$last_alert ? s$last_alert : "-", "\",", s$established ? "true," : "false,", s$resumed ? "true," : "false,",
	    s?$server_name ? to_json(s$server_name) : "null", ",", s?$next_protocol ? to_json(s$next_protocol) : "null", "]");
	}

event zeek_init()
	{
	compact_renderers[SSL::LOG] = brief_ssl;
	}
@endif

function learn_path(rec: any, id: Log::ID): string
	{
	local fields = record_fields(rec);
	local belongs = id == X509::LOG || ("uid" in fields && fields["uid"]$log);

	if ( ! belongs || id in ignored_logs || id !in Log::active_streams || ! Log::active_streams[id]?$path )
		return "";

	local path = Log::active_streams[id]$path;
	return |wanted_logs| == 0 || path in wanted_logs ? path : "";
	}

# Another detector may look at other logs; of several, all are told what any of them looks at.
function want_logs()
	{
	local everything = F;
	local brief: set[string] = set();
	local full: set[string] = set();
	wanted_logs = set();
	paths = table();

	for ( _, s in all_shards )
		{
		if ( s$instance == "" )
			next;
		for ( _, briefly in s$detector$brief )
			add brief[briefly];
		if ( |s$detector$streams| == 0 )
			everything = T;
		for ( _, path in s$detector$streams )
			{
			add wanted_logs[path];
			local enough = F;
			for ( _, one in s$detector$brief )
				{
				if ( one == path )
					enough = T;
				}
			if ( ! enough )
				add full[path];
			}
		}

	brief_logs = brief - full;

	# Who does not say which logs it looks at is told all of them whole.
	if ( everything )
		{
		wanted_logs = set();
		brief_logs = set();
		}
	}

# To the detector of the connection's shard; what names no connection, to all.
function enqueue_log(rec: any, rendered: string)
	{
	if ( shards > 1 )
		{
		local fields = record_fields(rec);
		if ( "id" in fields && fields["id"]?$value && (fields["id"]$value is conn_id) )
			{
			local s = shard_of((fields["id"]$value as conn_id)$orig_h);
			if ( s$ready )
				enqueue_record(s, rendered);
			return;
			}
		}

	for ( _, each in all_shards )
		{
		if ( each$ready )
			enqueue_record(each, rendered);
		}
	}

hook Log::log_stream_policy(rec: any, id: Log::ID) &priority=-50
	{
	if ( ! detector_ready )
		return;

	if ( id !in paths )
		paths[id] = learn_path(rec, id);

	local path = paths[id];
	if ( path == "" || zeek_is_terminating() )
		return;

	# Certificates stand in x509.log; Zeek keeps them out of files.log by a filter, which comes after this.
	if ( id == Files::LOG && ! X509::log_x509_in_files_log && "X509" in (rec as Files::Info)$analyzers )
		return;

	# An attacker's bytes leave Zeek in no other way than through to_json, which escapes what is not UTF-8.
	local rendered: string;
	if ( path in brief_logs && id in compact_renderers )
		rendered = compact_renderers[id](rec);
	else
		rendered = "[\"" + path + "\"," + to_json(rec, T, /^_/, T) + "]";

	if ( |rendered| > max_log_bytes )
		{
		++tally$logs_too_long;
		return;
		}

	++tally$logs;
	enqueue_log(rec, rendered);
	}
