/* Named snapshots: against a model, after compaction, with faults, with damage. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/keys.h"
#include "codec/meta.h"
#include "codec/snapshot_record.h"
#include "maintain/jobs.h"
#include "support/kv_calls.h"
#include "support/txn_stage.h"
#include "txn/named.h"

#define PAGES 400
#define SNAPSHOTS 12
#define FAR (1ull << 34)

/* --- short ways -------------------------------------------------------------- */

static int create_at(stage *s, const char *name, uint64_t revision, pgs_error *err)
{
	pgs_snapshot_options o = PGS_SNAPSHOT_OPTIONS_INIT;
	o.at_revision = revision;
	return pgs_snapshot_create(s->db, name, strlen(name), &o, err);
}

static void create(stage *s, const char *name)
{
	pgs_error err = PGS_ERROR_INIT;
	if (pgs_snapshot_create(s->db, name, strlen(name), NULL, &err) != PGS_OK)
		fail_msg("create %s: %s", name, err.message);
}

static int drop(stage *s, const char *name, pgs_error *err)
{
	return pgs_snapshot_drop(s->db, name, strlen(name), err);
}

static int begin_named_size(pgs_db *db, const void *name, size_t size, pgs_txn **out, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_snapshot = name;
	o.at_snapshot_size = size;
	return pgs_begin(out, db, &o, err);
}

static int begin_named(pgs_db *db, const char *name, pgs_txn **out, pgs_error *err)
{
	return begin_named_size(db, name, strlen(name), out, err);
}

static pgs_txn *tx_named(pgs_db *db, const char *name)
{
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	if (begin_named(db, name, &t, &err) != PGS_OK)
		fail_msg("begin at %s: %s", name, err.message);
	return t;
}

/* Throw away the KV's history: what named snapshots must not need. */
static void compact(stage *s)
{
	assert_int_equal(s->kv->vtable->compact(s->kv, kv_revision(s->kv), 0, NULL), PGS_OK);
}

static void set_floor(stage *s, uint64_t floor)
{
	pgs__buffer b = {0};
	pgs__key g = pgs__key_single(pgs__db_prefix(s->db), 'g');
	pgs__floor_encode(&(pgs__floor){floor, floor}, &b);
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&g), pgs__buffer_slice(&b));
	assert_int_equal(status_of(s->kv, &put, 1), PGS_OK);
	pgs__buffer_free(&b);
}

/* Close and open the database: its caches are empty. */
static void forget_caches(stage *s)
{
	pgs_db_close(s->db);
	assert_int_equal(pgs_db_open(&s->db, s->store, "db", 2, &s->options, NULL), PGS_OK);
}

typedef struct listed {
	size_t count;
	char names[20][PGS_SNAPSHOT_NAME_MAX + 1];
	pgs_snapshot_info info[20];
} listed;

static int note_listed(void *ctx, const pgs_snapshot_info *info)
{
	listed *l = ctx;
	assert_true(l->count < 20);
	memcpy(l->names[l->count], info->name, info->name_size);
	l->names[l->count][info->name_size] = '\0';
	l->info[l->count++] = *info;
	return 0;
}

static listed list(stage *s)
{
	listed l = {0};
	assert_int_equal(pgs_snapshot_list(s->db, note_listed, &l, NULL), PGS_OK);
	return l;
}

/* Small pages, small index files: several of each snapshot. */
static void small(stage *s, uint64_t file_bytes)
{
	static pgs_maintain_options maintain;
	maintain = (pgs_maintain_options)PGS_MAINTAIN_OPTIONS_INIT;
	maintain.file_bytes = file_bytes;
	s->options.page_size_bytes = 512;
	s->options.maintain = &maintain;
	stage_remake(s);
}

/* --- the model --------------------------------------------------------------------- */

typedef struct version {
	uint64_t revision;
	uint64_t tags[PAGES];
	uint64_t far; /* of page FAR; 0 = none */
	uint64_t extent;
	char attr[20]; /* empty = absent */
} version;

static uint64_t some_tag(uint64_t *seed)
{
	uint64_t n = stage_random(seed) % 60;
	switch (stage_random(seed) % 5) {
	case 0:
		return PAGE_ZERO;
	case 1:
		return PAGE_NOISE(n);
	case 2:
		return PAGE_THIN(n + 1);
	default:
		return PAGE_KIN(n % 3 + 1, n);
	}
}

static void random_commit(stage *s, version *m, uint64_t *seed)
{
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	uint64_t kind = stage_random(seed) % 8, count = kind == 0 ? 300 : 1 + stage_random(seed) % 8;
	uint64_t first = stage_random(seed) % (PAGES - count);
	if (kind == 1) {
		uint64_t to = stage_random(seed) % PAGES;
		assert_int_equal(pgs_truncate(t, to), PGS_OK);
		for (uint64_t i = to; i < PAGES; i++)
			m->tags[i] = 0;
		m->far = 0;
		m->extent = to;
	}
	for (uint64_t i = first; i < first + count; i++) {
		m->tags[i] = some_tag(seed);
		tx_put(t, s, i, m->tags[i]);
	}
	m->extent = first + count > m->extent ? first + count : m->extent;
	if (kind == 2) {
		m->far = PAGE_NOISE(stage_random(seed) % 50);
		tx_put(t, s, FAR, m->far);
		m->extent = FAR + 1;
	}
	if (kind < 4) {
		m->attr[0] = '\0';
		if (kind < 3)
			snprintf(m->attr, sizeof m->attr, "v%u", (unsigned)stage_random(seed) % 100);
		tx_attr(t, "attr", kind == 3 ? NULL : m->attr);
	}
	m->revision = tx_commit(t);
}

