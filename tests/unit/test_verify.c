/* lib/maintain/verify*.c, deep: what is said of damage anywhere, what is only noted, what others do meanwhile. */
#include "test_collect.h"

#include <stdio.h>

#include "codec/seal.h"
#include "support/blob_calls.h"
#include "support/jobs.h"

#define N 30
#define SAID 16

typedef struct told {
	pgs_verify_report report;
	int result;
	size_t findings, notes;
	struct {
		int code;
		uint64_t page;
		char message[PGS_ERROR_MESSAGE_SIZE], hint[400];
	} said[SAID]; /* the first findings and notes */
} told;

static told t;

static int keep(const pgs_verify_finding *f)
{
	size_t at = t.findings + t.notes;
	assert_non_null(f->hint);
	assert_true(strlen(f->hint) > 10 && f->hint[strlen(f->hint) - 1] == '.');
	assert_true(f->message[0] != '\0');
	if (at < SAID) {
		t.said[at].code = f->code;
		t.said[at].page = f->page;
		snprintf(t.said[at].message, sizeof t.said[at].message, "%s", f->message);
		snprintf(t.said[at].hint, sizeof t.said[at].hint, "%s", f->hint);
	}
	return 0;
}

static int see_finding(void *ctx, const pgs_verify_finding *f)
{
	(void)ctx;
	assert_true(f->code == PGS_ECORRUPT || f->code == PGS_EVERSION);
	keep(f);
	t.findings++;
	return 0;
}

static int see_note(void *ctx, const pgs_verify_finding *f)
{
	(void)ctx;
	assert_int_equal(f->code, PGS_OK);
	keep(f);
	t.notes++;
	return 0;
}

static void verify_db(pgs_db *db, bool deep)
{
	pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	t = (told){.report = PGS_VERIFY_REPORT_INIT};
	o.finding = see_finding;
	o.note = see_note;
	o.deep = deep;
	t.result = pgs_verify(db, &o, &t.report, &err);
	assert_int_equal(t.report.findings, t.findings);
	assert_int_equal(t.report.notes, t.notes);
	if (t.findings)
		assert_int_equal(t.result, PGS_ECORRUPT);
	else
		expect_code(t.result, PGS_OK, &err, "verify");
}

/* With a handle that knows nothing yet. */
static void verify(fixture *f, bool deep)
{
	pgs_store *store = server_open(&f->server, NULL, NULL);
	pgs_db *db = open_db(store, "db");
	verify_db(db, deep);
	pgs_db_close(db);
	pgs_close(store);
}

static void expect_whole(fixture *f)
{
	verify(f, true);
	if (t.findings + t.notes)
		fail_msg("said: %s", t.said[0].message);
}

/* What was said first, and only that. */
static void expect_said(size_t findings, size_t notes, const char *message, const char *hint)
{
	if (t.findings != findings || t.notes != notes)
		fail_msg("%zu findings, %zu notes: %s; %s", t.findings, t.notes, t.said[0].message, t.said[1].message);
	if (!strstr(t.said[0].message, message) || !strstr(t.said[0].hint, hint))
		fail_msg("not \"%s\", \"%s\" but: %s; %s", message, hint, t.said[0].message, t.said[0].hint);
}

/* --- changing what is stored ------------------------------------------------------------------- */

typedef struct bytes {
	uint8_t *data;
	uint64_t size;
} bytes;

static int read_bytes(void *ctx, uint64_t offset, void *buf, size_t size)
{
	const bytes *b = ctx;
	memcpy(buf, b->data + offset, size);
	return PGS_OK;
}

static bytes get_blob(fixture *f, const char *name)
{
	bytes b;
	assert_int_equal(stat_size(f->server.blob, name, &b.size), PGS_OK);
	b.data = malloc(b.size);
	assert_int_equal(get_range(f->server.blob, name, 0, b.data, b.size), PGS_OK);
	return b;
}

/* A name keeps its content for ever: so it is removed first. */
static void set_blob(fixture *f, const char *name, bytes *b)
{
	assert_int_equal(f->server.blob->vtable->remove(f->server.blob, name, 0, NULL), PGS_OK);
	assert_int_equal(f->server.blob->vtable->put(f->server.blob, name, b->size, read_bytes, b, 0, NULL), PGS_OK);
	free(b->data);
}

