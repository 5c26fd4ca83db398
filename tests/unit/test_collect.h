/* What tests of flushing, merging and the live set share, beyond test_worker.h: contents, floors, looking at files. */
#ifndef TEST_COLLECT_H
#define TEST_COLLECT_H

#include "test_worker.h"

#include "content/levels.h"
#include "maintain/table.h"

/* Contents come in families, of which each member is a small delta against another. */
static inline uint64_t seed_of(uint64_t family, uint64_t member)
{
	return family << 8 | member;
}

static inline uint64_t write_one(fixture *f, uint64_t page_no, uint64_t seed)
{
	pgs_txn *t = begin_write(f->a.db);
	assert_int_equal(write_seed(t, page_no, seed), PGS_OK);
	return commit_ok(t);
}

/* One commit of pages [first, first + count), page n of family `family` + n. */
static inline uint64_t write_many(fixture *f, uint64_t first, uint64_t count, uint64_t family)
{
	pgs_txn *t = begin_write(f->a.db);
	for (uint64_t n = first; n < first + count; n++)
		assert_int_equal(write_seed(t, n, seed_of(family + n, 0)), PGS_OK);
	return commit_ok(t);
}

/* The id of that content in that page's group. */
static inline pgs__page_id id_of(fixture *f, uint64_t page_no, uint64_t seed)
{
	uint8_t page[TEST_PAGE_SIZE];
	fill_page(page, seed);
	return pgs__page_id_of(f->a.db->contents.secret, page_no, page, TEST_PAGE_SIZE);
}

static inline uint64_t revision_now(fixture *f)
{
	return kv_revision(f->server.kv);
}

/* Publish a floor as it would be: the one before becomes the previous floor. */
static inline void publish(fixture *f, uint64_t floor)
{
	pgs__key g = pgs__key_single(pgs__db_prefix(f->a.db), 'g');
	pgs__buffer b = {0};
	assert_int_equal(pgs__worker_read_floor(&f->a.worker), PGS_OK);
	const pgs__floor next = {floor, f->a.worker.floor.floor};
	pgs__floor_encode(&next, &b);
	put_raw(f, &g, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	assert_int_equal(pgs__worker_read_floor(&f->a.worker), PGS_OK);
}

/* Two floors at the present: all that is not live now is garbage. */
static inline void publish_now(fixture *f)
{
	publish(f, revision_now(f));
	publish(f, revision_now(f));
}

/* What a new reader of another process sees of a page, at a revision (0 = now). */
static inline void expect_page(fixture *f, uint64_t page_no, uint64_t seed, uint64_t revision)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	o.at_revision = revision;
	expect_code(pgs_begin(&t, f->a.db, &o, &err), PGS_OK, &err, "begin");
	int result = read_seed(t, page_no, seed);
	expect_code(result, PGS_OK, pgs_txn_error(t), "read");
	pgs_abort(t);
}

static inline void expect_many(fixture *f, uint64_t first, uint64_t count, uint64_t family)
{
	for (uint64_t n = first; n < first + count; n++)
		expect_page(f, n, seed_of(family + n, 0), 0);
}

/* Forget what process a has in its cache: what it reads then comes from the store. */
static inline void reopen(fixture *f, process *p)
{
	pgs_maintain_options options = p->worker.options;
	pgs_db_close(p->db);
	p->db = open_db(p->store, "db");
	worker_init(p);
	p->worker.options = options;
	(void)f;
}

/* The registered files, read anew; to be released. */
static inline pgs__file_map *files_of(process *p)
{
	pgs__contents *c = &p->db->contents;
	assert_int_equal(pgs__levels_refresh(&c->levels, c->backend, c->prefix, 0, NULL), PGS_OK);
	return pgs__levels_map(&c->levels);
}

static inline size_t files_in(fixture *f, unsigned level)
{
	size_t count = 0;
	pgs__file_map *map = files_of(&f->a);
	for (size_t i = 0; i < map->count; i++)
		count += map->files[i]->key.level == level;
	pgs__file_map_release(map);
	return count;
}

typedef struct row_search {
	pgs__page_id id;
	pgs__sorted_entry found;
	size_t count;
} row_search;

static inline int compare_row(void *ctx, const pgs__sorted_entry *entry)
{
	row_search *s = ctx;
	if (pgs__page_id_equal(&entry->id, &s->id)) {
		s->found = *entry;
		s->count++;
	}
	return 0;
}

/* How many files have a row of a content, the last one's row in *row (length 0: a tombstone). */
static inline size_t rows_of(fixture *f, const pgs__page_id *id, pgs__sorted_entry *row)
{
	row_search s = {.id = *id};
	pgs__file_map *map = files_of(&f->a);
	for (size_t i = 0; i < map->count; i++)
		assert_int_equal(pgs__table_visit(&f->a.worker, map->files[i], compare_row, &s), PGS_OK);
	pgs__file_map_release(map);
	if (row)
		*row = s.found;
	return s.count;
}

static inline int count_one_blob(void *ctx, const char *name, uint64_t size)
{
	(void)name;
	(void)size;
	++*(size_t *)ctx;
	return 0;
}

static inline size_t count_blobs(fixture *f)
{
	char folder[PGS__BLOB_NAME_SIZE];
	size_t count = 0;
	pgs__blob_name(folder, pgs__db_prefix(f->a.db), "");
	assert_int_equal(f->server.blob->vtable->list(f->server.blob, folder, count_one_blob, &count, 0, NULL), PGS_OK);
	return count;
}

/* Files of levels 1 and below must not overlap inside their level. */
static inline void expect_no_overlaps(fixture *f)
{
	pgs__file_map *map = files_of(&f->a);
	for (size_t i = 0; i < map->count; i++)
		for (size_t k = 0; k < i; k++) {
			const pgs__level_key *x = &map->files[i]->key, *y = &map->files[k]->key;
			if (x->level == 0 || x->level != y->level)
				continue;
			if (memcmp(x->first.bytes, y->last.bytes, PGS__ID_SIZE) <= 0 &&
			    memcmp(y->first.bytes, x->last.bytes, PGS__ID_SIZE) <= 0)
				fail_msg("files %s and %s overlap in level %u", x->file_name, y->file_name, x->level);
		}
	pgs__file_map_release(map);
}

/* The defaults, but for tests' own files. */
static inline void set_thresholds(process *p)
{
	pgs_maintain_options *o = &p->worker.options;
	o->flush_pages = 2500;
	o->flush_bytes = 160000000;
	o->level0_files = 4;
	o->level_fanout = 10;
	o->file_bytes = 256u << 20;
	o->memory_bytes = 64u << 20;
}

#endif
