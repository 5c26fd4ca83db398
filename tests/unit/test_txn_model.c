/* lib/txn against a plain model: arrays of tags, one copy per commit.
 *
 * Two transactions at a time, on two handles, and a third that gets in the middle of their commits, do random reads,
 * writes, truncations and attributes, while packs are folded, partly or all, at any moment; every read is compared with
 * the model, every commit must be refused exactly when the model says so, and at the end every
 * retained revision is read back. What "changed" means: a page whose pointer a commit rewrote (not one written with
 * what it held), or at or above a truncation; the page count, when a commit truncated or set another.
 */
#include <stdlib.h>
#include <string.h>

#include "support/jobs.h"
#include "support/txn_stage.h"

#define PAGES 300
#define ATTRS 3
#define COMMITS_MAX 700

typedef struct version {
	uint64_t revision;
	uint64_t tags[PAGES];
	uint64_t extent;
	uint64_t attrs[ATTRS]; /* 0 = absent */
} version;

typedef struct model {
	version *states; /* per commit; 0 = the new database */
	size_t count;
	size_t page_changed[PAGES]; /* the last commit that changed it */
	size_t attr_changed[ATTRS];
	size_t extent_changed;
	uint64_t seed;
	bool folds;
	bool spills; /* then an equal write may have joined the read set before it was overwritten */
} model;

typedef struct running {
	pgs_txn *t;
	uint32_t isolation;
	size_t base;
	version view;
	uint64_t truncated_to; /* UINT64_MAX = not */
	bool extent_read, extent_set;
	bool page_read[PAGES], page_maybe[PAGES], page_written[PAGES];
	bool attr_read[ATTRS], attr_written[ATTRS];
	uint64_t steps;
} running;

static const char *const attr_names[ATTRS] = {"alpha", "beta", "gamma"};

static uint64_t roll(model *m, uint64_t below)
{
	return stage_random(&m->seed) % below;
}

static uint64_t pick_page(model *m)
{
	return roll(m, 3) ? roll(m, 24) : roll(m, PAGES);
}

static uint64_t pick_tag(model *m)
{
	switch (roll(m, 6)) {
	case 0:
		return PAGE_ZERO;
	case 1:
		return PAGE_THIN(roll(m, 4) + 1);
	case 2:
		return PAGE_NOISE(roll(m, 1000));
	default:
		return PAGE_KIN(roll(m, 2) + 1, roll(m, 50));
	}
}

/* --- a transaction's operations -------------------------------------------------- */

static bool is_blank(const model *m, const running *r, uint64_t page)
{
	return page >= m->states[r->base].extent || page >= r->truncated_to;
}

static void note_read(const model *m, running *r, uint64_t page)
{
	if (r->page_written[page])
		return;
	if (page >= m->states[r->base].extent)
		r->extent_read |= r->isolation == PGS_SERIALIZABLE;
	else if (!is_blank(m, r, page))
		r->page_read[page] |= r->isolation == PGS_SERIALIZABLE;
}

static void do_read(stage *s, model *m, running *r)
{
	uint64_t page = pick_page(m);
	const void *pinned;
	if (roll(m, 4)) {
		tx_expect(r->t, s, page, r->view.tags[page]);
	} else {
		assert_int_equal(pgs_pin(r->t, page, &pinned), PGS_OK);
		assert_true(page_is(pinned, s->page_size, r->view.tags[page]));
		if (roll(m, 2))
			pgs_unpin(r->t, pinned);
	}
	note_read(m, r, page);
}

static void do_read_many(stage *s, model *m, running *r)
{
	uint64_t pages[20];
	void *dst[20];
	size_t count = 1 + roll(m, 20);
	uint8_t *bytes = malloc(count * s->page_size);
	for (size_t i = 0; i < count; i++) {
		pages[i] = pick_page(m);
		dst[i] = bytes + i * s->page_size;
	}
	assert_int_equal(pgs_read_many(r->t, pages, count, dst), PGS_OK);
	for (size_t i = 0; i < count; i++) {
		if (!page_is(dst[i], s->page_size, r->view.tags[pages[i]]))
			fail_msg("read_many at revision %llu, page %llu: tag %llx, not %llx; written %d, changed %zu of %zu",
				 (unsigned long long)pgs_txn_revision(r->t), (unsigned long long)pages[i],
				 (unsigned long long)page_tag(dst[i]), (unsigned long long)r->view.tags[pages[i]],
				 r->page_written[pages[i]], m->page_changed[pages[i]], r->base);
		note_read(m, r, pages[i]);
	}
	assert_int_equal(pgs_prefetch(r->t, pages, roll(m, count + 1)), PGS_OK);
	free(bytes);
}