static void flip(fixture *f, const char *name, uint64_t at)
{
	bytes b = get_blob(f, name);
	b.data[at < b.size ? at : b.size - 1] ^= 4;
	set_blob(f, name, &b);
}

typedef struct search {
	char kind;
	char name[PGS_BLOB_NAME_MAX + 1];
} search;

static int match_kind(void *ctx, const char *name, uint64_t size)
{
	search *s = ctx;
	const char *slash = strchr(name, '/');
	(void)size;
	if (slash && slash[1] == s->kind && !s->name[0])
		strcpy(s->name, name);
	return 0;
}

/* The first blob of a kind. */
static const char *blob_of(fixture *f, char kind)
{
	static search s;
	s = (search){.kind = kind};
	assert_int_equal(f->server.blob->vtable->list(f->server.blob, "", match_kind, &s, 0, NULL), PGS_OK);
	assert_true(s.name[0] != '\0');
	return s.name;
}

static void remove_blob(fixture *f, const char *name)
{
	assert_int_equal(f->server.blob->vtable->remove(f->server.blob, name, 0, NULL), PGS_OK);
}

/* The first key of a kind, and its value. */
static pgs__key first_key(fixture *f, char kind, bytes *value)
{
	const uint8_t *prefix = pgs__db_prefix(f->a.db);
	pgs__key from = pgs__key_kind(prefix, kind), end = pgs__key_kind_end(prefix, kind);
	pgs_kv_op op = pgs__op_range(pgs__key_slice(&from), pgs__key_slice(&end), 0);
	op.limit = 1;
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(f->server.kv, &txn), PGS_OK);
	assert_int_equal(txn.results[0].count, 1);
	const pgs_kv_pair *pair = &txn.results[0].pairs[0];
	pgs__key key = {.size = (uint16_t)pair->key.size};
	memcpy(key.bytes, pair->key.data, key.size);
	value->size = pair->value.size;
	value->data = malloc(value->size + 1);
	memcpy(value->data, pair->value.data, value->size);
	f->server.kv->vtable->release(f->server.kv, &txn, 1);
	return key;
}

static void flip_key(fixture *f, char kind)
{
	bytes value;
	pgs__key key = first_key(f, kind, &value);
	value.data[value.size / 2] ^= 0x10;
	put_raw(f, &key, (pgs_slice){value.data, value.size});
	free(value.data);
}

static pgs__file *first_file(fixture *f, pgs__file_map **map)
{
	*map = files_of(&f->a);
	assert_true((*map)->count > 0);
	return (*map)->files[0];
}

static void flip_file(fixture *f, size_t which, uint64_t at)
{
	pgs__file_map *map = files_of(&f->a);
	assert_true(which < map->count);
	char name[PGS__BLOB_NAME_SIZE];
	strcpy(name, map->files[which]->blob_name);
	pgs__file_map_release(map);
	flip(f, name, at);
}

/* --- a database with all there is ---------------------------------------------------------------- */

static int setup_verify(void **state)
{
	const pgs_kv_limits limits = {.max_txn_ops = 128, .max_request_bytes = 3 << 19};
	failing_alloc_install();
	fixture *f = fixture_new(&limits, 0);
	*state = f;
	set_thresholds(&f->a);
	set_thresholds(&f->b);
	return 0;
}

/* Such that packs are in index files, and long runs in blobs. */
static int setup_small(void **state)
{
	const pgs_kv_limits limits = {.max_txn_ops = 16, .max_request_bytes = 40000};
	failing_alloc_install();
	fixture *f = fixture_new(&limits, 0);
	*state = f;
	set_thresholds(&f->a);
	return 0;
}

static void do_all(process *p, job run)
{
	p->worker.options.all = true;
	expect_code(run(&p->worker), PGS_OK, &p->err, "a job");
	p->worker.options.all = false;
}

static void make_snapshot(fixture *f, const char *name)
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_snapshot_create(f->a.db, name, strlen(name), NULL, &err), PGS_OK, &err, "snapshot");
}

/* Attributes that do not fit a snapshot's record. */
static void set_attributes(fixture *f)
{
	char value[4000], name[16];
	memset(value, 'v', sizeof value);
	pgs_txn *txn = begin_write(f->a.db);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof name, "attr%d", i);
		assert_int_equal(pgs_attr_set(txn, name, strlen(name), value, sizeof value), PGS_OK);
	}
	commit_ok(txn);
}

