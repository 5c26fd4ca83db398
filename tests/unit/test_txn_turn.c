/* lib/txn: the writer lock that a process keeps between its transactions (lib/txn/turn.h). The store under test keeps
 * it; stage_other() is another process. Tags: see support/txn_stage.h. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/txn_stage.h"
#include "txn/txn.h"
#include "util/clock.h"

#define T(n) PAGE_NOISE(n)
#define LONG_MS 60000
#define SOON_MS 10000 /* long enough on a busy machine */

/* --- the lock's key --------------------------------------------------------------------- */

typedef struct keys {
	uint64_t lock, asked; /* create revisions; 0 = absent */
	uint64_t mod;
} keys;

static keys look(stage *s)
{
	pgs__writer_keys k;
	pgs_kv_txn txn;
	pgs__writer_keys_make(&k, pgs__db_prefix(s->db));
	const pgs_kv_op reads[] = {pgs__op_get(pgs__key_slice(&k.lock), 0), pgs__op_get(pgs__key_slice(&k.asked), 0)};
	const pgs__backend backend = {.kv = s->kv};
	assert_int_equal(pgs__kv_read(&backend, &txn, reads, 2, 0, NULL), PGS_OK);
	const pgs_kv_pair *lock = pgs__got(&txn, 0), *asked = pgs__got(&txn, 1);
	keys out = {lock ? lock->create_revision : 0, asked ? asked->create_revision : 0, lock ? lock->mod_revision : 0};
	pgs__kv_release(&backend, &txn, 1);
	return out;
}

/* As one who takes its holder for dead. */
static void break_it(stage *s)
{
	pgs__writer_lock lock = {.held = look(s).lock};
	assert_true(lock.held != 0);
	pgs__writer_lock_release(stage_other(s), &lock, pgs__now_ms() + SOON_MS);
}

static void wait_until_gone(stage *s)
{
	for (uint64_t end = pgs__now_ms() + SOON_MS; look(s).lock;) {
		assert_true(pgs__now_ms() < end);
		pgs__sleep_ms(1, 0);
	}
}

/* --- transactions with it ---------------------------------------------------------------- */

static int begin_locked(pgs_txn **out, pgs_db *db)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.write = true;
	o.lock = PGS_LOCK_TRY;
	return pgs_begin(out, db, &o, NULL);
}

static pgs_txn *locked(pgs_db *db)
{
	pgs_txn *t;
	assert_int_equal(begin_locked(&t, db), PGS_OK);
	return t;
}

static bool is_left(pgs_db *db)
{
	pthread_mutex_lock(&db->turn.lock);
	bool left = db->turn.left != 0;
	pthread_mutex_unlock(&db->turn.lock);
	return left;
}

static void set_ended(pgs_db *db, uint64_t ms)
{
	pthread_mutex_lock(&db->turn.lock);
	db->turn.ended_ms = ms;
	pthread_mutex_unlock(&db->turn.lock);
}

/* What is kept is kept for long, however busy the machine is. */
static void extend(pgs_db *db)
{
	pthread_mutex_lock(&db->turn.lock);
	if (db->turn.kept.held)
		db->turn.until_ms = pgs__now_ms() + LONG_MS;
	pthread_mutex_unlock(&db->turn.lock);
}

/* It is given back now. */
static void expire(pgs_db *db)
{
	pthread_mutex_lock(&db->turn.lock);
	db->turn.until_ms = 1;
	pthread_cond_broadcast(&db->turn.moved);
	pthread_mutex_unlock(&db->turn.lock);
}

static void write_locked(stage *s, pgs_db *db, uint64_t page, uint64_t tag)
{
	pgs_txn *t = locked(db);
	tx_put(t, s, page, tag);
	tx_commit(t);
	extend(db);
}

/* The store under test keeps the lock: its create revision. */
static uint64_t keep(stage *s)
{
	keys k = look(s);
	for (uint64_t tag = 100; !k.lock; k = look(s), tag++) { /* the thread may be faster than extend() */
		set_ended(s->db, pgs__now_ms());
		write_locked(s, s->db, 1, T(tag));
	}
	return k.lock;
}

static void set_up(stage *s)
{
	tx_fill(s->db, s, 0, 8, T(0));
	stage_other(s);
}

/* --- keeping ------------------------------------------------------------------------------------ */

