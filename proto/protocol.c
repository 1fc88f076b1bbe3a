/* Why: the names of methods and errors stand in one place for daemon and client. */
#include "proto/protocol.h"

#include <assert.h>
#include <string.h>

static const char *const method_names[METHOD_COUNT] = {
	[METHOD_HELLO] = "hello",
	[METHOD_CHAT] = "chat",
	[METHOD_COMPLETE] = "complete",
	[METHOD_SCORE] = "score",
	[METHOD_TOKENIZE] = "tokenize",
	[METHOD_DETOKENIZE] = "detokenize",
	[METHOD_TEMPLATE] = "template",
	[METHOD_CANCEL] = "cancel",
	[METHOD_STATUS] = "status",
	[METHOD_METRICS] = "metrics",
	[METHOD_MODEL_LOAD] = "model.load",
	[METHOD_MODEL_UNLOAD] = "model.unload",
	[METHOD_CACHE_DROP] = "cache.drop",
	[METHOD_SESSION_LIST] = "session.list",
	[METHOD_SESSION_GET] = "session.get",
	[METHOD_SESSION_FORK] = "session.fork",
	[METHOD_SESSION_REWIND] = "session.rewind",
	[METHOD_SESSION_DROP] = "session.drop",
};

static const char *const error_names[RPC_ERROR_COUNT] = {
	[RPC_OK] = "OK",
	[E_PROTOCOL] = "E_PROTOCOL",
	[E_METHOD] = "E_METHOD",
	[E_PARAMS] = "E_PARAMS",
	[E_TOO_LARGE] = "E_TOO_LARGE",
	[E_BUSY] = "E_BUSY",
	[E_PERMISSION] = "E_PERMISSION",
	[E_CANCELLED] = "E_CANCELLED",
	[E_MODEL] = "E_MODEL",
	[E_ENGINE] = "E_ENGINE",
	[E_TIMEOUT] = "E_TIMEOUT",
	[E_NOT_FOUND] = "E_NOT_FOUND",
};

const char *method_name(enum method m)
{
	assert((unsigned)m < METHOD_COUNT);
	return method_names[m];
}

int method_find(const char *name, size_t len)
{
	for (int m = 0; m < METHOD_COUNT; m++)
		if (strlen(method_names[m]) == len && memcmp(method_names[m], name, len) == 0)
			return m;
	return -1;
}

const char *rpc_error_name(enum rpc_error e)
{
	assert((unsigned)e < RPC_ERROR_COUNT);
	return error_names[e];
}

enum rpc_error rpc_error_parse(const char *text, size_t len)
{
	const char *colon = len > 0 ? memchr(text, ':', len) : NULL;
	const size_t n = colon ? (size_t)(colon - text) : len;

	for (int e = RPC_OK + 1; e < RPC_ERROR_COUNT; e++)
		if (strlen(error_names[e]) == n && memcmp(error_names[e], text, n) == 0)
			return e;
	return RPC_OK;
}