/* Files in levels 0 and 1, contents in the KV, packs, changelog, snapshots. */
static void make_all(fixture *f)
{
	write_many(f, 0, N, 100);
	do_all(&f->a, pgs__job_flush);
	do_all(&f->a, pgs__job_merge);
	write_many(f, 0, N, 200);
	do_all(&f->a, pgs__job_flush);
	set_attributes(f);
	make_snapshot(f, "kept");
	write_many(f, 0, N, 300);
	for (uint64_t n = 0; n < 3; n++)
		write_one(f, n, seed_of(300 + n, 1)); /* deltas */
	write_many(f, 1000, 200, 400); /* a pack */
}

static void test_verify__finds_nothing_in_what_is_whole(void **state)
{
	fixture *f = *state;
	make_all(f);
	assert_true(count_kind(f, 'o') > 0);
	assert_true(count_kind(f, 'c') > 0);
	expect_whole(f);
	assert_int_equal(t.report.snapshots_checked, 1);
	assert_int_equal(t.report.files_checked, 2);
	assert_int_equal(t.report.copies_checked, 2 * N + count_kind(f, 'c'));
	assert_true(t.report.pointers_checked >= 4 * N + 200);
	uint64_t contents = t.report.contents_checked;
	verify(f, false);
	assert_int_equal(t.findings + t.notes, 0);
	assert_int_equal(t.report.copies_checked + t.report.snapshots_checked, 0);
	assert_int_equal(t.report.contents_checked, contents); /* the snapshot shares all of them */
}

/* --- contents ---------------------------------------------------------------------------------------- */

static void test_verify__reads_what_nobody_needs(void **state)
{
	fixture *f = *state;
	write_many(f, 0, N, 100);
	do_all(&f->a, pgs__job_flush);
	write_many(f, 0, N, 200);
	publish_now(f);
	flip_file(f, 0, UINT64_MAX);
	verify(f, false);
	assert_int_equal(t.findings, 0);
	verify(f, true);
	expect_said(1, 0, "is damaged", "backup");
	assert_non_null(strstr(t.said[0].message, blob_of(f, 's')));
	assert_non_null(strstr(t.said[0].message, "from 0 to 255"));
}

static void test_verify__reads_what_is_in_the_kv(void **state)
{
	fixture *f = *state;
	write_many(f, 0, N, 100);
	write_many(f, 0, N, 200);
	publish_now(f);
	pgs__page_id id = id_of(f, 3, seed_of(103, 0));
	pgs__key key = pgs__key_content(pgs__db_prefix(f->a.db), &id);
	put_raw(f, &key, (pgs_slice){"damage", 6});
	key.size--; /* a key that is none */
	put_raw(f, &key, (pgs_slice){"damage", 6});
	verify(f, false);
	assert_int_equal(t.findings, 0);
	verify(f, true);
	expect_said(2, 0, "malformed", "Delete");
	assert_non_null(strstr(t.said[1].message, "is damaged"));
}

/* Both levels have the content; one copy is damaged. The hint says what mends it, and does. */
static void one_of_two_copies(fixture *f, bool in_kv)
{
	write_many(f, 0, N, 100);
	do_all(&f->a, pgs__job_flush);
	do_all(&f->a, pgs__job_merge);
	pgs__page_id id = id_of(f, 3, seed_of(103, 0));
	pgs__key key = pgs__key_content(pgs__db_prefix(f->a.db), &id);
	uint8_t page[TEST_PAGE_SIZE];
	fill_page(page, seed_of(103, 0));
	page[7] ^= in_kv;
	put_raw(f, &key, (pgs_slice){page, sizeof page});
	if (!in_kv) {
		pgs__sorted_entry row;
		assert_int_equal(rows_of(f, &id, &row), 1);
		flip_file(f, 0, row.offset + 20);
	}
	verify(f, true);
	expect_said(1, 0, "is damaged", "maintain --all --scrub");
	verify(f, false);
	assert_int_equal(t.findings, 0); /* every page is readable */
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.all = o.scrub = true;
	expect_code(pgs_maintain(f->a.db, &o, &report, &err), PGS_OK, &err, "maintain");
	assert_int_equal(report.damaged_contents, 0);
	expect_whole(f);
	reopen(f, &f->a);
	expect_many(f, 0, N, 100);
}

static void test_verify__a_copy_in_a_file_can_be_mended(void **state)
{
	one_of_two_copies(*state, false);
}