static void write_page(stage *s, const model *m, running *r, uint64_t page, uint64_t tag)
{
	tx_put(r->t, s, page, tag);
	r->view.tags[page] = tag;
	r->page_written[page] = true;
	if (page >= r->view.extent)
		r->view.extent = page + 1;
	if (!is_blank(m, r, page) && tag == m->states[r->base].tags[page])
		r->page_maybe[page] = true;
}

static void do_write(stage *s, model *m, running *r)
{
	uint64_t page = pick_page(m);
	uint64_t tag = roll(m, 5) ? pick_tag(m) : m->states[r->base].tags[page];
	write_page(s, m, r, page, tag);
}

static void do_bulk(stage *s, model *m, running *r)
{
	uint64_t first = roll(m, 100), count = roll(m, 200);
	for (uint64_t i = 0; i < count; i++)
		write_page(s, m, r, first + i, pick_tag(m));
}

static void do_truncate(model *m, running *r)
{
	uint64_t count = roll(m, 3) ? pick_page(m) : r->view.extent > 3 ? r->view.extent - roll(m, 3) : 0;
	assert_int_equal(pgs_truncate(r->t, count), PGS_OK);
	r->extent_read = r->extent_set = true;
	for (uint64_t page = count; page < PAGES; page++) {
		r->view.tags[page] = PAGE_ZERO;
		r->page_written[page] = false;
	}
	if (count < m->states[r->base].extent && count < r->truncated_to)
		r->truncated_to = count;
	r->view.extent = count;
}

static void do_attr(model *m, running *r)
{
	uint64_t which = roll(m, ATTRS), value;
	size_t size;
	const char *name = attr_names[which];
	if (roll(m, 2)) {
		int result = pgs_attr_get(r->t, name, strlen(name), &value, sizeof value, &size);
		assert_int_equal(result, r->view.attrs[which] ? PGS_OK : PGS_ENOTFOUND);
		if (result == PGS_OK)
			assert_int_equal(value, r->view.attrs[which]);
		if (!r->attr_written[which])
			r->attr_read[which] |= r->isolation == PGS_SERIALIZABLE;
		return;
	}
	value = roll(m, 3) ? 1 + roll(m, 1000) : 0;
	assert_int_equal(pgs_attr_set(r->t, name, strlen(name), value ? &value : NULL, sizeof value), PGS_OK);
	r->view.attrs[which] = value;
	r->attr_written[which] = true;
}

static void step(stage *s, model *m, running *r)
{
	uint64_t what = roll(m, 100);
	r->steps++;
	if (what < 30)
		do_read(s, m, r);
	else if (what < 40)
		do_read_many(s, m, r);
	else if (what < 75)
		do_write(s, m, r);
	else if (what < 78)
		do_bulk(s, m, r);
	else if (what < 82)
		do_truncate(m, r);
	else if (what < 90)
		do_attr(m, r);
	else if (what < 93) {
		tx_expect_count(r->t, r->view.extent);
		r->extent_read = true;
	}
}

/* Folding is no commit: nothing that the model knows of changes. */
static void fold(stage *s, model *m)
{
	pgs_db *db = roll(m, 2) ? stage_other(s) : s->in_before ? s->other_db : s->db;
	pgs_error err = PGS_ERROR_INIT;
	int result = roll(m, 3) ? job_run_until(db, pgs__job_fold, 1 + (int)roll(m, 4), &err)
				: job_run(db, pgs__job_fold, NULL, NULL, &err);
	if (result != PGS_OK && result != JOB_ENDED)
		fail_msg("folding: %s: %s", pgs_error_name(result), err.message);
}

/* --- commits ----------------------------------------------------------------------------- */

static void start(stage *s, model *m, running *r, pgs_db *db)
{
	(void)s;
	*r = (running){.isolation = roll(m, 4) ? PGS_SERIALIZABLE : PGS_SNAPSHOT, .truncated_to = UINT64_MAX};
	r->t = tx_begin(db, r->isolation);
	r->base = m->count - 1;
	r->view = m->states[r->base];
	assert_int_equal(pgs_txn_revision(r->t), r->view.revision);
}

static bool is_dropped(const model *m, const running *r, uint64_t page)
{
	const version *base = &m->states[r->base];
	if (!r->page_written[page])
		return false;
	if (is_blank(m, r, page))
		return r->view.tags[page] == PAGE_ZERO && page < base->extent;
	return r->view.tags[page] == base->tags[page];
}

typedef enum verdict { MUST_PASS, MUST_FAIL, MAY_FAIL } verdict;

