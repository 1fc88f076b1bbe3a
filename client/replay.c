/* Why: a reply depends on model, prompt, seed and options alone, so anybody can check one. What the
 * receipt names is compared first: a reply of another model is not wrong, it is another's. Owns
 * what it reads for the time of the call. */
#include "client/replay.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/json.h"
#include "client/json_read.h"
#include "client/say.h"

#define HASH_WAIT_USEC (300 * UINT64_C(1000000)) /* until the daemon knows its model's hash */

/* What the reply is of: where these differ, it is another one, whatever its bytes. */
static const char *const whose[] = {"model", "template", "prompt"};
/* How it was made: named beside bytes that differ. */
static const char *const how[] = {"build", "backend", "isa", "kv_type", "activations", "exact"};
static const char *const bytes[] = {
	"tokens", "text", "finish", "stop", "logprobs", "choices", "best", "end"};
#define N(array) (sizeof(array) / sizeof(*(array)))

static bool is_nil(const msgpack_object *o)
{
	return !o || o->type == MSGPACK_OBJECT_NIL;
}

/* As JSON has it: 1 and 1.0 are the same number. */
static bool equal(const msgpack_object *a, const msgpack_object *b)
{
	struct rpc_text s, t;
	double x, y;

	if (is_nil(a) || is_nil(b))
		return is_nil(a) && is_nil(b);
	if (object_text(a, &s) && object_text(b, &t))
		return s.len == t.len && memcmp(s.text, t.text, s.len) == 0;
	if (object_float(a, &x) && object_float(b, &y))
		return x == y;
	if (a->type != b->type)
		return false;
	if (a->type == MSGPACK_OBJECT_BOOLEAN)
		return a->via.boolean == b->via.boolean;
	if (a->type == MSGPACK_OBJECT_ARRAY) {
		for (uint32_t i = 0; i < a->via.array.size && i < b->via.array.size; i++)
			if (!equal(&a->via.array.ptr[i], &b->via.array.ptr[i]))
				return false;
		return a->via.array.size == b->via.array.size;
	}
	if (a->type != MSGPACK_OBJECT_MAP || a->via.map.size != b->via.map.size)
		return false;
	for (uint32_t i = 0; i < a->via.map.size; i++) {
		char key[64];

		if (!object_text(&a->via.map.ptr[i].key, &s) || s.len >= sizeof(key))
			return false;
		memcpy(key, s.text, s.len);
		key[s.len] = 0;
		if (!map_get(b, key) || !equal(&a->via.map.ptr[i].val, map_get(b, key)))
			return false;
	}
	return true;
}

/* One object of the file, and its request made again. */
struct replay {
	struct control *control;
	msgpack_zone *zone;
	const msgpack_object *printed;
	enum method method;
	struct params params;
	char error[512];
};

static int refuse(struct replay *r, const char *sentence)
{
	snprintf(r->error, sizeof(r->error), "%s", sentence);
	return -EINVAL;
}

static bool key_is(const msgpack_object_kv *kv, const char *name)
{
	struct rpc_text key;

	return object_text(&kv->key, &key) && key.len == strlen(name) &&
	       memcmp(key.text, name, key.len) == 0;
}

/* Sets a key of the map, which has room. */
static void put(msgpack_object_map *map, const msgpack_object_kv *kv)
{
	struct rpc_text key, other;

	if (!object_text(&kv->key, &key))
		return;
	for (uint32_t i = 0; i < map->size; i++)
		if (object_text(&map->ptr[i].key, &other) && other.len == key.len &&
			memcmp(other.text, key.text, key.len) == 0) {
			map->ptr[i].val = kv->val;
			return;
		}
	map->ptr[map->size++] = *kv;
}

/* The request's parameters with the receipt's seed and options in place of what they left to the
 * daemon, and without what only the first asking needed. */