static void test_verify__a_copy_in_the_kv_can_be_mended(void **state)
{
	one_of_two_copies(*state, true);
}

static void test_verify__a_file_cut_short(void **state)
{
	fixture *f = *state;
	write_many(f, 0, N, 100);
	do_all(&f->a, pgs__job_flush);
	bytes b = get_blob(f, blob_of(f, 's'));
	b.size -= 3 * TEST_PAGE_SIZE;
	set_blob(f, blob_of(f, 's'), &b);
	verify(f, true);
	assert_int_equal(t.findings, 2 * 3); /* pages, and copies */
	b = get_blob(f, blob_of(f, 's'));
	b.data = realloc(b.data, b.size + 4 * TEST_PAGE_SIZE);
	memset(b.data + b.size, 0, 4 * TEST_PAGE_SIZE);
	b.size += 4 * TEST_PAGE_SIZE;
	set_blob(f, blob_of(f, 's'), &b);
	verify(f, true);
	assert_int_equal(t.findings, 2 * 3 + 1); /* and too long */
	remove_blob(f, blob_of(f, 's'));
	verify(f, true);
	assert_int_equal(t.findings, N + 1);
	bool named = false;
	for (size_t i = 0; i < SAID; i++)
		named |= strstr(t.said[i].message, "page ") != NULL;
	assert_true(named);
}

/* --- tables, filters, keys, levels -------------------------------------------------------------------- */

static void test_verify__a_filter_that_leaves_out_ids(void **state)
{
	fixture *f = *state;
	pgs__file_map *map;
	write_many(f, 0, 1900, 100);
	const pgs__file *file = first_file(f, &map);
	assert_true(file->index.filter_size > 0);
	bytes b = get_blob(f, file->blob_name);
	uint8_t *filter = b.data + pgs__sorted_contents_offset(file->index.count, 0);
	size_t size = (size_t)file->index.filter_size;
	size_t at = 0;
	while (filter[at] == 0)
		at++;
	filter[at] = 0; /* a few ids have bits there */
	uint64_t check = pgs__check64(filter, size);
	for (int i = 0; i < 8; i++)
		filter[size + (size_t)i] = (uint8_t)(check >> (8 * i));
	set_blob(f, file->blob_name, &b);
	pgs__file_map_release(map);
	verify(f, true);
	bool found = false;
	for (size_t i = 0; i < SAID; i++)
		found |= strstr(t.said[i].message, "its filter leaves out ids") != NULL;
	assert_true(found);
}

/* Registered under a key that says another first id, or with another file's value. */
static void test_verify__a_key_that_is_not_the_files(void **state)
{
	fixture *f = *state;
	pgs__file_map *map;
	bytes value;
	write_many(f, 0, N, 100);
	do_all(&f->a, pgs__job_flush);
	pgs__key old = first_key(f, 'l', &value);
	const pgs__file *file = first_file(f, &map);
	pgs__page_id first = file->key.first;
	first.bytes[15] ^= 1;
	if (memcmp(first.bytes, file->key.first.bytes, PGS__ID_SIZE) > 0)
		memset(first.bytes + 4, 0, 12);
	pgs__key key = pgs__key_level(pgs__db_prefix(f->a.db), 0, &first, &file->key.last, file->key.file_name);
	pgs__file_map_release(map);
	put_raw(f, &key, (pgs_slice){value.data, value.size});
	delete_raw(f, &old);
	free(value.data);
	verify(f, true);
	expect_said(1, 0, "its table is not the one", "do not belong together");
}

static void test_verify__damaged_heads(void **state)
{
	fixture *f = *state;
	write_many(f, 0, N, 100);
	do_all(&f->a, pgs__job_flush);
	static const struct {
		uint64_t at;
		const char *message;
	} places[] = {{0, "header"}, {20, "header"}, {64, "table"}, {64 + 36 * N - 1, "table"}};
	for (size_t i = 0; i < COUNT_OF(places); i++) {
		flip_file(f, 0, places[i].at);
		verify(f, true);
		expect_said(1, 0, places[i].message, "backup"); /* contents are found by the table in the KV */
		assert_int_equal(t.report.copies_checked, N);
		flip_file(f, 0, places[i].at);
	}
	expect_whole(f);
	flip_key(f, 'l');
	verify(f, true);
	assert_int_equal(t.findings, N + 1);
}

