/* What goes wrong around maintenance: full disks, blob stores that refuse, damaged files, workers that stand still. Each
 * time there is a clear error or report, nothing that is retained is lost, and when the cause is gone the next run
 * finishes. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "unit/test_collect.h"

#include "codec/seal.h"
#include "support/blob_calls.h"
#include "support/jobs.h"

#define N 40
#define STATES_MAX 80

/* What was committed: pages 0 … N-1 of a family. */
typedef struct state {
	uint64_t revision, family;
} state;

static struct {
	state list[STATES_MAX];
	size_t count;
	size_t kept; /* the one that the named snapshot shows */
} history;

/* Where no history is kept, it may be gone beneath a transaction: then again. */
static void commit_state(pgs_db *db, uint64_t family)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision = 0;
	int result = PGS_EOLDREV;
	while (result == PGS_EOLDREV) {
		pgs_txn *txn = begin_write(db);
		for (uint64_t n = 0; n < N; n++)
			assert_int_equal(write_seed(txn, n, seed_of(family + n, 0)), PGS_OK);
		result = pgs_commit(txn, NULL, &revision, &err);
	}
	expect_code(result, PGS_OK, &err, "commit");
	assert_true(history.count < STATES_MAX);
	history.list[history.count++] = (state){revision, family};
}

static void keep_state(pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_snapshot_create(db, "kept", 4, NULL, &err), PGS_OK, &err, "snapshot");
	history.kept = history.count - 1;
}

static void check_state(pgs_db *db, const state *s, pgs_txn_options *o)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	expect_code(pgs_begin(&txn, db, o, &err), PGS_OK, &err, "begin");
	for (uint64_t n = 0; n < N; n++)
		expect_code(read_seed(txn, n, seed_of(s->family + n, 0)), PGS_OK, pgs_txn_error(txn), "read");
	pgs_abort(txn);
}

/* Every retained revision, the newest, and the snapshot; with a handle that knows nothing yet. */
static void check_states(pgs_db *db)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_stat(db, &stat, &err), PGS_OK, &err, "stat");
	for (size_t i = 0; i < history.count; i++) {
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		o.at_revision = i + 1 < history.count ? history.list[i].revision : 0;
		if (o.at_revision == 0 || o.at_revision >= stat.floor_revision)
			check_state(db, &history.list[i], &o);
	}
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_snapshot = "kept";
	o.at_snapshot_size = 4;
	check_state(db, &history.list[history.kept], &o);
}

static int see_finding(void *ctx, const pgs_verify_finding *f)
{
	(void)ctx;
	fail_msg("verify: %s", f->message);
	return 0;
}

static void check_whole(pgs_db *db)
{
	pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	check_states(db);
	o.finding = see_finding;
	o.deep = true;
	expect_code(pgs_verify(db, &o, NULL, &err), PGS_OK, &err, "verify");
}

static void check_anew(fixture *f, void (*check)(pgs_db *db))
{
	pgs_store *store = server_open(&f->server, NULL, NULL);
	pgs_db *db = open_db(store, "db");
	check(db);
	pgs_db_close(db);
	pgs_close(store);
}

static pgs_maintain_options everything(bool retain)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.all = true;
	o.retention_ms = retain ? 0 : PGS_RETENTION_NONE;
	return o;
}

static int maintain(process *p, bool retain)
{
	const pgs_maintain_options o = everything(retain);
	p->report = (pgs_maintain_report)PGS_MAINTAIN_REPORT_INIT;
	p->err = (pgs_error)PGS_ERROR_INIT;
	return pgs_maintain(p->db, &o, &p->report, &p->err);
}

/* The cause is gone: all is done, and nothing is left over. */
static void expect_finished(fixture *f, bool retain)
{
	for (int i = 0; i < 3; i++) { /* what is unregistered goes when the floor has moved on */
		int result = maintain(&f->b, retain);
		expect_code(result, PGS_OK, &f->b.err, "maintenance when the cause is gone");
		assert_false(f->b.report.busy);
	}
	assert_int_equal(count_kind(f, 'c'), 0);
	assert_int_equal(count_kind(f, 'o'), 0);
	assert_int_equal(count_kind(f, 'k'), 0);
	assert_int_equal(files_in(f, 0), 0);
	expect_no_overlaps(f);
	check_anew(f, check_whole);
}

static int setup_faults(void **state_)
{
	memset(&history, 0, sizeof history);
	setup_limited(state_);
	fixture *f = *state_;
	set_thresholds(&f->a);
	return 0;
}

