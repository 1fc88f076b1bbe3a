/* tokenizer.model, SentencePiece's file: a protobuf message of pieces and two of settings.
 *
 * Source: sentencepiece_model.proto and the protobuf encoding (protobuf.dev). The reader knows the
 * three wire types that such a file has and takes nothing on trust: each length is compared with
 * the bytes that remain. Texts point into the file, which the result owns. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/limits.h"
#include "engine/source_hf.h"

#define FILE_NAME "tokenizer.model"

/* Fields of ModelProto, SentencePiece, TrainerSpec and NormalizerSpec. */
enum {
	MODEL_PIECE = 1,
	MODEL_TRAINER = 2,
	MODEL_NORMALIZER = 3,
	PIECE_TEXT = 1,
	PIECE_SCORE = 2,
	PIECE_TYPE = 3,
	TRAINER_TYPE = 3,
	TRAINER_SUFFIX = 24, /* treat_whitespace_as_suffix */
	TRAINER_UNKNOWN = 40,
	TRAINER_BOS = 41,
	TRAINER_EOS = 42,
	NORMALIZER_CHARSMAP = 2,
	NORMALIZER_PREFIX = 3,        /* add_dummy_prefix */
	NORMALIZER_REMOVE_SPACES = 4, /* remove_extra_whitespaces */
	NORMALIZER_ESCAPE = 5,        /* escape_whitespaces */
};
#define TRAINER_TYPE_BPE 2

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct message {
	const uint8_t *at, *end;
};

struct field {
	uint32_t number;
	enum wire wire;
	uint64_t value;       /* WIRE_VARINT, WIRE_32, WIRE_64 */
	struct message bytes; /* WIRE_BYTES */
};