/* Two files of level 1 whose ranges overlap, as a merge leaves them that was cut short. */
static void test_verify__overlaps_are_noted(void **state)
{
	fixture *f = *state;
	bytes value;
	for (uint64_t i = 0; i < 2; i++) {
		write_many(f, 0, N, 100 * i);
		do_all(&f->a, pgs__job_flush);
		pgs__file_map *map;
		const pgs__file *file = first_file(f, &map);
		pgs__key key = pgs__key_level(pgs__db_prefix(f->a.db), 1, &file->key.first, &file->key.last,
					      file->key.file_name);
		pgs__file_map_release(map);
		pgs__key old = first_key(f, 'l', &value);
		put_raw(f, &key, (pgs_slice){value.data, value.size});
		delete_raw(f, &old);
		free(value.data);
	}
	verify(f, true);
	expect_said(0, 1, "of level 1 overlap", "Nothing is lost");
	do_all(&f->a, pgs__job_merge);
	expect_whole(f);
	expect_no_overlaps(f);
	expect_many(f, 0, N, 100);
}

/* --- named snapshots ------------------------------------------------------------------------------------ */

/* Forget the history that the snapshot is of. */
static void make_kept(fixture *f)
{
	write_many(f, 0, N, 100);
	write_many(f, 1000, 600, 100); /* several blocks of its index */
	set_attributes(f);
	make_snapshot(f, "kept");
	write_many(f, 0, N, 200);
	publish_now(f);
	kv_compact(f->server.kv, revision_now(f));
	expect_whole(f);
}

static void test_verify__contents_of_a_snapshot(void **state)
{
	fixture *f = *state;
	make_kept(f);
	pgs__page_id id = id_of(f, 3, seed_of(103, 0));
	pgs__key key = pgs__key_content(pgs__db_prefix(f->a.db), &id);
	delete_raw(f, &key);
	verify(f, false);
	assert_int_equal(t.findings, 0);
	verify(f, true);
	expect_said(1, 0, "snapshot kept: page 3", "backup");
	assert_int_equal(t.said[0].page, 3);
	assert_int_equal(pgs_snapshot_drop(f->a.db, "kept", 4, NULL), PGS_OK);
	verify(f, true);
	assert_int_equal(t.findings, 0);
}

static void test_verify__the_index_of_a_snapshot(void **state)
{
	fixture *f = *state;
	make_kept(f);
	uint64_t pointers = t.report.pointers_checked;
	const char *name = blob_of(f, 'i');
	flip(f, name, 70); /* the table */
	verify(f, true);
	expect_said(1, 0, "snapshot kept: table of index file", "drop the snapshot");
	flip(f, name, 70);
	flip(f, name, 64 + 32 * 3 + 10); /* the first block: the others are read */
	verify(f, true);
	expect_said(1, 0, "snapshot kept: block 0 of index file", "drop the snapshot");
	assert_true(t.report.pointers_checked >= pointers - 256 && t.report.pointers_checked < pointers);
	remove_blob(f, name);
	verify(f, true);
	expect_said(1, 0, "is missing", "drop the snapshot");
}

static void test_verify__attributes_and_record_of_a_snapshot(void **state)
{
	fixture *f = *state;
	make_kept(f);
	const char *name = blob_of(f, 'a');
	flip(f, name, 1000);
	verify(f, true);
	expect_said(1, 0, "snapshot kept: its attributes", "drop the snapshot");
	remove_blob(f, name);
	verify(f, true);
	expect_said(1, 0, "are missing", "drop the snapshot");
	flip_key(f, 's');
	verify(f, true);
	expect_said(1, 0, "the record of snapshot kept", "drop the snapshot");
}

/* --- packs, changelog, other keys ----------------------------------------------------------------------- */

/* A damaged pack keeps everybody from reading, but not verification from going on. */
static void test_verify__goes_on_past_a_damaged_pack(void **state)
{
	fixture *f = *state;
	write_many(f, 0, N, 100);
	do_all(&f->a, pgs__job_flush);
	write_many(f, 1000, 200, 400);
	publish_now(f);
	kv_compact(f->server.kv, revision_now(f));
	flip_key(f, 'o');
	flip_file(f, 0, UINT64_MAX);
	verify(f, true);
	assert_int_equal(t.findings, 3); /* the pack, a page, the copy */
	assert_non_null(strstr(t.said[0].message, "the pack of revision"));
	assert_true(t.said[1].page < N);
	assert_true(t.report.from_revision >= f->a.worker.floor.floor);
}

