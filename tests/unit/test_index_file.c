/* Reading index files: single pages, ranges, damage, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <unistd.h>

#include "local_cache/disk_cache.h"
#include "support/failing_alloc.h"
#include "support/planted.h"
#include "support/stores.h"
#include "txn/index_file.h"
#include "util/alloc.h"
#include "util/clock.h"

#define NAME "i-0000000000000001-018bcfe5687b7abc8def0123456789ab"
#define COUNT 3000
#define STEP 3 /* every third page has a pointer */

typedef struct fixture {
	server server;
	pgs_fault *fault;
	pgs_store *store;
	pgs_db *db;
	char blob_name[PGS__BLOB_NAME_SIZE];
	pgs__buffer file;
} fixture;

/* Page 0 has a full pointer, the others deltas of rising sizes, so that blocks are of different sizes. */
static void put_pointer(pgs__index_writer *w, uint64_t page_no)
{
	static const uint8_t bytes[3000] = {1, 2, 3};
	pgs__pointer p = {.kind = page_no ? PGS__POINTER_DELTA : PGS__POINTER_FULL, .id = {{0, 0, 0, 0, 7}}};
	pgs__buffer b = {0};
	if (page_no)
		p.delta = (pgs_slice){bytes, 1 + page_no % sizeof bytes};
	pgs__pointer_encode(&p, &b);
	pgs__index_add(w, page_no, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static int from_memory(void *ctx, uint64_t offset, void *buf, size_t size)
{
	memcpy(buf, ((const pgs__buffer *)ctx)->data + offset, size);
	return PGS_OK;
}

static void store_file(fixture *f)
{
	pgs_blob *blob = f->server.blob;
	blob->vtable->remove(blob, f->blob_name, 0, NULL);
	assert_int_equal(blob->vtable->put(blob, f->blob_name, f->file.size, from_memory, &f->file, 0, NULL), PGS_OK);
}

static int setup(void **state)
{
	fixture *f = calloc(1, sizeof *f);
	pgs__index_writer w = {0};
	server_start(&f->server, NULL);
	assert_int_equal(pgs_fault_new(&f->fault, NULL, NULL), PGS_OK);
	f->store = server_open(&f->server, f->fault, NULL);
	f->db = create_db(f->store, "db", NULL);
	pgs__blob_name(f->blob_name, pgs__db_prefix(f->db), NAME);
	for (uint64_t i = 0; i < COUNT; i++)
		put_pointer(&w, i * STEP);
	assert_int_equal(pgs__index_finish(&w, TEST_PAGE_SIZE, &f->file), PGS_OK);
	pgs__index_writer_free(&w);
	store_file(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	pgs__buffer_free(&f->file);
	pgs_db_close(f->db);
	pgs_close(f->store);
	pgs_fault_free(f->fault);
	server_stop(&f->server);
	free(f);
	return 0;
}

static int open_file(fixture *f, pgs__index_file *file, pgs_error *err)
{
	return pgs__index_file_open(file, f->db, (pgs_slice){NAME, sizeof NAME - 1}, true, 0, err);
}

/* Walk [first, end) and count; every entry must be the next one there is. */
static int walk(fixture *f, const pgs__index_file *file, uint64_t first, uint64_t end, uint64_t *count, pgs_error *err)
{
	pgs__index_cursor c;
	uint64_t page_no, expected = (first + STEP - 1) / STEP * STEP;
	pgs_slice pointer;
	bool found = true;
	int result = PGS_OK;
	*count = 0;
	pgs__index_cursor_open(&c, file, pgs__db_backend(f->db), first, end);
	while (result == PGS_OK && found) {
		result = pgs__index_cursor_next(&c, &found, &page_no, &pointer, 0, err);
		if (result != PGS_OK || !found)
			break;
		assert_int_equal(page_no, expected);
		assert_true(page_no < end && pointer.size > page_no % 3000);
		expected += STEP;
		++*count;
	}
	pgs__index_cursor_close(&c);
	return result;
}

static void test_cursor__walks_any_range(void **state)
{
	fixture *f = *state;
	pgs__index_file file;
	static const uint64_t ranges[][2] = {{0, 1}, {0, UINT64_MAX}, {1, 3}, {1, 4}, {768, 769}, {765, 1537}, {5, 5},
		{8997, UINT64_MAX}, {8998, UINT64_MAX}, {100000, UINT64_MAX}, {4000, 4100}};
	assert_int_equal(open_file(f, &file, NULL), PGS_OK);
	assert_int_equal(file.pointer_count, COUNT);
	for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
		uint64_t first = ranges[i][0], end = ranges[i][1] < COUNT * STEP ? ranges[i][1] : COUNT * STEP, count;
		uint64_t expected = first < end ? (end + STEP - 1) / STEP - (first + STEP - 1) / STEP : 0;
		assert_int_equal(walk(f, &file, first, ranges[i][1], &count, NULL), PGS_OK);
		assert_int_equal(count, expected);
	}
	pgs__index_file_close(&file);
}

static void test_cursor__reads_blocks_together_within_bounds(void **state)
{
	fixture *f = *state;
	pgs__index_file file;
	uint64_t count;
	assert_int_equal(open_file(f, &file, NULL), PGS_OK);
	uint64_t before = pgs_fault_calls(f->fault);
	assert_int_equal(walk(f, &file, 0, UINT64_MAX, &count, NULL), PGS_OK);
	uint64_t calls = pgs_fault_calls(f->fault) - before;
	size_t blocks = file.table_size / PGS__INDEX_BLOCK_SIZE;
	assert_true(calls <= f->file.size / (128 << 10) + 1); /* 64 KiB blocks, 256 KiB a read */
	assert_true(calls < blocks && calls >= f->file.size / (256 << 10));
	before = pgs_fault_calls(f->fault);
	assert_int_equal(walk(f, &file, 300, 301, &count, NULL), PGS_OK);
	assert_int_equal(pgs_fault_calls(f->fault) - before, 1);
	pgs__index_file_close(&file);
}

/* Blocks that have expected pages are read together, others are not read. */
static void test_find__reads_expected_blocks_together(void **state)
{
	fixture *f = *state;
	pgs__index_file file;
	static uint64_t pages[COUNT];
	pgs_slice pointer;
	bool found;
	assert_int_equal(open_file(f, &file, NULL), PGS_OK);
	const size_t blocks = file.table_size / PGS__INDEX_BLOCK_SIZE;
	for (size_t every = 1; every <= COUNT / 2; every *= 10) {
		pgs__index_block_kept kept = {.expected = pages};
		for (uint64_t page = 0; page < COUNT * STEP; page += STEP * every)
			pages[kept.expected_count++] = page;
		uint64_t before = pgs_fault_calls(f->fault);
		for (size_t i = 0; i < kept.expected_count; i++) {
			assert_int_equal(pgs__index_file_find(&file, pgs__db_backend(f->db), pages[i], &kept, &found,
							      &pointer, 0, NULL),
					 PGS_OK);
			assert_true(found && pointer.size > pages[i] % 3000);
		}
		uint64_t calls = pgs_fault_calls(f->fault) - before;
		if (every == 1)
			assert_true(calls < blocks && calls <= f->file.size / (128 << 10) + 1);
		assert_true(calls <= kept.expected_count);
		pgs__free(kept.bytes);
	}
	pgs__index_file_close(&file);
}

static void test_find__reads_a_block_once(void **state)
{
	fixture *f = *state;
	pgs__index_file file;
	pgs__index_block_kept kept = {0};
	pgs_slice pointer;
	bool found;
	assert_int_equal(open_file(f, &file, NULL), PGS_OK);
	uint64_t before = pgs_fault_calls(f->fault);
	for (uint64_t page = 0; page < COUNT * STEP + 10; page++) {
		assert_int_equal(pgs__index_file_find(&file, pgs__db_backend(f->db), page, &kept, &found, &pointer, 0,
						      NULL),
				 PGS_OK);
		assert_int_equal(found, page % STEP == 0 && page < COUNT * STEP);
	}
	assert_int_equal(pgs_fault_calls(f->fault) - before, file.table_size / PGS__INDEX_BLOCK_SIZE);
	uint64_t seed = 1, next;
	for (int i = 0; i < 3000; i++) { /* in any order, and with the one after it */
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		uint64_t page = (seed >> 33) % (i % 4 ? 800 : COUNT * STEP + 10);
		assert_int_equal(pgs__index_file_find(&file, pgs__db_backend(f->db), page, &kept, &found, &pointer, 0,
						      NULL),
				 PGS_OK);
		assert_int_equal(found, page % STEP == 0 && page < COUNT * STEP);
		assert_true(!found || pointer.size > page % 3000);
		assert_int_equal(pgs__index_file_next(&file, pgs__db_backend(f->db), page, &kept, &next, 0, NULL), PGS_OK);
		uint64_t expected = (page + STEP - 1) / STEP * STEP;
		assert_true(next == (expected < COUNT * STEP ? expected : UINT64_MAX));
	}
	pgs__free(kept.bytes);
	pgs__index_file_close(&file);
}

static void test_open__missing_or_of_another_page_size(void **state)
{
	fixture *f = *state;
	pgs__index_file file;
	pgs_error err = PGS_ERROR_INIT;
	pgs__index_writer w = {0};
	assert_int_equal(pgs__index_file_open(&file, f->db, (pgs_slice){"i-none", 6}, false, 0, &err), PGS_ENOTFOUND);
	assert_non_null(strstr(err.message, "i-none is missing"));
	assert_int_equal(pgs__index_file_open(&file, f->db, (pgs_slice){"../x", 4}, false, 0, &err), PGS_ECORRUPT);
	pgs__buffer_free(&f->file);
	put_pointer(&w, 0);
	assert_int_equal(pgs__index_finish(&w, 512, &f->file), PGS_OK);
	pgs__index_writer_free(&w);
	store_file(f);
	assert_int_equal(open_file(f, &file, &err), PGS_ECORRUPT);
	assert_non_null(strstr(err.message, "512"));
}

/* Every byte of header and table, and every 7th of the blocks: opening or walking says that it is damaged. */
static void test_open__damage_anywhere_is_found(void **state)
{
	fixture *f = *state;
	pgs__index_file file;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t count;
	pgs__index_writer w = {0};
	pgs__buffer_free(&f->file);
	for (uint64_t i = 0; i < 600; i++)
		put_pointer(&w, i * STEP);
	assert_int_equal(pgs__index_finish(&w, TEST_PAGE_SIZE, &f->file), PGS_OK);
	pgs__index_writer_free(&w);
	for (size_t at = 0; at < f->file.size; at += at < 600 ? 1 : 4999) {
		f->file.data[at] ^= 0x10;
		store_file(f);
		int result = open_file(f, &file, &err);
		if (result == PGS_OK)
			result = walk(f, &file, 0, UINT64_MAX, &count, &err);
		assert_int_equal(result, PGS_ECORRUPT);
		assert_non_null(strstr(err.message, "damaged"));
		pgs__index_file_close(&file);
		f->file.data[at] ^= 0x10;
	}
	store_file(f);
	assert_int_equal(open_file(f, &file, &err), PGS_OK);
	assert_int_equal(walk(f, &file, 0, UINT64_MAX, &count, &err), PGS_OK);
	pgs__index_file_close(&file);
}

static void test_cursor__goes_on_after_an_error(void **state)
{
	fixture *f = *state;
	pgs__index_file file;
	pgs__index_cursor c;
	uint64_t page_no, count = 0;
	pgs_slice pointer;
	bool found = true;
	assert_int_equal(open_file(f, &file, NULL), PGS_OK);
	pgs__index_cursor_open(&c, &file, pgs__db_backend(f->db), 0, UINT64_MAX);
	for (unsigned call = 1; found; call++) {
		pgs_fault_at(f->fault, 1, call % 3 ? PGS_FAULT_ERROR : PGS_FAULT_NONE);
		int result = pgs__index_cursor_next(&c, &found, &page_no, &pointer, 0, NULL);
		assert_true(result == PGS_OK || result == PGS_EIO);
		if (result == PGS_OK && found)
			assert_int_equal(page_no, STEP * count++);
	}
	pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
	assert_int_equal(count, COUNT);
	pgs__index_cursor_close(&c);
	pgs__index_file_close(&file);
}

static void test_reading__every_allocation_may_fail(void **state)
{
	(void)state;
	failing_alloc_install();
	void *inner;
	setup(&inner);
	fixture *f = inner;
	size_t live = failing_alloc_live();
	for (size_t nth = 1;; nth++) {
		pgs__index_file file;
		pgs__index_block_kept kept = {0};
		uint64_t count;
		bool found;
		pgs_slice pointer;
		failing_alloc_begin(nth);
		int result = open_file(f, &file, NULL);
		if (result == PGS_OK)
			result = walk(f, &file, 0, 4000, &count, NULL);
		if (result == PGS_OK)
			result = pgs__index_file_find(&file, pgs__db_backend(f->db), 3, &kept, &found, &pointer, 0, NULL);
		pgs__free(kept.bytes);
		pgs__index_file_close(&file);
		bool failed = failing_alloc_end();
		assert_int_equal(result, failed ? PGS_ENOMEM : PGS_OK);
		assert_int_equal(failing_alloc_live(), live);
		if (!failed)
			break;
	}
	teardown(&inner);
	failing_alloc_uninstall();
}

/* --- in the machine's cache file -------------------------------------------------------------- */

static struct machine {
	char dir[64], path[80];
	pgs__disk_cache *cache;
} machine;

static void attach(fixture *f)
{
	const pgs__disk_cache_options o = {.path = machine.path, .size_bytes = 64 << 20};
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs__disk_cache_open(&machine.cache, &o, &err), PGS_OK, &err, "pgs__disk_cache_open");
	expect_code(pgs__disk_db_attach(&f->db->contents.disk, machine.cache, pgs__db_prefix(f->db), TEST_PAGE_SIZE, &err),
		    PGS_OK, &err, "pgs__disk_db_attach");
}

static void detach(fixture *f)
{
	pgs__disk_db_detach(f->db->contents.disk);
	f->db->contents.disk = NULL;
	pgs__disk_cache_close(machine.cache);
}

static int setup_cached(void **state)
{
	setup(state);
	make_folder(machine.dir);
	snprintf(machine.path, sizeof machine.path, "%s/cache", machine.dir);
	attach(*state);
	return 0;
}

static int teardown_cached(void **state)
{
	detach(*state);
	remove_folder(machine.dir);
	return teardown(state);
}

static uint64_t bad(void)
{
	pgs__disk_stat stat;
	assert_int_equal(pgs__disk_stat_get(machine.cache, &stat, NULL), PGS_OK);
	return stat.bad;
}

/* Open the file and find pages in every block, also several blocks together; returns how often the store was asked. */
static uint64_t find_all(fixture *f)
{
	static uint64_t pages[COUNT];
	uint64_t before = pgs_fault_calls(f->fault);
	for (unsigned together = 0; together < 2; together++) {
		pgs__index_block_kept kept = {.expected = pages, .expected_count = together ? COUNT : 0};
		pgs__index_file file;
		pgs_slice pointer;
		bool found;
		assert_int_equal(open_file(f, &file, NULL), PGS_OK);
		for (uint64_t i = 0; i < COUNT; i++) {
			pages[i] = i * STEP;
			assert_int_equal(pgs__index_file_find(&file, pgs__db_backend(f->db), i * STEP, &kept, &found,
							      &pointer, 0, NULL),
					 PGS_OK);
			assert_true(found && pointer.size > i * STEP % 3000);
		}
		pgs__free(kept.bytes);
		pgs__index_file_close(&file);
	}
	assert_int_equal(pgs__disk_flush(machine.cache, pgs__now_ms() + 5000, NULL), PGS_OK);
	return pgs_fault_calls(f->fault) - before;
}

/* The next process asks the store for nothing: header, table and blocks are there, blocks past 64 KiB too. */
static void test_cached__a_restart_reads_no_blob(void **state)
{
	fixture *f = *state;
	uint64_t count;
	assert_true(find_all(f) > 10);
	detach(f);
	attach(f);
	assert_int_equal(find_all(f), 0);
	assert_int_equal(bad(), 0);
	pgs__index_file file;
	uint64_t before = pgs_fault_calls(f->fault);
	assert_int_equal(open_file(f, &file, NULL), PGS_OK);
	assert_int_equal(walk(f, &file, 0, UINT64_MAX, &count, NULL), PGS_OK); /* maintenance reads what is stored */
	assert_true(pgs_fault_calls(f->fault) > before);
	pgs__index_file_close(&file);
}

/* Damage `size` bytes of the index file, wherever they are in the cache file. */
static unsigned flip(const uint8_t *what, size_t size)
{
	unsigned flipped = 0;
	int fd = open(machine.path, O_RDWR);
	off_t length = lseek(fd, 0, SEEK_END);
	uint8_t *bytes = malloc((size_t)length), *at = bytes;
	assert_int_equal(pread(fd, bytes, (size_t)length, 0), length);
	while ((at = memmem(at, (size_t)(bytes + length - at), what, size))) {
		uint8_t byte = at[size / 2] ^ 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, at - bytes + (off_t)(size / 2)), 1);
		at += size;
		flipped++;
	}
	free(bytes);
	close(fd);
	return flipped;
}

