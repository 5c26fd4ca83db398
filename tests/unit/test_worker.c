/* maintain/worker.c: claims, fenced steps; txn/lease.c: who is dead. */
#include "test_worker.h"

#include <ctype.h>
#include <stdio.h>

#include "util/process.h"

static const pgs__scope flush = {PGS__JOB_FLUSH, 0, 0, ALL_IDS};

static pgs__scope merge_of(uint8_t first, uint8_t last, uint8_t from, uint8_t to)
{
	return (pgs__scope){PGS__JOB_MERGE, first, last, {{from}}, {{to}}};
}

/* Puts another's claim under k/m-<name>. */
static pgs__key put_claim(fixture *f, const char *role, const pgs__lock *holder, const pgs__scope *s)
{
	pgs__claim_value value = {*holder, s->jobs, s->level_first, s->level_last, s->first, s->last};
	pgs__key key = pgs__key_lock(pgs__db_prefix(f->a.db), role);
	pgs__buffer b = {0};
	pgs__claim_encode(&value, &b);
	put_raw(f, &key, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	return key;
}

static void assert_take(process *p, const pgs__scope *scope, int expected, pgs__claim *out)
{
	int result = pgs__claim_take(&p->worker, scope, out);
	expect_code(result, expected, &p->err, "claim");
	assert_int_equal(out->held != 0, expected == PGS_OK);
}

static void test_claim__one_at_a_time(void **state)
{
	fixture *f = *state;
	pgs__claim first, second;
	assert_take(&f->a, &flush, PGS_OK, &first);
	assert_take(&f->b, &flush, PGS_EBUSY, &second);
	assert_take(&f->a, &flush, PGS_EBUSY, &second); /* not even in one process */
	pgs__claim_release(&f->a.worker, &first);
	assert_int_equal(first.held, 0);
	assert_int_equal(count_kind(f, 'k'), 0);
	assert_take(&f->b, &flush, PGS_OK, &second);
	pgs__claim_release(&f->b.worker, &second);
}

/* Merges share a database as long as their levels or their ids are apart; other jobs are whole. */
static void test_claim__scopes(void **state)
{
	fixture *f = *state;
	const pgs__scope held = merge_of(1, 2, 10, 20);
	const struct {
		pgs__scope scope;
		int expected;
	} cases[] = {
		{merge_of(1, 2, 21, 30), PGS_OK},    {merge_of(1, 2, 0, 9), PGS_OK},
		{merge_of(3, 4, 10, 20), PGS_OK},    {merge_of(0, 0, 10, 20), PGS_OK},
		{merge_of(2, 3, 20, 30), PGS_EBUSY}, {merge_of(0, 1, 0, 10), PGS_EBUSY},
		{merge_of(1, 1, 12, 13), PGS_EBUSY}, {flush, PGS_OK},
		{merge_of(0, 9, 0, 255), PGS_EBUSY}, {{PGS__JOB_SWEEP, 1, 2, {{10}}, {{20}}}, PGS_OK},
		{{PGS__JOB_SWEEP | PGS__JOB_MERGE, 1, 2, {{10}}, {{20}}}, PGS_EBUSY},
	};
	pgs__claim first, second;
	assert_take(&f->a, &held, PGS_OK, &first);
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		assert_take(&f->b, &cases[i].scope, cases[i].expected, &second);
		pgs__claim_release(&f->b.worker, &second);
	}
	pgs__claim_release(&f->a.worker, &first);
}

static void test_claim__of_a_dropped_database(void **state)
{
	fixture *f = *state;
	pgs__claim claim;
	assert_int_equal(pgs_db_drop(f->a.store, "db", 2, NULL), PGS_OK);
	assert_take(&f->b, &flush, PGS_ENOTFOUND, &claim);
	assert_int_equal(pgs__worker_read_floor(&f->b.worker), PGS_ENOTFOUND);
}

/* The process is gone: no waiting. */
static void test_claim__of_a_dead_process(void **state)
{
	fixture *f = *state;
	pgs__process self = pgs__process_self();
	pgs__lock gone = {.pid = self.pid, .process_start = self.start + 1, .lease_ms = 1000000};
	pgs__claim claim;
	memcpy(gone.boot_id, self.boot_id, sizeof gone.boot_id);
	put_claim(f, "m-1", &gone, &flush);
	gone.process_start = self.start; /* this one lives */
	put_claim(f, "m-2", &gone, &(pgs__scope){PGS__JOB_FOLD, 0, 0, ALL_IDS});
	assert_take(&f->b, &flush, PGS_OK, &claim);
	assert_int_equal(count_kind(f, 'k'), 2); /* the living's and ours */
	pgs__claim_release(&f->b.worker, &claim);
}

