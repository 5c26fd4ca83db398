/* lib/maintain/plan.c: which files are merged, told by tables of what there is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "maintain/plan.h"
#include "support/failing_alloc.h"
#include "support/testing.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))
#define MIB (1ull << 20)

/* A file: its level, range (of groups), age and size. Its name is its index. */
typedef struct spec {
	uint8_t level;
	uint32_t first, last;
	uint64_t registered;
	uint64_t mib;
} spec;

static pgs__page_id id_of(uint32_t group, uint8_t fill)
{
	pgs__page_id id;
	memset(id.bytes, fill, sizeof id.bytes);
	for (int i = 0; i < 4; i++)
		id.bytes[i] = (uint8_t)(group >> (24 - 8 * i));
	return id;
}

static int lookup_order(const void *a, const void *b)
{
	const pgs__file *x = *(pgs__file *const *)a, *y = *(pgs__file *const *)b;
	if (x->key.level != y->key.level)
		return x->key.level < y->key.level ? -1 : 1;
	int order = x->key.level ? memcmp(x->key.first.bytes, y->key.first.bytes, PGS__ID_SIZE) : 0;
	return order ? order : (x->registered < y->registered) - (x->registered > y->registered);
}

/* See pgs__file_map: the file of the level that reaches furthest so far. */
static void set_furthest(pgs__file_map *map)
{
	for (size_t i = 0; i < map->count; i++) {
		bool same_level = i > 0 && map->files[i - 1]->key.level == map->files[i]->key.level;
		bool before = same_level && memcmp(pgs__file_map_furthest(map, i - 1)->bytes,
						   map->files[i]->key.last.bytes, PGS__ID_SIZE) > 0;
		map->furthest[i] = before ? map->furthest[i - 1] : (uint32_t)i;
	}
}

static pgs__file_map *map_of(const spec *specs, size_t count)
{
	pgs__file_map *map = calloc(1, sizeof *map);
	map->files = calloc(count + 1, sizeof *map->files);
	map->furthest = calloc(count + 1, sizeof *map->furthest);
	map->count = count;
	for (size_t i = 0; i < count; i++) {
		pgs__file *f = map->files[i] = calloc(1, sizeof *f);
		f->registered = specs[i].registered;
		f->key.level = specs[i].level;
		f->key.first = id_of(specs[i].first, 0);
		f->key.last = id_of(specs[i].last, 0xff);
		f->index.file_size = specs[i].mib * MIB;
		f->index.count = specs[i].mib * 256;
		snprintf(f->key.file_name, sizeof f->key.file_name, "%zu", i);
	}
	if (count)
		qsort(map->files, count, sizeof *map->files, lookup_order);
	set_furthest(map);
	return map;
}

static void map_free(pgs__file_map *map)
{
	for (size_t i = 0; i < map->count; i++)
		free(map->files[i]);
	free(map->files);
	free(map->furthest);
	free(map);
}

static const pgs__plan_rules rules = {.level0_files = 4, .level_fanout = 10, .file_bytes = 256 * MIB};

typedef int (*planner)(const pgs__file_map *map, const pgs__plan_rules *rules, pgs__plan *out);

/* The inputs, as the rising indexes of their specs: "0 2 5 > 1", or "3 moves > 2", or "" for none. */
static void expect_plan(planner plan_of, const pgs__plan_rules *r, const spec *specs, size_t count, const char *expected)
{
	pgs__file_map *map = map_of(specs, count);
	pgs__plan plan;
	char text[200] = "";
	assert_int_equal(plan_of(map, r, &plan), PGS_OK);
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < plan.count; k++)
			if ((size_t)atoi(plan.inputs[k]->key.file_name) == i)
				sprintf(text + strlen(text), "%zu ", i);
	if (plan.count)
		sprintf(text + strlen(text), "%s> %u", plan.move ? "moves " : "", plan.level);
	assert_string_equal(text, expected);
	if (plan.count) {
		assert_true(pgs__plan_holds(&plan, map));
		for (size_t k = 0; k < plan.count; k++) {
			assert_true(memcmp(plan.scope.first.bytes, plan.inputs[k]->key.first.bytes, PGS__ID_SIZE) <= 0);
			assert_true(memcmp(plan.scope.last.bytes, plan.inputs[k]->key.last.bytes, PGS__ID_SIZE) >= 0);
			assert_in_range(plan.inputs[k]->key.level, plan.scope.level_first, plan.scope.level_last);
		}
		assert_in_range(plan.level, plan.scope.level_first, plan.scope.level_last);
	}
	pgs__plan_free(&plan);
	map_free(map);
}