/* Dropped, counted, read again; never believed. */
static void test_cached__damage_is_read_again(void **state)
{
	fixture *f = *state;
	pgs__index_file file;
	assert_int_equal(open_file(f, &file, NULL), PGS_OK);
	size_t blocks = file.table_size / PGS__INDEX_BLOCK_SIZE;
	uint64_t offsets[128];
	size_t sizes[128] = {PGS__INDEX_HEADER_SIZE, file.table_size}, count = 2;
	offsets[0] = 0;
	offsets[1] = PGS__INDEX_HEADER_SIZE;
	assert_true(blocks > 3 && blocks <= 126);
	for (size_t i = 0; i < blocks; i++, count++) {
		pgs__index_block row;
		pgs__index_block_decode((pgs_slice){file.table, file.table_size}, i, &row);
		offsets[count] = row.offset;
		sizes[count] = 16; /* of page number and sizes of its first entries */
	}
	pgs__index_file_close(&file);
	find_all(f);
	for (size_t i = 0; i < count; i += i < 4 ? 1 : 9) {
		detach(f);
		assert_true(flip(f->file.data + offsets[i], sizes[i]) >= 1);
		attach(f);
		assert_true(find_all(f) >= 1);
		assert_true(bad() > 0); /* of this process */
		assert_int_equal(find_all(f), 0);
	}
}

