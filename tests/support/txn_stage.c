#include "support/txn_stage.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "txn/db.h"

static const stage_variant variants[] = {
	{"memory", STAGE_MEMORY, PGS_ORDER_REVISION},
	{"memory, limited", STAGE_LIMITED, PGS_ORDER_REVISION},
	{"local", STAGE_LOCAL, PGS_ORDER_REVISION},
	{"memory, counter", STAGE_MEMORY | STAGE_COUNTER, PGS_ORDER_COUNTER},
	{"memory, limited, counter", STAGE_LIMITED | STAGE_COUNTER, PGS_ORDER_COUNTER},
	{"local, counter", STAGE_LOCAL | STAGE_COUNTER, PGS_ORDER_COUNTER},
	{"servers", STAGE_SERVERS, PGS_ORDER_REVISION},
};

static const stage_variant *current;

/* One etcd and an S3; each stage has a root of its own there. */
static struct {
	etcd_server *etcd;
	s3_server *s3;
	unsigned stages;
} servers;

static bool start_servers(void)
{
	servers.etcd = etcd_start(&(etcd_setup){.members = 1});
	servers.s3 = s3_start(false);
	return servers.etcd && servers.s3;
}

int stage_run(const char *name, const struct CMUnitTest *tests, size_t count, uint32_t wanted)
{
	const char *only = getenv("STAGE_VARIANT");
	int failed = 0;
	wanted = only ? wanted : wanted & ~STAGE_SERVERS;
	if (only && !strcmp(only, "servers") && (!etcd_available() || !s3_available()))
		return 77;
	for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
		char group[100];
		if ((variants[i].backend & wanted) != variants[i].backend || (only && strcmp(only, variants[i].name) != 0))
			continue;
		current = &variants[i];
		snprintf(group, sizeof group, "%s on %s", name, current->name);
		if (current->backend & STAGE_SERVERS && !start_servers())
			return 1;
		failed += _cmocka_run_group_tests(group, tests, count, NULL, NULL);
	}
	etcd_stop(servers.etcd);
	s3_stop(servers.s3);
	servers.etcd = NULL;
	servers.s3 = NULL;
	return failed;
}

/* --- making and unmaking ------------------------------------------------------- */

static void call_before(void *ctx, uint64_t call, const char *operation)
{
	stage *s = ctx;
	void (*before)(stage * s, const char *operation) = s->before;
	(void)call;
	if (!before || s->in_before)
		return;
	s->in_before = true;
	before(s, operation);
	s->in_before = false;
}

static void open_local(const char *dir, pgs_kv **kv, pgs_blob **blob)
{
	char path[128];
	pgs_local_options o = PGS_LOCAL_OPTIONS_INIT;
	o.sync = PGS_SYNC_OFF;
	snprintf(path, sizeof path, "%s/kv", dir);
	assert_int_equal(pgs_kv_local_open(kv, path, &o, NULL), PGS_OK);
	snprintf(path, sizeof path, "%s/blob", dir);
	assert_int_equal(pgs_blob_local_open(blob, path, &o, NULL), PGS_OK);
}

static void open_on_servers(const char *root, pgs_kv **kv, pgs_blob **blob)
{
	*kv = etcd_kv(servers.etcd, root, NULL);
	*blob = s3_blob(servers.s3, root, NULL);
	assert_true(*kv && *blob);
}

