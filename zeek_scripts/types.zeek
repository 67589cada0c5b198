##! The wire between Zeek and the detector. Every message is one event with one string: its seal (``seal.zeek``) and a
##! JSON object that states ``wire_version``; the other half of this contract is ``cmdana_plugin/endpoint/wire.py``.

module CMDANA;

export {
	## Version of the wire. A detector that states another one is refused, in words, on both sides.
	const wire_version = 8;

	## Topic on which Zeek publishes, with shards ``/2/8`` below it for the second of eight. Must match
	## ``[endpoint] topic_events`` in plugin.toml.
	const topic_observations = "zeek/cmdana/observations" &redef;

	## Topic on which the detector publishes; its heartbeat goes to ``/alive`` below it. Must match
	## ``[endpoint] topic_verdicts`` in plugin.toml.
	const topic_verdicts = "zeek/cmdana/verdicts" &redef;

	## Zeek to detector: a batch of connections and log records, see ``CMDANA::flush``.
	global observations: event(batch: string);

	## Zeek to detector: the answer to ``alive``, a :zeek:type:`CMDANA::Welcome`.
	global welcome: event(words: string);

	## Detector to Zeek: a :zeek:type:`CMDANA::Answer`.
	global verdicts: event(answer: string);

	## Detector to Zeek: a :zeek:type:`CMDANA::Alive`, on connecting and then every second.
	global alive: event(words: string);

	## Detector to the detector of another shard, on that one's topic: what speaks against responders that are its to
	## watch. Zeek passes it on and does not read it.
	global evidence: event(words: string);

	## What the detector says of itself. All but the version may be missing in another version of the wire.
	type Alive: record {
		v: count &default=0;
		## Unlike any other start of a detector.
		instance: string &default="";
		## Grows with each message of this start.
		n: count &default=0;
		## Version of the Python package.
		cmdana: string &default="";
		## Name and version of the model.
		model: string &default="";
		## Digest of the feature schema that the model was made with.
		schema: string &default="";
		## Final connections judged so far.
		judged: count &default=0;
		## Final connections that Zeek published and the detector never saw.
		lost: count &default=0;
		## The run whose last batch has been judged; see ``cmdana/replay``.
		finished: string &default="";
		## Paths of the logs that the model looks at; empty: all.
		streams: vector of string &default=vector();
		## Those of them of which the fields in CMDANA::compact_renderers are enough.
		brief: vector of string &default=vector();
		## The detector stops now, of its own will.
		leaving: bool &default=F;
		## The starts of Zeek nodes that have answered it: what was said to another start is not said to this one.
		runs: vector of string &default=vector();
		## What Zeek calls its connection.
		endpoint: string &default="";
		## Which of how many shards it judges.
		shard: count &default=1;
		shards: count &default=1;
		## The shard whose detector has begun it to stand in; 0 where this is its own.
		stands_in: count &default=0;
		## What it goes on from, in words.
		known: string &default="";
	};

	## What a Zeek node answers.
	type Welcome: record {
		v: count;
		node: string;
		run: string;
		zeek: string;
		## Neither accepted nor told why, the detector is to name this run in its next word.
		accepted: bool;
		why: string;
		## The start of the detector that it is meant for.
		to: string;
		## Grows with each welcome of this run.
		n: count;
		## The answer to a detector that leaves: nothing more comes.
		parted: bool;
		## Whether benign verdicts are written down; unset where none are. Those that are not are not told either.
		benign: bool &optional;
		## The detectors that are accepted, by shard, "" for none; unset where no verdicts are written, or no shards are.
		detectors: vector of string &optional;
	};

	## One judged connection: a row of cmdana.log.
	type Info: record {
		## When the connection began.
		ts: time &log;
		uid: string &log;
		id: conn_id &log;
		proto: transport_proto &log;
		service: string &log &optional;
		community_id: string &log;
		## "early" while the connection lives, "final" at its end, "revised" where it turned out later that it belongs
		## to an incident.
		stage: string &log;
		## 0 to 1, higher is odder.
		score: double &log;
		## Calibrated tail probability, 0 to 1, lower is odder.
		p_value: double &log;
		## On the score: at or above it the verdict is not benign.
		threshold: double &log;
		## "benign", "anomalous", or the name of a known attack.
		verdict: string &log;
		## On what the score rests; the four add up to 1.
		packet_reliance: double &log;
		connection_reliance: double &log;
		log_reliance: double &log;
		state_reliance: double &log;
		## Which of packet, connection and log the detector had.
		modalities: set[string] &log;
		## In words, most telling first.
		reasons: vector of string &log;
		## Name and version of the model.
		model: string &log;
		## The incident that it belongs to, as in notice.log.
		incident: string &log &optional;
	};

	## What a verdict other than a plain benign one says besides.
	type NonBenign: record {
		## Which verdict of the answer, from 0 on.
		i: count;
		verdict: string;
		reasons: vector of string;
	};

	## What a notice rests on, as data: columns of notice.log, ``cmdana.`` before each name. Which there are depends on
	## the notice.
	type NoticeFields: record {
		## On the connection that it was raised by: "anomalous", or the name of a known attack.
		verdict: string &log &optional;
		score: double &log &optional;
		p_value: double &log &optional;
		threshold: double &log &optional;
		## Of the host that an incident is about, in all its connections: "originator" or "responder".
		role: string &log &optional;
		host: addr &log &optional;
		## Hosts at the other end; 4096 are 4096 or more.
		peers: count &log &optional;
		## Services, or ports such as 22/tcp, the most frequent first, at most three.
		services: vector of string &log &optional;
		## How many there are; 4096 are 4096 or more.
		service_count: count &log &optional;
		## Against the host: one in ten to the power of this of normal hosts' hours holds as much.
		evidence: double &log &optional;
		## In words, most telling first; of an incident, the strongest pieces of evidence.
		reasons: vector of string &log &optional;
		## Of the connection that an incident was noticed by.
		latest_reasons: vector of string &log &optional;
		## The kind of traffic that has drifted: a service or a port.
		traffic: string &log &optional;
		## The p-value at or below which too many of its connections are.
		tail: double &log &optional;
		## Their share; ``tail`` was promised.
		share: double &log &optional;
		## That opened them.
		hosts: count &log &optional;
		## In how long a time each.
		window: interval &log &optional;
		## For how many of these times in a row.
		windows: count &log &optional;
		## Of an incident, the same in each of its notices and in the rows of its connections in cmdana.log.
		incident: string &log &optional;
		## What kind of incident it is: "scan", "password guessing" and others; "unusual" where it is none of them.
		kind: string &log &optional;
		## The technique of MITRE ATT&CK, such as T1110, where one fits.
		technique: string &log &optional;
		## When the first of its connections began.
		first_seen: time &log &optional;
		## When the last one so far ended.
		last_seen: time &log &optional;
		## How many there are so far.
		connections: count &log &optional;
		## How many of them are less usual than one in ten by themselves.
		odd: count &log &optional;
		## Hosts that do the same, at most eight, the first of them first.
		actors: vector of string &log &optional;
		## How many there are; 256 are 256 or more.
		actor_count: count &log &optional;
		## Hosts at the other end, at most eight, those of most connections first.
		targets: vector of string &log &optional;
		## How often what was asked for was refused.
		refused: count &log &optional;
		## Bytes of the originators.
		sent: count &log &optional;
		## On the evidence: an incident begins there.
		limit: double &log &optional;
	};

	## One notice, worded by the detector, raised by Zeek.
	type RaisedNotice: record {
		ts: time;
		note: string;
		msg: string;
		sub: string;
		identifier: string;
		fields: NoticeFields;
		uid: string &optional;
		orig_h: addr &optional;
		orig_p: port &optional;
		resp_h: addr &optional;
		resp_p: port &optional;
		src: addr &optional;
		dst: addr &optional;
		p: port &optional;
		n: count &optional;
		community_id: string &optional;
	};

	## Verdicts, each a place in all of the vectors, and notices, in the order in which they were reached. What all
	## share is said once, and columns spare Zeek the parsing of names: this is a quarter of the bytes and of the work
	## that a vector of :zeek:type:`CMDANA::Info` takes.
	type Answer: record {
		v: count;
		instance: string;
		n: count;
		## Connections judged at their end, and before it; more than are told where benign ones are not written down.
		finals: count;
		earlies: count;
		model: string;
		threshold: double;
		uid: vector of string;
		ts: vector of time;
		orig_h: vector of addr;
		orig_p: vector of count;
		resp_h: vector of addr;
		resp_p: vector of count;
		## The transport_proto: 0 unknown, 1 tcp, 2 udp, 3 icmp.
		proto: vector of count;
		## "" is unset.
		service: vector of string;
		community_id: vector of string;
		## 0 early, 1 final, 2 revised.
		stage: vector of count;
		score: vector of double;
		p_value: vector of double;
		packet_reliance: vector of double;
		connection_reliance: vector of double;
		log_reliance: vector of double;
		state_reliance: vector of double;
		## Sum of 1 packet, 2 connection, 4 log.
		modalities: vector of count;
		## "" is none.
		incident: vector of string;
		## The verdicts that are not benign.
		odd: vector of NonBenign;
		notices: vector of RaisedNotice;
	};
}
