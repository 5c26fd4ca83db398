/* Damage: a bit flipped, bytes cut off, things deleted, wherever something is stored.
 *
 * What is damaged is reported with its place, everything else can still be read, nothing wrong is ever read, and
 * verification finds exactly the damaged pages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>

#include "codec/keys.h"
#include "codec/seal.h"
#include "support/blob_calls.h"
#include "support/kv_calls.h"
#include "support/stores.h"
#include "support/testing.h"
#include "txn/db.h"

#define FIRST_BULK 1000
#define SECOND_BULK 2000
#define BULK 260
#define PACKED 3000
#define PACKED_COUNT 220
#define PAGES 3300

typedef struct world {
	server server;
	uint8_t prefix[PGS__PREFIX_SIZE];
	uint64_t seeds[PAGES];
	uint64_t first_revision, last_revision;
} world;

static world w;

static void write_one(pgs_txn *txn, uint64_t page_no, uint64_t seed)
{
	w.seeds[page_no] = seed;
	assert_int_equal(write_seed(txn, page_no, seed), PGS_OK);
}

static void build(const pgs_kv_limits *limits, uint64_t packed, uint64_t bulk)
{
	memset(&w, 0, sizeof w);
	server_start(&w.server, limits);
	pgs_store *store = server_open(&w.server, NULL, NULL);
	pgs_db *db = create_db(store, "db", NULL);
	memcpy(w.prefix, pgs__db_prefix(db), sizeof w.prefix);
	pgs_txn *txn = begin_write(db);
	for (uint64_t i = 0; i < 12; i++)
		if (i != 4)
			write_one(txn, i, (i + 1) * 256 + 1);
	w.first_revision = commit_ok(txn);
	txn = begin_write(db);
	for (uint64_t i = 0; i < 4; i++)
		write_one(txn, i, (i + 1) * 256 + 2); /* deltas */
	uint8_t page[TEST_PAGE_SIZE] = {0};
	w.seeds[4] = 0;
	assert_int_equal(pgs_write(txn, 4, page), PGS_OK); /* zero */
	assert_int_equal(pgs_attr_set(txn, "root", 4, "value", 5), PGS_OK);
	commit_ok(txn);
	for (uint64_t first = FIRST_BULK; bulk && first <= (bulk > BULK ? FIRST_BULK : SECOND_BULK); first += SECOND_BULK - FIRST_BULK) {
		txn = begin_write(db);
		for (uint64_t i = first; i < first + bulk; i++)
			write_one(txn, i, (i + 1) * 256 + 1);
		commit_ok(txn);
	}
	for (int round = 1; packed && round <= 2; round++) {
		txn = begin_write(db);
		for (uint64_t i = 0; i < packed; i++)
			write_one(txn, PACKED + i, (PACKED + i + 1) * 256 + (uint64_t)round);
		commit_ok(txn);
	}
	txn = begin_write(db);
	w.last_revision = pgs_txn_revision(txn);
	pgs_abort(txn);
	pgs_db_close(db);
	pgs_close(store);
}

/* --- looking at all of it -------------------------------------------------------------------- */

typedef struct outcome {
	int open_store, open_db, begin, log, diff, attr, verify;
	pgs_error error; /* the first */
	size_t failed;   /* pages that could not be read */
	bool page_failed[PAGES];
	bool page_found[PAGES]; /* by verification */
	size_t found, found_elsewhere;
	char finding[PGS_ERROR_MESSAGE_SIZE];
} outcome;

static outcome o;

static void note(int *place, int result, const pgs_error *err)
{
	*place = result;
	if (result != PGS_OK && o.error.code == PGS_OK) {
		o.error = *err;
		assert_true(err->message[0] != '\0');
		assert_int_equal(err->code, result);
	}
}

static int see_finding(void *ctx, const pgs_verify_finding *f)
{
	(void)ctx;
	if (!o.finding[0])
		snprintf(o.finding, sizeof o.finding, "%s", f->message);
	if (f->page == PGS_NO_PAGE) {
		o.found_elsewhere++;
	} else if (!o.page_found[f->page]) {
		o.page_found[f->page] = true;
		o.found++;
	}
	return 0;
}

static int see_entry(void *ctx, const pgs_log_entry *entry)
{
	(void)ctx;
	(void)entry;
	return 0;
}

static int see_page(void *ctx, uint64_t page_no)
{
	(void)ctx;
	(void)page_no;
	return 0;
}