static void expect_state(pgs_txn *t, stage *s, const version *m)
{
	assert_int_equal(pgs_txn_revision(t), m->revision);
	tx_expect_count(t, m->extent);
	for (uint64_t i = 0; i < PAGES; i++)
		tx_expect(t, s, i, m->tags[i]);
	tx_expect(t, s, FAR, m->far);
	tx_expect(t, s, FAR + 5, PAGE_ZERO);
	tx_expect_attr(t, "attr", m->attr[0] ? m->attr : NULL);
	tx_expect_attr(t, "other", NULL);
	pgs_abort(t);
}

typedef struct pages {
	size_t count;
	uint64_t list[PAGES + 1];
} pages;

static int note_page(void *ctx, uint64_t page_no)
{
	pages *p = ctx;
	assert_true(p->count < PAGES + 1);
	p->list[p->count++] = page_no;
	return 0;
}

static void expect_diff(pgs_txn *a, pgs_txn *b, const version *x, const version *y)
{
	pages found = {0}, expected = {0};
	pgs_error err = PGS_ERROR_INIT;
	for (uint64_t i = 0; i < PAGES; i++)
		if (x->tags[i] != y->tags[i])
			note_page(&expected, i);
	if (x->far != y->far)
		note_page(&expected, FAR);
	if (pgs_diff_txns(a, b, note_page, &found, &err) != PGS_OK)
		fail_msg("diff: %s", err.message);
	assert_int_equal(found.count, expected.count);
	assert_memory_equal(found.list, expected.list, found.count * sizeof found.list[0]);
	pgs_abort(a);
	pgs_abort(b);
}

static void model(stage *s, uint64_t seed, uint64_t file_bytes)
{
	version now = {0}, *at = calloc(SNAPSHOTS, sizeof *at);
	char name[20];
	small(s, file_bytes);
	pgs_txn *t = tx_read(s->db);
	now.revision = pgs_txn_revision(t);
	pgs_abort(t);
	for (size_t i = 0; i < SNAPSHOTS; i++) {
		version before = now;
		if (i > 0)
			for (uint64_t k = 1 + stage_random(&seed) % 6; k > 0; k--) {
				before = now;
				random_commit(s, &now, &seed);
			}
		bool past = stage_random(&seed) % 3 == 0;
		at[i] = past ? before : now;
		snprintf(name, sizeof name, "s%02zu", i);
		pgs_error err = PGS_ERROR_INIT;
		if (create_at(s, name, past ? before.revision : 0, &err) != PGS_OK)
			fail_msg("create %s: %s", name, err.message);
		expect_state(tx_named(s->db, name), s, &at[i]);
		if (i > 0) /* a revision and a snapshot: both ways */
			expect_diff(tx_at(s->db, now.revision), tx_named(s->db, "s00"), &now, &at[0]);
		expect_diff(tx_at(s->db, before.revision), tx_at(s->db, now.revision), &before, &now);
	}
	compact(s);
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < SNAPSHOTS; i++) {
			snprintf(name, sizeof name, "s%02zu", i);
			expect_state(tx_named(round == 2 ? stage_other(s) : s->db, name), s, &at[i]);
			if (i == 0)
				continue;
			char last[20];
			snprintf(last, sizeof last, "s%02zu", (size_t)stage_random(&seed) % i);
			expect_diff(tx_named(s->db, name), tx_named(s->db, last), &at[i], &at[atoi(last + 1)]);
		}
		forget_caches(s);
	}
	listed l = list(s);
	assert_int_equal(l.count, SNAPSHOTS);
	for (size_t i = 0; i < SNAPSHOTS; i++) {
		assert_int_equal(l.info[i].revision, at[i].revision);
		assert_int_equal(l.info[i].page_count, at[i].extent);
	}
	free(at);
}

static void test_snapshot__model(void **state)
{
	model(*state, 1, 0);
}

static void test_snapshot__model_with_many_index_files(void **state)
{
	model(*state, 2, 600);
	model(*state, 3, 1);
}

/* --- single cases ---------------------------------------------------------------------- */

static void test_snapshot__of_an_empty_database(void **state)
{
	stage *s = *state;
	create(s, "empty");
	tx_one(s->db, s, 5, PAGE_NOISE(1));
	compact(s);
	pgs_txn *t = tx_named(s->db, "empty");
	tx_expect_count(t, 0);
	tx_expect(t, s, 5, PAGE_ZERO);
	tx_expect_attr(t, "x", NULL);
	pgs_abort(t);
	listed l = list(s);
	assert_int_equal(l.count, 1);
	assert_int_equal(l.info[0].pointer_count, 0);
	assert_int_equal(l.info[0].index_bytes, 0);
}

static void test_snapshot__of_a_truncated_one(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 50, PAGE_NOISE(1));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 0), PGS_OK);
	tx_commit(t);
	create(s, "none");
	compact(s);
	t = tx_named(s->db, "none");
	tx_expect_count(t, 0);
	tx_expect(t, s, 7, PAGE_ZERO);
	pgs_abort(t);
}

