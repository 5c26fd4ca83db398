/* lib/local_cache: a branch of the mirror's tree whose number of a child changed while the file is in use. What it leads
 * to is all right in itself: a leaf that was replaced, or another one of the tree. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local_cache/mirror_record.h"
#include "support/disk_cache.h"
#include "support/planted.h"
#include "support/scratch.h"
#include "support/testing.h"
#include "util/clock.h"

#define SIZE (8u << 20)
#define PAGES 3000
#define CHANGED 1500 /* its leaf is in the middle */

static disk d;
static uint8_t *map;
static size_t mapped, page_size;

typedef struct tree {
	unsigned slot;
	pgs__lmdb_table table;
	pgs__mirror_head head;
} tree;

static int look(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	tree *t = ctx;
	int rc = pgs__mirror_head_get(file, txn, t->slot, &t->head);
	return rc ? rc : pgs__lmdb_table_open(file, txn, "mirror", &t->table);
}

static tree look_at(void)
{
	tree t = {.slot = d.db->slot};
	assert_int_equal(pgs__cache_file_read(d.db->file, look, &t), 0);
	assert_int_equal(t.table.depth, 2);
	return t;
}

static int set_up(void **state)
{
	struct stat st;
	int failed = scratch_set_up(state);
	if (failed)
		return failed;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_load(&d, PAGES, 10);
	int fd = open(scratch_path("cache"), O_RDWR);
	assert_int_equal(fstat(fd, &st), 0);
	mapped = (size_t)st.st_size;
	map = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	close(fd);
	page_size = d.db->file->page_size;
	return 0;
}

static int tear_down(void **state)
{
	munmap(map, mapped);
	disk_close(&d);
	return scratch_tear_down(state);
}

static uint64_t number_at(const uint8_t *at, size_t size)
{
	uint64_t value = 0;
	memcpy(&value, at, size);
	return value;
}

static uint8_t *child_at(const tree *t, size_t index)
{
	uint8_t *page = map + t->table.root * page_size;
	return page + number_at(page + 16 + 2 * index, 2);
}

static bool leaf_has(const tree *t, uint64_t leaf, uint64_t page_no)
{
	pgs__key kv_key = pgs__key_page(disk_prefix, page_no);
	pgs__mirror_key key;
	const uint8_t *page = map + leaf * page_size;
	assert_true(pgs__mirror_key_of(&key, d.db, t->head.number, pgs__key_slice(&kv_key)));
	return number_at(page, 8) == leaf && number_at(page + 10, 2) == 2 && memmem(page, page_size, key.bytes, key.size);
}

/* Which child of the root has this page's pointer. */
static size_t index_of(const tree *t, uint64_t page_no)
{
	size_t index = 0;
	while (!leaf_has(t, number_at(child_at(t, index), 6), page_no))
		assert_true(++index < (number_at(map + t->table.root * page_size + 12, 2) - 16) / 2);
	return index;
}

/* The leaf that had it, before the last change there. */
static uint64_t old_leaf_of(const tree *t, uint64_t page_no)
{
	uint64_t is = number_at(child_at(t, index_of(t, page_no)), 6), leaf = 2;
	while (leaf == is || !leaf_has(t, leaf, page_no))
		assert_true(++leaf < mapped / page_size);
	return leaf;
}

/* The leaf of `page_no` is the one before the last change. */
static void go_back(uint64_t page_no)
{
	tree t = look_at();
	uint64_t old = old_leaf_of(&t, page_no);
	memcpy(child_at(&t, index_of(&t, page_no)), &old, 6);
}

typedef struct seen {
	size_t count;
	bool old;
} seen;

static void see(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	seen *s = ctx;
	uint64_t page_no = 0;
	(void)index;
	assert_int_equal(answer, PGS__MIRROR_PRESENT);
	assert_true(pgs__key_parse_page(pair->key, &page_no));
	s->count++;
	s->old |= page_no == CHANGED && pair->mod_revision < 20;
}

