/* From a frame to what handles it. */
#pragma once

#include "daemon/peer.h"

/* One whole frame of the peer. */
void dispatch_frame(struct peer *p, const char *data, size_t len);

/* The methods that answer at once; each packs one response. */
void method_hello(struct peer *p, const struct call *c);
void method_status(struct peer *p, const struct call *c);
void method_metrics(struct peer *p, const struct call *c);
/* Also for the notification, which has no answer. */
void method_cancel(struct peer *p, const struct call *c);

/* Text from a model file: repaired to UTF-8, nil where it is empty. */
void status_pack_text(msgpack_packer *pk, const char *text);
