/* What surrounds a store: wrong sizes, missing and read-only directories, full disks, and the raw file. */
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore.h>

#include "support/stores.h"
#include "support/testing.h"

static char folder[64];
static char url[100];

static int setup(void **state)
{
	(void)state;
	make_folder(folder);
	snprintf(url, sizeof url, "dir:%s/store", folder);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_folder(folder);
	return 0;
}

/* Say what is not tested; where everything must be, that is a failure. */
static void skip_because(const char *why)
{
	fprintf(stderr, "# skipped: %s\n", why);
	const char *ci = getenv("CI");
	if (ci && strcmp(ci, "true") == 0)
		fail_msg("skipped in CI: %s", why);
	skip();
}

static pgs_store *open_store(void)
{
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_open(&store, url, NULL, &err), PGS_OK, &err, "opening");
	return store;
}

static uint64_t seed_of(uint64_t page_no)
{
	return (page_no + 1) * 256 + 1;
}

static void make_store(uint64_t pages)
{
	pgs_store *store = open_store();
	pgs_db *db = create_db(store, "db", NULL);
	write_pages(db, 0, pages, seed_of);
	pgs_db_close(db);
	pgs_close(store);
}

static void expect_pages(pgs_db *db, uint64_t count)
{
	pgs_txn *txn;
	assert_int_equal(pgs_begin(&txn, db, NULL, NULL), PGS_OK);
	for (uint64_t i = 0; i < count; i++)
		expect_code(read_seed(txn, i, seed_of(i)), PGS_OK, pgs_txn_error(txn), "reading");
	pgs_abort(txn);
}

static void test_environment__another_page_size_is_refused(void **state)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	(void)state;
	make_store(3);
	pgs_store *store = open_store();
	options.expect_page_size_bytes = 8192;
	expect_code(pgs_db_open(&db, store, "db", 2, &options, &err), PGS_EINVAL, &err, "opening with 8192");
	assert_non_null(strstr(err.message, "4096"));
	assert_null(db);
	options.expect_page_size_bytes = 4096;
	expect_code(pgs_db_open(&db, store, "db", 2, &options, &err), PGS_OK, &err, "opening with 4096");
	expect_pages(db, 3);
	pgs_db_close(db);
	pgs_close(store);
}

static void test_environment__a_missing_directory_is_named(void **state)
{
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	(void)state;
	options.must_exist = true;
	expect_code(pgs_open(&store, url, &options, &err), PGS_ENOTFOUND, &err, "a store that must exist");
	assert_non_null(strstr(err.message, folder));
	snprintf(url, sizeof url, "dir:%s/no/such", folder);
	expect_code(pgs_open(&store, url, NULL, &err), PGS_ENOTFOUND, &err, "below a missing directory");
	assert_non_null(strstr(err.message, "no/such"));
	assert_null(store);
}

/* In a child without root's rights: 0 = good, else the number of the step that was not. */
static int use_read_only(void)
{
	pgs_store *store;
	pgs_db *db;
	pgs_txn *txn;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	uint8_t page[TEST_PAGE_SIZE];
	int result = pgs_open(&store, url, NULL, &err);
	if (result != PGS_EREADONLY && result != PGS_EIO)
		return 1;
	if (!strstr(err.message, folder))
		return 2;
	options.read_only = true;
	if (pgs_open(&store, url, &options, &err) != PGS_OK) {
		fprintf(stderr, "# %s\n", err.message);
		return 3;
	}
	if (pgs_db_open(&db, store, "db", 2, NULL, &err) != PGS_OK || pgs_begin(&txn, db, NULL, &err) != PGS_OK)
		return 4;
	if (pgs_read(txn, 1, page) != PGS_OK)
		return 5;
	pgs_abort(txn);
	pgs_txn_options write = PGS_TXN_OPTIONS_INIT;
	write.write = true;
	if (pgs_begin(&txn, db, &write, &err) != PGS_EREADONLY)
		return 6;
	pgs_db *other;
	if (pgs_db_create(&other, store, "x", 1, NULL, &err) != PGS_EREADONLY ||
	    pgs_db_drop(store, "db", 2, &err) != PGS_EREADONLY)
		return 7;
	pgs_db_close(db);
	pgs_close(store);
	return 0;
}