static void flush(fixture *f)
{
	f->a.worker.options.all = true;
	expect_code(pgs__job_flush(&f->a.worker), PGS_OK, &f->a.err, "flush");
	f->a.worker.options.all = false;
}

/* Files to be merged, contents to be flushed, packs to be folded, a snapshot to be minded. */
static void make_work(fixture *f)
{
	for (uint64_t i = 0; i < 3; i++) {
		commit_state(f->a.db, 100 * i);
		if (i == 1)
			keep_state(f->a.db);
		flush(f);
	}
	write_many(f, 5000, 200, 9000); /* a pack */
	commit_state(f->a.db, 1000);
	assert_int_equal(files_in(f, 0), 3);
	assert_true(count_kind(f, 'c') > 0 && count_kind(f, 'o') > 0);
}

/* --- a blob store that refuses ---------------------------------------------------------------------- */

static const char *refused;

static void refuse(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, refused) == 0) {
		pgs_fault_at(f->fault, 1, PGS_FAULT_ERROR);
		f->number++;
	}
}

static void refuse_all(fixture *f, const char *operation, bool retain)
{
	refused = operation;
	make_work(f);
	/* Something to remove: a file that no retained revision needs. */
	char name[PGS__FILE_NAME_MAX + 1], blob[PGS__BLOB_NAME_SIZE];
	assert_int_equal(pgs__file_name_new(name, 's', 1), PGS_OK);
	pgs__blob_name(blob, pgs__db_prefix(f->a.db), name);
	assert_int_equal(put_pattern(f->server.blob, blob, 100, 1), PGS_OK);
	pgs__key d = pgs__key_unregistered(pgs__db_prefix(f->a.db), name);
	put_raw(f, &d, (pgs_slice){0});
	watch_calls(f, refuse);
	for (int i = 0; i < 3; i++) {
		int result = maintain(&f->b, retain);
		expect_code(result, PGS_EIO, &f->b.err, operation);
		assert_true(f->b.err.message[0] != '\0');
		check_anew(f, check_states);
	}
	f->before = NULL;
	assert_true(f->number >= 3);
	check_anew(f, check_whole);
	expect_finished(f, retain);
	assert_int_equal(stat_size(f->server.blob, blob, &(uint64_t){0}), PGS_ENOTFOUND);
}

#define REFUSALS(operation)                                                                                            \
	static void test_maintain__refused_##operation##s(void **state_)                                               \
	{                                                                                                              \
		refuse_all(*state_, #operation, true);                                                                 \
	}                                                                                                              \
	static void test_maintain__refused_##operation##s_without_retention(void **state_)                             \
	{                                                                                                              \
		refuse_all(*state_, #operation, false);                                                                \
	}
REFUSALS(put)
REFUSALS(get)
REFUSALS(remove)

/* --- damaged files ---------------------------------------------------------------------------------------- */

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

static void set_blob(fixture *f, const char *name, bytes *b)
{
	const pgs_blob_vtable *blob = f->server.blob->vtable;
	assert_int_equal(blob->remove(f->server.blob, name, 0, NULL), PGS_OK);
	assert_int_equal(blob->put(f->server.blob, name, b->size, read_bytes, b, 0, NULL), PGS_OK);
}

static bytes get_blob(fixture *f, const char *name)
{
	bytes b;
	assert_int_equal(stat_size(f->server.blob, name, &b.size), PGS_OK);
	b.data = malloc(b.size);
	assert_int_equal(get_range(f->server.blob, name, 0, b.data, b.size), PGS_OK);
	return b;
}

typedef struct victim {
	char name[PGS__BLOB_NAME_SIZE];
	pgs__key key;
	bytes blob, value; /* as they were */
} victim;

static victim choose_victim(fixture *f)
{
	victim v;
	pgs__file_map *map = files_of(&f->a);
	const pgs__level_key *k = &map->files[1]->key;
	strcpy(v.name, map->files[1]->blob_name);
	v.key = pgs__key_level(pgs__db_prefix(f->a.db), k->level, &k->first, &k->last, k->file_name);
	pgs__file_map_release(map);
	pgs_kv_op get = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&v.key)};
	pgs_kv_txn txn = txn_of(&get, 1);
	assert_int_equal(run_txn(f->server.kv, &txn), PGS_OK);
	v.value.size = txn.results[0].pairs[0].value.size;
	v.value.data = malloc(v.value.size);
	memcpy(v.value.data, txn.results[0].pairs[0].value.data, v.value.size);
	f->server.kv->vtable->release(f->server.kv, &txn, 1);
	v.blob = get_blob(f, v.name);
	return v;
}