static verdict judge(const model *m, const running *r, bool *changes)
{
	const version *base = &m->states[r->base];
	bool truncated = r->truncated_to != UINT64_MAX, grown = truncated || r->view.extent != base->extent;
	verdict v = MUST_PASS;
	*changes = grown;
	for (uint64_t page = 0; page < PAGES; page++) {
		bool dropped = is_dropped(m, r, page), written = r->page_written[page] && !dropped;
		bool checked = r->page_read[page] || (dropped && !is_blank(m, r, page)) ||
			       (written && r->isolation == PGS_SNAPSHOT);
		*changes |= written;
		if (m->page_changed[page] <= r->base)
			continue;
		if (checked)
			v = MUST_FAIL;
		else if (r->page_maybe[page] && m->spills && v == MUST_PASS)
			v = MAY_FAIL;
	}
	for (size_t i = 0; i < ATTRS; i++) {
		*changes |= r->attr_written[i];
		bool checked = r->attr_read[i] || (r->attr_written[i] && r->isolation == PGS_SNAPSHOT);
		if (!checked || m->attr_changed[i] <= r->base)
			continue;
		/* Absent then and absent now is the same to a compare of keys, though not to the changelog. */
		if (base->attrs[i] || m->states[m->count - 1].attrs[i])
			v = MUST_FAIL;
		else if (v == MUST_PASS)
			v = MAY_FAIL;
	}
	bool extent_checked = r->extent_read && (r->isolation == PGS_SERIALIZABLE || grown || r->extent_set);
	if (extent_checked && m->extent_changed > r->base)
		v = MUST_FAIL;
	return *changes ? v : MUST_PASS;
}

/* The state after the commit. */
static void apply(model *m, const running *r, uint64_t revision)
{
	const version *last = &m->states[m->count - 1], *base = &m->states[r->base];
	version *next = &m->states[m->count];
	size_t now = m->count++;
	bool truncated = r->truncated_to != UINT64_MAX;
	*next = *last;
	next->revision = revision;
	for (uint64_t page = truncated ? r->truncated_to : PAGES; page < PAGES; page++) {
		next->tags[page] = PAGE_ZERO;
		m->page_changed[page] = now;
	}
	if (r->view.extent > next->extent && r->view.extent > base->extent)
		next->extent = r->view.extent;
	if (truncated || (r->extent_read && r->view.extent != base->extent))
		next->extent = r->view.extent;
	for (uint64_t page = 0; page < PAGES; page++) {
		if (!r->page_written[page] || is_dropped(m, r, page))
			continue;
		next->tags[page] = r->view.tags[page];
		m->page_changed[page] = now;
		if (page >= next->extent)
			next->extent = page + 1;
	}
	if (truncated || next->extent != last->extent)
		m->extent_changed = now;
	for (size_t i = 0; i < ATTRS; i++)
		if (r->attr_written[i]) {
			next->attrs[i] = r->view.attrs[i];
			m->attr_changed[i] = now;
		}
}

/* --- a third one, in the middle of a commit ----------------------------------------------- */

static model *intruded;

/* Commits something before a transaction of the committer's, at most so often: then its attempt finds it there. */
static void intrude(stage *s, const char *operation)
{
	model *m = intruded;
	running r;
	bool changes;
	if (strcmp(operation, "txn") != 0 || s->calls[0] == 0 || m->count + 4 > COMMITS_MAX || roll(m, 3) == 0)
		return;
	if (m->folds && roll(m, 2)) {
		fold(s, m);
		return;
	}
	s->calls[0]--;
	start(s, m, &r, stage_other(s));
	for (uint64_t i = roll(m, 3); i < 3; i++)
		switch (roll(m, 8)) {
		case 0:
			do_truncate(m, &r);
			break;
		case 1:
			do_attr(m, &r);
			break;
		default:
			do_write(s, m, &r);
		}
	judge(m, &r, &changes);
	uint64_t revision = tx_commit(r.t);
	if (changes)
		apply(m, &r, revision);
}

static void finish(stage *s, model *m, running *r)
{
	bool changes;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision = 0;
	if (roll(m, 12) == 0) {
		pgs_abort(r->t);
		return;
	}
	intruded = m;
	s->calls[0] = roll(m, 4);
	s->before = intrude;
	int result = pgs_commit(r->t, NULL, &revision, &err);
	s->before = NULL;
	verdict v = judge(m, r, &changes);
	if ((result == PGS_OK) != (v == MUST_PASS) && v != MAY_FAIL)
		fail_msg("commit %zu from %zu, isolation %u: %s, verdict %d: page %lld: %s", m->count, r->base,
			 r->isolation, pgs_error_name(result), (int)v, (long long)err.page, err.message);
	if (result == PGS_OK && changes) {
		apply(m, r, revision);
	} else if (result == PGS_OK) {
		assert_int_equal(revision, m->states[r->base].revision);
	} else {
		assert_int_equal(result, PGS_ECONFLICT);
		if (err.page != PGS_NO_PAGE)
			assert_true(err.page < PAGES && m->page_changed[err.page] > r->base);
	}
}