static void test_environment__a_read_only_directory_can_be_read(void **state)
{
	char command[300];
	int status;
	(void)state;
	make_store(3);
	snprintf(command, sizeof command, "chmod -R a-w,a+rX %s", folder);
	assert_int_equal(system(command), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (geteuid() == 0 && (setegid(65534) != 0 || seteuid(65534) != 0))
			_exit(100);
		_exit(use_read_only());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	snprintf(command, sizeof command, "chmod -R u+w %s", folder);
	assert_int_equal(system(command), 0);
	assert_int_equal(status, 0);
}

/* --- a full disk --------------------------------------------------------------------------- */

static uint64_t other_seed(uint64_t page_no)
{
	return (page_no + 70000) * 256 + 1;
}

static int commit_some(pgs_db *db, uint64_t first, uint64_t count, pgs_error *err)
{
	pgs_txn *txn = begin_write(db);
	int result = PGS_OK;
	for (uint64_t i = first; result == PGS_OK && i < first + count; i++)
		result = write_seed(txn, i, other_seed(i));
	if (result != PGS_OK) {
		*err = *pgs_txn_error(txn);
		pgs_abort(txn);
		return result;
	}
	return pgs_commit(txn, NULL, NULL, err);
}

/* Commit until the disk is full, `count` pages at a time; pages below 10 must stay what they were. */
static void fill_disk(uint64_t count)
{
	char filler[200];
	pgs_error err = PGS_ERROR_INIT;
	int result = PGS_OK;
	snprintf(url, sizeof url, "dir:%s/disk/store", folder);
	make_store(10);
	snprintf(filler, sizeof filler, "%s/disk/filler", folder);
	FILE *file = fopen(filler, "w");
	static const char megabyte[1 << 20];
	for (int i = 0; i < 3; i++)
		assert_int_equal(fwrite(megabyte, sizeof megabyte, 1, file), 1);
	fclose(file);
	pgs_store *store = open_store();
	pgs_db *db = open_db(store, "db");
	uint64_t next = 100;
	for (; result == PGS_OK && next < 20000; next += count)
		result = commit_some(db, next, count, &err);
	expect_code(result, PGS_ENOSPC, &err, "committing to a full disk");
	expect_pages(db, 10);
	assert_int_equal(unlink(filler), 0);
	expect_code(commit_some(db, 50000, count, &err), PGS_OK, &err, "committing when there is room again");
	pgs_db_close(db);
	pgs_close(store);
	store = open_store();
	db = open_db(store, "db");
	expect_pages(db, 10);
	pgs_txn *txn = begin_write(db);
	for (uint64_t i = 100; i < next - count; i++)
		expect_code(read_seed(txn, i, other_seed(i)), PGS_OK, pgs_txn_error(txn), "a page committed before");
	for (uint64_t i = 0; i < count; i++) {
		assert_int_equal(read_seed(txn, next - count + i, 0), PGS_OK);
		assert_int_equal(read_seed(txn, 50000 + i, other_seed(50000 + i)), PGS_OK);
	}
	pgs_abort(txn);
	expect_code(pgs_verify(db, NULL, NULL, &err), PGS_OK, &err, "verify");
	pgs_db_close(db);
	pgs_close(store);
}

static void on_small_disk(uint64_t count)
{
	char disk[100];
	snprintf(disk, sizeof disk, "%s/disk", folder);
	assert_int_equal(mkdir(disk, 0777), 0);
	if (mount("tmpfs", disk, "tmpfs", 0, "size=12m") != 0) {
		char why[200];
		snprintf(why, sizeof why, "a full disk: mounting a tmpfs of 12 MiB: %s", strerror(errno));
		skip_because(why);
	}
	fill_disk(count);
	umount2(disk, MNT_DETACH);
}

static int teardown_disk(void **state)
{
	char disk[100];
	snprintf(disk, sizeof disk, "%s/disk", folder);
	umount2(disk, MNT_DETACH);
	return teardown(state);
}

static void test_environment__a_disk_full_of_small_commits(void **state)
{
	(void)state;
	on_small_disk(5);
}

static void test_environment__a_disk_full_of_bulk_commits(void **state)
{
	(void)state;
	on_small_disk(300);
}

/* --- the raw file ------------------------------------------------------------------------------ */

/* Flip a bit of page `page_no`'s content wherever it stands in the file. Returns how often it was there. */
static size_t flip_in_file(const char *path, uint64_t page_no)
{
	uint8_t page[TEST_PAGE_SIZE];
	size_t found = 0;
	fill_page(page, seed_of(page_no));
	FILE *file = fopen(path, "r+b");
	assert_non_null(file);
	assert_int_equal(fseek(file, 0, SEEK_END), 0);
	long size = ftell(file);
	uint8_t *bytes = malloc((size_t)size);
	rewind(file);
	assert_int_equal(fread(bytes, 1, (size_t)size, file), (size_t)size);
	uint8_t *at = bytes;
	while ((at = memmem(at, (size_t)(bytes + size - at), page + 200, 2000))) {
		at[1000] ^= 1;
		found++;
		at += 2000;
	}
	rewind(file);
	assert_int_equal(fwrite(bytes, 1, (size_t)size, file), (size_t)size);
	fclose(file);
	free(bytes);
	return found;
}

static int see_finding(void *ctx, const pgs_verify_finding *f)
{
	uint64_t *pages = ctx;
	assert_int_equal(f->code, PGS_ECORRUPT);
	assert_true(f->page < 64);
	*pages |= 1ull << f->page;
	return 0;
}

static char data_path[200];

static int find_data(const char *path, const struct stat *st, int type)
{
	(void)st;
	(void)type;
	if (strlen(path) > 8 && strcmp(path + strlen(path) - 8, "data.mdb") == 0)
		snprintf(data_path, sizeof data_path, "%s", path);
	return 0;
}


static void test_environment__a_bit_of_the_raw_file_is_one_page(void **state)
{
	pgs_verify_options options = PGS_VERIFY_OPTIONS_INIT;
	uint64_t found = 0;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	make_store(20);
	ftw(folder, find_data, 8);
	assert_true(flip_in_file(data_path, 7) > 0);
	pgs_store *store = open_store();
	pgs_db *db = open_db(store, "db");
	pgs_txn *txn = begin_write(db);
	for (uint64_t i = 0; i < 20; i++)
		expect_code(read_seed(txn, i, seed_of(i)), i == 7 ? PGS_ECORRUPT : PGS_OK, pgs_txn_error(txn), "read");
	pgs_abort(txn);
	options.finding = see_finding;
	options.ctx = &found;
	assert_int_equal(pgs_verify(db, &options, NULL, &err), PGS_ECORRUPT);
	assert_int_equal(found, 1 << 7);
	/* Writing the page again mends it. */
	write_pages(db, 7, 1, other_seed);
	txn = begin_write(db);
	assert_int_equal(read_seed(txn, 7, other_seed(7)), PGS_OK);
	pgs_abort(txn);
	pgs_db_close(db);
	pgs_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_environment__another_page_size_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_environment__a_missing_directory_is_named, setup, teardown),
		cmocka_unit_test_setup_teardown(test_environment__a_read_only_directory_can_be_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_environment__a_disk_full_of_small_commits, setup, teardown_disk),
		cmocka_unit_test_setup_teardown(test_environment__a_disk_full_of_bulk_commits, setup, teardown_disk),
		cmocka_unit_test_setup_teardown(test_environment__a_bit_of_the_raw_file_is_one_page, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