/* On another machine: dead when seen unchanged for its lease, by us. */
static void test_claim__lease_runs_out(void **state)
{
	fixture *f = *state;
	pgs__lock holder = elsewhere(60000);
	pgs__observed *seen = &f->a.db->seen->claims;
	pgs__claim claim;
	put_claim(f, "m-1", &holder, &flush);
	assert_take(&f->a, &flush, PGS_EBUSY, &claim);
	age_observations(seen, 40000);
	put_claim(f, "m-1", &holder, &flush); /* renewed */
	assert_take(&f->a, &flush, PGS_EBUSY, &claim);
	age_observations(seen, 40000);
	assert_take(&f->a, &flush, PGS_EBUSY, &claim);
	age_observations(seen, 20000);
	assert_take(&f->b, &flush, PGS_EBUSY, &claim); /* another process must see it for itself */
	assert_take(&f->a, &flush, PGS_OK, &claim);
	assert_int_equal(count_kind(f, 'k'), 1);
	pgs__claim_release(&f->a.worker, &claim);
}

/* What a store has seen outlives the handles of its database, for a while. */
static void test_claim__is_watched_by_the_store(void **state)
{
	fixture *f = *state;
	pgs__lock holder = elsewhere(60000);
	pgs__claim claim;
	put_claim(f, "m-1", &holder, &flush);
	assert_take(&f->a, &flush, PGS_EBUSY, &claim);
	age_observations(&f->a.db->seen->claims, 60000);
	pgs_db_close(f->a.db);
	f->a.db = open_db(f->a.store, "db");
	worker_init(&f->a);
	assert_take(&f->a, &flush, PGS_OK, &claim);
	pgs__claim_release(&f->a.worker, &claim);
	pgs_db_close(f->a.db);
	f->a.store->sightings->left_ms -= 25 * 3600 * 1000; /* the database may have been dropped */
	pgs_db_close(create_db(f->a.store, "other", NULL));
	assert_null(f->a.store->sightings);
	f->a.db = open_db(f->a.store, "db");
}

/* What cannot be read covers everything, for as long as ours would. */
static void test_claim__damaged_or_newer(void **state)
{
	fixture *f = *state;
	const pgs__scope any = merge_of(5, 5, 7, 7);
	pgs__key key = pgs__key_lock(pgs__db_prefix(f->a.db), "m-1");
	pgs__claim claim;
	put_raw(f, &key, (pgs_slice){"?", 1});
	assert_take(&f->a, &any, PGS_EBUSY, &claim);
	assert_take(&f->a, &flush, PGS_EBUSY, &claim);
	age_observations(&f->a.db->seen->claims, 30000);
	assert_take(&f->a, &flush, PGS_OK, &claim);
	pgs__claim_release(&f->a.worker, &claim);
}

/* Another renews between our look and our put: it does not overlap, so we get ours at the next try. */
static void renew_other(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	pgs__lock holder = elsewhere(60000);
	if (call <= f->number)
		put_claim(f, "m-other", &holder, &(pgs__scope){PGS__JOB_FOLD, 0, 0, ALL_IDS});
}

static void test_claim__others_renew(void **state)
{
	fixture *f = *state;
	pgs__claim claim;
	f->number = 6;
	watch_calls(f, renew_other);
	assert_take(&f->b, &flush, PGS_OK, &claim);
	pgs__claim_release(&f->b.worker, &claim);
	f->number = UINT64_MAX; /* for ever: do not hang */
	assert_take(&f->b, &flush, PGS_EBUSY, &claim);
}

/* An overlapping one comes between look and put. */
static void put_rival(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	pgs__lock holder = elsewhere(60000);
	if (call == f->number)
		put_claim(f, "m-rival", &holder, &flush);
}

static void test_claim__a_rival_at_every_call(void **state)
{
	fixture *f = *state;
	pgs__claim claim;
	for (f->number = 1; f->number <= 2; f->number++) {
		watch_calls(f, put_rival);
		assert_take(&f->b, &flush, PGS_EBUSY, &claim);
		assert_int_equal(count_kind(f, 'k'), 1);
	}
}