static void test_verify__single_keys(void **state)
{
	fixture *f = *state;
	static const struct {
		char kind;
		const char *message;
	} kinds[] = {{'a', "attribute"}, {'x', "changelog"}, {'s', "record of snapshot"}};
	make_all(f);
	for (size_t i = 0; i < COUNT_OF(kinds); i++) {
		bytes value;
		pgs__key key = first_key(f, kinds[i].kind, &value);
		flip_key(f, kinds[i].kind);
		verify(f, true);
		expect_said(1, 0, kinds[i].message, "");
		put_raw(f, &key, (pgs_slice){value.data, value.size});
		free(value.data);
	}
	expect_whole(f);
	const uint8_t *prefix = pgs__db_prefix(f->a.db);
	const uint8_t uuid[16] = {1};
	pgs__key keys[] = {pgs__key_lock(prefix, "m-1"), pgs__key_lock(prefix, "w"), pgs__key_uuid(prefix, 'r', uuid),
			   pgs__key_single(prefix, 'v')};
	static const char *const messages[] = {"lock or claim", "lock or claim", "pin", "samples"};
	for (size_t i = 0; i < COUNT_OF(keys); i++) {
		put_raw(f, &keys[i], (pgs_slice){"\1damage", 7});
		verify(f, true);
		expect_said(1, 0, messages[i], "Delete the key");
		delete_raw(f, &keys[i]);
	}
	pgs__key t_key = pgs__key_single(prefix, 't');
	put_raw(f, &t_key, (pgs_slice){"damage", 6});
	verify(f, true);
	expect_said(1, 0, "(key t) is damaged", "cannot be used");
	assert_true(t.report.copies_checked > 0);
}

/* --- blobs --------------------------------------------------------------------------------------------------- */

static void put_named(fixture *f, const char *name)
{
	char blob[PGS__BLOB_NAME_SIZE];
	pgs__blob_name(blob, pgs__db_prefix(f->a.db), name);
	assert_int_equal(put_pattern(f->server.blob, blob, 100, 1), PGS_OK);
}

static void test_verify__orphans_are_noted(void **state)
{
	fixture *f = *state;
	char name[PGS__FILE_NAME_MAX + 1];
	make_all(f);
	publish(f, revision_now(f));
	assert_int_equal(pgs__file_name_new(name, 's', revision_now(f) + 1), PGS_OK);
	put_named(f, name); /* perhaps in the making */
	expect_whole(f);
	assert_int_equal(pgs__file_name_new(name, 's', 1), PGS_OK);
	put_named(f, name);
	pgs__key d = pgs__key_unregistered(pgs__db_prefix(f->a.db), name);
	put_raw(f, &d, (pgs_slice){0}); /* waits to be removed */
	expect_whole(f);
	delete_raw(f, &d);
	verify(f, true);
	expect_said(0, 1, name, "next sweep");
	assert_int_equal(t.result, PGS_OK);
	do_all(&f->a, pgs__job_sweep);
	put_named(f, "stranger");
	verify(f, true);
	expect_said(0, 1, "stranger", "never removes it");
	verify(f, false);
	assert_int_equal(t.notes, 0);
	flip_key(f, 's'); /* what it names is not known */
	verify(f, true);
	assert_int_equal(t.findings, 1);
	assert_int_equal(t.notes, 1);
}

static void test_verify__unregistered_names(void **state)
{
	fixture *f = *state;
	make_all(f);
	char kinds[] = {'s', 'i', 'a'}; /* a sorted file, and those of the snapshot */
	for (size_t i = 0; i < COUNT_OF(kinds); i++) {
		const char *name = strchr(blob_of(f, kinds[i]), '/') + 1;
		pgs__key d = pgs__key_unregistered(pgs__db_prefix(f->a.db), name);
		put_raw(f, &d, (pgs_slice){0});
		verify(f, true);
		expect_said(1, 0, name, "Delete that d/ key before maintenance runs");
		delete_raw(f, &d);
	}
	pgs__key d = pgs__key_kind(pgs__db_prefix(f->a.db), 'd');
	memcpy(d.bytes + d.size, "UPPER", 5);
	d.size = (uint16_t)(d.size + 5);
	put_raw(f, &d, (pgs_slice){0});
	verify(f, true);
	expect_said(1, 0, "malformed", "Delete the key");
}