/* Change a table, and make everything that checks it agree. */
static void damage_table(fixture *f, const victim *v, void (*change)(uint8_t *rows))
{
	bytes b = {malloc(v->blob.size), v->blob.size};
	memcpy(b.data, v->blob.data, b.size);
	pgs__sorted_header header;
	assert_int_equal(pgs__sorted_header_decode(b.data, &header), PGS_OK);
	uint8_t *rows = b.data + PGS__SORTED_HEADER_SIZE;
	change(rows);
	const pgs_slice table = {rows, (size_t)header.count * PGS__SORTED_ENTRY_SIZE};
	header.table_check = pgs__check64(rows, table.size);
	pgs__sorted_header_encode(&header, b.data);
	set_blob(f, v->name, &b);
	pgs__buffer value = {0};
	pgs__level_value_encode(b.size, table, 0, 0, &value);
	put_raw(f, &v->key, pgs__buffer_slice(&value));
	pgs__buffer_free(&value);
	free(b.data);
}

static void mend(fixture *f, victim *v)
{
	set_blob(f, v->name, &v->blob);
	put_raw(f, &v->key, (pgs_slice){v->value.data, v->value.size});
	free(v->value.data);
	free(v->blob.data);
}

static void swap_rows(uint8_t *rows)
{
	uint8_t row[PGS__SORTED_ENTRY_SIZE];
	uint8_t *a = rows + 3 * sizeof row, *b = rows + 9 * sizeof row;
	memcpy(row, a, sizeof row);
	memcpy(a, b, sizeof row);
	memcpy(b, row, sizeof row);
}

/* The fourth content is where the third is. */
static void overlap_rows(uint8_t *rows)
{
	memcpy(rows + 3 * PGS__SORTED_ENTRY_SIZE + PGS__ID_SIZE, rows + 2 * PGS__SORTED_ENTRY_SIZE + PGS__ID_SIZE, 8);
}

static const char *said;
static bool heard;

static int listen_for(void *ctx, const pgs_verify_finding *f)
{
	(void)ctx;
	heard |= strstr(f->message, said) != NULL;
	return 0;
}

static void expect_verify_names(fixture *f, const char *name)
{
	pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
	said = name;
	heard = false;
	o.finding = listen_for;
	o.deep = true;
	assert_int_equal(pgs_verify(f->a.db, &o, NULL, NULL), PGS_ECORRUPT);
	assert_true(heard);
}

static void damaged_table(fixture *f, void (*change)(uint8_t *rows))
{
	make_work(f);
	victim v = choose_victim(f);
	size_t registered = count_kind(f, 'l');
	damage_table(f, &v, change);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(maintain(&f->b, i), PGS_ECORRUPT);
		assert_non_null(strstr(f->b.err.message, v.name));
	}
	assert_true(count_kind(f, 'l') >= registered); /* flushing went on, merging did not */
	expect_verify_names(f, v.name);
	mend(f, &v);
	check_anew(f, check_whole);
	expect_finished(f, false);
}

static void test_maintain__a_table_out_of_order(void **state_)
{
	damaged_table(*state_, swap_rows);
}

static void test_maintain__a_table_with_overlapping_entries(void **state_)
{
	damaged_table(*state_, overlap_rows);
}

static void test_maintain__a_missing_file(void **state_)
{
	fixture *f = *state_;
	make_work(f);
	victim v = choose_victim(f);
	assert_int_equal(f->server.blob->vtable->remove(f->server.blob, v.name, 0, NULL), PGS_OK);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(maintain(&f->b, i), PGS_ECORRUPT);
		assert_non_null(strstr(f->b.err.message, v.name));
	}
	expect_verify_names(f, v.name);
	assert_int_equal(f->server.blob->vtable->put(f->server.blob, v.name, v.blob.size, read_bytes, &v.blob, 0, NULL),
			 PGS_OK);
	mend(f, &v);
	check_anew(f, check_whole);
	expect_finished(f, false);
}