#define EXPECT(plan_of, rules, specs, expected) expect_plan(plan_of, rules, specs, COUNT_OF(specs), expected)

static void test_plan__level_0_waits_for_enough_files(void **state)
{
	const spec three[] = {{0, 1, 9, 11, 10}, {0, 1, 9, 12, 10}, {0, 1, 9, 13, 10}};
	const spec four[] = {{0, 1, 9, 11, 10}, {0, 1, 9, 12, 10}, {0, 1, 9, 13, 10}, {0, 1, 9, 14, 10}};
	EXPECT(pgs__plan_due, &rules, three, "");
	EXPECT(pgs__plan_due, &rules, four, "0 1 2 3 > 1");
	(void)state;
}

static void test_plan__level_0_takes_what_it_overlaps_in_level_1(void **state)
{
	const spec specs[] = {{0, 10, 20, 11, 10}, {0, 12, 30, 12, 10}, {0, 15, 18, 13, 10}, {0, 10, 20, 14, 10},
			      {1, 0, 9, 5, 10},    {1, 10, 11, 6, 10},  {1, 25, 40, 7, 10},  {1, 41, 50, 8, 10},
			      {2, 0, 50, 1, 99}};
	EXPECT(pgs__plan_due, &rules, specs, "0 1 2 3 5 6 > 1");
	(void)state;
}