static void read_all(pgs_db *db)
{
	pgs_txn *txn;
	pgs_error err = PGS_ERROR_INIT;
	char value[16];
	size_t size;
	note(&o.begin, pgs_begin(&txn, db, NULL, &err), &err);
	if (!txn)
		return;
	for (uint64_t i = 0; i < PAGES; i++) {
		if (!w.seeds[i] && i != 4)
			continue;
		int result = read_seed(txn, i, w.seeds[i]), kept;
		if (result == PGS_OK)
			continue;
		o.page_failed[i] = true;
		o.failed++;
		note(&kept, result, pgs_txn_error(txn));
		if (result != PGS_EVERSION)
			expect_code(result, PGS_ECORRUPT, pgs_txn_error(txn), "reading a page");
	}
	int result = pgs_attr_get(txn, "root", 4, value, sizeof value, &size);
	note(&o.attr, result, pgs_txn_error(txn));
	if (result == PGS_OK)
		assert_memory_equal(value, "value", 5);
	pgs_abort(txn);
}

/* Everything, with handles that know nothing yet. */
static void look(void)
{
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	pgs_db *db;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_verify_options verify = PGS_VERIFY_OPTIONS_INIT;
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	memset(&o, 0, sizeof o);
	options.cache_bytes = 1 << 20;
	verify.finding = see_finding;
	assert_int_equal(pgs_kv_memory_share(&kv, w.server.kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob, w.server.blob, NULL), PGS_OK);
	note(&o.open_store, pgs_open_with(&store, kv, blob, NULL, &err), &err);
	if (!store)
		return;
	note(&o.open_db, pgs_db_open(&db, store, "db", 2, &options, &err), &err);
	if (db) {
		read_all(db);
		err = (pgs_error)PGS_ERROR_INIT;
		note(&o.log, pgs_log(db, NULL, see_entry, NULL, &err), &err);
		note(&o.verify, pgs_verify(db, &verify, &report, &err), &err);
		/* Last: it reads, and caches, packs of before the damage. */
		note(&o.diff, pgs_diff(db, w.first_revision, w.last_revision, see_page, NULL, &err), &err);
	}
	pgs_db_close(db);
	pgs_close(store);
}

static bool is_damage(int result)
{
	return result == PGS_ECORRUPT || result == PGS_EVERSION;
}

static void expect_findings_are_failures(void)
{
	for (uint64_t i = 0; i < PAGES; i++)
		if (o.page_failed[i] != o.page_found[i])
			fail_msg("page %u: %s, but %s by verification (%s; %s)", (unsigned)i,
				 o.page_failed[i] ? "unreadable" : "readable", o.page_found[i] ? "found" : "not found",
				 o.error.message, o.finding);
}

/* --- damaging keys ------------------------------------------------------------------------------ */

typedef enum damage { FLIP_FIRST, FLIP_SECOND, FLIP_MIDDLE, FLIP_LAST, CUT_ONE, CUT_ALL, DELETE, DAMAGES } damage;

static const char *const damage_names[] = {"first byte", "second byte", "middle", "last byte", "cut by one", "emptied",
					   "deleted"};

/* The key's bytes, the nth of a kind: false when there are fewer. */
static bool nth_key(pgs__key first, pgs__key end, size_t nth, pgs__key *key)
{
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&first), .range_end = pgs__key_slice(&end)};
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(w.server.kv, &txn), PGS_OK);
	bool found = nth < txn.results[0].count;
	if (found) {
		pgs_slice k = txn.results[0].pairs[nth].key;
		key->size = (uint16_t)k.size;
		memcpy(key->bytes, k.data, k.size);
	}
	w.server.kv->vtable->release(w.server.kv, &txn, 1);
	return found;
}

static void damage_key(const pgs__key *key, damage how)
{
	pgs_kv_op get = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(key)};
	pgs_kv_txn txn = txn_of(&get, 1);
	assert_int_equal(run_txn(w.server.kv, &txn), PGS_OK);
	size_t size = txn.results[0].pairs[0].value.size;
	uint8_t *bytes = malloc(size + 1);
	memcpy(bytes, txn.results[0].pairs[0].value.data, size);
	w.server.kv->vtable->release(w.server.kv, &txn, 1);
	size_t at = how == FLIP_FIRST ? 0 : how == FLIP_SECOND ? 1 % size : how == FLIP_MIDDLE ? size / 2 : size - 1;
	if (how <= FLIP_LAST)
		bytes[at] ^= how == FLIP_FIRST ? 2 : 0x10;
	if (how == CUT_ONE)
		size--;
	if (how == CUT_ALL)
		size = 0;
	pgs_kv_op op = {.kind = how == DELETE ? PGS_KV_DELETE : PGS_KV_PUT,
			.key = pgs__key_slice(key),
			.value = {bytes, how == DELETE ? 0 : size}};
	kv_apply(w.server.kv, &op, 1);
	free(bytes);
}