static int make_params(struct replay *r, const msgpack_object *asked, const msgpack_object *receipt)
{
	const msgpack_object *sampling = map_get(receipt, "sampling");
	const msgpack_object *seed = map_get(receipt, "seed");
	msgpack_object map = {.type = MSGPACK_OBJECT_MAP}, array = {.type = MSGPACK_OBJECT_ARRAY};
	size_t n = asked->via.map.size + 1;

	if (sampling && sampling->type == MSGPACK_OBJECT_MAP)
		n += sampling->via.map.size;
	map.via.map.ptr = msgpack_zone_malloc(r->zone, n * sizeof(*map.via.map.ptr));
	if (!map.via.map.ptr)
		return -ENOMEM;
	for (uint32_t i = 0; i < asked->via.map.size; i++) {
		const msgpack_object_kv *kv = &asked->via.map.ptr[i];

		if (key_is(kv, "session") && !is_nil(&kv->val))
			return refuse(r, "its request goes on with a session, whose history is "
					 "not in the file");
		if (!key_is(kv, "tag") && !key_is(kv, "stream") && !key_is(kv, "deadline_ms") &&
			!key_is(kv, "session"))
			put(&map.via.map, kv);
	}
	if (r->method != METHOD_SCORE) {
		if (is_nil(seed) || is_nil(sampling) || sampling->type != MSGPACK_OBJECT_MAP)
			return refuse(r, "its receipt has no seed and sampling");
		for (uint32_t i = 0; i < sampling->via.map.size; i++)
			put(&map.via.map, &sampling->via.map.ptr[i]);
		put(&map.via.map,
			&(msgpack_object_kv){.key = {.type = MSGPACK_OBJECT_STR,
						     .via.str = {.size = 4, .ptr = "seed"}},
				.val = *seed});
	}
	array.via.array.size = 1;
	array.via.array.ptr = &map;
	return params_decode(r->method, &array, r->zone, &r->params, r->error, sizeof(r->error));
}

/* Takes the printed object apart. */
static int read_printed(struct replay *r)
{
	const msgpack_object *request = map_get(r->printed, "request");
	const msgpack_object *params = map_get(request, "params");
	const msgpack_object *receipt = map_get(r->printed, "receipt");
	struct rpc_text method, finish = {"", 0};
	int which = -1;

	if (object_text(map_get(request, "method"), &method))
		which = method_find(method.text, method.len);
	if ((which != METHOD_CHAT && which != METHOD_COMPLETE && which != METHOD_SCORE) ||
		!params || params->type != MSGPACK_OBJECT_MAP || !receipt ||
		receipt->type != MSGPACK_OBJECT_MAP)
		return refuse(r, "wanted what zeph --json prints, with request and receipt");
	object_text(map_get(r->printed, "finish"), &finish);
	if (finish.len == 9 && memcmp(finish.text, "cancelled", 9) == 0)
		return refuse(r, "its reply was cancelled: there is no whole one to compare");
	r->method = (enum method)which;
	return make_params(r, params, receipt);
}

/* Waits until the daemon has computed its model's hash: only then do receipts name it. */
static void await_hash(struct control *c)
{
	const struct timespec moment = {.tv_nsec = 100000000};
	const uint64_t end = now_usec() + HASH_WAIT_USEC;
	bool known = false;

	while (!known && now_usec() < end && c->session.watch.signal == 0) {
		enum exit_code code;
		struct message m;

		if (!control_call(c, METHOD_STATUS, NULL, &m, &code))
			return;
		known = !is_nil(map_get(map_get(&m.result, "model"), "hash"));
		message_done(&m);
		if (!known)
			nanosleep(&moment, NULL);
	}
}

/* "build: "a" in the file, "b" here". 0 or -ENOMEM. */
static int name_difference(msgpack_sbuffer *out, const char *key, const msgpack_object *printed,
	const msgpack_object *found)
{
	int r = say(out, "%s: ", key);

	if (r == 0)
		r = printed ? json_write(out, printed) : say(out, "none");
	if (r == 0)
		r = say(out, " in the file, ");
	if (r == 0)
		r = found ? json_write(out, found) : say(out, "none");
	return r == 0 ? say(out, " here\n") : r;
}

/* Where two lists part, in words. */
static int name_place(
	msgpack_sbuffer *out, const char *key, const msgpack_object *a, const msgpack_object *b)
{
	uint32_t n = 0;

	if (is_nil(a) || is_nil(b) || a->type != MSGPACK_OBJECT_ARRAY ||
		b->type != MSGPACK_OBJECT_ARRAY)
		return say(out, "%s: another one\n", key);
	while (n < a->via.array.size && n < b->via.array.size &&
		equal(&a->via.array.ptr[n], &b->via.array.ptr[n]))
		n++;
	return say(out, "%s: %u in the file, %u here, the first %u the same\n", key,
		a->via.array.size, b->via.array.size, n);
}

struct verdict {
	msgpack_sbuffer lines, names; /* what differs: for people; JSON texts with commas */
	bool same;
};

static int differs(struct verdict *v, const char *key)
{
	int r = v->names.size > 0 ? say(&v->names, ",") : 0;

	return r == 0 ? json_write_text(&v->names, key, strlen(key)) : r;
}