static void test_txn_turn__one_alone_is_given_back(void **state)
{
	stage *s = *state;
	set_up(s);
	write_locked(s, s->db, 1, T(10));
	assert_int_equal(look(s).lock, 0);
	set_ended(s->db, pgs__now_ms() - SOON_MS); /* long ago */
	write_locked(s, s->db, 1, T(11));
	assert_int_equal(look(s).lock, 0);
}

/* The next one needs no request for it, nor do others' commits of the process wait. */
static void test_txn_turn__the_next_one_resumes_it(void **state)
{
	stage *s = *state;
	set_up(s);
	uint64_t lock = keep(s), mod = look(s).mod;
	for (uint64_t i = 0; i < 5; i++) {
		write_locked(s, s->db, 2, T(20 + i));
		tx_one(s->db, s, 3, T(30 + i)); /* an optimist of this process */
		extend(s->db);
		assert_int_equal(look(s).lock, lock);
		assert_int_equal(look(s).mod, mod);
	}
	stage_expect(s, 2, T(24));
	stage_expect(s, 3, T(34));
}

/* Where asking takes a request, not even the snapshot needs one: nobody else can have committed. */
static void test_txn_turn__beginning_with_it_asks_nothing(void **state)
{
	stage *s = *state;
	set_up(s);
	keep(s);
	for (uint64_t i = 0; i < 10; i++) {
		uint64_t before = pgs_fault_calls(s->fault);
		pgs_txn *t = locked(s->db);
		uint64_t calls = pgs_fault_calls(s->fault) - before;
		assert_in_range(calls, 0, 1);
		if (i > 2 && s->variant->backend & STAGE_SERVERS)
			assert_int_equal(calls, 0);
		tx_expect(t, s, 2, i ? T(20 + i - 1) : T(2));
		tx_put(t, s, 2, T(20 + i));
		tx_commit(t);
		extend(s->db);
	}
	tx_one(s->db, s, 2, T(50)); /* nor does an optimist of this process make it forget */
	pgs_txn *t = locked(s->db);
	tx_expect(t, s, 2, T(50));
	pgs_abort(t);
	tx_one(s->other_db, s, 2, T(60)); /* but others do, once it was given back */
	keep(s);
	t = locked(s->db);
	tx_expect(t, s, 2, T(60));
	pgs_abort(t);
}

static void test_txn_turn__unused_it_is_given_back(void **state)
{
	stage *s = *state;
	set_up(s);
	set_ended(s->db, pgs__now_ms());
	pgs_txn *t = locked(s->db);
	tx_put(t, s, 1, T(10));
	tx_commit(t);
	wait_until_gone(s);
	write_locked(s, s->other_db, 1, T(11));
	write_locked(s, s->db, 1, T(12));
	stage_expect(s, 1, T(12));
}

static void test_txn_turn__ending_without_a_commit_gives_it_back(void **state)
{
	stage *s = *state;
	set_up(s);
	keep(s);
	pgs_abort(locked(s->db));
	assert_int_equal(look(s).lock, 0);
	keep(s);
	tx_commit(locked(s->db)); /* nothing */
	assert_int_equal(look(s).lock, 0);
	keep(s);
	pgs_commit_options bad = PGS_COMMIT_OPTIONS_INIT;
	bad.struct_size = 0;
	assert_int_equal(pgs_commit(locked(s->db), &bad, NULL, NULL), PGS_EINVAL);
	assert_int_equal(look(s).lock, 0);
}

/* --- asking ---------------------------------------------------------------------------------------- */

/* Refused, once as one who comes by, then as one who is still waiting. */
static void ask(stage *s)
{
	pgs_txn *t;
	for (uint64_t end = pgs__now_ms() + SOON_MS; !look(s).asked;) {
		assert_int_equal(begin_locked(&t, s->other_db), PGS_EBUSY);
		assert_true(pgs__now_ms() < end);
		pgs__sleep_ms(2, 0);
	}
}

