##! The secret that Zeek and the detector share: who does not know it can say nothing that either believes.
##!
##! Whoever reaches Zeek's WebSocket can publish any event, so what comes is believed by its seal alone: 64 hexadecimal
##! digits of HMAC-SHA256 before the message, under a key of its own for each direction and with the event's name. The
##! other half, and how a message cannot be said again, is ``cmdana_plugin/endpoint/seal.py``.

@load base/frameworks/input
@load base/utils/strings
@load ./types

module CMDANA;

export {
	## How messages are known to be the detector's: "hmac", or "none" for those of whoever reaches the port, which is
	## warned of at each start. Must match ``[endpoint] authentication`` in plugin.toml.
	const authentication = "hmac" &redef;

	## File with the secret, 64 hexadecimal digits, which only the user that Zeek runs as can read;
	## ``cmdana doctor --init-secret`` makes it, and every node of a cluster needs it. Read once, as Zeek starts. "" is
	## /etc/cmdana/secret where that is, else ~/.config/cmdana/secret. The environment's ``CMDANA_SECRET`` goes first.
	option secret_file = "";

	## The message with its seal; "" where there is no secret.
	global sealed: function(name: string, message: string): string;

	## The message without its seal; "" where it has none of ours.
	global opened: function(name: string, words: string): string;

	## The identifier of a notice, as nobody else can name it: who can is able to have Zeek suppress the notice.
	global unforeseen: function(identifier: string): string;

	## Whether messages can be told from those of others, or need not.
	global can_trust: function(): bool;

	## Which of so many equal parts an originator belongs to, from 0 on: a keyed hash, so that nobody can choose
	## addresses that fall to one detector. Without a secret there is no key.
	global part_of: function(orig: addr, parts: count): count;
}

# In these rather than in strings, so that no event or log can tell a key.
type Key: record {
	inner: opaque of sha256;
	outer: opaque of sha256;
};

type SecretLine: record {
	line: string;
};

const max_words = 4194304;

global key_to_detector: Key;
global key_from_detector: Key;
global key_of_parts = sha256_hash_init();
global secret_known = F;
global not_authentic = 0;

function padded(secret: string, pad: count): opaque of sha256
	{
	local digits = "";
	local i = 0;

	while ( i < 64 )
		{
		local byte = i < 32 ? bytestring_to_count(hexstr_to_bytestring(secret[2 * i:2 * i + 2])) : 0;
		digits += fmt("%02x", byte ^ pad);
		++i;
		}

	local hash = sha256_hash_init();
	sha256_hash_update(hash, hexstr_to_bytestring(digits));
	return hash;
	}

function keyed(secret: string): Key
	{
	return Key($inner=padded(secret, 0x36), $outer=padded(secret, 0x5c));
	}

function hmac(key: Key, name: string, message: string): string
	{
	local inner: opaque of sha256 = copy(key$inner);
	sha256_hash_update(inner, name);
	sha256_hash_update(inner, message);
	local outer: opaque of sha256 = copy(key$outer);
	sha256_hash_update(outer, hexstr_to_bytestring(sha256_hash_finish(inner)));
	return sha256_hash_finish(outer);
	}

# Compared by digests that nobody else can foretell, so that the time it takes says nothing.
function same(a: string, b: string): bool
	{
	return hmac(key_to_detector, "same", a) == hmac(key_to_detector, "same", b);
	}

function learn_secret(secret: string)
	{
	if ( secret_known || secret != /[0-9a-f]{64}/ )
		return;

	local master = keyed(secret);
	key_to_detector = keyed(hmac(master, "cmdana zeek", ""));
	key_from_detector = keyed(hmac(master, "cmdana detector", ""));
	key_of_parts = padded(hmac(master, "cmdana shards", ""), 0x36);
	secret_known = T;
	}

# One digest, not the two of an HMAC: it is asked for each connection and each log record, and nobody is told it.
function part_of(orig: addr, parts: count): count
	{
	local hash: opaque of sha256 = copy(key_of_parts);
	sha256_hash_update(hash, cat(orig));
	return bytestring_to_count(hexstr_to_bytestring(sha256_hash_finish(hash)[:8])) % parts;
	}

function can_trust(): bool
	{
	return secret_known || authentication == "none";
	}

function sealed(name: string, message: string): string
	{
	if ( authentication == "none" )
		return message;
	return secret_known ? hmac(key_to_detector, name, message) + message : "";
	}

function unforeseen(identifier: string): string
	{
	return secret_known ? hmac(key_to_detector, "notice", identifier) : identifier;
	}

# The first, the second, the fourth and so on, for a stranger may say as much as he likes.
function complain(what: string)
	{
	++not_authentic;

	local n = not_authentic;
	while ( n % 2 == 0 )
		n = n / 2;
	if ( n == 1 )
		Reporter::warning(fmt("cmdana: %s (%d such messages by now)", what, not_authentic));
	}

function opened(name: string, words: string): string
	{
	local plain = |words| > 0 && words[0] == "{";

	if ( authentication == "none" )
		{
		if ( plain )
			return words;

		complain(fmt("%s: a message is sealed or no JSON object, and CMDANA::authentication is \"none\"; is [endpoint] authentication \"none\" too?", name));
		return "";
		}

	if ( ! secret_known )
		return "";

	if ( ! plain && |words| > 64 && |words| <= max_words )
		{
		local message = words[64:];
		if ( same(words[:64], hmac(key_from_detector, name, message)) )
			return message;
		}

	complain(fmt("%s: a message is not authentic and is passed over; has the detector our secret ([endpoint] secret_file), or does somebody else publish on its topic?", name));
	return "";
	}

event secret_line(description: Input::EventDescription, tpe: Input::Event, line: string) &is_used
	{
	# Anybody could publish this event, too.
	if ( is_remote_event() )
		return;

	learn_secret(strip(line));

	if ( ! secret_known )
		Reporter::error(fmt("cmdana: %s: no secret; expected 64 hexadecimal digits; no detector will be believed", description$source));

	Input::remove(description$name);
	}

event zeek_init() &priority=40
	{
	if ( authentication == "none" )
		{
		Reporter::warning("cmdana: CMDANA::authentication is \"none\": whoever reaches the detector's port is believed, and can forge verdicts and notices and take the detector's place");
		return;
		}

	if ( authentication != "hmac" )
		Reporter::fatal(fmt("cmdana: CMDANA::authentication: found \"%s\"; expected \"hmac\" or \"none\"", authentication));

	local given = getenv("CMDANA_SECRET");
	if ( given != "" )
		{
		learn_secret(given);
		if ( ! secret_known )
			Reporter::fatal("cmdana: CMDANA_SECRET in the environment is no secret; expected 64 hexadecimal digits");
		return;
		}

	local path = secret_file;
	if ( path == "" && file_size("/etc/cmdana/secret") > 0 )
		path = "/etc/cmdana/secret";
	if ( path == "" )
		{
		local home = getenv("XDG_CONFIG_HOME");
		path = (home != "" ? home : getenv("HOME") + "/.config") + "/cmdana/secret";
		}

	if ( file_size(path) <= 0 || path[-1:] == "|" )
		{
		Reporter::warning(fmt("cmdana: cannot read the secret in %s, so no detector will be believed: make it with cmdana doctor --init-secret, or name it with CMDANA::secret_file", path));
		return;
		}

	Input::add_event([$source=path, $reader=Input::READER_RAW, $mode=Input::MANUAL, $name="cmdana-secret",
	    $fields=SecretLine, $want_record=F, $ev=secret_line]);
	}