static void check_revision(stage *s, pgs_db *db, const version *expected)
{
	uint64_t pages[PAGES], value;
	void *dst[PAGES];
	size_t size;
	uint8_t *bytes = malloc((size_t)PAGES * s->page_size);
	pgs_txn *t = tx_at(db, expected->revision);
	for (uint64_t i = 0; i < PAGES; i++) {
		pages[i] = i;
		dst[i] = bytes + i * s->page_size;
	}
	tx_expect_count(t, expected->extent);
	assert_int_equal(pgs_read_many(t, pages, PAGES, dst), PGS_OK);
	for (uint64_t i = 0; i < PAGES; i++)
		if (!page_is(dst[i], s->page_size, expected->tags[i]))
			fail_msg("revision %llu, page %llu: tag %llx, not %llx", (unsigned long long)expected->revision,
				 (unsigned long long)i, (unsigned long long)page_tag(dst[i]),
				 (unsigned long long)expected->tags[i]);
	for (size_t i = 0; i < ATTRS; i++) {
		int result = pgs_attr_get(t, attr_names[i], strlen(attr_names[i]), &value, sizeof value, &size);
		assert_int_equal(result, expected->attrs[i] ? PGS_OK : PGS_ENOTFOUND);
		if (result == PGS_OK)
			assert_int_equal(value, expected->attrs[i]);
	}
	pgs_abort(t);
	free(bytes);
}

static void run_model(stage *s, uint32_t page_size, uint64_t write_buffer, uint64_t seed, size_t rounds)
{
	s->options.page_size_bytes = page_size;
	s->options.write_buffer_bytes = write_buffer;
	s->options.cache_bytes = (seed & 1) ? (uint64_t)page_size * 64 : 8 << 20;
	stage_remake(s);
	pgs_db *dbs[2] = {s->db, stage_other(s)};
	model m = {.count = 1, .seed = seed, .folds = seed % 3 != 0, .spills = write_buffer != 0};
	running r[2];
	m.states = calloc(COMMITS_MAX + 1, sizeof *m.states);
	pgs_txn *t = tx_read(s->db);
	m.states[0].revision = pgs_txn_revision(t);
	pgs_abort(t);
	start(s, &m, &r[0], dbs[0]);
	start(s, &m, &r[1], dbs[1]);
	for (size_t i = 0; i < rounds && m.count + 8 < COMMITS_MAX; i++) {
		size_t which = roll(&m, 2);
		step(s, &m, &r[which]);
		if (m.folds && roll(&m, 16) == 0)
			fold(s, &m);
		if (roll(&m, 8) == 0) {
			finish(s, &m, &r[which]);
			start(s, &m, &r[which], dbs[roll(&m, 2)]);
		}
	}
	pgs_abort(r[0].t);
	pgs_abort(r[1].t);
	if (m.folds) {
		job_do(s->db, pgs__job_fold);
		assert_int_equal(stage_keys_of(s, 'o'), 0);
	}
	for (size_t i = 0; i < m.count; i++)
		check_revision(s, dbs[i & 1], &m.states[i]);
	free(m.states);
}

/* TXN_SEED=n looks elsewhere. */
static uint64_t first_seed(void)
{
	const char *seed = getenv("TXN_SEED");
	return seed ? strtoull(seed, NULL, 0) : 1;
}

static void test_txn_model__random_transactions(void **state)
{
	stage *s = *state;
	uint64_t base = first_seed();
	run_model(s, 512, 0, base, 900);
	run_model(s, 512, 0, base + 1, 900);
	run_model(s, 4096, 0, base + 2, 400);
}

static void test_txn_model__every_page_size(void **state)
{
	stage *s = *state;
	for (uint64_t size = 1024, seed = first_seed() + 10; size <= 65536; size *= 2, seed++)
		if (size != 4096)
			run_model(s, (uint32_t)size, 0, seed, size > 16384 ? 60 : 150);
}

static void test_txn_model__spilling(void **state)
{
	stage *s = *state;
	run_model(s, 512, 4 * 512, first_seed() + 20, 500);
	run_model(s, 16384, 3 * 16384, first_seed() + 21, 200); /* enough for files */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_txn_model__random_transactions),
		TEST(test_txn_model__every_page_size),
		TEST(test_txn_model__spilling),
	};
	return stage_run("txn_model", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