static void test_txn_turn__it_is_given_back_when_others_ask(void **state)
{
	stage *s = *state;
	pgs_txn *t;
	set_up(s);
	keep(s);
	assert_int_equal(begin_locked(&t, s->other_db), PGS_EBUSY);
	assert_int_equal(look(s).asked, 0); /* a lock that is not kept would be gone soon */
	ask(s);
	assert_int_equal(begin_locked(&t, s->other_db), PGS_EBUSY);
	write_locked(s, s->db, 2, T(20));
	keys k = look(s);
	assert_int_equal(k.lock, 0);
	assert_int_equal(k.asked, 0);
	set_ended(s->db, pgs__now_ms()); /* who shares it does not keep it */
	write_locked(s, s->db, 2, T(21));
	assert_int_equal(look(s).lock, 0);
	write_locked(s, s->other_db, 2, T(22));
	stage_expect(s, 2, T(22));
}

/* Who waits asks, too: an optimist's commit, and a begin. */
static void test_txn_turn__who_waits_gets_it(void **state)
{
	stage *s = *state;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	set_up(s);
	o.write = true;
	o.lock = PGS_LOCK_WAIT;
	for (int begin = 0; begin < 2; begin++) {
		pthread_mutex_lock(&s->db->turn.lock);
		s->db->turn.asked_ms = 0; /* long ago */
		pthread_mutex_unlock(&s->db->turn.lock);
		keep(s);
		pthread_mutex_lock(&s->db->turn.lock);
		s->db->turn.until_ms = pgs__now_ms() + 100; /* the thread looks at it at its end before */
		pthread_mutex_unlock(&s->db->turn.lock);
		if (begin)
			assert_int_equal(pgs_begin(&t, s->other_db, &o, NULL), PGS_OK);
		else
			t = tx_begin(s->other_db, PGS_SERIALIZABLE);
		tx_put(t, s, 3, T(30 + (uint64_t)begin));
		tx_commit(t);
		stage_expect(s, 3, T(30 + (uint64_t)begin));
	}
}

/* A holder that dies leaves no request behind either. */
static void test_txn_turn__breaking_it_ends_what_was_asked(void **state)
{
	stage *s = *state;
	set_up(s);
	keep(s);
	ask(s);
	break_it(s);
	assert_int_equal(look(s).asked, 0);
	assert_int_equal(stage_keys_of(s, 'k'), 0);
}

/* --- losing it -------------------------------------------------------------------------------------- */

/* Whose lock was broken while it was kept does not know when it begins; it commits as an optimist. */
static void test_txn_turn__a_broken_one_commits_nothing_by_itself(void **state)
{
	stage *s = *state;
	set_up(s);
	keep(s);
	break_it(s);
	pgs_txn *t = locked(s->db);
	tx_expect(t, s, 2, T(2));
	tx_put(t, s, 1, T(50));
	tx_one(s->other_db, s, 2, T(20));
	tx_conflict(t, 2);
	keep(s);
	break_it(s);
	t = locked(s->db);
	tx_expect(t, s, 3, T(3));
	tx_put(t, s, 1, T(51));
	tx_one(s->other_db, s, 4, T(40));
	tx_commit(t);
	stage_expect(s, 1, T(51));
	assert_int_equal(look(s).lock, 0);
}

/* Paused for longer than its lease, as seen at once when its renewal is due. */
static void test_txn_turn__after_a_pause_it_is_taken_anew(void **state)
{
	stage *s = *state;
	set_up(s);
	uint64_t before = keep(s);
	break_it(s);
	pthread_mutex_lock(&s->db->turn.lock);
	s->db->turn.kept.renew_ms = 0;
	pthread_mutex_unlock(&s->db->turn.lock);
	tx_one(s->other_db, s, 2, T(20));
	pgs_txn *t = locked(s->db), *other;
	assert_true(t->lock.held != before);
	assert_int_equal(look(s).lock, t->lock.held);
	assert_int_equal(begin_locked(&other, s->other_db), PGS_EBUSY);
	tx_expect(t, s, 2, T(20));
	tx_put(t, s, 2, T(21));
	tx_commit(t);
}

static void test_txn_turn__what_is_kept_is_renewed(void **state)
{
	stage *s = *state;
	set_up(s);
	uint64_t lock = keep(s), mod = look(s).mod;
	pthread_mutex_lock(&s->db->turn.lock);
	s->db->turn.kept.renew_ms = 0;
	pthread_mutex_unlock(&s->db->turn.lock);
	write_locked(s, s->db, 2, T(20));
	assert_int_equal(look(s).lock, lock);
	assert_true(look(s).mod > mod);
}

/* --- ends -------------------------------------------------------------------------------------------- */