static void test_snapshot__names_are_any_bytes(void **state)
{
	stage *s = *state;
	char longest[PGS_SNAPSHOT_NAME_MAX + 1];
	memset(longest, 0xff, sizeof longest);
	static const char odd[] = {'a', 0, '/', '\n'};
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	tx_one(s->db, s, 1, PAGE_NOISE(3));
	const struct {
		const void *name;
		size_t size;
	} names[] = {{"\0", 1}, {odd, sizeof odd}, {"a", 1}, {longest, PGS_SNAPSHOT_NAME_MAX}};
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(pgs_snapshot_create(s->db, names[i].name, names[i].size, NULL, &err), PGS_OK);
		assert_int_equal(pgs_snapshot_create(s->db, names[i].name, names[i].size, NULL, &err), PGS_EEXIST);
		assert_int_equal(begin_named_size(s->db, names[i].name, names[i].size, &t, &err), PGS_OK);
		tx_expect(t, s, 1, PAGE_NOISE(3));
		pgs_abort(t);
	}
	listed l = list(s);
	assert_int_equal(l.count, 4);
	assert_int_equal(l.info[0].name_size, 1);
	assert_memory_equal(l.names[1], "a", 1);
	assert_int_equal(l.info[1].name_size, 1);
	assert_memory_equal(l.names[2], odd, sizeof odd);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(pgs_snapshot_drop(s->db, names[i].name, names[i].size, &err), PGS_OK);
		assert_int_equal(pgs_snapshot_drop(s->db, names[i].name, names[i].size, &err), PGS_ENOTFOUND);
	}
	assert_int_equal(pgs_snapshot_create(s->db, longest, sizeof longest, NULL, &err), PGS_EINVAL);
	assert_int_equal(pgs_snapshot_create(s->db, "", 0, NULL, &err), PGS_EINVAL);
	assert_int_equal(pgs_snapshot_drop(s->db, longest, sizeof longest, &err), PGS_EINVAL);
	assert_int_equal(begin_named_size(s->db, longest, sizeof longest, &t, &err), PGS_EINVAL);
	assert_int_equal(begin_named_size(s->db, "x", 0, &t, &err), PGS_EINVAL);
}

static void test_snapshot__options_are_checked(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	uint64_t first = tx_one(s->db, s, 0, PAGE_NOISE(1));
	tx_one(s->db, s, 0, PAGE_NOISE(2));
	create(s, "x");
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_snapshot = "x";
	o.at_snapshot_size = 1;
	o.write = true;
	assert_int_equal(pgs_begin(&t, s->db, &o, &err), PGS_EINVAL);
	o.write = false;
	o.at_revision = first;
	assert_int_equal(pgs_begin(&t, s->db, &o, &err), PGS_EINVAL);
	assert_int_equal(begin_named(s->db, "y", &t, &err), PGS_ENOTFOUND);
	assert_non_null(strstr(err.message, "no snapshot y"));
	pgs_snapshot_options so = {0};
	assert_int_equal(pgs_snapshot_create(s->db, "z", 1, &so, &err), PGS_EINVAL);
	assert_int_equal(create_at(s, "z", kv_revision(s->kv) + 5, &err), PGS_EINVAL);
	assert_int_equal(create_at(s, "x", first, &err), PGS_EEXIST);
	assert_int_equal(create_at(s, "z", first, &err), PGS_OK);
	t = tx_named(s->db, "z");
	tx_expect(t, s, 0, PAGE_NOISE(1));
	assert_int_equal(pgs_write(t, 0, "no"), PGS_EREADONLY);
	uint64_t revision;
	assert_int_equal(pgs_commit(t, NULL, &revision, &err), PGS_OK);
	assert_int_equal(revision, first);
}

static void test_snapshot__at_a_time(void **state)
{
	stage *s = *state;
	pgs_snapshot_options o = PGS_SNAPSHOT_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	tx_one(s->db, s, 0, PAGE_NOISE(1));
	o.at_time_ms = (int64_t)1 << 46;
	assert_int_equal(pgs_snapshot_create(s->db, "late", 4, &o, &err), PGS_OK);
	o.at_time_ms = 1;
	assert_int_equal(pgs_snapshot_create(s->db, "early", 5, &o, &err), PGS_ENOTFOUND);
	o.at_revision = 1;
	assert_int_equal(pgs_snapshot_create(s->db, "both", 4, &o, &err), PGS_EINVAL);
	assert_int_equal(list(s).count, 1);
}

static void test_snapshot__below_the_floor_is_gone(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t first = tx_one(s->db, s, 0, PAGE_NOISE(1));
	create(s, "before");
	uint64_t second = tx_one(s->db, s, 0, PAGE_NOISE(2));
	set_floor(s, second);
	assert_int_equal(create_at(s, "late", first, &err), PGS_EOLDREV);
	assert_int_equal(create_at(s, "fine", second, &err), PGS_OK);
	pgs_txn *t = tx_named(s->db, "before"); /* registered in time: readable below the floor */
	tx_expect(t, s, 0, PAGE_NOISE(1));
	pgs_abort(t);
}

/* The floor passes while the index is written: registering must notice, and nothing be left. */
static void raise_floor(stage *s, const char *operation)
{
	if (strcmp(operation, "put") != 0 || s->calls[0]++)
		return;
	set_floor(s, kv_revision(s->kv) + 1);
}

static void test_snapshot__registering_compares_the_floor(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	tx_one(s->db, s, 0, PAGE_NOISE(1));
	size_t blobs = stage_blobs(s);
	s->before = raise_floor;
	assert_int_equal(create_at(s, "x", 0, &err), PGS_EOLDREV);
	s->before = NULL;
	assert_int_equal(stage_keys_of(s, 's'), 0);
	assert_int_equal(stage_blobs(s), blobs);
}