/* --- beside others -------------------------------------------------------------------------------------------- */

static unsigned stride; /* of disturb() */

/* Everything that moves contents and forgets history, one thing at every `stride` calls of the verification. */
static void disturb(fixture *f, uint64_t call, const char *operation)
{
	static const job jobs[] = {pgs__job_flush, pgs__job_merge, pgs__job_fold, pgs__job_sweep};
	(void)operation;
	if (call % stride != f->number % stride || call > 60)
		return;
	uint64_t turn = call / stride + f->number;
	if (turn % 7 == 0)
		write_many(f, turn % 5, N, 500 + 10 * turn);
	else if (turn % 7 == 1)
		write_many(f, 1000, 150, 500 + 10 * turn);
	else if (turn % 7 == 2) {
		publish(f, revision_now(f));
		kv_compact(f->server.kv, revision_now(f));
	} else
		do_all(&f->a, jobs[turn % 7 - 3]);
	if (turn % 11 == 4)
		pgs_snapshot_drop(f->a.db, "kept", 4, NULL);
}

static void verify_disturbed(fixture *f, unsigned every)
{
	stride = every;
	make_all(f);
	for (f->number = 0; f->number < 40; f->number++) {
		if (f->number % 4 == 0)
			pgs_snapshot_create(f->a.db, "kept", 4, NULL, NULL);
		watch_calls(f, disturb);
		verify_db(f->b.db, true);
		f->before = NULL;
		if (t.findings)
			fail_msg("round %u: %s", (unsigned)f->number, t.said[0].message);
	}
	verify(f, true);
	assert_int_equal(t.findings, 0);
}

static void test_verify__beside_maintenance(void **state)
{
	verify_disturbed(*state, 3);
}

/* What is collected is also written again, before it is asked whether it is needed. */
static void test_verify__beside_maintenance_and_rewriting(void **state)
{
	verify_disturbed(*state, 2);
}

/* Before the first blob of a kind is read, it goes rightly: folded or pruned, and swept. */
static void remove_rightly(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "get") != 0 || f->number++)
		return;
	do_all(&f->a, pgs__job_fold);
	for (int i = 0; i < 2; i++) {
		publish_now(f);
		do_all(&f->a, pgs__job_sweep);
	}
	assert_int_equal(count_blobs(f), 0);
}

static void expect_nothing_missing(fixture *f)
{
	assert_true(count_blobs(f) > 0);
	f->number = 0;
	watch_calls(f, remove_rightly);
	verify_db(f->b.db, true);
	f->before = NULL;
	assert_true(f->number > 0);
	if (t.findings)
		fail_msg("%s", t.said[0].message);
}

static void test_verify__a_pack_that_is_folded_meanwhile(void **state)
{
	fixture *f = *state;
	write_many(f, 1000, 230, 400);
	pgs_txn *txn = begin_write(f->a.db);
	for (uint64_t n = 1000; n < 1230; n++) /* deltas, which make it large */
		assert_int_equal(write_seed(txn, n, seed_of(400 + n, 1)), PGS_OK);
	commit_ok(txn);
	assert_non_null(blob_of(f, 'i'));
	expect_nothing_missing(f);
	for (uint64_t n = 1000; n < 1230; n++)
		expect_page(f, n, seed_of(400 + n, 1), 0);
}

/* Pointers below a pack, whose contents have gone: whether they show is asked, and no answer is no damage. */
static void test_verify__an_error_is_no_damage(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	bool hit = true, failed = false;
	write_many(f, 0, 5, 100);
	write_many(f, 0, 230, 400);
	publish_now(f);
	do_all(&f->a, pgs__job_flush);
	do_all(&f->a, pgs__job_merge);
	verify(f, true);
	assert_int_equal(t.findings, 0);
	for (uint64_t nth = 1; hit; nth++) {
		pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
		pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
		uint64_t before = pgs_fault_calls(f->fault);
		pgs_fault_at(f->fault, nth, PGS_FAULT_ERROR);
		int result = pgs_verify(f->b.db, &o, &report, &err);
		hit = pgs_fault_calls(f->fault) - before >= nth;
		pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
		expect_code(result, result == PGS_EIO ? PGS_EIO : PGS_OK, &err, "verify");
		assert_int_equal(report.findings, 0);
		failed |= result == PGS_EIO;
	}
	assert_true(failed);
}