static void test_txn_turn__closing_gives_it_back(void **state)
{
	stage *s = *state;
	set_up(s);
	set_ended(s->other_db, pgs__now_ms());
	write_locked(s, s->other_db, 1, T(10));
	pgs_db_close(s->other_db);
	s->other_db = NULL;
	assert_int_equal(look(s).lock, 0);
	assert_int_equal(pgs_db_open(&s->other_db, s->other_store, "db", 2, NULL, NULL), PGS_OK);
	write_locked(s, s->other_db, 1, T(11));
}

/* A child has neither its parent's lock nor the thread. */
static void test_txn_turn__a_child_leaves_it_alone(void **state)
{
	stage *s = *state;
	if (!(s->variant->backend & STAGE_MEMORY))
		skip(); /* a memory store is copied: what the child does to it is seen in the child */
	set_up(s);
	uint64_t lock = keep(s);
	pid_t pid = fork();
	if (pid == 0) {
		pgs__writer_lock resumed = {0};
		bool got = pgs__turn_resume(s->db, &resumed, 0);
		uint64_t all = stage_keys(s);
		pgs_db_close(s->db);
		_exit(!got && stage_keys(s) == all ? 0 : 1);
	}
	int status = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	write_locked(s, s->db, 2, T(20));
	assert_int_equal(look(s).lock, lock);
}

/* Cut off from the store while the lock is kept, the process cannot give it back. Once it can be reached again, it need not
 * wait for the end of its own lease. */
static void test_txn_turn__after_an_outage_it_is_not_in_the_way(void **state)
{
	stage *s = *state;
	set_up(s);
	keep(s);
	pgs_fault_at(s->fault, 1, PGS_FAULT_STOP);
	expire(s->db);
	for (uint64_t end = pgs__now_ms() + SOON_MS; !is_left(s->db);) {
		assert_true(pgs__now_ms() < end);
		pgs__sleep_ms(1, 0);
	}
	assert_true(look(s).lock != 0);
	pgs_fault_resume(s->fault);
	write_locked(s, s->db, 5, T(7));
	stage_expect(s, 5, T(7));
}

/* Whatever call fails, or loses its answer: commits are told apart, and in the end nobody is kept out. */
static void test_txn_turn__faults(void **state)
{
	stage *s = *state;
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_LOSE_REPLY};
	set_up(s);
	for (uint64_t i = 0; i < 20; i++) {
		uint64_t wanted = T(i + 1000);
		pgs_txn *t;
		keep(s);
		pgs_fault_at(s->fault, 1 + i / 2 % 5, kinds[i % 2]);
		int result = begin_locked(&t, s->db);
		if (result == PGS_OK) {
			void *page = malloc(s->page_size);
			page_fill(page, s->page_size, wanted);
			assert_int_equal(pgs_write(t, 5, page), PGS_OK);
			free(page);
			result = pgs_commit(t, NULL, NULL, NULL);
		}
		pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
		assert_true(result == PGS_OK || result == PGS_EIO || result == PGS_EUNKNOWN); /* of a begin */
		if (result == PGS_OK)
			stage_expect(s, 5, wanted);
		pgs_abort(locked(s->db)); /* which gives it back, whatever was left */
		set_ended(s->other_db, 0);
		write_locked(s, s->other_db, 6, wanted);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_txn_turn__one_alone_is_given_back),
		TEST(test_txn_turn__the_next_one_resumes_it),
		TEST(test_txn_turn__beginning_with_it_asks_nothing),
		TEST(test_txn_turn__unused_it_is_given_back),
		TEST(test_txn_turn__ending_without_a_commit_gives_it_back),
		TEST(test_txn_turn__it_is_given_back_when_others_ask),
		TEST(test_txn_turn__who_waits_gets_it),
		TEST(test_txn_turn__breaking_it_ends_what_was_asked),
		TEST(test_txn_turn__a_broken_one_commits_nothing_by_itself),
		TEST(test_txn_turn__after_a_pause_it_is_taken_anew),
		TEST(test_txn_turn__what_is_kept_is_renewed),
		TEST(test_txn_turn__closing_gives_it_back),
		TEST(test_txn_turn__a_child_leaves_it_alone),
		TEST(test_txn_turn__after_an_outage_it_is_not_in_the_way),
		TEST(test_txn_turn__faults),
	};
	return stage_run("txn_turn", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