/* Nothing that collects may pass S while the snapshot is made: the job that raises the floor runs at every upload. */
static void collect(stage *s, const char *operation)
{
	if (strcmp(operation, "put") != 0)
		return;
	s->calls[0]++;
	pgs__worker w = {.db = s->db, .report = &(pgs_maintain_report)PGS_MAINTAIN_REPORT_INIT, .bytes_left = UINT64_MAX};
	w.options = (pgs_maintain_options)PGS_MAINTAIN_OPTIONS_INIT;
	w.options.retention_ms = PGS_RETENTION_NONE;
	w.options.all = true;
	w.options.quota_percent = 40;
	pgs_error err = PGS_ERROR_INIT;
	w.err = &err;
	assert_int_equal(pgs__job_floor(&w), PGS_OK);
}

static uint64_t floor_of(stage *s)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	assert_int_equal(pgs_stat(s->db, &stat, NULL), PGS_OK);
	return stat.floor_revision;
}

static void test_snapshot__is_pinned_while_it_is_made(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	small(s, 300);
	uint64_t at = tx_fill(s->db, s, 0, 30, PAGE_NOISE(1));
	for (uint64_t i = 0; i < 5; i++)
		tx_one(s->db, s, 1, PAGE_NOISE(2 + i));
	s->before = collect;
	assert_int_equal(create_at(s, "x", at, &err), PGS_OK);
	assert_true(s->calls[0] > 0);
	assert_int_equal(stage_keys_of(s, 'r'), 0);
	s->before = NULL;
	assert_true(floor_of(s) > 0 && floor_of(s) <= at);
	pgs_txn *t = tx_named(s->db, "x");
	tx_expect(t, s, 1, PAGE_NOISE(1) + 1);
	pgs_abort(t);
}

static void take_the_name(stage *s, const char *operation)
{
	if (strcmp(operation, "put") != 0 || s->calls[0]++)
		return;
	assert_int_equal(pgs_snapshot_create(stage_other(s), "x", 1, NULL, NULL), PGS_OK);
}

static void test_snapshot__the_name_is_taken_meanwhile(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	tx_one(s->db, s, 0, PAGE_NOISE(1));
	size_t blobs = stage_blobs(s);
	s->before = take_the_name;
	assert_int_equal(create_at(s, "x", 0, &err), PGS_EEXIST);
	s->before = NULL;
	assert_int_equal(stage_blobs(s), blobs + 1);
	pgs_txn *t = tx_named(s->db, "x");
	tx_expect(t, s, 0, PAGE_NOISE(1));
	pgs_abort(t);
}

/* --- attributes -------------------------------------------------------------------------- */

static void test_snapshot__attributes_inline_and_in_a_blob(void **state)
{
	stage *s = *state;
	char name[PGS_ATTR_NAME_MAX + 1], *value = malloc(PGS_ATTR_SIZE_MAX), *got = malloc(PGS_ATTR_SIZE_MAX);
	size_t size;
	pgs_error err = PGS_ERROR_INIT;
	create(s, "none");
	for (unsigned i = 0; i < 300; i++) {
		pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
		for (unsigned k = 0; k < 60 && i < 300; k++, i++) {
			snprintf(name, sizeof name, "attr-%03u", i);
			memset(value, (int)i, PGS_ATTR_SIZE_MAX);
			assert_int_equal(pgs_attr_set(t, name, strlen(name), value, i * 10), PGS_OK);
		}
		tx_commit(t);
		if (i == 60)
			create(s, "some");
		i--;
	}
	create(s, "all");
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_attr(t, "attr-007", NULL);
	tx_commit(t);
	compact(s);
	listed l = list(s);
	assert_int_equal(l.count, 3);
	assert_true(l.info[0].index_bytes > 300 * 1000); /* "all": in a blob */
	assert_int_equal(l.info[2].index_bytes, 0);       /* "some": in the record */
	for (int round = 0; round < 2; round++) {
		t = tx_named(s->db, round ? "some" : "all");
		for (unsigned i = 0; i < 301; i++) {
			snprintf(name, sizeof name, "attr-%03u", i);
			memset(value, (int)i, PGS_ATTR_SIZE_MAX);
			int expected = i < (round ? 60u : 300u) ? PGS_OK : PGS_ENOTFOUND;
			assert_int_equal(pgs_attr_get(t, name, strlen(name), got, PGS_ATTR_SIZE_MAX, &size), expected);
			assert_int_equal(size, expected == PGS_OK ? i * 10 : 0);
			assert_memory_equal(got, value, size);
		}
		pgs_abort(t);
	}
	t = tx_named(s->db, "none");
	tx_expect_attr(t, "attr-001", NULL);
	pgs_abort(t);
	assert_int_equal(drop(s, "all", &err), PGS_OK);
	assert_int_equal(stage_keys_of(s, 'd'), 1);
	free(value);
	free(got);
}

/* --- reading ------------------------------------------------------------------------------- */

static void test_reading__a_run_of_pages_costs_one_block(void **state)
{
	stage *s = *state;
	uint8_t *page = malloc(4096);
	small(s, 0);
	tx_fill(s->db, s, 0, 1000, PAGE_THIN(1)); /* deltas against zeros: no contents to fetch */
	create(s, "x");
	forget_caches(s);
	pgs_txn *t = tx_named(s->db, "x");
	uint64_t before = pgs_fault_calls(s->fault);
	for (uint64_t i = 0; i < 256; i++)
		assert_int_equal(pgs_read(t, i, page), PGS_OK);
	assert_true(pgs_fault_calls(s->fault) - before <= 4); /* header, table, and a block or two */
	for (uint64_t i = 256; i < 1000; i++)
		assert_int_equal(pgs_read(t, i, page), PGS_OK);
	assert_true(pgs_fault_calls(s->fault) - before <= 12);
	before = pgs_fault_calls(s->fault); /* and the cache keeps them */
	for (uint64_t i = 0; i < 1000; i++)
		tx_expect(t, s, i, PAGE_THIN(1) + i);
	assert_int_equal(pgs_fault_calls(s->fault), before);
	pgs_abort(t);
	free(page);
}

