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

	## Length in bytes of a log record, as JSON, above which it is counted and not told.
	option max_log_bytes: count = 1048576;
}

# The path of each stream seen so far; "" for those not told.
global paths: table[Log::ID] of string = table();

# The logs that the detector looks at; empty: all.
global wanted_logs: set[string] = set();

function learn_path(rec: any, id: Log::ID): string
	{
	local fields = record_fields(rec);
	local belongs = id == X509::LOG || ("uid" in fields && fields["uid"]$log);

	if ( ! belongs || id in ignored_logs || id !in Log::active_streams || ! Log::active_streams[id]?$path )
		return "";

	local path = Log::active_streams[id]$path;
	return |wanted_logs| == 0 || path in wanted_logs ? path : "";
	}

# Another detector may look at other logs.
function want_logs(streams: vector of string)
	{
	wanted_logs = set();
	for ( _, path in streams )
		add wanted_logs[path];
	paths = table();
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

	# An attacker's bytes leave Zeek in no other way: to_json escapes what is not UTF-8.
	local rendered = to_json(rec, T, /^_/, T);
	if ( |rendered| > max_log_bytes )
		{
		++tally$logs_too_long;
		return;
		}

	++tally$logs;
	tell(cat("[\"l\",\"", path, "\",", rendered, "]"));
	}