static char where[200];

/* What each kind of key's damage does. */
static void judge(char kind, damage how)
{
	switch (kind) {
	case 'i':
		assert_true(is_damage(o.open_store));
		break;
	case 'n':
		assert_true(how == DELETE ? o.open_db == PGS_ENOTFOUND : is_damage(o.open_db));
		break;
	case 'm':
		assert_true(how == DELETE ? o.open_db == PGS_ENOTFOUND : is_damage(o.open_db));
		break;
	case 't':
	case 'g':
	case 'e':
		assert_true(is_damage(o.begin));
		assert_true(is_damage(o.verify));
		break;
	case 'o':
		assert_true(is_damage(o.begin)); /* any page may be in it */
		assert_true(is_damage(o.verify));
		break;
	case 'p':
		assert_int_equal(o.begin, PGS_OK);
		assert_int_equal(o.failed, 1);
		assert_int_equal(o.verify, PGS_ECORRUPT);
		expect_findings_are_failures();
		break;
	case 'c':
		assert_int_equal(o.begin, PGS_OK);
		assert_int_equal(o.failed, 1);
		assert_int_equal(o.verify, PGS_ECORRUPT);
		assert_non_null(strstr(o.error.message, "page "));
		expect_findings_are_failures();
		break;
	case 'l':
		assert_int_equal(o.begin, PGS_OK);
		assert_int_equal(o.failed, BULK);
		assert_true(is_damage(o.verify));
		expect_findings_are_failures();
		break;
	case 'a':
		assert_int_equal(o.failed, 0);
		assert_int_equal(o.attr, PGS_ECORRUPT);
		assert_int_equal(o.verify, PGS_ECORRUPT);
		assert_int_equal(o.found_elsewhere, 1);
		break;
	case 'x':
		assert_int_equal(o.failed, 0);
		assert_int_equal(o.begin, PGS_OK);
		assert_true(is_damage(o.log));
		assert_int_equal(o.verify, PGS_ECORRUPT);
		break;
	default:
		fail();
	}
}

static bool damage_one(char kind, size_t nth, damage how, const pgs_kv_limits *limits, uint64_t packed, uint64_t bulk)
{
	pgs__key key, first, end;
	build(limits, packed, bulk);
	switch (kind) {
	case 'i':
		first = pgs__key_identity();
		end = pgs__key_after(&first);
		break;
	case 'n':
		first = pgs__key_name("db", 2);
		end = pgs__key_after(&first);
		break;
	case 'm':
	case 't':
	case 'g':
	case 'e':
		first = pgs__key_single(w.prefix, kind);
		end = pgs__key_after(&first);
		break;
	default:
		first = pgs__key_kind(w.prefix, kind);
		end = pgs__key_kind_end(w.prefix, kind);
		break;
	}
	bool found = nth_key(first, end, nth, &key);
	if (found) {
		snprintf(where, sizeof where, "key %u of kind %c: %s", (unsigned)nth, kind, damage_names[how]);
		damage_key(&key, how);
		look();
		judge(kind, how);
	}
	server_stop(&w.server);
	return found;
}

static int say_where(void **state)
{
	(void)state;
	if (where[0])
		fprintf(stderr, "# it was: %s: %s; %s\n", where, o.error.message, o.finding);
	return 0;
}

/* Deleting a pointer, an attribute or a changelog entry leaves no trace: that is not damage anyone can see. */
static bool leaves_no_trace(char kind, damage how)
{
	return how == DELETE && strchr("pax", kind);
}

static void test_damage__of_a_key_is_found_and_named(void **state)
{
	(void)state;
	for (const char *kind = "inmtgepclax"; *kind; kind++)
		for (damage how = 0; how < DAMAGES; how++) {
			if (leaves_no_trace(*kind, how))
				continue;
			/* Of p/: a delta, zero, a full page in c/. */
			for (size_t nth = 0; nth < 6; nth++)
				if (!damage_one(*kind, nth, how, NULL, 0, *kind == 'l' ? BULK : 0))
					break;
		}
	where[0] = '\0';
}