static int range(uint64_t from, uint64_t to, seen *s)
{
	pgs__key first = pgs__key_page(disk_prefix, from), end = pgs__key_page(disk_prefix, to);
	*s = (seen){0};
	return pgs__mirror_range(d.db, 0, pgs__key_slice(&first), pgs__key_slice(&end), 0, see, s, NULL, NULL);
}

static void test_mirror_flips__a_replaced_leaf_gives_no_old_pointer(void **state)
{
	(void)state;
	assert_int_equal(disk_apply(&d, 10, 20, CHANGED, 5000), PGS_OK);
	assert_int_equal(disk_page(&d, CHANGED, 0), 5000);
	go_back(CHANGED);
	assert_int_equal(disk_page(&d, CHANGED, 0), DISK_UNKNOWN);
	assert_false(pgs__cache_file_usable(d.db->file));
}

static void test_mirror_flips__a_replaced_leaf_hides_no_new_key(void **state)
{
	(void)state;
	assert_int_equal(disk_apply(&d, 10, 20, CHANGED, DISK_ABSENT), PGS_OK);
	assert_int_equal(pgs__mirror_apply(d.db, 20, 30, 25, NULL, 0, pgs__now_ms() + 5000, NULL, NULL), PGS_OK);
	assert_int_equal(disk_page(&d, CHANGED, 0), DISK_ABSENT); /* without a tombstone */
	assert_int_equal(disk_apply(&d, 30, 40, CHANGED, 5000), PGS_OK);
	go_back(CHANGED + 1);
	assert_int_equal(disk_page(&d, CHANGED, 0), DISK_UNKNOWN);
}

static void test_mirror_flips__ranges_do_not_go_through_a_replaced_leaf(void **state)
{
	(void)state;
	seen s;
	assert_int_equal(disk_apply(&d, 10, 20, CHANGED, 5000), PGS_OK);
	assert_int_equal(range(0, PAGES, &s), PGS_OK);
	assert_int_equal(s.count, PAGES);
	assert_false(s.old);
	go_back(CHANGED);
	assert_int_not_equal(range(0, PAGES, &s), PGS_OK);
	assert_false(s.old);
}

/* A leaf of the tree in another one's place: its keys are right, and those that should be there are not. */
static void put_other(size_t index, size_t other)
{
	tree t = look_at();
	memcpy(child_at(&t, index), child_at(&t, other), 6);
}

static void test_mirror_flips__another_leaf_hides_no_key(void **state)
{
	(void)state;
	tree t = look_at();
	size_t index = index_of(&t, CHANGED);
	put_other(index, index - 2);
	assert_int_equal(disk_page(&d, CHANGED, 0), DISK_UNKNOWN);
}

static void test_mirror_flips__ranges_miss_no_leaf(void **state)
{
	(void)state;
	seen s;
	tree t = look_at();
	size_t index = index_of(&t, CHANGED);
	put_other(index, index + 1);
	assert_int_not_equal(range(0, PAGES, &s), PGS_OK);
}

/* A write there would make it a new leaf, which nobody could tell from a right one. */
static void test_mirror_flips__a_replaced_leaf_is_not_changed(void **state)
{
	(void)state;
	assert_int_equal(disk_apply(&d, 10, 20, CHANGED, 5000), PGS_OK);
	go_back(CHANGED);
	assert_int_equal(disk_apply(&d, 20, 30, CHANGED + 1, 6000), PGS_EIO);
	assert_int_equal(disk_page(&d, CHANGED, 0), DISK_UNKNOWN);
	disk_close(&d);
	disk_open(&d, scratch_path("cache"), SIZE, 1); /* it is started over */
	assert_int_equal(disk_page(&d, CHANGED, 0), DISK_UNKNOWN);
	assert_int_equal(d.warnings, 1);
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_setup_teardown(test_mirror_flips__##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(a_replaced_leaf_gives_no_old_pointer),
		CASE(a_replaced_leaf_hides_no_new_key),
		CASE(ranges_do_not_go_through_a_replaced_leaf),
		CASE(another_leaf_hides_no_key),
		CASE(ranges_miss_no_leaf),
		CASE(a_replaced_leaf_is_not_changed),
	};
	plant(argc, argv);
	return planted_result(cmocka_run_group_tests(tests, NULL, NULL));
}
