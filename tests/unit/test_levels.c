/* lib/maintain/levels.c: the sorted files there are, and how much of them is live. */
#include "test_collect.h"

#define FILES_MAX 20

typedef struct listed {
	fixture *f;
	pgs_file_info files[FILES_MAX];
	size_t count;
	int result; /* what the lister returns at the second file */
} listed;

static int setup_levels(void **state)
{
	setup(state);
	fixture *f = *state;
	set_thresholds(&f->a);
	set_thresholds(&f->b);
	return 0;
}

static int add(void *ctx, const pgs_file_info *info)
{
	listed *l = ctx;
	uint64_t size;
	assert_true(l->count < FILES_MAX);
	assert_int_equal(l->f->server.blob->vtable->stat(l->f->server.blob, info->name, &size, 0, NULL), PGS_OK);
	assert_int_equal(size, info->size_bytes);
	l->files[l->count] = *info;
	l->files[l->count++].name = NULL;
	return l->count == 2 ? l->result : 0;
}

static listed list_files(fixture *f, bool live)
{
	listed l = {.f = f};
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs_levels(f->b.db, live, add, &l, &err);
	expect_code(result, PGS_OK, &err, "levels");
	return l;
}

static void make_file(fixture *f, uint64_t first, uint64_t count, uint64_t family)
{
	write_many(f, first, count, family);
	f->a.worker.options.all = true;
	assert_int_equal(pgs__job_flush(&f->a.worker), PGS_OK);
	f->a.worker.options.all = false;
}

/* Four files in level 1, then two in level 0. */
static void make_levels(fixture *f)
{
	for (uint64_t i = 0; i < 4; i++) {
		make_file(f, 2000 * i, 10, 1000);
		f->a.worker.options.level0_files = 1;
		assert_int_equal(pgs__job_merge(&f->a.worker), PGS_OK);
	}
	make_file(f, 300, 5, 2000);
	make_file(f, 2000, 4, 3000);
}

static void test_levels__lists_in_the_order_of_lookups(void **state)
{
	fixture *f = *state;
	assert_int_equal(list_files(f, true).count, 0);
	make_levels(f);
	listed l = list_files(f, false);
	static const struct {
		uint8_t level;
		uint64_t contents;
		uint32_t group;
	} expected[] = {{0, 4, 7}, {0, 5, 1}, {1, 10, 0}, {1, 10, 7}, {1, 10, 15}, {1, 10, 23}};
	assert_int_equal(l.count, COUNT_OF(expected));
	for (size_t i = 0; i < l.count; i++) {
		assert_int_equal(l.files[i].level, expected[i].level);
		assert_int_equal(l.files[i].content_count, expected[i].contents);
		assert_int_equal(l.files[i].first_group, expected[i].group);
		assert_int_equal(l.files[i].last_group, expected[i].group);
		assert_int_equal(l.files[i].live_count, 0); /* not asked for */
		assert_true(l.files[i].registered > 0);
	}
}

static void test_levels__tells_what_is_live(void **state)
{
	fixture *f = *state;
	make_levels(f);
	listed l = list_files(f, true);
	for (size_t i = 0; i < l.count; i++) /* no floor was published: all */
		assert_int_equal(l.files[i].live_count, l.files[i].content_count);
	publish_now(f);
	l = list_files(f, true);
	for (size_t i = 0; i < l.count; i++) {
		bool overwritten = l.files[i].level == 1 && l.files[i].first_group == 7;
		assert_int_equal(l.files[i].live_count, l.files[i].content_count - (overwritten ? 4 : 0));
		assert_in_range(l.files[i].live_bytes, l.files[i].live_count * TEST_PAGE_SIZE / 2, l.files[i].size_bytes);
	}
}

static void test_levels__ends_with_the_listers_result(void **state)
{
	fixture *f = *state;
	make_levels(f);
	listed l = {.f = f, .result = 42};
	assert_int_equal(pgs_levels(f->b.db, true, add, &l, NULL), 42);
	assert_int_equal(l.count, 2);
}

static void test_levels__tells_errors(void **state)
{
	fixture *f = *state;
	make_levels(f);
	listed l = {.f = f};
	pgs_error err = PGS_ERROR_INIT;
	pgs__page_id id = id_of(f, 0, 1);
	pgs__key key = pgs__key_level(pgs__db_prefix(f->a.db), 3, &id, &id, "s-bad");
	put_raw(f, &key, (pgs_slice){"\1damage", 7});
	assert_int_equal(pgs_levels(f->b.db, false, add, &l, &err), PGS_ECORRUPT);
	assert_int_equal(err.code, PGS_ECORRUPT);
	assert_int_equal(l.count, 0);
	delete_raw(f, &key);
	for (uint64_t nth = 1;; nth++) {
		uint64_t before = pgs_fault_calls(f->fault);
		pgs_fault_at(f->fault, nth, PGS_FAULT_ERROR);
		l.count = 0;
		int result = pgs_levels(f->b.db, true, add, &l, &err);
		if (pgs_fault_calls(f->fault) - before < nth) {
			assert_int_equal(result, PGS_OK);
			break;
		}
		assert_int_equal(result, PGS_EIO);
		assert_int_equal(err.code, PGS_EIO);
	}
	pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
	assert_int_equal(pgs_db_drop(f->a.store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_levels(f->b.db, false, add, &l, &err), PGS_ENOTFOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_levels__lists_in_the_order_of_lookups, setup_levels, teardown),
		cmocka_unit_test_setup_teardown(test_levels__tells_what_is_live, setup_levels, teardown),
		cmocka_unit_test_setup_teardown(test_levels__ends_with_the_listers_result, setup_levels, teardown),
		cmocka_unit_test_setup_teardown(test_levels__tells_errors, setup_levels, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