/* What the cache learns from a named snapshot carries no mod revisions: a writer at the same commit must not take it. */
static void test_reading__does_not_confuse_writers(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 20, PAGE_NOISE(1));
	create(s, "x");
	for (int round = 0; round < 2; round++) {
		forget_caches(s);
		pgs_txn *w = tx_begin(s->db, PGS_SERIALIZABLE), *t = tx_named(s->db, "x");
		for (uint64_t i = 0; i < 20; i++)
			tx_expect(t, s, i, PAGE_NOISE(1) + i);
		for (uint64_t i = 0; i < 20; i += 7) /* no neighbours: each is compared by its own mod revision */
			tx_expect(w, s, i, PAGE_NOISE(1) + i);
		if (round)
			tx_put(w, s, 15, PAGE_NOISE(1) + 15); /* what it holds: joins the read set */
		tx_put(w, s, 30 + (uint64_t)round, PAGE_NOISE(2));
		if (round)
			tx_one(stage_other(s), s, 50, PAGE_NOISE(1));
		uint64_t before = pgs_fault_calls(s->fault);
		tx_commit(w);
		if (!round)
			assert_int_equal(pgs_fault_calls(s->fault) - before, 1); /* all compares held at once */
		pgs_abort(t);
	}
}

/* The other way around: what the cache knows of now is no answer for a snapshot of then. */
static void test_reading__old_snapshots_beside_a_warm_cache(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 20, PAGE_NOISE(1));
	create(s, "x");
	uint64_t same = tx_one(s->db, s, 3, PAGE_NOISE(77));
	create(s, "y");
	for (int round = 0; round < 3; round++) {
		pgs_txn *x = tx_named(s->db, "x"), *y = tx_named(s->db, "y"), *now = tx_read(s->db), *then = NULL;
		if (round < 2)
			then = tx_at(s->db, same);
		tx_expect(x, s, 3, PAGE_NOISE(1) + 3);
		tx_expect(y, s, 3, PAGE_NOISE(77));
		tx_expect(now, s, 3, PAGE_NOISE(77) + (uint64_t)round);
		if (then)
			tx_expect(then, s, 3, PAGE_NOISE(77));
		tx_expect(x, s, 4, PAGE_NOISE(1) + 4);
		tx_expect(now, s, 4, PAGE_NOISE(1) + 4);
		pgs_abort(x);
		pgs_abort(y);
		pgs_abort(now);
		pgs_abort(then);
		tx_one(s->db, s, 3, PAGE_NOISE(78) + (uint64_t)round);
		if (round == 1)
			compact(s);
	}
}

static void test_reading__a_snapshot_dropped_meanwhile(void **state)
{
	stage *s = *state;
	uint8_t *page = malloc(4096);
	pgs_error err = PGS_ERROR_INIT;
	tx_fill(s->db, s, 0, 300, PAGE_NOISE(1));
	create(s, "x");
	for (int again = 0; again < 2; again++) {
		forget_caches(s);
		pgs_txn *t = tx_named(s->db, "x");
		assert_int_equal(drop(s, "x", &err), PGS_OK);
		if (again)
			create(s, "x"); /* another one of its name is not it */
		/* What a collector does then: the index files and contents go. */
		pgs__key c = pgs__key_kind(pgs__db_prefix(s->db), 'c'), c_end = pgs__key_kind_end(pgs__db_prefix(s->db), 'c');
		const pgs_kv_op op = pgs__op_delete(pgs__key_slice(&c), pgs__key_slice(&c_end));
		pgs__key l = pgs__key_kind(pgs__db_prefix(s->db), 'l'), l_end = pgs__key_kind_end(pgs__db_prefix(s->db), 'l');
		const pgs_kv_op op2 = pgs__op_delete(pgs__key_slice(&l), pgs__key_slice(&l_end));
		if (again) {
			assert_int_equal(status_of(s->kv, &op, 1), PGS_OK);
			assert_int_equal(status_of(s->kv, &op2, 1), PGS_OK);
		}
		assert_int_equal(pgs_read(t, 3, page), again ? PGS_EOLDREV : PGS_OK);
		if (again)
			assert_non_null(strstr(pgs_txn_error(t)->message, "snapshot x of database db was dropped"));
		pgs_abort(t);
		if (!again)
			create(s, "x");
	}
	free(page);
}

typedef struct found_blob {
	char name[PGS_BLOB_NAME_MAX + 1];
	uint64_t size;
} found_blob;

static int take_index_blob(void *ctx, const char *name, uint64_t size)
{
	found_blob *f = ctx;
	if (strchr(name, '/')[1] != 'i')
		return 0;
	strcpy(f->name, name);
	f->size = size;
	return 1;
}

/* The one index file there is. */
static found_blob index_blob(stage *s)
{
	found_blob f = {0};
	assert_int_equal(s->blob->vtable->list(s->blob, "", take_index_blob, &f, 0, NULL), 1);
	return f;
}