static int compare(struct replay *r, const msgpack_object *result, struct verdict *v)
{
	const msgpack_object *then = map_get(r->printed, "receipt");
	const msgpack_object *now = map_get(result, "receipt");
	int e = 0;

	v->same = true;
	for (size_t i = 0; e == 0 && i < N(whose) + N(how); i++) {
		const char *key = i < N(whose) ? whose[i] : how[i - N(whose)];
		const msgpack_object *a = map_get(then, key), *b = map_get(now, key);

		if (equal(a, b) || (i == 0 && is_nil(a))) /* it was not known yet */
			continue;
		v->same = v->same && i >= N(whose);
		e = name_difference(&v->lines, key, a, b);
		if (e == 0)
			e = differs(v, key);
	}
	for (size_t i = 0; e == 0 && i < N(bytes); i++) {
		const msgpack_object *a = map_get(r->printed, bytes[i]);
		const msgpack_object *b = map_get(result, bytes[i]);

		if (equal(a, b))
			continue;
		v->same = false;
		e = name_place(&v->lines, bytes[i], a, b);
		if (e == 0)
			e = differs(v, bytes[i]);
	}
	return e;
}

/* Prints {"same":…,"differs":[…]} or the word and the lines. */
static enum exit_code print_verdict(struct control *c, const struct verdict *v, int r)
{
	enum exit_code code;
	msgpack_sbuffer out;

	msgpack_sbuffer_init(&out);
	if (r == 0 && c->json)
		r = say(&out, "{\"same\":%s,\"differs\":[", v->same ? "true" : "false");
	else if (r == 0)
		r = say(&out, "%s\n", v->same ? "same" : "different");
	if (r == 0 && c->json && v->names.size > 0)
		r = msgpack_sbuffer_write(&out, v->names.data, v->names.size);
	else if (r == 0 && !c->json && v->lines.size > 0)
		r = msgpack_sbuffer_write(&out, v->lines.data, v->lines.size);
	if (r == 0 && c->json)
		r = say(&out, "]}\n");
	code = control_print(c, &out, r);
	msgpack_sbuffer_destroy(&out);
	return code != EXIT_DONE ? code : v->same ? EXIT_DONE : EXIT_NO;
}

static enum exit_code replay_one(struct replay *r)
{
	struct control *c = r->control;
	struct verdict v = {.same = false};
	enum exit_code code;
	struct message m;
	int e = read_printed(r);

	if (e < 0) {
		session_complain(&c->session, "%s: %s", c->words.words[0].text,
			e == -ENOMEM ? "out of memory" : r->error);
		return EXIT_USAGE;
	}
	r->params.tag = c->session.tag; /* for a cancel by Ctrl-C */
	r->params.set |= UINT64_C(1) << PARAM_TAG;
	if (!is_nil(map_get(map_get(r->printed, "receipt"), "model")))
		await_hash(c);
	if (!control_call(c, r->method, &r->params, &m, &code))
		return code;
	msgpack_sbuffer_init(&v.lines);
	msgpack_sbuffer_init(&v.names);
	e = compare(r, &m.result, &v);
	message_done(&m);
	code = print_verdict(c, &v, e);
	msgpack_sbuffer_destroy(&v.lines);
	msgpack_sbuffer_destroy(&v.names);
	return code;
}

/* All objects of the text: the worst that they came to. */
static enum exit_code replay_all(struct control *c, const char *at, const char *end)
{
	enum exit_code all = EXIT_DONE, code = EXIT_DONE;

	for (uint32_t n = 0;; n++) {
		struct replay r = {.control = c, .zone = msgpack_zone_new(8192)};
		msgpack_object printed;
		int e = r.zone ? json_read(&at, end, r.zone, &printed, r.error, sizeof(r.error))
			       : -ENOMEM;

		if (e == 0 && n == 0)
			e = refuse(&r, "wanted what zeph --json prints, found nothing");
		if (e < 0) {
			session_complain(&c->session, "%s: %s", c->words.words[0].text,
				e == -ENOMEM ? "out of memory" : r.error);
			code = EXIT_USAGE;
		} else if (e > 0) {
			r.printed = &printed;
			code = replay_one(&r);
		}
		if (r.zone)
			msgpack_zone_free(r.zone);
		if (code == EXIT_NO)
			all = EXIT_NO;
		if (e <= 0 || (code != EXIT_DONE && code != EXIT_NO))
			return e == 0 ? all : code;
	}
}

enum exit_code replay(struct control *c)
{
	struct word *word = &c->words.words[0];
	const char *path = word->text;
	struct options from = {.no_stdin = true, .files = &path, .n_files = 1};
	struct session *s = &c->session;
	enum exit_code code = EXIT_USAGE;
	struct prompt text;
	char error[512];
	int r;

	if (word->is_stdin)
		from = (struct options){.words = word, .n_words = 1};
	from.empty_allowed = true;
	r = prompt_read(&text, &from, s->watch.signal_fd, &s->watch.signal, error, sizeof(error));
	if (r == 0)
		code = replay_all(c, text.text, text.text + text.len);
	else if (r != -EINTR)
		session_complain(s, "%s", error);
	prompt_done(&text);
	return code;
}