static void test_claim__faults_at_every_call(void **state)
{
	fixture *f = *state;
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_LOSE_REPLY, PGS_FAULT_DELAY};
	for (size_t k = 0; k < COUNT_OF(kinds); k++)
		for (uint64_t nth = 1; nth <= 4; nth++) {
			pgs__claim claim;
			pgs_fault_at(f->fault, nth, kinds[k]);
			int result = pgs__claim_take(&f->b.worker, &flush, &claim);
			assert_true(result == PGS_OK || (kinds[k] != PGS_FAULT_LOSE_REPLY && result == PGS_EIO));
			pgs_fault_deliver(f->fault); /* what was delayed finds the claims changed */
			assert_int_equal(count_kind(f, 'k'), result == PGS_OK);
			pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
			pgs__claim_release(&f->b.worker, &claim);
			assert_int_equal(count_kind(f, 'k'), 0);
		}
}

/* The put's reply is lost, then someone else is seen to be first: nothing of ours may stay. */
static void test_claim__lost_reply_then_busy(void **state)
{
	fixture *f = *state;
	pgs__claim claim;
	f->number = 3;
	watch_calls(f, put_rival);
	pgs_fault_at(f->fault, 2, PGS_FAULT_LOSE_REPLY);
	assert_take(&f->b, &flush, PGS_EBUSY, &claim);
	assert_int_equal(count_kind(f, 'k'), 1);
}

static void test_claim__renewing(void **state)
{
	fixture *f = *state;
	pgs__claim claim;
	assert_take(&f->b, &flush, PGS_OK, &claim);
	uint64_t revision = kv_revision(f->server.kv), held = claim.held;
	assert_int_equal(pgs__claim_renew(&f->b.worker, &claim), PGS_OK);
	assert_true(kv_revision(f->server.kv) == revision); /* too early to cost anything */
	claim.renewed_ms -= 10000;
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(pgs__claim_renew(&f->b.worker, &claim), PGS_OK);
	assert_true(kv_revision(f->server.kv) > revision && claim.held == held);
	claim.renewed_ms -= 10000;
	delete_raw(f, &claim.key);
	assert_int_equal(pgs__claim_renew(&f->b.worker, &claim), PGS_EBUSY);
	assert_int_equal(claim.held, 0);
	assert_int_equal(pgs__claim_renew(&f->b.worker, &claim), PGS_EBUSY); /* and stays so */
}

static void test_claim__allocation_failures(void **state)
{
	fixture *f = *state;
	pgs__lock holder = elsewhere(60000);
	put_claim(f, "m-1", &holder, &(pgs__scope){PGS__JOB_FOLD, 0, 0, ALL_IDS});
	for (size_t nth = 1;; nth++) {
		pgs__claim claim;
		failing_alloc_begin(nth);
		int result = pgs__claim_take(&f->a.worker, &flush, &claim);
		bool failed = failing_alloc_end();
		assert_true(result == PGS_OK || (failed && result == PGS_ENOMEM));
		pgs__claim_release(&f->a.worker, &claim);
		assert_int_equal(count_kind(f, 'k'), 1);
		if (!failed)
			break;
	}
}

/* --- who is dead -------------------------------------------------------------------- */

static void test_process__is_gone(void **state)
{
	(void)state;
	pgs__process self = pgs__process_self(), other = self;
	uint8_t known = 0;
	for (size_t i = 0; i < sizeof self.boot_id; i++)
		known |= self.boot_id[i];
	assert_true(known && self.start);
	assert_false(pgs__process_is_gone(&self));
	other.start++; /* its number was given to another */
	assert_true(pgs__process_is_gone(&other));
	other.boot_id[3] ^= 1; /* another machine, another boot, or another container */
	assert_false(pgs__process_is_gone(&other));
}

/* The boot id alone is the same in all containers of a machine: it must not be all that is compared. */
static void test_process__is_of_its_namespace(void **state)
{
	(void)state;
	char text[64] = "";
	pgs__process self = pgs__process_self();
	uint8_t plain[16] = {0};
	size_t digits = 0;
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
	assert_non_null(file);
	assert_non_null(fgets(text, sizeof text, file));
	fclose(file);
	for (const char *c = text; *c && digits < 32; c++) {
		const char hex[2] = {*c, '\0'};
		if (!isxdigit((unsigned char)*c))
			continue;
		plain[digits / 2] = (uint8_t)(plain[digits / 2] << 4 | strtoul(hex, NULL, 16));
		digits++;
	}
	assert_memory_not_equal(self.boot_id, plain, sizeof plain);
}

/* --- steps ------------------------------------------------------------------------ */

/* A step that puts attribute "x". */
static int run_step(process *p, const pgs__claim *claim, uint64_t base, pgs__step *step)
{
	pgs__key key = pgs__key_attr(pgs__db_prefix(p->db), "x", 1);
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), (pgs_slice){"y", 1});
	const pgs_kv_compare absent = pgs__if_absent(pgs__key_slice(&key));
	*step = (pgs__step){&absent, 1, &put, 1, .base_revision = base};
	return pgs__step_run(&p->worker, claim, step);
}

