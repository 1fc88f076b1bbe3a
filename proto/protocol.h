/* The protocol's vocabulary: version, methods, errors, features. Frames are in frame.h, parameters
 * in params.h, limits in limits.h. */
#pragma once

#include <stddef.h>

#define PROTOCOL_VERSION 1

enum message_type { MESSAGE_REQUEST = 0, MESSAGE_RESPONSE = 1, MESSAGE_NOTIFICATION = 2 };

enum method {
	METHOD_HELLO,
	METHOD_CHAT,
	METHOD_COMPLETE,
	METHOD_SCORE,
	METHOD_TOKENIZE,
	METHOD_DETOKENIZE,
	METHOD_TEMPLATE,
	METHOD_CANCEL,
	METHOD_STATUS,
	METHOD_METRICS,
	METHOD_MODEL_LOAD,
	METHOD_MODEL_UNLOAD,
	METHOD_CACHE_DROP,
	METHOD_SESSION_LIST,
	METHOD_SESSION_GET,
	METHOD_SESSION_FORK,
	METHOD_SESSION_REWIND,
	METHOD_SESSION_DROP,
	METHOD_COUNT,
};

/* "chat"; method_find() returns -1 for a name that this version does not have. */
const char *method_name(enum method m);
int method_find(const char *name, size_t len);

/* An error is one string: its symbolic name, a colon, a sentence. */
enum rpc_error {
	RPC_OK,
	E_PROTOCOL,   /* bad frame */
	E_METHOD,     /* no such method */
	E_PARAMS,     /* unknown parameter, wrong type, out of range */
	E_TOO_LARGE,  /* prompt over the context, reply over its limit */
	E_BUSY,       /* a queue or quota is full: try again */
	E_PERMISSION, /* not this uid */
	E_CANCELLED,  /* by the daemon, with the reason */
	E_MODEL,      /* the model cannot do that, or did not load */
	E_ENGINE,     /* the device failed */
	E_TIMEOUT,    /* deadline_ms passed, or the reader stalled */
	E_NOT_FOUND,
	RPC_ERROR_COUNT,
};

/* "E_BUSY". */
const char *rpc_error_name(enum rpc_error e);
/* The error whose name starts the text, up to the colon; RPC_OK where there is none. */
enum rpc_error rpc_error_parse(const char *text, size_t len);