static void test_verify__a_changelog_entry_that_is_pruned_meanwhile(void **state)
{
	fixture *f = *state;
	uint8_t page[TEST_PAGE_SIZE] = {1};
	pgs_txn *txn = begin_write(f->a.db);
	for (uint64_t n = 0; n < 600; n++) /* runs of one page each */
		assert_int_equal(pgs_write(txn, 10000 + 2 * n, page), PGS_OK);
	commit_ok(txn);
	do_all(&f->a, pgs__job_fold);
	publish_now(f);
	write_one(f, 1, 1); /* the last commit at the floor is kept */
	do_all(&f->a, pgs__job_sweep);
	assert_non_null(blob_of(f, 'x'));
	expect_nothing_missing(f);
}

/* History that is forgotten faster than it can be read. */
static void forget_history(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strncmp(operation, "txn", 3) != 0 && strncmp(operation, "watch", 5) != 0)
		return;
	write_one(f, call % N, seed_of(900 + call, 0));
	publish(f, revision_now(f));
	kv_compact(f->server.kv, revision_now(f));
}

static void test_verify__history_that_goes_meanwhile(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	write_many(f, 0, N, 100);
	watch_calls(f, forget_history);
	int result = pgs_verify(f->b.db, NULL, NULL, &err);
	f->before = NULL;
	assert_true(result == PGS_OK || result == PGS_EOLDREV);
	verify_db(f->b.db, true);
	assert_int_equal(t.findings, 0);
}

static void test_verify__out_of_memory(void **state)
{
	fixture *f = *state;
	bool failed = true;
	make_all(f);
	flip_file(f, 0, UINT64_MAX);
	for (size_t nth = 1; failed; nth += nth < 60 ? 1 : 11) {
		pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
		pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
		o.deep = true;
		failing_alloc_begin(nth);
		int result = pgs_verify(f->a.db, &o, &report, NULL);
		failed = failing_alloc_end();
		assert_true(result == PGS_ENOMEM || (result == PGS_ECORRUPT && report.findings > 0));
	}
}

static int stop(void *ctx, const pgs_verify_finding *finding)
{
	(void)ctx;
	(void)finding;
	return 4711;
}

static void test_verify__ends_with_a_callback(void **state)
{
	fixture *f = *state;
	pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
	make_all(f);
	o.deep = true;
	o.note = stop;
	put_named(f, "stranger");
	assert_int_equal(pgs_verify(f->a.db, &o, NULL, NULL), 4711);
	o.finding = stop;
	flip_file(f, 0, UINT64_MAX);
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	assert_int_equal(pgs_verify(f->a.db, &o, &report, NULL), 4711);
	assert_int_equal(report.findings, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_verify, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_verify__finds_nothing_in_what_is_whole),
		TEST(test_verify__reads_what_nobody_needs),
		TEST(test_verify__reads_what_is_in_the_kv),
		TEST(test_verify__a_copy_in_a_file_can_be_mended),
		TEST(test_verify__a_copy_in_the_kv_can_be_mended),
		TEST(test_verify__a_file_cut_short),
		TEST(test_verify__a_filter_that_leaves_out_ids),
		TEST(test_verify__a_key_that_is_not_the_files),
		TEST(test_verify__damaged_heads),
		TEST(test_verify__overlaps_are_noted),
		TEST(test_verify__contents_of_a_snapshot),
		TEST(test_verify__the_index_of_a_snapshot),
		TEST(test_verify__attributes_and_record_of_a_snapshot),
		TEST(test_verify__goes_on_past_a_damaged_pack),
		TEST(test_verify__single_keys),
		TEST(test_verify__orphans_are_noted),
		TEST(test_verify__unregistered_names),
		TEST(test_verify__beside_maintenance),
		TEST(test_verify__beside_maintenance_and_rewriting),
		cmocka_unit_test_setup_teardown(test_verify__a_pack_that_is_folded_meanwhile, setup_small, teardown),
		cmocka_unit_test_setup_teardown(test_verify__an_error_is_no_damage, setup_small, teardown),
		cmocka_unit_test_setup_teardown(test_verify__a_changelog_entry_that_is_pruned_meanwhile, setup_small,
						teardown),
		TEST(test_verify__history_that_goes_meanwhile),
		TEST(test_verify__out_of_memory),
		TEST(test_verify__ends_with_a_callback),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
