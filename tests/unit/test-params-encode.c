/* Claims: what is encoded decodes to the same, for any set of parameters. */
#include "tests/unit/params-fixture.h"

/* xorshift64: the same parameters in every run */
static uint64_t draw(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void random_params_survive_the_round_trip(void **state)
{
	struct rpc_message messages[3] = {{{"system", 6}, {"be\0brief", 8}},
		{{"user", 4}, {"\xff\xfe", 2}}, {{"assistant", 9}, {"", 0}}};
	struct rpc_text stop[2] = {{"\n", 1}, {"\xe2\x96\x81", 3}};
	struct rpc_bias bias[2] = {{0, -1.25}, {INT32_MAX, 1e9}};
	int64_t ids[3] = {0, 77, INT32_MAX};
	uint64_t s = 88172645463325252u;

	for (int round = 0; round < 2000; round++) {
		const struct params p = {
			.set = draw(&s),
			.tag = draw(&s) & 1 ? (struct rpc_tag){.kind = TAG_TEXT,
						      .len = 3,
						      .text = "a\0b"}
					    : (struct rpc_tag){.kind = TAG_INT,
						      .number = -(int64_t)(draw(&s) >> 11)},
			.stream = draw(&s) & 1,
			.do_sample = draw(&s) & 1,
			.echo = draw(&s) & 1,
			.messages = messages,
			.n_messages = 1 + draw(&s) % 3,
			.prompt = {"\0once", 5},
			.prompt_ids = draw(&s) & 1 ? ids : NULL,
			.n_prompt_ids = 1 + draw(&s) % 3,
			.max_new_tokens = (int64_t)(draw(&s) >> 33),
			.top_k = (int64_t)(draw(&s) >> 33),
			.penalty_window = (int64_t)(draw(&s) >> 33),
			.seed = (int64_t)(draw(&s) >> 11) - (1ll << 52),
			.logprobs = (int64_t)(draw(&s) % 101),
			.deadline_ms = 1 + (int64_t)(draw(&s) >> 12),
			.temperature = (double)(draw(&s) >> 11) * 0x1p-53 * 100,
			.top_p = 1 - (double)(draw(&s) >> 11) * 0x1p-53,
			.min_p = (double)(draw(&s) >> 11) * 0x1p-53,
			.typical_p = 1 - (double)(draw(&s) >> 11) * 0x1p-53,
			.repetition_penalty = 100 - (double)(draw(&s) >> 11) * 0x1p-53,
			.presence_penalty = (double)(draw(&s) >> 11) * 0x1p-53 - 0.5,
			.frequency_penalty = (double)(draw(&s) >> 11) * 0x1p-53 - 0.5,
			.stop = stop,
			.n_stop = draw(&s) % 3,
			.logit_bias = bias,
			.n_logit_bias = draw(&s) % 3,
			.batch_priority = draw(&s) & 1,
		};
		const bool chat = draw(&s) & 1;
		struct params sent = p;
		struct fixture f;

		for (int i = PARAM_TEXT; i < PARAM_COUNT; i++)
			sent.set &= ~(UINT64_C(1) << i);
		sent.set &= ~(UINT64_C(1) << PARAM_CHOICES); /* score's alone */
		sent.set &= (UINT64_C(1) << PARAM_COUNT) - 1;
		sent.set |= UINT64_C(1) << (chat ? PARAM_MESSAGES : PARAM_PROMPT);
		sent.set &= ~(UINT64_C(1) << (chat ? PARAM_PROMPT : PARAM_MESSAGES));
		fixture_begin(&f);
		params_encode(&sent, &f.pk);
		if (decode(&f, chat ? METHOD_CHAT : METHOD_COMPLETE) != 0)
			fail_msg("%s", f.error);
		assert_int_equal(f.params.set, sent.set);
#define SAME(field, which) assert_true(!params_has(&sent, which) || f.params.field == sent.field)
		SAME(stream, PARAM_STREAM);
		SAME(do_sample, PARAM_DO_SAMPLE);
		SAME(echo, PARAM_ECHO);
		SAME(max_new_tokens, PARAM_MAX_NEW_TOKENS);
		SAME(top_k, PARAM_TOP_K);
		SAME(penalty_window, PARAM_PENALTY_WINDOW);
		SAME(seed, PARAM_SEED);
		SAME(logprobs, PARAM_LOGPROBS);
		SAME(deadline_ms, PARAM_DEADLINE_MS);
		SAME(temperature, PARAM_TEMPERATURE);
		SAME(top_p, PARAM_TOP_P);
		SAME(min_p, PARAM_MIN_P);
		SAME(typical_p, PARAM_TYPICAL_P);
		SAME(repetition_penalty, PARAM_REPETITION_PENALTY);
		SAME(presence_penalty, PARAM_PRESENCE_PENALTY);
		SAME(frequency_penalty, PARAM_FREQUENCY_PENALTY);
		SAME(batch_priority, PARAM_PRIORITY);
		SAME(n_messages, PARAM_MESSAGES);
		SAME(n_stop, PARAM_STOP);
		SAME(n_logit_bias, PARAM_LOGIT_BIAS);
		if (params_has(&sent, PARAM_TAG))
			assert_true(rpc_tag_equal(&f.params.tag, &sent.tag));
		for (uint32_t i = 0; i < f.params.n_messages; i++) {
			assert_int_equal(f.params.messages[i].content.len, messages[i].content.len);
			assert_memory_equal(f.params.messages[i].content.text,
				messages[i].content.text, messages[i].content.len);
			assert_memory_equal(f.params.messages[i].role.text, messages[i].role.text,
				messages[i].role.len);
		}
		for (uint32_t i = 0; i < f.params.n_stop; i++)
			assert_memory_equal(f.params.stop[i].text, stop[i].text, stop[i].len);
		for (uint32_t i = 0; i < f.params.n_logit_bias; i++) {
			assert_int_equal(f.params.logit_bias[i].token, bias[i].token);
			assert_true(f.params.logit_bias[i].bias == bias[i].bias);
		}
		if (!chat && sent.prompt_ids) {
			assert_int_equal(f.params.n_prompt_ids, sent.n_prompt_ids);
			assert_memory_equal(
				f.params.prompt_ids, ids, sent.n_prompt_ids * sizeof(ids[0]));
		} else if (!chat) {
			assert_null(f.params.prompt_ids);
			assert_int_equal(f.params.prompt.len, 5);
			assert_memory_equal(f.params.prompt.text, "\0once", 5);
		}
		fixture_end(&f);
	}
}

static void small_methods_survive_the_round_trip(void **state)
{
	int64_t tokens[2] = {5, 6};
	const struct params p = {.text = {"x", 1},
		.bos = true,
		.special = false,
		.tokens = tokens,
		.n_tokens = 2,
		.id = UINT32_MAX,
		.client = {"zeph/1", 6}};
	static const struct {
		enum method m;
		uint64_t set;
	} rows[] = {
		{METHOD_TOKENIZE, 1ull << PARAM_TEXT | 1ull << PARAM_BOS | 1ull << PARAM_SPECIAL},
		{METHOD_DETOKENIZE, 1ull << PARAM_TOKENS}, {METHOD_CANCEL, 1ull << PARAM_ID},
		{METHOD_HELLO, 1ull << PARAM_CLIENT}, {METHOD_STATUS, 0}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct params sent = p;
		struct fixture f;

		sent.set = rows[i].set;
		fixture_begin(&f);
		params_encode(&sent, &f.pk);
		assert_int_equal(decode(&f, rows[i].m), 0);
		assert_int_equal(f.params.set, sent.set);
		if (rows[i].m == METHOD_TOKENIZE)
			assert_true(f.params.bos && !f.params.special && f.params.text.len == 1);
		if (rows[i].m == METHOD_DETOKENIZE)
			assert_true(f.params.n_tokens == 2 && f.params.tokens[1] == 6);
		if (rows[i].m == METHOD_CANCEL)
			assert_true(f.params.id == UINT32_MAX);
		fixture_end(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_params_survive_the_round_trip),
		cmocka_unit_test(small_methods_survive_the_round_trip),
	};

	return cmocka_run_group_tests_name("params-encode", tests, NULL, NULL);
}