static void test_reading__a_missing_index_file(void **state)
{
	stage *s = *state;
	uint8_t *page = malloc(4096);
	pages found = {0};
	pgs_error err = PGS_ERROR_INIT;
	tx_one(s->db, s, 0, PAGE_NOISE(1));
	create(s, "x");
	tx_one(s->db, s, 0, PAGE_NOISE(2));
	pgs_txn *t = tx_named(s->db, "x"), *now = tx_read(s->db);
	s->blob->vtable->remove(s->blob, index_blob(s).name, 0, NULL);
	assert_int_equal(pgs_read(t, 0, page), PGS_ECORRUPT);
	assert_non_null(strstr(pgs_txn_error(t)->message, "is missing"));
	assert_int_equal(pgs_diff_txns(t, now, note_page, &found, &err), PGS_ECORRUPT);
	assert_int_equal(drop(s, "x", &err), PGS_OK);
	assert_int_equal(pgs_read(t, 0, page), PGS_EOLDREV);
	assert_int_equal(pgs_diff_txns(t, now, note_page, &found, &err), PGS_EOLDREV);
	pgs_abort(t);
	pgs_abort(now);
	free(page);
}

static void test_diff__of_two_databases_is_refused(void **state)
{
	stage *s = *state;
	pgs_db *db;
	pages found = {0};
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(pgs_db_create(&db, s->store, "second", 6, NULL, NULL), PGS_OK);
	pgs_txn *a = tx_read(s->db), *b = tx_read(db);
	assert_int_equal(pgs_diff_txns(a, b, note_page, &found, &err), PGS_EINVAL);
	pgs_abort(a);
	pgs_abort(b);
	pgs_db_close(db);
}

/* --- walking pointers ------------------------------------------------------------------------ */

/* A page at the far end of the page space does not cost requests by the million. */
static void test_scan__gaps_cost_little(void **state)
{
	stage *s = *state;
	tx_one(s->db, s, 1, PAGE_NOISE(1));
	tx_one(s->db, s, (1ull << 39), PAGE_NOISE(2));
	uint64_t before = pgs_fault_calls(s->fault);
	create(s, "x");
	assert_true(pgs_fault_calls(s->fault) - before < 80);
	listed l = list(s);
	assert_int_equal(l.info[0].pointer_count, 2);
	pgs_txn *t = tx_named(s->db, "x");
	tx_expect(t, s, 1ull << 39, PAGE_NOISE(2));
	tx_expect(t, s, (1ull << 39) - 1, PAGE_ZERO);
	pgs_abort(t);
}

typedef struct window {
	uint64_t next, end;
	size_t count;
} window;

static int in_window(void *ctx, uint64_t page_no, const pgs__pointer *pointer)
{
	window *w = ctx;
	assert_true(page_no >= w->next && page_no < w->end && pointer->kind != PGS__POINTER_ABSENT);
	w->next = page_no + 1;
	w->count++;
	return 0;
}

/* Windows of every size see each pointer once, at a revision (with packs, over the limit of a batch) and in a named
 * snapshot. */
static void test_scan__windows_add_up(void **state)
{
	stage *s = *state;
	small(s, 2000);
	tx_fill(s->db, s, 0, 5000, PAGE_THIN(1));
	for (uint64_t i = 0; i < 20; i++)
		tx_one(s->db, s, i * 300, PAGE_NOISE(i));
	tx_fill(s->db, s, 4000, 900, PAGE_THIN(7));
	create(s, "x");
	static const uint64_t sizes[] = {1000, 1, 7, 100000};
	for (int named = 0; named < 2; named++) {
		pgs__snapshot snapshot;
		int opened = named ? pgs__named_open(&snapshot, s->db, (pgs_slice){"x", 1}, 0, NULL)
				   : pgs__snapshot_open(&snapshot, s->db, 0, 0, NULL);
		assert_int_equal(opened, PGS_OK);
		for (size_t k = 0; k < 4; k++) {
			uint64_t end = sizes[k] < 100 ? sizes[k] * 200 : 10000;
			window w = {0};
			for (uint64_t at = 0; at < end; at += sizes[k]) {
				w.next = at;
				w.end = at + sizes[k];
				assert_int_equal(pgs__pointers_scan(&snapshot, at, w.end, in_window, &w, 0, NULL), PGS_OK);
			}
			assert_int_equal(w.count, end < 5000 ? end : 5003); /* 5100, 5400, 5700 by themselves */
		}
		pgs__snapshot_close(&snapshot);
	}
}

/* --- dropping ----------------------------------------------------------------------------------- */

static void test_drop__unregisters_the_files(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	small(s, 1); /* a file for each pointer: more than fit a limited transaction */
	tx_fill(s->db, s, 0, 300, PAGE_THIN(1));
	create(s, "x");
	create(s, "y");
	size_t blobs = stage_blobs(s);
	assert_true(blobs >= 600);
	assert_int_equal(drop(s, "x", &err), PGS_OK);
	assert_int_equal(stage_keys_of(s, 's'), 1);
	assert_int_equal(stage_keys_of(s, 'd'), 300);
	assert_int_equal(stage_blobs(s), blobs); /* the sweep removes them */
	pgs_txn *t = tx_named(s->db, "y");
	tx_expect(t, s, 299, PAGE_THIN(1) + 299);
	pgs_abort(t);
	assert_int_equal(drop(s, "x", &err), PGS_ENOTFOUND);
}

static void test_drop__a_dropped_database(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	listed l = {0};
	pgs_txn *t;
	create(s, "x");
	assert_int_equal(pgs_db_drop(s->store, "db", 2, &err), PGS_OK);
	assert_int_equal(drop(s, "x", &err), PGS_ENOTFOUND);
	assert_int_equal(create_at(s, "x", 0, &err), PGS_ENOTFOUND);
	assert_int_equal(pgs_snapshot_list(s->db, note_listed, &l, &err), PGS_ENOTFOUND);
	assert_int_equal(begin_named(s->db, "x", &t, &err), PGS_ENOTFOUND);
}