/* All three files in level 1, where none may overlap. */
static void test_maintain__overlapping_files_of_a_level(void **state_)
{
	fixture *f = *state_;
	make_work(f);
	for (int i = 0; i < 3; i++) {
		pgs__file_map *map = files_of(&f->a);
		const pgs__file *file = map->files[0];
		assert_int_equal(file->key.level, 0);
		const pgs__level_key *k = &file->key;
		pgs__key from = pgs__key_level(pgs__db_prefix(f->a.db), 0, &k->first, &k->last, k->file_name),
			 to = pgs__key_level(pgs__db_prefix(f->a.db), 1, &k->first, &k->last, k->file_name);
		pgs_kv_op get = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&from)};
		pgs_kv_txn txn = txn_of(&get, 1);
		assert_int_equal(run_txn(f->server.kv, &txn), PGS_OK);
		put_raw(f, &to, txn.results[0].pairs[0].value);
		f->server.kv->vtable->release(f->server.kv, &txn, 1);
		delete_raw(f, &from);
		pgs__file_map_release(map);
	}
	assert_int_equal(files_in(f, 1), 3);
	check_anew(f, check_whole);
	expect_finished(f, true);
	assert_int_equal(files_in(f, 1), 1);
	expect_finished(f, false);
}

/* --- several workers -------------------------------------------------------------------------------------------- */

typedef struct loop {
	process *p;
	bool retain;
	_Atomic bool *done;
	int result;
	pgs_error err;
} loop;

static void *maintain_on(void *ctx)
{
	loop *l = ctx;
	const pgs_maintain_options o = everything(l->retain);
	while (l->result == PGS_OK && !*l->done)
		l->result = pgs_maintain(l->p->db, &o, NULL, &l->err);
	return NULL;
}

static void two_workers(fixture *f, bool retain)
{
	_Atomic bool done = false;
	loop loops[] = {{.p = &f->a, .retain = retain, .done = &done}, {.p = &f->b, .retain = retain, .done = &done}};
	pthread_t threads[COUNT_OF(loops)];
	make_work(f);
	pgs_store *store = server_open(&f->server, NULL, NULL);
	pgs_db *db = open_db(store, "db");
	for (size_t i = 0; i < COUNT_OF(loops); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, maintain_on, &loops[i]), 0);
	for (uint64_t i = 0; i < 60; i++)
		commit_state(db, 2000 + 100 * i);
	done = true;
	for (size_t i = 0; i < COUNT_OF(loops); i++) {
		pthread_join(threads[i], NULL);
		expect_code(loops[i].result, PGS_OK, &loops[i].err, "a worker");
	}
	pgs_db_close(db);
	pgs_close(store);
	check_anew(f, check_whole);
	expect_finished(f, retain);
}

static void test_maintain__two_workers_beside_a_writer(void **state_)
{
	two_workers(*state_, true);
}

static void test_maintain__two_workers_that_collect(void **state_)
{
	two_workers(*state_, false);
}

/* b stands still at one of its calls, for longer than its lease: a takes over all of its work; then b wakes. */
static uint64_t pause_at;
static bool pause_retains;

static void pause_worker(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	if (call != pause_at)
		return;
	f->number++;
	expect_code(maintain(&f->a, pause_retains), PGS_OK, &f->a.err, "a worker beside one that is paused");
	age_observations(&f->a.db->seen->claims, 60000); /* twice what a claim is good for */
	expect_code(maintain(&f->a, pause_retains), PGS_OK, &f->a.err, "taking over");
	assert_false(f->a.report.busy);
	assert_int_equal(count_kind(f, 'c'), 0);
	commit_state(f->a.db, 5000);
}

static void pause_anywhere(void **state_, bool retain)
{
	bool reached = true;
	pause_retains = retain;
	for (pause_at = 1; reached; pause_at += getenv("PGS_TEST_LONG") ? 1 : 2) {
		fixture *f = *state_;
		make_work(f);
		f->number = 0;
		watch_calls(f, pause_worker);
		int result = maintain(&f->b, retain);
		f->before = NULL;
		reached = f->number > 0;
		expect_code(result, PGS_OK, &f->b.err, "the worker that was paused");
		check_anew(f, check_states);
		expect_finished(f, retain);
		assert_int_equal(pgs_snapshot_drop(f->a.db, "kept", 4, NULL), PGS_OK);
		teardown(state_);
		setup_faults(state_);
	}
	assert_true(pause_at > 40);
}

static void test_maintain__a_worker_that_was_paused(void **state_)
{
	pause_anywhere(state_, true);
}

static void test_maintain__a_collector_that_was_paused(void **state_)
{
	pause_anywhere(state_, false);
}

/* --- a full disk ------------------------------------------------------------------------------------------- */

static char folder[64], disk[100];

static int setup_disk(void **state_)
{
	(void)state_;
	memset(&history, 0, sizeof history);
	make_folder(folder);
	snprintf(disk, sizeof disk, "%s/disk", folder);
	return mkdir(disk, 0777);
}