static void test_damage__of_a_pack_is_found_and_named(void **state)
{
	static const pgs_kv_limits etcd = {128, 1572864, 0, 0}, small = {16, 40000, 0, 0};
	(void)state;
	for (damage how = 0; how < DELETE; how++) {
		assert_true(damage_one('o', 0, how, &etcd, PACKED_COUNT, 0));
		assert_true(damage_one('o', 1, how, &small, PACKED_COUNT, 0));
	}
	where[0] = '\0';
}

static void test_damage__nothing_is_found_in_what_is_whole(void **state)
{
	static const pgs_kv_limits small = {16, 40000, 0, 0};
	(void)state;
	for (int limited = 0; limited < 2; limited++) {
		build(limited ? &small : NULL, PACKED_COUNT, limited ? 0 : BULK);
		look();
		expect_code(o.error.code, PGS_OK, &o.error, "looking at a store that is whole");
		assert_int_equal(o.failed, 0);
		assert_int_equal(o.found + o.found_elsewhere, 0);
		server_stop(&w.server);
	}
}

/* --- damaging blobs ------------------------------------------------------------------------------- */

typedef struct bytes {
	uint8_t *data;
	uint64_t size;
} bytes;

static int read_bytes(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	memcpy(buffer, ((bytes *)ctx)->data + offset, size);
	return PGS_OK;
}

static bytes get_blob(const char *name)
{
	bytes b = {NULL, 0};
	assert_int_equal(stat_size(w.server.blob, name, &b.size), PGS_OK);
	b.data = malloc(b.size);
	assert_int_equal(get_range(w.server.blob, name, 0, b.data, b.size), PGS_OK);
	return b;
}

/* A name keeps its content for ever: so it is removed first. */
static void set_blob(const char *name, bytes *b)
{
	assert_int_equal(w.server.blob->vtable->remove(w.server.blob, name, 0, NULL), PGS_OK);
	assert_int_equal(w.server.blob->vtable->put(w.server.blob, name, b->size, read_bytes, b, 0, NULL), PGS_OK);
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

static const char *find_blob(char kind)
{
	static search s;
	s = (search){.kind = kind};
	assert_int_equal(w.server.blob->vtable->list(w.server.blob, "", match_kind, &s, 0, NULL), PGS_OK);
	assert_true(s.name[0] != '\0');
	return s.name;
}

/* Flip a bit of the first blob of a kind, and look. */
static void flip_blob(char kind, uint64_t at)
{
	const char *name = find_blob(kind);
	bytes b = get_blob(name);
	if (at == UINT64_MAX)
		at = b.size - 1;
	assert_true(at < b.size);
	b.data[at] ^= 4;
	set_blob(name, &b);
	free(b.data);
	snprintf(where, sizeof where, "blob %s, byte %llu", name, (unsigned long long)at);
	look();
}

static void test_damage__of_a_sorted_file(void **state)
{
	(void)state;
	static const uint64_t heads[] = {0, 4, 8, 16, 40, 60, 64, 100, 64 + 36 * BULK - 1};
	for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
		build(NULL, 0, BULK);
		flip_blob('s', heads[i]); /* readers have the table in the KV */
		assert_int_equal(o.failed, 0);
		assert_int_equal(o.verify, PGS_ECORRUPT);
		assert_int_equal(o.found_elsewhere, 1);
		assert_non_null(strstr(o.finding, find_blob('s')));
		server_stop(&w.server);
	}
	static const uint64_t contents[] = {64 + 36 * BULK, 64 + 36 * BULK + 4096 * 7 + 5, UINT64_MAX};
	for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
		build(NULL, 0, BULK);
		flip_blob('s', contents[i]);
		assert_int_equal(o.failed, 1);
		assert_non_null(strstr(o.error.message, find_blob('s')));
		assert_true(o.error.page != PGS_NO_PAGE && o.page_failed[o.error.page]);
		assert_int_equal(o.verify, PGS_ECORRUPT);
		expect_findings_are_failures();
		server_stop(&w.server);
	}
	where[0] = '\0';
}

