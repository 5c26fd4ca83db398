/* lib/txn and its cache under threads: every reader, at old and new snapshots, sees each page as of its revision. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/txn_stage.h"
#include "util/clock.h"

#define PAGES 160 /* more than the cache has frames */
#define COMMITS 200
#define READERS 3
#define INCREMENTERS 3

typedef struct hammer {
	stage *s;
	pthread_mutex_t lock;
	size_t count; /* commits published */
	uint64_t revisions[COMMITS + 1];
	uint64_t (*tags)[PAGES]; /* after each */
	atomic_bool done;
	atomic_uint wrong, looks;
	char message[PGS_ERROR_MESSAGE_SIZE + 200];
} hammer;

typedef struct worker {
	pthread_t thread;
	hammer *h;
	pgs_db *db;
	uint64_t seed;
	bool past;
} worker;

static void complain(hammer *h, const char *what, uint64_t page, uint64_t revision, uint64_t tag, uint64_t expected)
{
	if (atomic_fetch_add(&h->wrong, 1) == 0)
		snprintf(h->message, sizeof h->message, "%s: page %llu at revision %llu: tag %llx, not %llx", what,
			 (unsigned long long)page, (unsigned long long)revision, (unsigned long long)tag,
			 (unsigned long long)expected);
}

/* The tags at a revision, once its commit is published. */
static const uint64_t *tags_at(hammer *h, uint64_t revision)
{
	for (;;) {
		const uint64_t *tags = NULL;
		pthread_mutex_lock(&h->lock);
		for (size_t i = h->count; i-- > 0 && !tags;)
			if (h->revisions[i] == revision)
				tags = h->tags[i];
		pthread_mutex_unlock(&h->lock);
		if (tags || atomic_load(&h->wrong))
			return tags;
		pgs__sleep_ms(1, 0);
	}
}

static void look(worker *w, pgs_txn *t)
{
	hammer *h = w->h;
	uint64_t revision = pgs_txn_revision(t);
	const uint64_t *tags = tags_at(h, revision);
	uint8_t page[4096];
	const void *pinned;
	for (int i = 0; tags && i < 40; i++) {
		uint64_t no = stage_random(&w->seed) % PAGES;
		if (i & 1 ? pgs_read(t, no, page) != PGS_OK : pgs_pin(t, no, &pinned) != PGS_OK) {
			complain(h, pgs_txn_error(t)->message, no, revision, 0, 0);
			return;
		}
		const void *bytes = i & 1 ? page : pinned;
		if (!page_is(bytes, h->s->page_size, tags[no]))
			complain(h, i & 1 ? "read" : "pin", no, revision, page_tag(bytes), tags[no]);
		if (i % 4 == 0)
			pgs_unpin(t, pinned);
	}
	atomic_fetch_add(&h->looks, 1);
}

static void *read_pages(void *ctx)
{
	worker *w = ctx;
	hammer *h = w->h;
	do { /* once at least, however late this thread starts */
		pgs_txn *t;
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_error err = PGS_ERROR_INIT;
		if (w->past) {
			pthread_mutex_lock(&h->lock);
			o.at_revision = h->revisions[stage_random(&w->seed) % h->count];
			pthread_mutex_unlock(&h->lock);
		}
		if (pgs_begin(&t, w->db, &o, &err) != PGS_OK) {
			complain(h, err.message, 0, 0, 0, 0);
			break;
		}
		look(w, t);
		pgs_abort(t);
	} while (!atomic_load(&h->done) && !atomic_load(&h->wrong));
	return NULL;
}

/* Publishes after committing; readers of a revision wait for it. */
static void write_pages(hammer *h, uint64_t *seed)
{
	stage *s = h->s;
	for (size_t i = 1; i <= COMMITS && !atomic_load(&h->wrong); i++) {
		pgs_txn *t = tx_begin(i % 3 ? s->db : s->other_db, PGS_SERIALIZABLE);
		size_t count = stage_random(seed) % 100 == 0 ? 140 : 1 + stage_random(seed) % 6;
		memcpy(h->tags[i], h->tags[i - 1], sizeof h->tags[i]);
		for (size_t k = 0; k < count; k++) {
			uint64_t no = stage_random(seed) % PAGES;
			h->tags[i][no] = k % 3 == 0   ? PAGE_NOISE(i * 1000 + no)
					 : k % 3 == 1 ? PAGE_KIN(no % 5, i)
						      : PAGE_THIN(i);
			tx_put(t, s, no, h->tags[i][no]);
		}
		uint64_t revision = tx_commit(t);
		pthread_mutex_lock(&h->lock);
		h->revisions[i] = revision;
		h->count = i + 1;
		pthread_mutex_unlock(&h->lock);
	}
}

