/* Running the KV suite's parts on a factory's backend. */
#include "conformance/kv_suite.h"

#include <stdio.h>
#include <string.h>

#define PART_MAX 64 /* tests in a part */

static int open_fixture(void **state)
{
	const kv_factory *factory = *state;
	kv_fixture *fixture = test_calloc(1, sizeof *fixture);
	fixture->factory = factory;
	fixture->kv = factory->open(factory->ctx);
	*state = fixture;
	return fixture->kv ? 0 : -1;
}

static int close_fixture(void **state)
{
	kv_fixture *fixture = *state;
	if (fixture->kv)
		fixture->kv->vtable->close(fixture->kv);
	if (fixture->factory->cleanup)
		fixture->factory->cleanup(fixture->factory->ctx);
	test_free(fixture);
	return 0;
}

void kv_suite_limit(kv_fixture *fixture, pgs_kv_limits limits)
{
	const kv_factory *factory = fixture->factory;
	if (!factory->open_limited)
		skip();
	fixture->kv->vtable->close(fixture->kv);
	fixture->kv = NULL;
	if (factory->cleanup)
		factory->cleanup(factory->ctx);
	fixture->kv = factory->open_limited(factory->ctx, &limits);
	assert_non_null(fixture->kv);
}

static int run_part(const kv_factory *factory, const kv_suite_part *part)
{
	struct CMUnitTest tests[PART_MAX];
	char name[128];
	if (part->count > PART_MAX)
		return 1;
	for (size_t i = 0; i < part->count; i++) {
		tests[i] = part->tests[i];
		tests[i].setup_func = open_fixture;
		tests[i].teardown_func = close_fixture;
		tests[i].initial_state = (void *)factory;
	}
	snprintf(name, sizeof name, "%s: %s", factory->name, part->name);
	return _cmocka_run_group_tests(name, tests, part->count, NULL, NULL);
}

int kv_suite_run(const kv_factory *factory)
{
	static const kv_suite_part *const parts[] = {
		&kv_txn_part, &kv_error_part, &kv_history_part, &kv_watch_part, &kv_sharing_part,
		&kv_operations_part, &kv_changes_part};
	int failed = 0;
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		failed += run_part(factory, parts[i]);
	return failed;
}