/* --- faults --------------------------------------------------------------------------------------- */

/* What must hold after a creation, whatever happened to it. */
static void expect_whole_or_not_there(stage *s, int result, size_t blobs)
{
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	int begun = begin_named(s->db, "x", &t, &err);
	assert_true(begun == PGS_OK || begun == PGS_ENOTFOUND);
	if (result == PGS_OK)
		assert_int_equal(begun, PGS_OK);
	else
		assert_int_equal(begun, PGS_ENOTFOUND);
	if (begun == PGS_OK) {
		for (uint64_t i = 0; i < 30; i++)
			tx_expect(t, s, i, PAGE_NOISE(1) + i);
		tx_expect_attr(t, "a", "b");
		pgs_abort(t);
	} else {
		assert_true(stage_blobs(s) <= blobs + 4);
	}
}

static void faulty_create(stage *s, pgs_fault_kind kind)
{
	small(s, 300);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < 30; i++)
		tx_put(t, s, i, PAGE_NOISE(1) + i);
	tx_attr(t, "a", "b");
	tx_commit(t);
	for (uint64_t nth = 1;; nth++) {
		pgs_error err = PGS_ERROR_INIT;
		size_t blobs = stage_blobs(s);
		uint64_t before = pgs_fault_calls(s->fault);
		pgs_fault_at(s->fault, nth, kind);
		int result = create_at(s, "x", 0, &err);
		uint64_t calls = pgs_fault_calls(s->fault) - before;
		pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
		pgs_fault_resume(s->fault);
		assert_true(result == PGS_OK || result == PGS_EIO); /* one lost reply is settled by asking again */
		expect_whole_or_not_there(s, result, blobs);
		pgs_fault_deliver(s->fault);
		expect_whole_or_not_there(s, result, blobs);
		if (result != PGS_OK && kind == PGS_FAULT_ERROR)
			assert_int_equal(stage_blobs(s), blobs); /* nothing is left */
		drop(s, "x", &err);
		assert_int_equal(stage_keys_of(s, 's'), 0);
		if (calls < nth)
			break;
	}
}

static void test_create__faults_at_every_call(void **state)
{
	faulty_create(*state, PGS_FAULT_ERROR);
	faulty_create(*state, PGS_FAULT_LOSE_REPLY);
	faulty_create(*state, PGS_FAULT_DELAY);
	faulty_create(*state, PGS_FAULT_STOP);
}

/* Any call is kept back until the snapshot is dropped again. */
static void test_create__what_comes_after_the_drop_does_nothing(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	tx_fill(s->db, s, 0, 5, PAGE_NOISE(1));
	for (uint64_t nth = 1, calls = nth; calls >= nth; nth++) {
		uint64_t before = pgs_fault_calls(s->fault);
		pgs_fault_at(s->fault, nth, PGS_FAULT_DELAY);
		int result = create_at(s, "x", 0, &err);
		calls = pgs_fault_calls(s->fault) - before;
		pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
		if (result == PGS_OK)
			assert_int_equal(drop(s, "x", &err), PGS_OK);
		pgs_fault_deliver(s->fault);
		assert_int_equal(stage_keys_of(s, 's'), 0);
	}
}

/* The request that registers is kept back, and nothing after it gets through: it may still happen, so the files must
 * stay. */
static void delay_registering(stage *s, const char *operation)
{
	s->calls[0] += strcmp(operation, "put") == 0;
	if (!s->calls[0] || strcmp(operation, "txn") != 0)
		return;
	uint64_t call = s->calls[1]++; /* the first reads attributes */
	if (call > 0)
		pgs_fault_at(s->fault, 1, call == 1 ? PGS_FAULT_DELAY : PGS_FAULT_ERROR);
}

static void test_create__that_happens_later_is_whole(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	tx_fill(s->db, s, 0, 5, PAGE_NOISE(1));
	s->before = delay_registering;
	assert_int_equal(create_at(s, "x", 0, &err), PGS_EUNKNOWN);
	s->before = NULL;
	assert_int_equal(stage_keys_of(s, 's'), 0);
	pgs_fault_deliver(s->fault);
	pgs_txn *t = tx_named(s->db, "x");
	for (uint64_t i = 0; i < 5; i++)
		tx_expect(t, s, i, PAGE_NOISE(1) + i);
	pgs_abort(t);
}

static void test_drop__faults_at_every_call(void **state)
{
	stage *s = *state;
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_LOSE_REPLY, PGS_FAULT_DELAY, PGS_FAULT_STOP};
	small(s, 300);
	tx_fill(s->db, s, 0, 30, PAGE_NOISE(1));
	for (size_t k = 0; k < 4; k++) {
		for (uint64_t nth = 1;; nth++) {
			pgs_error err = PGS_ERROR_INIT;
			create(s, "x");
			uint64_t before = pgs_fault_calls(s->fault);
			pgs_fault_at(s->fault, nth, kinds[k]);
			int result = drop(s, "x", &err);
			uint64_t calls = pgs_fault_calls(s->fault) - before;
			pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
			pgs_fault_resume(s->fault);
			assert_true(result == PGS_OK || result == PGS_EIO);
			assert_int_equal(stage_keys_of(s, 's'), result != PGS_OK);
			drop(s, "x", &err);
			create(s, "x");
			pgs_fault_deliver(s->fault); /* what comes late drops no other snapshot */
			assert_int_equal(stage_keys_of(s, 's'), 1);
			assert_int_equal(drop(s, "x", &err), PGS_OK);
			if (calls < nth)
				break;
		}
	}
}

/* --- damage ---------------------------------------------------------------------------------------- */