static void test_txn_threads__readers_see_their_revision(void **state)
{
	stage *s = *state;
	s->options.page_size_bytes = 512;
	s->options.cache_bytes = 64 * 512;
	stage_remake(s);
	hammer h = {.s = s, .count = 1};
	worker w[READERS];
	uint64_t seed = 5;
	h.tags = calloc(COMMITS + 1, sizeof *h.tags);
	pthread_mutex_init(&h.lock, NULL);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t no = 0; no < PAGES; no++)
		tx_put(t, s, no, h.tags[0][no] = PAGE_KIN(no % 5, no));
	h.revisions[0] = tx_commit(t);
	stage_other(s);
	for (size_t i = 0; i < READERS; i++) {
		w[i] = (worker){.h = &h, .db = i == 2 ? s->other_db : s->db, .seed = i, .past = i == 1};
		assert_int_equal(pthread_create(&w[i].thread, NULL, read_pages, &w[i]), 0);
	}
	write_pages(&h, &seed);
	atomic_store(&h.done, true);
	for (size_t i = 0; i < READERS; i++)
		pthread_join(w[i].thread, NULL);
	if (atomic_load(&h.wrong))
		fail_msg("%s", h.message);
	assert_true(atomic_load(&h.looks) >= READERS);
	pthread_mutex_destroy(&h.lock);
	free(h.tags);
}

/* --- increments: none is lost -------------------------------------------------------- */

static void *increment(void *ctx)
{
	worker *w = ctx;
	for (int done = 0; done < 40 && !atomic_load(&w->h->wrong);) {
		pgs_txn *t;
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_error err = PGS_ERROR_INIT;
		uint8_t page[4096] = {0};
		uint64_t n, no = stage_random(&w->seed) % 4;
		o.write = true;
		o.isolation = w->past ? PGS_SNAPSHOT : PGS_SERIALIZABLE;
		int result = pgs_begin(&t, w->db, &o, &err);
		if (result == PGS_OK && (result = pgs_read(t, no, page)) != PGS_OK) {
			err = *pgs_txn_error(t);
			pgs_abort(t);
		}
		memcpy(&n, page, 8);
		n++;
		memcpy(page, &n, 8);
		if (result == PGS_OK) {
			pgs_write(t, no, page);
			result = pgs_commit(t, NULL, NULL, &err);
		}
		done += result == PGS_OK;
		if (result != PGS_OK && result != PGS_ECONFLICT)
			complain(w->h, err.message, no, 0, 0, 0);
	}
	return NULL;
}

static void test_txn_threads__no_increment_is_lost(void **state)
{
	stage *s = *state;
	hammer h = {.s = s};
	worker w[INCREMENTERS];
	stage_other(s);
	for (size_t i = 0; i < INCREMENTERS; i++) {
		w[i] = (worker){.h = &h, .db = i == 2 ? s->other_db : s->db, .seed = i, .past = i == 1};
		assert_int_equal(pthread_create(&w[i].thread, NULL, increment, &w[i]), 0);
	}
	for (size_t i = 0; i < INCREMENTERS; i++)
		pthread_join(w[i].thread, NULL);
	if (atomic_load(&h.wrong))
		fail_msg("%s", h.message);
	uint64_t sum = 0;
	pgs_txn *t = tx_read(s->db);
	for (uint64_t no = 0; no < 4; no++) {
		uint8_t page[4096];
		assert_int_equal(pgs_read(t, no, page), PGS_OK);
		sum += page_tag(page);
	}
	pgs_abort(t);
	assert_int_equal(sum, 40 * INCREMENTERS);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_txn_threads__readers_see_their_revision),
		TEST(test_txn_threads__no_increment_is_lost),
	};
	return stage_run("txn_threads", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
