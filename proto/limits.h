/* Everything that a peer of the socket can drive, and how far. Those marked (config) are defaults
 * that the configuration's group `limits` changes; `hello` reports the ones in force. */
#pragma once

#define FRAME_BYTES_MAX         (2u << 20) /* bytes of one request (config: limits.frame_bytes) */
#define FRAME_ITEMS_MAX         65536      /* MessagePack objects in one frame */
#define FRAME_DEPTH_MAX         32         /* nesting of arrays and maps */
#define FRAME_USEC_MAX          (10 * 1000000ull) /* from a frame's first byte to its last */
#define REPLY_BYTES_MAX         (16u << 20) /* bytes of one reply (config: limits.reply_bytes) */
#define IN_FLIGHT_MAX           64          /* unanswered requests of one connection */
#define CONNECTIONS_MAX         1024        /* of the daemon (config: limits.connections) */
#define CONNECTIONS_PER_UID_MAX 256         /* (config: limits.connections_per_uid) */
#define QUEUE_PER_UID_MAX                                                                          \
	256 /* requests of one uid not yet done (config: limits.queue_per_uid)                     \
	     */
#define PROMPT_TOKENS_PER_UID_MAX                                                                  \
	(1 << 20) /* of requests that wait or run (config: limits.prompt_tokens_per_uid)           \
		   */
#define SESSION_NAME_BYTES_MAX 64
#define SESSION_BYTES_MAX      (4u << 20) /* of one session (config: limits.session_bytes) */
#define SESSIONS_PER_UID_MAX   1024       /* (config: limits.sessions_per_uid) */
#define SESSIONS_UID_BYTES_MAX                                                                     \
	(64u << 20) /* of all sessions of one uid (config: limits.session_bytes_per_uid) */
#define SESSION_DAYS               30 /* unused, then a session is removed (config: limits.session_days) */
#define REPLY_MEMORY_BYTES_MAX     (64u << 20) /* ids of replies outside sessions, of everybody */
#define REPLY_MEMORY_UID_BYTES_MAX (8u << 20)  /* … of one uid */
#define TAG_BYTES_MAX              64          /* a text tag */
#define CLIENT_BYTES_MAX           256         /* hello's client text */
#define STREAM_HIGH_BYTES          (64u << 10) /* unsent stream that pauses a sequence */
#define STREAM_LOW_BYTES           (32u << 10) /* … and lets it return */
#define STALL_SECONDS              600         /* no byte taken (config: limits.stall_seconds) */
#define MESSAGES_MAX               4096        /* of one chat */
#define STOPS_MAX                  16          /* stop texts of one request */
#define STOP_TEXT_BYTES_MAX        256         /* one stop text */
#define CHOICES_MAX                1024        /* continuations that one score weighs */
#define CHOICE_BYTES_MAX           65536       /* one of them */
#define BIASES_MAX                 4096        /* logit_bias entries */
#define LOGPROBS_MAX               100         /* top tokens with each logprob */
#define SAFE_INTEGER_MAX                                                                           \
	9007199254740991LL /* 2^53 - 1: what every client language holds exactly                   \
			    */