/* Pages read together with one that cannot be: the error names that one. */
static void read_many_names_a_failed_page(void)
{
	static uint8_t buffers[BULK][TEST_PAGE_SIZE];
	uint64_t pages[BULK];
	void *dst[BULK];
	pgs_store *store = server_open(&w.server, NULL, NULL);
	pgs_db *db = open_db(store, "db");
	pgs_txn *txn = begin_write(db);
	for (size_t i = 0; i < BULK; i++) {
		pages[i] = FIRST_BULK + i;
		dst[i] = buffers[i];
	}
	bool in_first = false;
	for (size_t i = 0; i < BULK; i++)
		in_first |= o.page_failed[FIRST_BULK + i];
	for (size_t i = 0; i < BULK && !in_first; i++)
		pages[i] = SECOND_BULK + i;
	int result = pgs_read_many(txn, pages, BULK, dst);
	expect_code(result, PGS_ECORRUPT, pgs_txn_error(txn), "read_many");
	uint64_t page = pgs_txn_error(txn)->page;
	assert_true(page < PAGES && o.page_failed[page]);
	pgs_abort(txn);
	pgs_db_close(db);
	pgs_close(store);
}

static void test_damage__a_sorted_file_cut_short_or_gone(void **state)
{
	(void)state;
	build(NULL, 0, BULK);
	const char *name = find_blob('s');
	bytes b = get_blob(name);
	b.size -= 4096 * 3;
	set_blob(name, &b);
	free(b.data);
	snprintf(where, sizeof where, "a sorted file cut short");
	look();
	assert_int_equal(o.failed, 3);
	assert_non_null(strstr(o.error.message, name));
	assert_int_equal(o.verify, PGS_ECORRUPT);
	expect_findings_are_failures();
	read_many_names_a_failed_page();
	assert_int_equal(w.server.blob->vtable->remove(w.server.blob, name, 0, NULL), PGS_OK);
	snprintf(where, sizeof where, "a sorted file removed");
	look();
	assert_int_equal(o.failed, BULK);
	assert_int_equal(o.found_elsewhere, 1);
	expect_findings_are_failures();
	where[0] = '\0';
	server_stop(&w.server);
}

static void test_damage__of_an_index_file(void **state)
{
	static const pgs_kv_limits small = {16, 40000, 0, 0};
	static const uint64_t places[] = {0, 4, 8, 12, 40, 60, 64, 80, 90};
	(void)state;
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		build(&small, PACKED_COUNT, 0);
		flip_blob('i', places[i]); /* header or table: any page may be in it */
		assert_true(is_damage(o.begin));
		assert_non_null(strstr(o.error.message, find_blob('i')));
		assert_true(is_damage(o.verify));
		server_stop(&w.server);
	}
	build(&small, PACKED_COUNT, 0);
	flip_blob('i', UINT64_MAX); /* a block */
	assert_int_equal(o.begin, PGS_OK);
	assert_true(o.failed > 0);
	assert_false(o.page_failed[0]);
	assert_non_null(strstr(o.error.message, find_blob('i')));
	assert_true(is_damage(o.verify));
	w.server.blob->vtable->remove(w.server.blob, find_blob('i'), 0, NULL);
	look();
	assert_int_equal(o.begin, PGS_ECORRUPT);
	server_stop(&w.server);
	where[0] = '\0';
}

static void test_damage__of_a_table_with_fences(void **state)
{
	(void)state;
	build(NULL, 0, 1900); /* the table is too large for the KV */
	flip_blob('s', 64 + 36 * 100 + 20);
	assert_int_equal(o.failed, 64); /* its slice */
	assert_non_null(strstr(o.error.message, find_blob('s')));
	assert_int_equal(o.verify, PGS_ECORRUPT);
	expect_findings_are_failures();
	server_stop(&w.server);
	build(NULL, 0, 1900);
	flip_blob('s', 64 + 36 * 1900 + 100);
	assert_int_equal(o.failed, 0); /* its filter: readers do without */
	assert_int_equal(o.verify, PGS_ECORRUPT);
	assert_int_equal(o.found_elsewhere, 1);
	assert_non_null(strstr(o.finding, "its filter is damaged"));
	server_stop(&w.server);
	where[0] = '\0';
}

static void test_damage__of_a_changelog_blob(void **state)
{
	static const pgs_kv_limits small = {16, 40000, 0, 0};
	static const uint64_t places[] = {0, 4, 200, UINT64_MAX};
	(void)state;
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		build(&small, 0, 0);
		pgs_store *store = server_open(&w.server, NULL, NULL);
		pgs_db *db = open_db(store, "db");
		pgs_txn *txn = begin_write(db);
		uint8_t page[TEST_PAGE_SIZE] = {1};
		for (uint64_t n = 0; n < 600; n++) /* runs of one page each */
			assert_int_equal(pgs_write(txn, 10000 + 2 * n, page), PGS_OK);
		w.last_revision = commit_ok(txn);
		pgs_db_close(db);
		pgs_close(store);
		flip_blob('x', places[i]);
		assert_int_equal(o.failed, 0);
		assert_true(is_damage(o.diff));
		assert_true(is_damage(o.verify));
		assert_int_equal(o.found_elsewhere, 1);
		assert_non_null(strstr(o.finding, find_blob('x')));
		server_stop(&w.server);
	}
	where[0] = '\0';
}

