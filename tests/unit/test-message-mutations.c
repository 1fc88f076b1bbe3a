/* Claims: 200,000 broken, cut and spliced messages neither crash proto nor make its parts disagree
 * (the claims stand in tests/fuzz/message.c). The inputs are the same in every run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/params_rule.h"
#include "tests/fuzz/message.c"

#define ROUNDS 200000

static uint64_t draw(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* A request that sets all parameters of its method. */
static size_t seed_message(enum method m, char *out, size_t size)
{
	struct rpc_message messages[] = {{{"system", 6}, {"be", 2}}, {{"user", 4}, {"hi", 2}}};
	struct rpc_text stop[] = {{"\n", 1}};
	struct rpc_bias bias[] = {{5, -1.5}};
	int64_t ids[] = {1, 2, 300, 70000};
	struct params p = {.tag = {.kind = TAG_TEXT, .len = 2, .text = "ab"},
		.messages = messages,
		.n_messages = 2,
		.prompt_ids = ids,
		.n_prompt_ids = 4,
		.max_new_tokens = 7,
		.temperature = 0.5,
		.top_p = 0.5,
		.typical_p = 0.5,
		.repetition_penalty = 1.1,
		.seed = -5,
		.stop = stop,
		.n_stop = 1,
		.choices = stop,
		.n_choices = 1,
		.logit_bias = bias,
		.n_logit_bias = 1,
		.deadline_ms = 1,
		.text = {"text", 4},
		.tokens = ids,
		.n_tokens = 4,
		.client = {"c", 1}};
	msgpack_sbuffer packed;
	msgpack_packer pk;
	size_t n;

	for (int i = 0; i < PARAM_COUNT; i++)
		if (param_rules[i].methods >> m & 1)
			p.set |= UINT64_C(1) << i;
	msgpack_sbuffer_init(&packed);
	msgpack_packer_init(&pk, &packed, msgpack_sbuffer_write);
	message_pack_request(&pk, 77, m, &p);
	n = packed.size;
	assert_true(n <= size);
	memcpy(out, packed.data, n);
	msgpack_sbuffer_destroy(&packed);
	return n;
}

static void mutated_messages_break_nothing(void **state)
{
	static const uint8_t telling[] = {0x00, 0x7f, 0x80, 0x90, 0x91, 0x9f, 0xa0, 0xbf, 0xc0,
		0xc1, 0xc4, 0xc7, 0xca, 0xcb, 0xcf, 0xd3, 0xd9, 0xdb, 0xdc, 0xdd, 0xdf, 0xff};
	char seeds[METHOD_COUNT][1024];
	size_t lens[METHOD_COUNT];
	uint64_t s = 88172645463325252u;

	for (int m = 0; m < METHOD_COUNT; m++) {
		lens[m] = seed_message(m, seeds[m], sizeof(seeds[m]));
		LLVMFuzzerTestOneInput((const uint8_t *)seeds[m], lens[m]);
	}
	for (int round = 0; round < ROUNDS; round++) {
		const size_t which = draw(&s) % METHOD_COUNT, other = draw(&s) % METHOD_COUNT;
		uint8_t input[2048];
		size_t n = lens[which];

		memcpy(input, seeds[which], n);
		for (uint64_t changes = draw(&s) % 4; changes-- > 0;) {
			const size_t at = draw(&s) % n;

			switch (draw(&s) % 4) {
			case 0: input[at] = telling[draw(&s) % sizeof(telling)]; break;
			case 1: input[at] ^= (uint8_t)(1u << draw(&s) % 8); break;
			case 2: n = at > 0 ? at : 1; break;
			default: { /* the tail of another message */
				const size_t from = draw(&s) % lens[other];

				memcpy(input + at, seeds[other] + from, lens[other] - from);
				n = at + lens[other] - from;
			}
			}
		}
		LLVMFuzzerTestOneInput(input, n);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mutated_messages_break_nothing),
	};

	return cmocka_run_group_tests_name("message-mutations", tests, NULL, NULL);
}