static void test_step__is_fenced(void **state)
{
	fixture *f = *state;
	pgs__key g = pgs__key_single(pgs__db_prefix(f->a.db), 'g'), m = pgs__key_single(pgs__db_prefix(f->a.db), 'm');
	pgs__buffer floor = {0};
	pgs__claim claim;
	pgs__step step;
	assert_take(&f->b, &flush, PGS_OK, &claim);
	uint64_t base = kv_revision(f->server.kv);
	pgs__floor_encode(&(pgs__floor){base, base}, &floor);
	put_raw(f, &g, pgs__buffer_slice(&floor));
	assert_int_equal(run_step(&f->b, &claim, base - 1, &step), PGS_OK); /* the floor is above what it relies on */
	assert_false(step.applied);
	assert_int_equal(run_step(&f->b, &claim, base, &step), PGS_OK);
	assert_true(step.applied && !step.unsure && step.revision == kv_revision(f->server.kv));
	assert_int_equal(run_step(&f->b, &claim, base, &step), PGS_OK); /* its own compare */
	assert_false(step.applied || step.unsure);
	assert_int_equal(count_kind(f, 'a'), 1);
	delete_raw(f, &m);
	pgs__key x = pgs__key_attr(pgs__db_prefix(f->a.db), "x", 1);
	delete_raw(f, &x);
	assert_int_equal(run_step(&f->b, &claim, base, &step), PGS_OK); /* dropped */
	assert_false(step.applied);
	pgs__claim_release(&f->b.worker, &claim);
	pgs__buffer_free(&floor);
}

/* A worker that slept while its claim was broken changes nothing, not even when the claim is taken anew. */
static void test_step__after_the_claim_was_broken(void **state)
{
	fixture *f = *state;
	pgs__claim claim;
	pgs__step step;
	assert_take(&f->b, &flush, PGS_OK, &claim);
	delete_raw(f, &claim.key);
	assert_int_equal(run_step(&f->b, &claim, kv_revision(f->server.kv), &step), PGS_OK);
	assert_false(step.applied);
	put_raw(f, &claim.key, (pgs_slice){"other", 5});
	assert_int_equal(run_step(&f->b, &claim, kv_revision(f->server.kv), &step), PGS_OK);
	assert_false(step.applied);
	assert_int_equal(count_kind(f, 'a'), 0);
}

static void test_step__unknown_outcomes(void **state)
{
	fixture *f = *state;
	pgs__key x = pgs__key_attr(pgs__db_prefix(f->a.db), "x", 1);
	pgs__claim claim;
	pgs__step step;
	assert_take(&f->b, &flush, PGS_OK, &claim);
	uint64_t base = kv_revision(f->server.kv);
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY); /* it happened, so the second sending fails its compare */
	assert_int_equal(run_step(&f->b, &claim, base, &step), PGS_OK);
	assert_true(!step.applied && step.unsure);
	assert_int_equal(count_kind(f, 'a'), 1);
	delete_raw(f, &x);
	pgs_fault_at(f->fault, 1, PGS_FAULT_DELAY); /* it has not happened yet, so the second does it */
	assert_int_equal(run_step(&f->b, &claim, base, &step), PGS_OK);
	assert_true(step.applied && step.unsure);
	assert_int_equal(pgs_fault_deliver(f->fault), 0);
	delete_raw(f, &x);
	pgs_fault_at(f->fault, 1, PGS_FAULT_ERROR); /* it certainly did not */
	assert_int_equal(run_step(&f->b, &claim, base, &step), PGS_EIO);
	assert_true(!step.applied && !step.unsure);
	pgs__claim_release(&f->b.worker, &claim);
}

static void lose_all(fixture *f, uint64_t call, const char *operation)
{
	(void)call, (void)operation;
	pgs_fault_at(f->fault, 1, PGS_FAULT_DELAY);
}

static void test_step__unknown_past_the_deadline(void **state)
{
	fixture *f = *state;
	pgs__claim claim;
	pgs__step step;
	assert_take(&f->b, &flush, PGS_OK, &claim);
	watch_calls(f, lose_all);
	assert_int_equal(run_step(&f->b, &claim, kv_revision(f->server.kv), &step), PGS_EUNKNOWN);
	assert_true(step.unsure && !step.applied);
	watch_calls(f, NULL);
	pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
	pgs__claim_release(&f->b.worker, &claim);
	assert_int_equal(pgs_fault_deliver(f->fault), 0); /* the claim is gone: too late */
	assert_int_equal(count_kind(f, 'a'), 0);
}