#define PACKED 6000

static uint64_t seed_of(uint64_t page_no)
{
	return 256 * (page_no + 1);
}

/* A process with that cache file, which counts requests of blobs. */
static uint64_t read_packed(server *at, const char *cache)
{
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_fault *fault;
	pgs_store *store;
	pgs_txn *t;
	pgs_kv *kv;
	pgs_blob *blob;
	options.cache_path = cache;
	options.maintenance = PGS_MAINTENANCE_MANUAL;
	assert_int_equal(pgs_fault_new(&fault, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_kv_memory_share(&kv, at->kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob, at->blob, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_blob(&blob, fault, blob, NULL), PGS_OK);
	expect_code(pgs_open_with(&store, kv, blob, &options, &err), PGS_OK, &err, "pgs_open_with");
	uint64_t opened = pgs_fault_calls(fault);
	pgs_db *db = open_db(store, "packed");
	assert_int_equal(pgs_begin(&t, db, NULL, NULL), PGS_OK);
	for (uint64_t i = 0; i < PACKED; i += 100)
		assert_int_equal(read_seed(t, i, seed_of(i)), PGS_OK);
	uint64_t calls = pgs_fault_calls(fault) - opened;
	pgs_abort(t);
	pgs_db_close(db);
	pgs_close(store);
	pgs_fault_free(fault);
	return calls;
}

static int found_index_file(void *ctx, const char *name, uint64_t size)
{
	(void)size;
	*(bool *)ctx |= strstr(name, "/i-") != NULL;
	return PGS_OK;
}

/* Of a commit that nobody has folded yet. */
static void test_cached__a_pack_s_file(void **state)
{
	(void)state;
	const pgs_kv_limits limits = {128, 128 << 10, 0, 0};
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	bool in_file = false;
	server at;
	pgs_store *store;
	make_folder(machine.dir);
	snprintf(machine.path, sizeof machine.path, "%s/cache", machine.dir);
	server_start(&at, &limits);
	options.maintenance = PGS_MAINTENANCE_MANUAL;
	store = server_open(&at, NULL, &options);
	pgs_db *db = create_db(store, "packed", NULL);
	write_pages(db, 0, PACKED, seed_of);
	assert_int_equal(at.blob->vtable->list(at.blob, "", found_index_file, &in_file, 0, &err), PGS_OK);
	assert_true(in_file);
	assert_true(read_packed(&at, machine.path) > 0);
	assert_int_equal(read_packed(&at, machine.path), 0);
	pgs_db_close(db);
	pgs_close(store);
	server_stop(&at);
	remove_folder(machine.dir);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#define CACHED(name) cmocka_unit_test_setup_teardown(name, setup_cached, teardown_cached)

int main(int argc, char **argv)
{
	plant(argc, argv);
	const struct CMUnitTest tests[] = {
		CASE(test_cursor__walks_any_range),
		CASE(test_cursor__reads_blocks_together_within_bounds),
		CASE(test_find__reads_a_block_once),
		CASE(test_find__reads_expected_blocks_together),
		CASE(test_open__missing_or_of_another_page_size),
		CASE(test_open__damage_anywhere_is_found),
		CASE(test_cursor__goes_on_after_an_error),
		CACHED(test_cached__a_restart_reads_no_blob),
		CACHED(test_cached__damage_is_read_again),
		cmocka_unit_test(test_cached__a_pack_s_file),
		cmocka_unit_test(test_reading__every_allocation_may_fail),
	};
	return planted_result(cmocka_run_group_tests(tests, NULL, NULL));
}