static void flip_record(stage *s, size_t at)
{
	pgs__key key = pgs__key_snapshot(pgs__db_prefix(s->db), "x", 1);
	const pgs_kv_op get = pgs__op_get(pgs__key_slice(&key), 0);
	pgs_kv_txn txn = txn_of(&get, 1);
	assert_int_equal(run_txn(s->kv, &txn), PGS_OK);
	pgs_slice value = txn.results[0].pairs[0].value;
	uint8_t *copy = malloc(value.size);
	memcpy(copy, value.data, value.size);
	copy[at % value.size] ^= 0x40;
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), (pgs_slice){copy, value.size});
	assert_int_equal(status_of(s->kv, &put, 1), PGS_OK);
	s->kv->vtable->release(s->kv, &txn, 1);
	free(copy);
}

static void test_damage__of_the_record_is_found(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	listed l = {0};
	pgs_txn *t;
	tx_one(s->db, s, 0, PAGE_NOISE(1));
	create(s, "x");
	for (size_t at = 0; at < 120; at++) {
		flip_record(s, at);
		assert_int_equal(begin_named(s->db, "x", &t, &err), PGS_ECORRUPT);
		assert_non_null(strstr(err.message, "snapshot x of database db is damaged"));
		assert_int_equal(pgs_snapshot_list(s->db, note_listed, &l, &err), PGS_ECORRUPT);
		flip_record(s, at);
	}
	t = tx_named(s->db, "x");
	tx_expect(t, s, 0, PAGE_NOISE(1));
	pgs_abort(t);
	flip_record(s, 3);
	assert_int_equal(drop(s, "x", &err), PGS_OK); /* to be rid of it */
	assert_int_equal(stage_keys_of(s, 's'), 0);
}

static int from_memory(void *ctx, uint64_t offset, void *buf, size_t size)
{
	memcpy(buf, (uint8_t *)ctx + offset, size);
	return PGS_OK;
}

/* Flip a bit of the index file's byte `at`; false past its end. */
static bool flip_index(stage *s, size_t at)
{
	uint8_t bytes[4096];
	found_blob f = index_blob(s);
	assert_true(f.size <= sizeof bytes);
	pgs_blob_range range = {.name = f.name, .size = (size_t)f.size, .buffer = bytes};
	assert_int_equal(s->blob->vtable->get(s->blob, &range, 1, 0, NULL), PGS_OK);
	if (at >= f.size)
		return false;
	bytes[at] ^= 0x02;
	s->blob->vtable->remove(s->blob, f.name, 0, NULL);
	assert_int_equal(s->blob->vtable->put(s->blob, f.name, f.size, from_memory, bytes, 0, NULL), PGS_OK);
	return true;
}

static void test_damage__of_an_index_file_is_found(void **state)
{
	stage *s = *state;
	uint8_t *page = malloc(4096);
	pages found = {0};
	tx_fill(s->db, s, 0, 5, PAGE_NOISE(1));
	create(s, "x");
	tx_one(s->db, s, 0, PAGE_NOISE(9));
	for (size_t at = 0; flip_index(s, at); at++) {
		pgs_error err = PGS_ERROR_INIT;
		forget_caches(s);
		pgs_txn *t = tx_named(s->db, "x"), *now = tx_read(s->db);
		assert_int_equal(pgs_read(t, 2, page), PGS_ECORRUPT);
		assert_non_null(strstr(pgs_txn_error(t)->message, "index file"));
		assert_int_equal(pgs_diff_txns(t, now, note_page, &found, &err), PGS_ECORRUPT);
		pgs_abort(t);
		pgs_abort(now);
		flip_index(s, at);
	}
	pgs_txn *t = tx_named(s->db, "x");
	tx_expect(t, s, 2, PAGE_NOISE(1) + 2);
	pgs_abort(t);
	free(page);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_snapshot__model),
		CASE(test_snapshot__model_with_many_index_files),
		CASE(test_snapshot__of_an_empty_database),
		CASE(test_snapshot__of_a_truncated_one),
		CASE(test_snapshot__names_are_any_bytes),
		CASE(test_snapshot__options_are_checked),
		CASE(test_snapshot__at_a_time),
		CASE(test_snapshot__below_the_floor_is_gone),
		CASE(test_snapshot__registering_compares_the_floor),
		CASE(test_snapshot__is_pinned_while_it_is_made),
		CASE(test_snapshot__the_name_is_taken_meanwhile),
		CASE(test_snapshot__attributes_inline_and_in_a_blob),
		CASE(test_reading__a_run_of_pages_costs_one_block),
		CASE(test_reading__does_not_confuse_writers),
		CASE(test_reading__old_snapshots_beside_a_warm_cache),
		CASE(test_reading__a_snapshot_dropped_meanwhile),
		CASE(test_reading__a_missing_index_file),
		CASE(test_diff__of_two_databases_is_refused),
		CASE(test_scan__gaps_cost_little),
		CASE(test_scan__windows_add_up),
		CASE(test_drop__unregisters_the_files),
		CASE(test_drop__a_dropped_database),
		CASE(test_create__faults_at_every_call),
		CASE(test_create__what_comes_after_the_drop_does_nothing),
		CASE(test_create__that_happens_later_is_whole),
		CASE(test_drop__faults_at_every_call),
		CASE(test_damage__of_the_record_is_found),
		CASE(test_damage__of_an_index_file_is_found),
	};
	return stage_run("named_snapshots", tests, sizeof tests / sizeof *tests,
			 STAGE_MEMORY | STAGE_LIMITED | STAGE_LOCAL);
}