static void test_step__room(void **state)
{
	fixture *f = *state;
	size_t room = pgs__step_room(&f->b.worker);
	assert_true(room == 125);
	pgs__claim claim;
	pgs__step step = {.base_revision = UINT64_MAX - 1};
	pgs__key keys[125];
	pgs_kv_op ops[125];
	pgs_kv_compare compares[125];
	for (size_t i = 0; i < room; i++) {
		char name[8] = {(char)('a' + i / 26), (char)('a' + i % 26)};
		keys[i] = pgs__key_attr(pgs__db_prefix(f->a.db), name, 2);
		ops[i] = pgs__op_put(pgs__key_slice(&keys[i]), (pgs_slice){0});
		compares[i] = pgs__if_absent(pgs__key_slice(&keys[i]));
	}
	step.ops = ops;
	step.compares = compares;
	step.op_count = step.compare_count = room;
	assert_take(&f->b, &flush, PGS_OK, &claim);
	assert_int_equal(pgs__step_run(&f->b.worker, &claim, &step), PGS_OK);
	assert_true(step.applied);
	pgs__claim_release(&f->b.worker, &claim);
}

static void test_step__allocation_failure(void **state)
{
	fixture *f = *state;
	pgs__claim claim;
	pgs__step step;
	assert_take(&f->a, &flush, PGS_OK, &claim);
	uint64_t base = kv_revision(f->server.kv);
	failing_alloc_begin(1);
	assert_int_equal(run_step(&f->a, &claim, base, &step), PGS_ENOMEM);
	assert_true(failing_alloc_end());
	pgs__claim_release(&f->a.worker, &claim);
}

static void test_worker__spent(void **state)
{
	fixture *f = *state;
	pgs__worker *w = &f->a.worker;
	assert_false(pgs__worker_spent(w));
	w->bytes_left = 0;
	assert_true(pgs__worker_spent(w));
	w->bytes_left = 1;
	w->deadline_ms = pgs__now_ms();
	assert_true(pgs__worker_spent(w));
	assert_true(pgs__worker_deadline(w) > pgs__now_ms()); /* what was begun may end */
	w->deadline_ms += 10000;
	assert_false(pgs__worker_spent(w));
}

static void test_worker__reads_the_floor(void **state)
{
	fixture *f = *state;
	pgs__key g = pgs__key_single(pgs__db_prefix(f->a.db), 'g');
	pgs__buffer floor = {0};
	pgs__floor_encode(&(pgs__floor){7, 5}, &floor);
	uint64_t revision = put_raw(f, &g, pgs__buffer_slice(&floor));
	assert_int_equal(pgs__worker_read_floor(&f->a.worker), PGS_OK);
	assert_true(f->a.worker.floor.floor == 7 && f->a.worker.floor.previous == 5);
	assert_true(f->a.worker.floor_revision == revision);
	put_raw(f, &g, (pgs_slice){"?", 1});
	assert_int_equal(pgs__worker_read_floor(&f->a.worker), PGS_ECORRUPT);
	delete_raw(f, &g);
	assert_int_equal(pgs__worker_read_floor(&f->a.worker), PGS_ECORRUPT);
	pgs__buffer_free(&floor);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_claim__one_at_a_time),
		TEST(test_claim__scopes),
		TEST(test_claim__of_a_dropped_database),
		TEST(test_claim__of_a_dead_process),
		TEST(test_claim__lease_runs_out),
		TEST(test_claim__is_watched_by_the_store),
		TEST(test_claim__damaged_or_newer),
		TEST(test_claim__others_renew),
		TEST(test_claim__a_rival_at_every_call),
		TEST(test_claim__faults_at_every_call),
		TEST(test_claim__lost_reply_then_busy),
		TEST(test_claim__renewing),
		TEST(test_claim__allocation_failures),
		cmocka_unit_test(test_process__is_gone),
		cmocka_unit_test(test_process__is_of_its_namespace),
		TEST(test_step__is_fenced),
		TEST(test_step__after_the_claim_was_broken),
		TEST(test_step__unknown_outcomes),
		cmocka_unit_test_setup_teardown(test_step__unknown_past_the_deadline, setup_impatient, teardown),
		cmocka_unit_test_setup_teardown(test_step__room, setup_limited, teardown),
		TEST(test_step__allocation_failure),
		TEST(test_worker__spent),
		TEST(test_worker__reads_the_floor),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