/* --- versions, and what does not belong together --------------------------------------------------- */

/* Raise the u16 format version behind a 4-byte magic number, and seal the value again. */
static void raise_version(pgs__key key)
{
	pgs_kv_op get = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&key)};
	pgs_kv_txn txn = txn_of(&get, 1);
	pgs__buffer value = {0};
	assert_int_equal(run_txn(w.server.kv, &txn), PGS_OK);
	pgs_slice old = txn.results[0].pairs[0].value;
	pgs__put_bytes(&value, old.data, old.size - PGS__SEAL_SIZE);
	value.data[4]++;
	pgs__seal(&value, 0);
	w.server.kv->vtable->release(w.server.kv, &txn, 1);
	pgs_kv_op put = {.kind = PGS_KV_PUT, .key = pgs__key_slice(&key), .value = pgs__buffer_slice(&value)};
	kv_apply(w.server.kv, &put, 1);
	pgs__buffer_free(&value);
}

static void test_damage__a_newer_store_or_database_is_refused(void **state)
{
	(void)state;
	build(NULL, 0, 0);
	raise_version(pgs__key_single(w.prefix, 'm'));
	look();
	expect_code(o.open_db, PGS_EVERSION, &o.error, "opening a newer database");
	assert_non_null(strstr(o.error.message, "newer version"));
	raise_version(pgs__key_identity());
	look();
	expect_code(o.open_store, PGS_EVERSION, &o.error, "opening a newer store");
	assert_non_null(strstr(o.error.message, "newer version"));
	server_stop(&w.server);
}

static void test_damage__a_newer_sorted_file_is_said_to_be_newer(void **state)
{
	(void)state;
	build(NULL, 0, BULK);
	const char *name = find_blob('s');
	bytes b = get_blob(name);
	b.data[4] = 99;
	uint64_t check = pgs__check64(b.data, 56);
	for (int i = 0; i < 8; i++)
		b.data[56 + i] = (uint8_t)(check >> (8 * i));
	set_blob(name, &b);
	free(b.data);
	look();
	assert_int_equal(o.failed, 0); /* a pointer's content is proved by its hash, whatever the header says */
	assert_true(is_damage(o.verify));
	assert_non_null(strstr(o.finding, "newer version"));
	server_stop(&w.server);
}

static void test_damage__halves_of_two_stores_are_refused(void **state)
{
	server one, two;
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	server_start(&one, NULL);
	server_start(&two, NULL);
	pgs_close(server_open(&one, NULL, NULL));
	pgs_close(server_open(&two, NULL, NULL));
	assert_int_equal(pgs_kv_memory_share(&kv, one.kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob, two.blob, NULL), PGS_OK);
	expect_code(pgs_open_with(&store, kv, blob, NULL, &err), PGS_ECORRUPT, &err, "opening halves of two stores");
	assert_non_null(strstr(err.message, "different stores"));
	assert_null(store);
	server_stop(&one);
	server_stop(&two);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_damage__nothing_is_found_in_what_is_whole, say_where),
		cmocka_unit_test_teardown(test_damage__of_a_key_is_found_and_named, say_where),
		cmocka_unit_test_teardown(test_damage__of_a_pack_is_found_and_named, say_where),
		cmocka_unit_test_teardown(test_damage__of_a_sorted_file, say_where),
		cmocka_unit_test_teardown(test_damage__a_sorted_file_cut_short_or_gone, say_where),
		cmocka_unit_test_teardown(test_damage__of_an_index_file, say_where),
		cmocka_unit_test_teardown(test_damage__of_a_table_with_fences, say_where),
		cmocka_unit_test_teardown(test_damage__of_a_changelog_blob, say_where),
		cmocka_unit_test(test_damage__a_newer_store_or_database_is_refused),
		cmocka_unit_test(test_damage__a_newer_sorted_file_is_said_to_be_newer),
		cmocka_unit_test(test_damage__halves_of_two_stores_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