static bool take_varint(struct message *m, uint64_t *ret)
{
	uint64_t v = 0;
	unsigned shift;

	for (shift = 0; shift < 70; shift += 7) {
		if (m->at == m->end)
			return false;
		if (shift == 63 && *m->at > 1)
			return false;
		v |= (uint64_t)(*m->at & 0x7f) << shift;
		if (!(*m->at++ & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

static bool take_fixed(struct message *m, unsigned bytes, uint64_t *ret)
{
	unsigned i;

	if ((size_t)(m->end - m->at) < bytes)
		return false;
	*ret = 0;
	for (i = 0; i < bytes; i++)
		*ret |= (uint64_t)m->at[i] << 8 * i;
	m->at += bytes;
	return true;
}

/* 1: a field; 0: the message's end; -1: no protobuf. */
static int take_field(struct message *m, struct field *f)
{
	uint64_t tag, len;

	if (m->at == m->end)
		return 0;
	if (!take_varint(m, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
		return -1;
	f->number = (uint32_t)(tag >> 3);
	f->wire = (enum wire)(tag & 7);
	switch (f->wire) {
	case WIRE_VARINT: return take_varint(m, &f->value) ? 1 : -1;
	case WIRE_64: return take_fixed(m, 8, &f->value) ? 1 : -1;
	case WIRE_32: return take_fixed(m, 4, &f->value) ? 1 : -1;
	case WIRE_BYTES:
		if (!take_varint(m, &len) || len > (size_t)(m->end - m->at))
			return -1;
		f->bytes = (struct message){m->at, m->at + len};
		m->at += len;
		return 1;
	}
	return -1;
}

static int refuse_bytes(const char *part, const struct model_refusal *why)
{
	return model_refuse(why, -EINVAL,
		FILE_NAME ": no SentencePiece model: %s is cut short or no protobuf", part);
}

/* A field of another wire type than its number says is a broken file. */
static bool is_wrong(const struct field *f, uint32_t number, enum wire wire)
{
	return f->number == number && f->wire != wire;
}

static int read_piece(struct message m, struct token_source *t, const struct model_refusal *why)
{
	struct field f;
	float score;
	uint32_t bits;
	int r;

	*t = (struct token_source){{"", 0}, 0, TOKEN_NORMAL};
	while ((r = take_field(&m, &f)) > 0) {
		if (is_wrong(&f, PIECE_TEXT, WIRE_BYTES) || is_wrong(&f, PIECE_SCORE, WIRE_32) ||
			is_wrong(&f, PIECE_TYPE, WIRE_VARINT))
			return refuse_bytes("a piece", why);
		if (f.number == PIECE_TEXT) {
			t->text.text = (const char *)f.bytes.at;
			t->text.len = (size_t)(f.bytes.end - f.bytes.at);
		} else if (f.number == PIECE_SCORE) {
			bits = (uint32_t)f.value;
			memcpy(&score, &bits, sizeof(score));
			if (isnan(score))
				return model_refuse(
					why, -EINVAL, FILE_NAME ": a piece's score is no number");
			t->score = score;
		} else if (f.number == PIECE_TYPE) {
			if (f.value < TOKEN_NORMAL || f.value > TOKEN_BYTE)
				return model_refuse(why, -EINVAL,
					FILE_NAME ": a piece of type %llu, expected 1 to 6",
					(unsigned long long)f.value);
			t->kind = (enum token_kind)f.value;
		}
	}
	if (r < 0)
		return refuse_bytes("a piece", why);
	if (t->text.len == 0)
		return model_refuse(why, -EINVAL, FILE_NAME ": a piece without text");
	return 0;
}

struct settings {
	uint64_t type;
	int32_t unknown, bos, eos;
	bool suffix, charsmap, prefix, remove_spaces, escape;
};

static int read_settings(
	struct message m, uint32_t which, struct settings *s, const struct model_refusal *why)
{
	struct field f;
	int r;

	while ((r = take_field(&m, &f)) > 0) {
		const bool trainer = which == MODEL_TRAINER;
		const bool number = f.wire == WIRE_VARINT;

		if (trainer && number && f.number == TRAINER_TYPE)
			s->type = f.value;
		else if (trainer && number && f.number == TRAINER_SUFFIX)
			s->suffix = f.value != 0;
		else if (trainer && number && f.number == TRAINER_UNKNOWN)
			s->unknown = (int32_t)f.value;
		else if (trainer && number && f.number == TRAINER_BOS)
			s->bos = (int32_t)f.value;
		else if (trainer && number && f.number == TRAINER_EOS)
			s->eos = (int32_t)f.value;
		else if (!trainer && f.wire == WIRE_BYTES && f.number == NORMALIZER_CHARSMAP)
			s->charsmap = f.bytes.at != f.bytes.end;
		else if (!trainer && number && f.number == NORMALIZER_PREFIX)
			s->prefix = f.value != 0;
		else if (!trainer && number && f.number == NORMALIZER_REMOVE_SPACES)
			s->remove_spaces = f.value != 0;
		else if (!trainer && number && f.number == NORMALIZER_ESCAPE)
			s->escape = f.value != 0;
	}
	return r < 0 ? refuse_bytes("its settings", why) : 0;
}

static int check_settings(const struct settings *s, const struct model_refusal *why)
{
	if (s->type != TRAINER_TYPE_BPE)
		return model_refuse(why, -ENOTSUP,
			FILE_NAME ": model_type: BPE (2) expected, found %llu, which is not "
				  "implemented",
			(unsigned long long)s->type);
	if (s->suffix || s->charsmap || s->remove_spaces || !s->escape)
		return model_refuse(why, -ENOTSUP, FILE_NAME ": %s is not implemented",
			s->suffix          ? "treat_whitespace_as_suffix"
			: s->charsmap      ? "precompiled_charsmap (text normalisation)"
			: s->remove_spaces ? "remove_extra_whitespaces"
					   : "escape_whitespaces = false");
	return 0;
}

/* The id of a setting where the piece is of that kind, -1 otherwise. */
static int32_t take_id(const struct tokenizer_source *s, int32_t id, enum token_kind kind)
{
	return id >= 0 && (uint32_t)id < s->n && s->tokens[id].kind == kind ? id : -1;
}

int tokenizer_model_read(
	char *text, size_t len, struct tokenizer_source *ret, const struct model_refusal *why)
{
	const struct message all = {(const uint8_t *)text, (const uint8_t *)text + len};
	/* the defaults of sentencepiece_model.proto */
	struct settings settings = {.type = 1,
		.unknown = 0,
		.bos = 1,
		.eos = 2,
		.prefix = true,
		.remove_spaces = true,
		.escape = true};
	struct message m = all;
	struct field f;
	size_t n = 0;
	int r;

	*ret = (struct tokenizer_source){
		.owner = text,
		.release = free,
		.cuts_defined = true,
		.bos = -1,
		.eos = -1,
		.unknown = -1,
		.tokens_name = FILE_NAME ": pieces",
		.merges_name = FILE_NAME,
	};
	while ((r = take_field(&m, &f)) > 0) {
		if (f.number <= MODEL_NORMALIZER && f.wire != WIRE_BYTES)
			return refuse_bytes("it", why);
		n += f.number == MODEL_PIECE;
	}
	if (r < 0)
		return refuse_bytes("it", why);
	if (n == 0 || n > MODEL_VOCAB_MAX)
		return model_refuse(why, -EINVAL, FILE_NAME ": 1 to %d pieces expected, found %zu",
			MODEL_VOCAB_MAX, n);
	ret->tokens = calloc(n, sizeof(*ret->tokens));
	if (!ret->tokens)
		return model_refuse(why, -ENOMEM, FILE_NAME ": no memory");
	for (m = all; take_field(&m, &f) > 0;) {
		if (f.number == MODEL_PIECE)
			r = read_piece(f.bytes, &ret->tokens[ret->n++], why);
		else if (f.number <= MODEL_NORMALIZER)
			r = read_settings(f.bytes, f.number, &settings, why);
		if (r < 0)
			return r;
	}
	ret->space_prefix = settings.prefix ? SPACE_ALWAYS : SPACE_NEVER;
	ret->unknown = take_id(ret, settings.unknown, TOKEN_UNKNOWN);
	ret->bos = take_id(ret, settings.bos, TOKEN_CONTROL);
	ret->eos = take_id(ret, settings.eos, TOKEN_CONTROL);
	return check_settings(&settings, why);
}
