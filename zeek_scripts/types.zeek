##! The wire between Zeek and the detector. Every message is one event with one JSON string that states
##! ``wire_version``; the other half of this contract is ``cmdana_plugin/endpoint/wire.py``.

module CMDANA;

export {
	## Version of the wire. A detector that states another one is refused, in words, on both sides.
	const wire_version = 1;

	## Topic on which Zeek publishes. Must match ``[endpoint] topic_events`` in plugin.toml.
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

	## What the detector says of itself. All but the version may be missing in another version of the wire.
	type Alive: record {
		v: count &default=0;
		## Unlike any other start of a detector.
		instance: string &default="";
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
		## The detector stops now, of its own will.
		leaving: bool &default=F;
	};

	## What a Zeek node answers.
	type Welcome: record {
		v: count;
		node: string;
		run: string;
		zeek: string;
		accepted: bool;
		why: string;
	};

	## One judged connection as it crosses the wire.
	type Verdict: record {
		ts: time;
		uid: string;
		orig_h: addr;
		orig_p: port;
		resp_h: addr;
		resp_p: port;
		proto: transport_proto;
		service: string &optional;
		community_id: string;
		stage: string;
		score: double;
		p_value: double;
		threshold: double;
		verdict: string;
		packet_reliance: double;
		connection_reliance: double;
		log_reliance: double;
		state_reliance: double;
		modalities: set[string];
		reasons: vector of string;
		model: string;
	};

	## One notice, worded by the detector, raised by Zeek.
	type NoticeWords: record {
		ts: time;
		note: string;
		msg: string;
		sub: string;
		identifier: string;
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

	## Verdicts and notices, in the order in which they were reached.
	type Answer: record {
		v: count;
		verdicts: vector of Verdict;
		notices: vector of NoticeWords;
	};
}