static void test_plan__level_0_waits_for_a_quarter_of_what_it_would_rewrite(void **state)
{
	spec specs[17] = {{1, 0, 99, 5, 250}};
	for (size_t i = 1; i < COUNT_OF(specs); i++)
		specs[i] = (spec){0, 10, 20, 10 + i, 4};
	/* 15 files of 4 MiB against 250: not a quarter. One of 4 more: it is. */
	expect_plan(pgs__plan_due, &rules, specs, 5, "");
	specs[0].mib = 64;
	expect_plan(pgs__plan_due, &rules, specs, 5, "0 1 2 3 4 > 1");
	specs[0].mib = 250;
	expect_plan(pgs__plan_due, &rules, specs, 16, "");
	/* Four times as many files as make it due: whatever it costs. */
	expect_plan(pgs__plan_due, &rules, specs, 17, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 > 1");
	(void)state;
}

static void test_plan__level_0_files_apart_are_moved(void **state)
{
	const spec specs[] = {{0, 20, 29, 12, 250}, {0, 10, 19, 11, 250}, {0, 30, 39, 13, 250}, {0, 40, 49, 14, 250}};
	EXPECT(pgs__plan_due, &rules, specs, "1 moves > 1");
	(void)state;
}

static void test_plan__level_0_files_that_meet_in_level_1_go_together(void **state)
{
	const spec specs[] = {{0, 10, 12, 11, 20}, {0, 18, 19, 12, 20}, {0, 30, 39, 13, 20}, {0, 50, 51, 14, 20},
			      {1, 11, 18, 3, 20}};
	EXPECT(pgs__plan_due, &rules, specs, "0 1 4 > 1");
	(void)state;
}

static void test_plan__level_0_merges_are_bounded(void **state)
{
	spec specs[40];
	for (size_t i = 0; i < COUNT_OF(specs); i++)
		specs[i] = (spec){0, 1, 2, 100 - i, 1};
	pgs__file_map *map = map_of(specs, COUNT_OF(specs));
	pgs__plan plan;
	assert_int_equal(pgs__plan_due(map, &rules, &plan), PGS_OK);
	assert_int_equal(plan.count, 32);
	for (size_t i = 0; i < plan.count; i++)
		assert_true(plan.inputs[i]->registered <= 61 + 31); /* the oldest */
	pgs__plan_free(&plan);
	map_free(map);
	(void)state;
}

static void test_plan__excess_of_a_level_goes_down(void **state)
{
	spec specs[14];
	for (size_t i = 0; i < 10; i++)
		specs[i] = (spec){1, (uint32_t)(10 * i), (uint32_t)(10 * i + 9), 20 + i, 100};
	specs[10] = (spec){2, 25, 34, 3, 100};
	specs[11] = (spec){2, 35, 44, 4, 100};
	specs[12] = (spec){2, 60, 61, 5, 100};
	expect_plan(pgs__plan_due, &rules, specs, 13, ""); /* ten are not too many */
	specs[13] = (spec){1, 100, 109, 7, 100};
	pgs__plan_rules r = rules;
	static const char *const expected[] = {"13 moves > 2", "0 moves > 2", "1 moves > 2", "2 10 > 2", "3 10 11 > 2",
					       "4 11 > 2",     "5 moves > 2", "6 12 > 2"};
	for (size_t i = 0; i < COUNT_OF(expected); i++) { /* any of level 1, by chance */
		r.random = i + 11 * 5;
		expect_plan(pgs__plan_due, &r, specs, 14, expected[i]);
	}
	(void)state;
}

static void test_plan__deeper_levels_go_first_and_the_oldest_of_them(void **state)
{
	pgs__plan_rules r = rules;
	r.level_fanout = 2;
	const spec specs[] = {{0, 1, 9, 31, 9}, {0, 1, 9, 32, 9},   {0, 1, 9, 33, 9},   {0, 1, 9, 34, 9},   {1, 10, 19, 24, 9},
			      {1, 20, 29, 25, 9}, {1, 30, 39, 26, 9}, {2, 40, 49, 13, 9}, {2, 50, 59, 14, 9}, {2, 60, 69, 12, 9},
			      {2, 70, 79, 15, 9}, {2, 80, 89, 16, 9}, {3, 62, 62, 1, 9}};
	EXPECT(pgs__plan_due, &r, specs, "9 12 > 3");
	(void)state;
}

static void test_plan__the_last_level_takes_everything(void **state)
{
	pgs__plan_rules r = rules;
	r.level_fanout = 1;
	const spec specs[] = {{PGS__LEVEL_LAST, 1, 2, 1, 9}, {PGS__LEVEL_LAST, 3, 4, 2, 9}, {255, 5, 6, 3, 9}, {255, 7, 8, 4, 9}};
	EXPECT(pgs__plan_due, &r, specs, "");
	(void)state;
}

static void test_plan__overlaps_inside_a_level_are_mended_first(void **state)
{
	const spec specs[] = {{0, 1, 9, 31, 9},  {0, 1, 9, 32, 9},   {0, 1, 9, 33, 9},   {0, 1, 9, 34, 9},  {1, 1, 9, 20, 9},
			      {2, 10, 19, 5, 9}, {2, 15, 30, 6, 9}, {2, 30, 35, 7, 9}, {2, 36, 40, 8, 9}, {3, 10, 50, 1, 9}};
	EXPECT(pgs__plan_due, &rules, specs, "5 6 7 > 2");
	EXPECT(pgs__plan_down, &rules, specs, "5 6 7 > 2");
	(void)state;
}

static void test_plan__what_others_have_is_left_alone(void **state)
{
	const spec specs[] = {{0, 10, 19, 11, 9}, {0, 12, 15, 12, 9}, {0, 30, 39, 13, 9}, {0, 32, 34, 14, 9}};
	const pgs__scope levels_below = {PGS__JOB_MERGE, 2, 3, id_of(0, 0), id_of(99, 0)};
	pgs__scope busy = {PGS__JOB_MERGE, 1, 2, id_of(19, 7), id_of(25, 0)};
	pgs__plan_rules r = rules;
	EXPECT(pgs__plan_due, &r, specs, "0 1 > 1");
	r.busy = &busy;
	r.busy_count = 1;
	EXPECT(pgs__plan_due, &r, specs, "2 3 > 1");
	EXPECT(pgs__plan_down, &r, specs, "2 3 > 1");
	busy.last = id_of(31, 0);
	EXPECT(pgs__plan_due, &r, specs, "");
	r.busy = &levels_below;
	EXPECT(pgs__plan_due, &r, specs, "0 1 > 1");
	(void)state;
}

static void test_plan__down_brings_everything_to_the_deepest_level(void **state)
{
	const spec one[] = {{0, 1, 9, 5, 1}};
	const spec two[] = {{0, 1, 9, 5, 1}, {0, 5, 20, 6, 1}, {2, 1, 9, 1, 1}};
	const spec between[] = {{1, 5, 20, 6, 1}, {1, 30, 40, 7, 1}, {2, 8, 9, 3, 1}, {3, 1, 9, 1, 1}};
	const spec done[] = {{3, 1, 9, 1, 1}, {3, 10, 11, 1, 1}};
	EXPECT(pgs__plan_down, &rules, one, "0 moves > 1");
	EXPECT(pgs__plan_down, &rules, two, "0 1 > 1");
	EXPECT(pgs__plan_down, &rules, between, "0 2 > 2");
	expect_plan(pgs__plan_down, &rules, between + 1, 3, "0 moves > 2");
	EXPECT(pgs__plan_down, &rules, done, "");
	(void)state;
}

static int first_neighbours(const pgs__file_map *map, const pgs__plan_rules *r, pgs__plan *out)
{
	return pgs__plan_neighbours(map, r, NULL, out);
}

static int later_neighbours(const pgs__file_map *map, const pgs__plan_rules *r, pgs__plan *out)
{
	const pgs__page_id after = id_of(29, 0xff);
	return pgs__plan_neighbours(map, r, &after, out);
}

static int old_file(const pgs__file_map *map, const pgs__plan_rules *r, pgs__plan *out)
{
	return pgs__plan_rewrite(map, r, 12, out);
}

static void test_plan__neighbours_fit_one_file(void **state)
{
	const spec specs[] = {{1, 1, 9, 9, 1},      {2, 30, 39, 13, 100}, {2, 20, 29, 12, 100}, {2, 10, 19, 11, 100},
			      {2, 40, 49, 14, 300}, {2, 50, 59, 15, 1}};
	EXPECT(first_neighbours, &rules, specs, "2 3 > 2");
	EXPECT(later_neighbours, &rules, specs, "1 > 2");
	expect_plan(later_neighbours, &rules, specs + 2, 4, "2 > 2"); /* larger than a file may be, yet a file */
	expect_plan(first_neighbours, &rules, NULL, 0, "");
	(void)state;
}

static void test_plan__a_file_old_enough_to_be_rewritten(void **state)
{
	/* As lookups go: the young ones are 0, 2 and 4. */
	const spec specs[] = {{0, 1, 9, 13, 1}, {1, 1, 9, 3, 1}, {2, 10, 19, 14, 9}, {2, 20, 29, 12, 9}, {2, 30, 39, 13, 9}};
	const spec young[] = {{1, 1, 9, 14, 1}, {2, 30, 39, 13, 100}};
	static const char *const expected[] = {"1 > 1", "1 > 1", "3 > 2", "3 > 2", "1 > 1"};
	pgs__plan_rules r = rules;
	for (size_t i = 0; i < COUNT_OF(expected); i++) {
		r.random = i + 10 * COUNT_OF(specs);
		EXPECT(old_file, &r, specs, expected[i]);
	}
	EXPECT(old_file, &rules, young, "");
	expect_plan(old_file, &rules, NULL, 0, "");
	(void)state;
}

static void test_plan__a_plan_holds_while_nothing_came_between(void **state)
{
	const spec before[] = {{0, 1, 9, 11, 9}, {0, 1, 9, 12, 9}, {0, 1, 9, 13, 9}, {0, 1, 9, 14, 9}, {1, 5, 7, 3, 9}, {1, 20, 22, 3, 9}};
	spec after[7];
	pgs__file_map *map = map_of(before, COUNT_OF(before));
	pgs__plan plan;
	assert_int_equal(pgs__plan_due(map, &rules, &plan), PGS_OK);
	memcpy(after, before, sizeof before);
	for (int i = 0; i < 5; i++) {
		spec changed[7];
		memcpy(changed, after, sizeof after);
		size_t count = COUNT_OF(before);
		if (i == 1)
			changed[count++] = (spec){0, 1, 9, 15, 9}; /* another in level 0: no matter */
		if (i == 2)
			changed[count++] = (spec){1, 8, 8, 15, 9}; /* in the way of the outputs */
		if (i == 3)
			changed[2].registered = 99; /* put again */
		if (i == 4)
			count = 4; /* an input has gone */
		pgs__file_map *now = map_of(changed, count);
		assert_int_equal(pgs__plan_holds(&plan, now), i < 2);
		map_free(now);
	}
	pgs__plan_free(&plan);
	map_free(map);
	(void)state;
}

static void test_plan__what_is_below_is_told_by_ranges_and_tables(void **state)
{
	const spec specs[] = {{1, 10, 19, 3, 1}, {2, 20, 29, 2, 1}, {3, 30, 39, 1, 1}};
	pgs__file_map *map = map_of(specs, COUNT_OF(specs));
	pgs__filters filters;
	pgs__filters_init(&filters);
	for (size_t i = 0; i < map->count; i++)
		map->files[i]->filters = &filters;
	const pgs__page_id a = id_of(15, 1), b = id_of(25, 1), c = id_of(35, 1), d = id_of(36, 1);
	assert_true(pgs__plan_below_may_hold(map, 0, &a));
	assert_false(pgs__plan_below_may_hold(map, 1, &a));
	assert_true(pgs__plan_below_may_hold(map, 1, &b));
	assert_true(pgs__plan_below_may_hold(map, 1, &d));
	/* With the table at hand it is exact. */
	uint8_t row[PGS__SORTED_ENTRY_SIZE];
	const pgs__sorted_entry entry = {c, 100, 5, 1};
	pgs__sorted_entry_encode(&entry, row);
	map->files[2]->index.has_table = true;
	map->files[2]->index.table = (pgs_slice){row, sizeof row};
	assert_true(pgs__plan_below_may_hold(map, 1, &c));
	assert_false(pgs__plan_below_may_hold(map, 1, &d));
	assert_true(pgs__plan_below_may_hold(map, 1, &b)); /* a filter that is not in memory says nothing */
	map_free(map);
	pgs__filters_free(&filters);
	(void)state;
}

static void test_plan__due_files_are_counted(void **state)
{
	pgs__plan_rules r = rules;
	r.level_fanout = 2;
	const spec specs[] = {{0, 1, 9, 31, 9}, {0, 1, 9, 32, 9}, {1, 10, 19, 24, 9}, {1, 20, 29, 25, 9}, {1, 30, 39, 26, 9}};
	pgs__file_map *map = map_of(specs, COUNT_OF(specs));
	assert_int_equal(pgs__plan_due_files(map, &r), 1);
	r.level0_files = 2;
	assert_int_equal(pgs__plan_due_files(map, &r), 3);
	map_free(map);
	(void)state;
}

static void test_plan__runs_out_of_memory_cleanly(void **state)
{
	const spec specs[] = {{0, 1, 9, 11, 9}, {0, 1, 9, 12, 9}, {0, 1, 9, 13, 9}, {0, 1, 9, 14, 9}};
	pgs__file_map *map = map_of(specs, COUNT_OF(specs));
	failing_alloc_install();
	for (size_t nth = 1;; nth++) {
		pgs__plan plan;
		failing_alloc_begin(nth);
		int result = pgs__plan_due(map, &rules, &plan);
		bool failed = failing_alloc_end();
		assert_int_equal(result, failed ? PGS_ENOMEM : PGS_OK);
		pgs__plan_free(&plan);
		assert_int_equal(failing_alloc_live(), 0);
		if (!failed)
			break;
	}
	failing_alloc_uninstall();
	map_free(map);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plan__level_0_waits_for_enough_files),
		cmocka_unit_test(test_plan__level_0_takes_what_it_overlaps_in_level_1),
		cmocka_unit_test(test_plan__level_0_waits_for_a_quarter_of_what_it_would_rewrite),
		cmocka_unit_test(test_plan__level_0_files_apart_are_moved),
		cmocka_unit_test(test_plan__level_0_files_that_meet_in_level_1_go_together),
		cmocka_unit_test(test_plan__level_0_merges_are_bounded),
		cmocka_unit_test(test_plan__excess_of_a_level_goes_down),
		cmocka_unit_test(test_plan__deeper_levels_go_first_and_the_oldest_of_them),
		cmocka_unit_test(test_plan__the_last_level_takes_everything),
		cmocka_unit_test(test_plan__overlaps_inside_a_level_are_mended_first),
		cmocka_unit_test(test_plan__what_others_have_is_left_alone),
		cmocka_unit_test(test_plan__down_brings_everything_to_the_deepest_level),
		cmocka_unit_test(test_plan__neighbours_fit_one_file),
		cmocka_unit_test(test_plan__a_file_old_enough_to_be_rewritten),
		cmocka_unit_test(test_plan__a_plan_holds_while_nothing_came_between),
		cmocka_unit_test(test_plan__what_is_below_is_told_by_ranges_and_tables),
		cmocka_unit_test(test_plan__due_files_are_counted),
		cmocka_unit_test(test_plan__runs_out_of_memory_cleanly),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
