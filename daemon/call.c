/* Frames outlive the connection's buffer here: the text worker reads a request's text long after
 * the next bytes came. */
#include "daemon/call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int call_new(const char *data, size_t len, struct call **ret, char *error, size_t error_size)
{
	struct call *c = calloc(1, sizeof(*c));
	int r;

	*ret = NULL;
	if (!c)
		return -ENOMEM;
	c->frame = malloc(len);
	if (!c->frame) {
		free(c);
		return -ENOMEM;
	}
	memcpy(c->frame, data, len);
	c->frame_len = len;
	r = message_decode(c->frame, len, &c->message, error, error_size);
	if (r == -ENOMEM) {
		call_free(c);
		return r;
	}
	*ret = c;
	return r;
}

struct call *call_free(struct call *c)
{
	if (!c)
		return NULL;
	message_done(&c->message);
	free(c->frame);
	free(c);
	return NULL;
}