static int teardown_disk(void **state_)
{
	(void)state_;
	umount2(disk, MNT_DETACH);
	remove_folder(folder);
	return 0;
}

static void mount_disk(void)
{
	if (mount("tmpfs", disk, "tmpfs", 0, "size=24m") == 0)
		return;
	fprintf(stderr, "# skipped: a full disk: mounting a tmpfs: %s\n", strerror(errno));
	const char *ci = getenv("CI");
	if (ci && strcmp(ci, "true") == 0)
		fail_msg("skipped in CI");
	skip();
}

/* A file that takes all room but so many bytes. */
static void fill(const char *name, uint64_t but)
{
	static const char block[4096];
	struct statvfs s;
	FILE *file = fopen(name, "w");
	assert_non_null(file);
	assert_int_equal(statvfs(disk, &s), 0);
	uint64_t free_bytes = (uint64_t)s.f_bavail * s.f_frsize;
	for (uint64_t at = 0; at + but + sizeof block <= free_bytes; at += sizeof block)
		if (fwrite(block, sizeof block, 1, file) != 1)
			break;
	fclose(file);
}

/* With several files of level 0 (which a merge needs room for), or all in the KV (which a flush does). */
static void full_disk(bool merge, bool retain)
{
	char url[128], filler[128];
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	pgs_maintain_options o = everything(retain);
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	mount_disk();
	snprintf(url, sizeof url, "dir:%s/store?map=64M", disk);
	snprintf(filler, sizeof filler, "%s/filler", disk);
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	so.maintenance = PGS_MAINTENANCE_MANUAL;
	expect_code(pgs_open(&store, url, &so, &err), PGS_OK, &err, "opening");
	pgs_db *db = create_db(store, "db", NULL);
	for (uint64_t i = 0; i < 8; i++) {
		commit_state(db, 100 * i);
		if (i == 2)
			keep_state(db);
		if (merge)
			assert_int_equal(job_run(db, pgs__job_flush, &o, NULL, &err), PGS_OK);
	}
	fill(filler, 200000); /* less than any output takes */
	for (int i = 0; i < 3; i++) {
		int result = pgs_maintain(db, &o, &report, &err);
		expect_code(result, PGS_ENOSPC, &err, "maintenance on a full disk");
		assert_true(err.message[0] != '\0');
		check_states(db);
	}
	assert_int_equal(unlink(filler), 0);
	for (int i = 0; i == 0 || (report.busy && i < 400); i++) { /* a claim that could not be deleted ends with its lease */
		if (i > 0)
			usleep(100000);
		expect_code(pgs_maintain(db, &o, &report, &err), PGS_OK, &err, "maintenance when there is room again");
	}
	assert_false(report.busy);
	check_whole(db);
	pgs_db_close(db);
	pgs_close(store);
	expect_code(pgs_open(&store, url, &so, &err), PGS_OK, &err, "opening again");
	db = open_db(store, "db");
	check_whole(db);
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	assert_int_equal(pgs_stat(db, &stat, &err), PGS_OK);
	assert_int_equal(stat.kv_content_count, 0);
	assert_int_equal(stat.level0_count, 0);
	pgs_db_close(db);
	pgs_close(store);
}

static void test_maintain__flushing_to_a_full_disk(void **state_)
{
	(void)state_;
	full_disk(false, true);
}

static void test_maintain__merging_on_a_full_disk(void **state_)
{
	(void)state_;
	full_disk(true, true);
}

static void test_maintain__collecting_on_a_full_disk(void **state_)
{
	(void)state_;
	full_disk(true, false);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_faults, teardown)
#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, setup_disk, teardown_disk)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_maintain__refused_puts),
		TEST(test_maintain__refused_puts_without_retention),
		TEST(test_maintain__refused_gets),
		TEST(test_maintain__refused_gets_without_retention),
		TEST(test_maintain__refused_removes),
		TEST(test_maintain__refused_removes_without_retention),
		TEST(test_maintain__a_table_out_of_order),
		TEST(test_maintain__a_table_with_overlapping_entries),
		TEST(test_maintain__a_missing_file),
		TEST(test_maintain__overlapping_files_of_a_level),
		TEST(test_maintain__two_workers_beside_a_writer),
		TEST(test_maintain__two_workers_that_collect),
		TEST(test_maintain__a_worker_that_was_paused),
		TEST(test_maintain__a_collector_that_was_paused),
		DISK_TEST(test_maintain__flushing_to_a_full_disk),
		DISK_TEST(test_maintain__merging_on_a_full_disk),
		DISK_TEST(test_maintain__collecting_on_a_full_disk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