static void open_backends(stage *s)
{
	static const pgs_kv_limits limits = {128, 1572864, 0, 0};
	if (s->variant->backend & STAGE_LOCAL) {
		strcpy(s->dir, "/tmp/pagestore-txn-XXXXXX");
		assert_non_null(mkdtemp(s->dir));
		open_local(s->dir, &s->kv, &s->blob);
		return;
	}
	if (s->variant->backend & STAGE_SERVERS) {
		snprintf(s->root, sizeof s->root, "stage-%u", ++servers.stages);
		open_on_servers(s->root, &s->kv, &s->blob);
		return;
	}
	const pgs_kv_limits *l = s->variant->backend & STAGE_LIMITED ? &limits : NULL;
	assert_int_equal(pgs_kv_memory_new(&s->kv, l, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_new(&s->blob, NULL), PGS_OK);
}

void stage_backends(stage *s, pgs_kv **kv, pgs_blob **blob)
{
	if (s->variant->backend & STAGE_LOCAL) {
		open_local(s->dir, kv, blob);
		return;
	}
	if (s->variant->backend & STAGE_SERVERS) {
		open_on_servers(s->root, kv, blob);
		return;
	}
	assert_int_equal(pgs_kv_memory_share(kv, s->kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(blob, s->blob, NULL), PGS_OK);
}

static void open_store(stage *s)
{
	pgs_kv *kv, *faulty_kv;
	pgs_blob *blob, *faulty_blob;
	pgs_fault_options o = PGS_FAULT_OPTIONS_INIT;
	o.before = call_before;
	o.before_ctx = s;
	stage_backends(s, &kv, &blob);
	assert_int_equal(pgs_fault_new(&s->fault, &o, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_kv(&faulty_kv, s->fault, kv, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_blob(&faulty_blob, s->fault, blob, NULL), PGS_OK);
	assert_int_equal(pgs_open_with(&s->store, faulty_kv, faulty_blob, NULL, NULL), PGS_OK);
}

int stage_setup(void **state)
{
	stage *s = calloc(1, sizeof *s);
	*state = s;
	s->variant = current;
	s->options = (pgs_db_options)PGS_DB_OPTIONS_INIT;
	s->options.cache_bytes = 4 << 20;
	s->options.order = s->variant->order;
	open_backends(s);
	open_store(s);
	assert_int_equal(pgs_db_create(&s->db, s->store, "db", 2, &s->options, NULL), PGS_OK);
	s->page_size = pgs_db_page_size(s->db);
	return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void close_other(stage *s)
{
	pgs_db_close(s->other_db);
	pgs_close(s->other_store);
	s->other_db = NULL;
	s->other_store = NULL;
}

int stage_teardown(void **state)
{
	stage *s = *state;
	s->before = NULL;
	close_other(s);
	pgs_db_close(s->db);
	pgs_close(s->store);
	pgs_fault_free(s->fault);
	s->kv->vtable->close(s->kv);
	s->blob->vtable->close(s->blob);
	if (s->dir[0])
		nftw(s->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	free(s);
	return 0;
}

void stage_remake(stage *s)
{
	close_other(s);
	pgs_db_close(s->db);
	assert_int_equal(pgs_db_drop(s->store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_db_create(&s->db, s->store, "db", 2, &s->options, NULL), PGS_OK);
	s->page_size = pgs_db_page_size(s->db);
}

pgs_db *stage_other(stage *s)
{
	pgs_kv *kv;
	pgs_blob *blob;
	if (s->other_db)
		return s->other_db;
	stage_backends(s, &kv, &blob);
	assert_int_equal(pgs_open_with(&s->other_store, kv, blob, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_db_open(&s->other_db, s->other_store, "db", 2, &s->options, NULL), PGS_OK);
	return s->other_db;
}

/* --- looking inside --------------------------------------------------------------- */

static int count_blob(void *ctx, const char *name, uint64_t size)
{
	(void)name;
	(void)size;
	++*(size_t *)ctx;
	return 0;
}

size_t stage_blobs(stage *s)
{
	char folder[PGS__BLOB_NAME_SIZE];
	size_t count = 0;
	pgs__blob_name(folder, pgs__db_prefix(s->db), "");
	assert_int_equal(s->blob->vtable->list(s->blob, folder, count_blob, &count, 0, NULL), PGS_OK);
	return count;
}

static uint64_t count_keys(stage *s, pgs_slice first, pgs_slice end)
{
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = first, .range_end = end, .count_only = true};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(s->kv->vtable->txn(s->kv, &txn, 1, 0, NULL), PGS_OK);
	uint64_t total = txn.results[0].total;
	s->kv->vtable->release(s->kv, &txn, 1);
	return total;
}

uint64_t stage_keys(stage *s)
{
	return count_keys(s, (pgs_slice){"\0", 1}, PGS_KV_TO_END);
}

uint64_t stage_keys_of(stage *s, char kind)
{
	pgs__key first = pgs__key_kind(pgs__db_prefix(s->db), kind), end = pgs__key_kind_end(pgs__db_prefix(s->db), kind);
	return count_keys(s, pgs__key_slice(&first), pgs__key_slice(&end));
}

pgs__pointer stage_pointer(stage *s, uint64_t page)
{
	pgs__key key = pgs__key_page(pgs__db_prefix(s->db), page);
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&key)};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	pgs__pointer pointer = {.kind = PGS__POINTER_ABSENT};
	assert_int_equal(s->kv->vtable->txn(s->kv, &txn, 1, 0, NULL), PGS_OK);
	if (txn.results[0].count)
		assert_int_equal(pgs__pointer_decode(txn.results[0].pairs[0].value,
						     pgs__page_group(page, s->page_size), &pointer),
				 PGS_OK);
	s->kv->vtable->release(s->kv, &txn, 1);
	pointer.delta = (pgs_slice){0};
	return pointer;
}

/* --- contents ------------------------------------------------------------------------ */

uint64_t stage_random(uint64_t *seed)
{
	uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void page_fill(void *page, uint32_t size, uint64_t tag)
{
	uint64_t style = tag >> 56, seed = style == 2 ? tag >> 32 : tag;
	uint8_t *bytes = page;
	memset(page, 0, size);
	for (uint32_t at = 8; tag && style != 1 && at < size; at += 8) {
		uint64_t word = stage_random(&seed);
		memcpy(bytes + at, &word, 8);
	}
	memcpy(bytes, &tag, 8);
}

bool page_is(const void *page, uint32_t size, uint64_t tag)
{
	uint8_t expected[PGS_PAGE_SIZE_MAX];
	page_fill(expected, size, tag);
	return memcmp(page, expected, size) == 0;
}

uint64_t page_tag(const void *page)
{
	uint64_t tag;
	memcpy(&tag, page, 8);
	return tag;
}

/* --- transactions ------------------------------------------------------------------------ */

static pgs_txn *begin(pgs_db *db, const pgs_txn_options *o)
{
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs_begin(&t, db, o, &err);
	if (result != PGS_OK)
		fail_msg("begin: %s: %s", pgs_error_name(result), err.message);
	return t;
}

pgs_txn *tx_begin(pgs_db *db, uint32_t isolation)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.write = true;
	o.isolation = isolation;
	return begin(db, &o);
}

pgs_txn *tx_read(pgs_db *db)
{
	return begin(db, NULL);
}

pgs_txn *tx_at(pgs_db *db, uint64_t revision)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_revision = revision;
	return begin(db, &o);
}

static void check(pgs_txn *t, int result, const char *what)
{
	if (result != PGS_OK)
		fail_msg("%s: %s: %s", what, pgs_error_name(result), pgs_txn_error(t)->message);
}

void tx_put(pgs_txn *t, stage *s, uint64_t page, uint64_t tag)
{
	uint8_t bytes[PGS_PAGE_SIZE_MAX];
	page_fill(bytes, s->page_size, tag);
	check(t, pgs_write(t, page, bytes), "write");
}

void tx_expect(pgs_txn *t, stage *s, uint64_t page, uint64_t tag)
{
	uint8_t bytes[PGS_PAGE_SIZE_MAX];
	check(t, pgs_read(t, page, bytes), "read");
	if (!page_is(bytes, s->page_size, tag))
		fail_msg("page %llu at revision %llu has tag %llx, not %llx", (unsigned long long)page,
			 (unsigned long long)pgs_txn_revision(t), (unsigned long long)page_tag(bytes),
			 (unsigned long long)tag);
}

void tx_expect_count(pgs_txn *t, uint64_t page_count)
{
	uint64_t count;
	check(t, pgs_page_count(t, &count), "page count");
	assert_int_equal(count, page_count);
}

void tx_attr(pgs_txn *t, const char *name, const char *value)
{
	check(t, pgs_attr_set(t, name, strlen(name), value, value ? strlen(value) : 0), "attr_set");
}

void tx_expect_attr(pgs_txn *t, const char *name, const char *value)
{
	char bytes[PGS_ATTR_SIZE_MAX];
	size_t size;
	int result = pgs_attr_get(t, name, strlen(name), bytes, sizeof bytes, &size);
	assert_int_equal(result, value ? PGS_OK : PGS_ENOTFOUND);
	if (!value)
		return;
	assert_int_equal(size, strlen(value));
	assert_memory_equal(bytes, value, size);
}

uint64_t tx_commit(pgs_txn *t)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision = 0;
	int result = pgs_commit(t, NULL, &revision, &err);
	if (result != PGS_OK)
		fail_msg("commit: %s: page %lld: %s", pgs_error_name(result), (long long)err.page, err.message);
	return revision;
}

void tx_conflict(pgs_txn *t, uint64_t page)
{
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs_commit(t, NULL, NULL, &err);
	if (result != PGS_ECONFLICT || err.page != page)
		fail_msg("commit: %s for page %lld, not a conflict for page %lld: %s", pgs_error_name(result),
			 (long long)err.page, (long long)page, err.message);
	assert_int_equal(err.code, PGS_ECONFLICT);
}

uint64_t tx_one(pgs_db *db, stage *s, uint64_t page, uint64_t tag)
{
	pgs_txn *t = tx_begin(db, PGS_SERIALIZABLE);
	tx_put(t, s, page, tag);
	return tx_commit(t);
}

uint64_t tx_fill(pgs_db *db, stage *s, uint64_t first, uint64_t count, uint64_t tag)
{
	pgs_txn *t = tx_begin(db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < count; i++)
		tx_put(t, s, first + i, tag + first + i);
	return tx_commit(t);
}

void stage_expect(stage *s, uint64_t page, uint64_t tag)
{
	pgs_txn *t = tx_read(s->db);
	tx_expect(t, s, page, tag);
	pgs_abort(t);
}
