/* maintain/floor.c: samples, choosing a floor, publishing it. */
#include "test_worker.h"

#include "txn/snapshot.h"
#include "util/process.h"

#define HOUR 3600000

/* --- helpers --------------------------------------------------------------------------- */

static pgs__floor read_floor(fixture *f, uint64_t *revision)
{
	process fresh = f->a;
	fresh.worker.err = NULL;
	assert_int_equal(pgs__worker_read_floor(&fresh.worker), PGS_OK);
	if (revision)
		*revision = fresh.worker.floor_revision;
	return fresh.worker.floor;
}

static void put_floor(fixture *f, uint64_t floor, uint64_t previous)
{
	pgs__key g = pgs__key_single(pgs__db_prefix(f->a.db), 'g');
	pgs__buffer b = {0};
	pgs__floor_encode(&(pgs__floor){floor, previous}, &b);
	put_raw(f, &g, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static void run_floor(process *p, uint64_t retention)
{
	p->worker.options.retention_ms = retention;
	p->err.message[0] = '\0';
	int result = pgs__job_floor(&p->worker);
	expect_code(result, PGS_OK, &p->err, "floor");
	assert_true(p->report.floor_revision == p->worker.floor.floor);
}

static uint64_t change(fixture *f)
{
	pgs_txn *t = begin_write(f->a.db);
	static uint64_t seed = 1000;
	assert_int_equal(write_seed(t, 1, seed += 256), PGS_OK);
	return commit_ok(t);
}

static pgs__key v_key(fixture *f)
{
	return pgs__key_single(pgs__db_prefix(f->a.db), 'v');
}

/* Samples with times before now, oldest first. */
static void put_samples(fixture *f, size_t count, const int64_t *ago_ms, const uint64_t *revisions)
{
	pgs__samples samples = {.count = count};
	pgs__key v = v_key(f);
	pgs__buffer b = {0};
	for (size_t i = 0; i < count; i++) {
		samples.list[i].time_ms = pgs__unix_ms() - ago_ms[i];
		samples.list[i].revision = revisions[i];
	}
	pgs__samples_encode(&samples, &b);
	put_raw(f, &v, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static pgs__samples read_samples(fixture *f)
{
	pgs__key v = v_key(f);
	const pgs_kv_op get = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&v)};
	pgs_kv_txn txn = txn_of(&get, 1);
	pgs__samples samples = {0};
	assert_int_equal(run_txn(f->server.kv, &txn), PGS_OK);
	if (txn.results[0].count)
		assert_int_equal(pgs__samples_decode(txn.results[0].pairs[0].value, &samples), PGS_OK);
	f->server.kv->vtable->release(f->server.kv, &txn, 1);
	return samples;
}

static pgs__key put_pin(fixture *f, uint8_t number, uint64_t revision, const pgs__lock *holder)
{
	pgs__key key = pgs__key_uuid(pgs__db_prefix(f->a.db), 'r', (const uint8_t[16]){number, 7});
	pgs__buffer b = {0};
	pgs__pin_encode(&(pgs__pin_value){*holder, revision}, &b);
	put_raw(f, &key, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	return key;
}

static pgs__lock gone(void)
{
	pgs__process self = pgs__process_self();
	pgs__lock holder = {.pid = self.pid, .process_start = self.start + 1, .lease_ms = HOUR};
	memcpy(holder.boot_id, self.boot_id, sizeof holder.boot_id);
	return holder;
}

/* --- publishing -------------------------------------------------------------------------- */

static void test_floor__without_retention(void **state)
{
	fixture *f = *state;
	uint64_t changed = change(f), published;
	run_floor(&f->b, PGS_RETENTION_NONE);
	pgs__floor first = read_floor(f, &published);
	assert_true(first.floor == changed && first.previous == 0);
	assert_true(f->b.worker.floor_revision == published);
	assert_int_equal(count_kind(f, 'k'), 0);
	run_floor(&f->b, PGS_RETENTION_NONE); /* births at `changed` are not below the previous floor yet */
	pgs__floor second = read_floor(f, NULL);
	assert_true(second.previous == first.floor && second.floor >= published);
	uint64_t revision = kv_revision(f->server.kv);
	for (int i = 0; i < 3; i++)
		run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(kv_revision(f->server.kv) == revision); /* a store at rest is not written to */
	assert_true(f->b.report.floor_revision == second.floor);
	change(f);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).previous == second.floor);
}

/* Everything there when the call begins can go after it. */
static void test_floor__all_at_once(void **state)
{
	fixture *f = *state;
	uint64_t changed = change(f);
	f->b.worker.options.all = true;
	run_floor(&f->b, PGS_RETENTION_NONE);
	pgs__floor floor = read_floor(f, NULL);
	assert_true(floor.previous == changed && floor.floor > changed);
	run_floor(&f->b, PGS_RETENTION_NONE); /* also if nothing changed: orphans leave no key */
	assert_true(read_floor(f, NULL).previous > changed);
}

/* Contents put ahead, files and what waits for removal count as changes; pins, claims and samples do not. */
static void test_floor__what_is_a_change(void **state)
{
	fixture *f = *state;
	static const char changes[] = {'c', 'l', 'd', 'z', 't'}, others[] = {'k', 'r', 'x', 'v', 'g'};
	change(f);
	for (size_t i = 0; i < sizeof changes + sizeof others; i++) {
		bool counts = i < sizeof changes;
		char kind = counts ? changes[i] : others[i - sizeof changes];
		bool single = strchr("ztvg", kind) != NULL;
		run_floor(&f->b, PGS_RETENTION_NONE);
		run_floor(&f->b, PGS_RETENTION_NONE);
		run_floor(&f->b, PGS_RETENTION_NONE);
		pgs__key key = pgs__key_single(pgs__db_prefix(f->a.db), kind);
		pgs__lock dead = gone();
		pgs__floor before = read_floor(f, NULL);
		if (kind == 'g')
			put_floor(f, before.floor, before.previous);
		else if (kind == 'r')
			put_pin(f, 1, before.floor, &dead);
		else if (single)
			put_raw(f, &key, (pgs_slice){0});
		else {
			key = pgs__key_kind(pgs__db_prefix(f->a.db), kind);
			key.bytes[key.size++] = 'x';
			put_raw(f, &key, (pgs_slice){0});
		}
		run_floor(&f->b, PGS_RETENTION_NONE);
		assert_int_equal(read_floor(f, NULL).floor > before.floor, counts);
	}
}

/* Other databases move the KV on: the floor must not keep it from being compacted. */
static void test_floor__idle_in_a_busy_store(void **state)
{
	fixture *f = *state;
	change(f);
	run_floor(&f->b, PGS_RETENTION_NONE);
	run_floor(&f->b, PGS_RETENTION_NONE);
	pgs__floor before = read_floor(f, NULL);
	for (int i = 0; i < 9000; i++)
		kv_put(f->server.kv, "elsewhere", "x");
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == before.floor);
	for (int i = 0; i < 1100; i++)
		kv_put(f->server.kv, "elsewhere", "x");
	uint64_t now = kv_revision(f->server.kv);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == now);
}

/* A sample older than the last publication is no floor. */
static void test_floor__by_samples(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f), r2 = change(f), r3 = change(f), published;
	put_samples(f, 3, (int64_t[]){3 * HOUR, 2 * HOUR, HOUR / 2}, (uint64_t[]){r1, r2, r3});
	run_floor(&f->b, 4ull * HOUR); /* none is that old */
	assert_true(read_floor(f, NULL).floor == 0);
	run_floor(&f->b, HOUR);
	pgs__floor floor = read_floor(f, &published);
	assert_true(floor.floor == r2 && floor.previous == 0);
	run_floor(&f->b, HOUR / 4); /* r3 is older than where r2 was published */
	floor = read_floor(f, NULL);
	assert_true(floor.floor == r2 && floor.previous == 0);
	uint64_t r4 = change(f);
	assert_true(r4 >= published);
	put_samples(f, 2, (int64_t[]){2 * HOUR, HOUR}, (uint64_t[]){r3, r4});
	run_floor(&f->b, HOUR / 4);
	floor = read_floor(f, NULL);
	assert_true(floor.floor == r4 && floor.previous == r2);
}

static void test_floor__dry_run(void **state)
{
	fixture *f = *state;
	change(f);
	uint64_t revision = kv_revision(f->server.kv);
	f->b.worker.options.dry_run = true;
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(kv_revision(f->server.kv) == revision);
}

static void test_floor__of_a_dropped_database(void **state)
{
	fixture *f = *state;
	assert_int_equal(pgs_db_drop(f->a.store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs__job_floor(&f->b.worker), PGS_ENOTFOUND);
}

static void test_floor__damaged(void **state)
{
	fixture *f = *state;
	pgs__key g = pgs__key_single(pgs__db_prefix(f->a.db), 'g');
	put_raw(f, &g, (pgs_slice){"?", 1});
	assert_int_equal(pgs__job_floor(&f->b.worker), PGS_ECORRUPT);
	delete_raw(f, &g);
	assert_int_equal(pgs__job_floor(&f->b.worker), PGS_ECORRUPT);
}

/* --- samples --------------------------------------------------------------------------------- */

static void test_samples__when_due(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	run_floor(&f->b, 16ull * HOUR); /* one an hour */
	pgs__samples samples = read_samples(f);
	assert_int_equal(samples.count, 1);
	assert_true(samples.list[0].revision == r1);
	change(f);
	run_floor(&f->b, 16ull * HOUR);
	assert_int_equal(read_samples(f).count, 1); /* too early */
	put_samples(f, 1, (int64_t[]){HOUR + 1000}, (uint64_t[]){r1});
	run_floor(&f->b, 16ull * HOUR);
	assert_int_equal(read_samples(f).count, 2);
}

static void test_samples__none_without_retention_or_change(void **state)
{
	fixture *f = *state;
	change(f);
	run_floor(&f->b, PGS_RETENTION_NONE);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_int_equal(read_samples(f).count, 0);
	run_floor(&f->b, HOUR);
	assert_int_equal(read_samples(f).count, 0);
	change(f);
	run_floor(&f->b, HOUR);
	assert_int_equal(read_samples(f).count, 1);
}

/* What is older than the floor's candidate is of no use; and there is an end. */
static void test_samples__are_few(void **state)
{
	fixture *f = *state;
	int64_t ago[PGS__SAMPLES_MAX];
	uint64_t revisions[PGS__SAMPLES_MAX];
	for (size_t i = 0; i < PGS__SAMPLES_MAX; i++) {
		ago[i] = (int64_t)(PGS__SAMPLES_MAX - i) * HOUR;
		revisions[i] = change(f);
	}
	put_samples(f, PGS__SAMPLES_MAX, ago, revisions);
	run_floor(&f->b, 100ull * HOUR); /* none is so old, and the newest is not young: every 6.25 hours */
	assert_int_equal(read_samples(f).count, PGS__SAMPLES_MAX);
	ago[PGS__SAMPLES_MAX - 1] = 7 * HOUR;
	for (size_t i = 0; i < PGS__SAMPLES_MAX; i++)
		ago[i] += 7 * HOUR;
	ago[PGS__SAMPLES_MAX - 1] = 7 * HOUR;
	put_samples(f, PGS__SAMPLES_MAX, ago, revisions);
	change(f);
	run_floor(&f->b, 100ull * HOUR);
	pgs__samples samples = read_samples(f);
	assert_int_equal(samples.count, PGS__SAMPLES_MAX);
	assert_true(samples.list[0].revision == revisions[1]);
	put_samples(f, PGS__SAMPLES_MAX, ago, revisions);
	run_floor(&f->b, 15 * HOUR + HOUR / 2);
	samples = read_samples(f);
	assert_true(samples.count < 12 && samples.list[0].revision == read_floor(f, NULL).floor);
}

static void test_samples__clock_went_back(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f), r2 = change(f), r3 = change(f);
	put_samples(f, 3, (int64_t[]){3 * HOUR, -20 * HOUR, -30 * HOUR}, (uint64_t[]){r1, r2, r3});
	run_floor(&f->b, HOUR);
	assert_true(read_floor(f, NULL).floor == r1); /* what lies ahead is no candidate */
	pgs__samples samples = read_samples(f);
	assert_int_equal(samples.count, 2); /* and is forgotten */
	assert_true(samples.list[0].revision == r1 && samples.list[1].revision >= r3);
	/* Another machine's clock is a little ahead: leave its sample. */
	change(f);
	put_samples(f, 1, (int64_t[]){-2000}, (uint64_t[]){r3});
	run_floor(&f->b, HOUR);
	samples = read_samples(f);
	assert_true(samples.count == 1 && samples.list[0].revision == r3);
}

static void test_samples__clock_went_ahead(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	put_samples(f, 1, (int64_t[]){1000ll * HOUR}, (uint64_t[]){r1}); /* just now, said the clock then */
	change(f);
	run_floor(&f->b, HOUR);
	assert_true(read_floor(f, NULL).floor == r1); /* nothing above what was sampled */
}

static void test_samples__damaged_or_newer(void **state)
{
	fixture *f = *state;
	pgs__key v = v_key(f);
	change(f);
	put_raw(f, &v, (pgs_slice){"?", 1});
	run_floor(&f->b, HOUR);
	assert_int_equal(read_samples(f).count, 1);
	pgs__buffer b = {0};
	pgs__put_u8(&b, 2);
	pgs__seal(&b, 0);
	uint64_t revision = put_raw(f, &v, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	change(f);
	run_floor(&f->b, HOUR);
	const pgs_kv_compare same = pgs__if_mod(pgs__key_slice(&v), PGS_KV_EQUAL, revision);
	pgs_kv_txn txn = {.compares = &same, .compare_count = 1};
	assert_int_equal(run_txn(f->server.kv, &txn), PGS_OK);
	assert_true(txn.succeeded); /* left alone */
	f->server.kv->vtable->release(f->server.kv, &txn, 1);
}

/* --- quota -------------------------------------------------------------------------------------- */

static uint64_t fake_size, fake_quota;
static const pgs_kv_vtable *real_vtable;

static int fake_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	int result = real_vtable->stat(kv, out, deadline_ms, err);
	out->size_bytes = fake_size;
	out->quota_bytes = fake_quota;
	return result;
}

static void test_floor__quota(void **state)
{
	fixture *f = *state;
	pgs_kv *kv = f->a.store->backend.kv;
	pgs_kv_vtable patched = *kv->vtable;
	real_vtable = kv->vtable;
	patched.stat = fake_stat;
	kv->vtable = &patched;
	uint64_t r1 = change(f), r2 = change(f);
	put_samples(f, 2, (int64_t[]){HOUR, HOUR / 2}, (uint64_t[]){r1, r2});
	f->a.worker.options.quota_percent = 40;
	fake_quota = 1000;
	fake_size = 399;
	run_floor(&f->a, 2ull * HOUR - HOUR / 2);
	assert_true(read_floor(f, NULL).floor == 0);
	fake_size = 400; /* a quarter: 22 minutes */
	run_floor(&f->a, 2ull * HOUR - HOUR / 2);
	assert_true(read_floor(f, NULL).floor == r2);
	fake_size = 599;
	uint64_t r3 = change(f);
	run_floor(&f->a, 2ull * HOUR - HOUR / 2);
	assert_true(read_floor(f, NULL).floor == r2);
	fake_size = 600; /* none */
	run_floor(&f->a, 2ull * HOUR - HOUR / 2);
	assert_true(read_floor(f, NULL).floor >= r3);
	fake_quota = 0; /* none known */
	pgs__floor before = read_floor(f, NULL);
	change(f);
	run_floor(&f->a, 2ull * HOUR - HOUR / 2);
	assert_true(read_floor(f, NULL).floor == before.floor);
	kv->vtable = real_vtable;
}

/* --- pins ------------------------------------------------------------------------------------------ */

static void test_pins__hold_the_floor(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	pgs__lock holder = elsewhere(HOUR);
	change(f);
	pgs__key pin = put_pin(f, 1, r1, &holder);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == r1);
	run_floor(&f->b, PGS_RETENTION_NONE); /* below where r1 was published: stays */
	assert_true(read_floor(f, NULL).floor == r1 && read_floor(f, NULL).previous == 0);
	delete_raw(f, &pin);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).previous == r1);
}

static void test_pins__of_dead_processes(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f), r2 = change(f);
	pgs__lock dead = gone(), holder = elsewhere(HOUR);
	put_pin(f, 1, r1, &dead);
	put_pin(f, 2, r2, &holder);
	uint64_t r3 = change(f);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == r2 && r3 > r2);
	assert_int_equal(count_kind(f, 'r'), 1);
}

static void maintain_store(process *p)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.retention_ms = PGS_RETENTION_NONE;
	int result = pgs_maintain_store(p->store, &o, NULL, &p->err);
	expect_code(result, PGS_OK, &p->err, "maintain");
}

/* What a store has seen it knows also of databases that it opens for each run. */
static void test_pins__of_databases_that_are_not_open(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	pgs__lock holder = elsewhere(60000);
	put_pin(f, 1, r1, &holder);
	pgs_db_close(f->b.db);
	assert_null(f->b.store->sightings); /* nothing was seen: nothing is kept */
	change(f);
	maintain_store(&f->b);
	assert_true(read_floor(f, NULL).floor == r1);
	assert_non_null(f->b.store->sightings);
	age_observations(&f->b.store->sightings->pins, 59000);
	maintain_store(&f->b);
	assert_int_equal(count_kind(f, 'r'), 1);
	age_observations(&f->b.store->sightings->pins, 1000);
	maintain_store(&f->b);
	assert_int_equal(count_kind(f, 'r'), 0);
	assert_true(read_floor(f, NULL).floor > r1);
	maintain_store(&f->b);
	assert_null(f->b.store->sightings);
	f->b.db = open_db(f->b.store, "db");
}

typedef struct waiting {
	fixture *f;
	uint64_t calls, renew_at, revision, end_at;
} waiting;

static int while_waiting(void *ctx, const pgs_maintain_progress *progress)
{
	waiting *w = ctx;
	pgs__lock holder = elsewhere(700);
	if (strcmp(progress->job, "wait") != 0)
		return 0;
	if (++w->calls == w->renew_at)
		put_pin(w->f, 1, w->revision, &holder);
	return w->calls == w->end_at ? -77 : 0;
}

static int maintain_all(waiting *w, uint64_t budget_ms, pgs_maintain_report *report)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.all = true;
	o.retention_ms = PGS_RETENTION_NONE;
	o.budget_ms = budget_ms;
	o.progress = while_waiting;
	o.progress_ctx = w;
	w->calls = 0;
	*report = (pgs_maintain_report)PGS_MAINTAIN_REPORT_INIT;
	return pgs_maintain(w->f->b.db, &o, report, NULL);
}

/* A run of everything waits for pins of other machines, if they can end in time; those that are renewed it leaves. */
static void test_pins__are_waited_for(void **state)
{
	fixture *f = *state;
	pgs__lock hour = elsewhere(HOUR), soon = elsewhere(700), here = {.lease_ms = 700};
	pgs__process self = pgs__process_self();
	pgs_maintain_report report;
	waiting w = {.f = f, .revision = change(f)};
	here.pid = self.pid;
	here.process_start = self.start;
	memcpy(here.boot_id, self.boot_id, sizeof here.boot_id);
	change(f);
	put_pin(f, 1, w.revision, &hour);
	assert_int_equal(maintain_all(&w, 0, &report), PGS_OK);
	assert_int_equal(w.calls, 0); /* too long */
	put_pin(f, 1, w.revision, &here);
	assert_int_equal(maintain_all(&w, 0, &report), PGS_OK);
	assert_int_equal(w.calls, 0); /* it lives */
	put_pin(f, 1, w.revision, &soon);
	assert_int_equal(maintain_all(&w, 300, &report), PGS_OK);
	assert_int_equal(w.calls, 0); /* not within the budget */
	put_pin(f, 1, w.revision, &soon);
	w.end_at = 1;
	assert_int_equal(maintain_all(&w, 0, &report), -77);
	w.end_at = 0;
	w.renew_at = 1;
	assert_int_equal(maintain_all(&w, 0, &report), PGS_OK);
	assert_int_equal(count_kind(f, 'r'), 1);
	w.renew_at = 0;
	assert_int_equal(maintain_all(&w, 0, &report), PGS_OK);
	assert_int_not_equal(w.calls, 0);
	assert_int_equal(count_kind(f, 'r'), 0);
	assert_true(read_floor(f, NULL).previous > w.revision);
}

/* The same of a claim. */
static void test_claims__are_waited_for(void **state)
{
	fixture *f = *state;
	pgs_maintain_report report;
	waiting w = {.f = f, .revision = change(f)};
	pgs__claim_value value = {elsewhere(500), UINT32_MAX, 0, 255, {{0}}, {{0}}};
	pgs__key key = pgs__key_lock(pgs__db_prefix(f->a.db), "m-1");
	pgs__buffer b = {0};
	memset(value.last.bytes, 255, sizeof value.last.bytes);
	pgs__claim_encode(&value, &b);
	put_raw(f, &key, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	assert_int_equal(maintain_all(&w, 0, &report), PGS_OK);
	assert_int_not_equal(w.calls, 0);
	assert_false(report.busy);
	assert_false(report.more);
	assert_int_equal(count_kind(f, 'k'), 0);
	assert_int_equal(count_kind(f, 'c'), 0);
	assert_true(read_floor(f, NULL).previous >= w.revision);
}

static void test_pins__lease_runs_out(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	pgs__lock holder = elsewhere(60000);
	pgs__observed *seen = &f->b.db->seen->pins;
	put_pin(f, 1, r1, &holder);
	change(f);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == r1);
	age_observations(seen, 70000);
	forget_observations(&f->b); /* a process that has just begun knows nothing */
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_int_equal(count_kind(f, 'r'), 1);
	age_observations(seen, 40000);
	put_pin(f, 1, r1, &holder); /* renewed */
	run_floor(&f->b, PGS_RETENTION_NONE);
	age_observations(seen, 40000);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_int_equal(count_kind(f, 'r'), 1);
	age_observations(seen, 20000);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_int_equal(count_kind(f, 'r'), 0);
	assert_true(read_floor(f, NULL).floor > r1);
}

/* Not known what it keeps: nothing goes. */
static void test_pins__damaged(void **state)
{
	fixture *f = *state;
	pgs__key key = pgs__key_uuid(pgs__db_prefix(f->a.db), 'r', (const uint8_t[16]){1});
	change(f);
	put_raw(f, &key, (pgs_slice){"?", 1});
	f->b.worker.options.retention_ms = PGS_RETENTION_NONE;
	assert_int_equal(pgs__job_floor(&f->b.worker), PGS_ECORRUPT);
	assert_true(read_floor(f, NULL).floor == 0);
}

/* Many, past what fits one transaction or one page of a range. */
static void test_pins__many(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	pgs__lock dead = gone(), holder = elsewhere(HOUR);
	for (int i = 0; i < 700; i++) {
		const uint8_t uuid[16] = {(uint8_t)(i / 256), (uint8_t)i};
		pgs__key key = pgs__key_uuid(pgs__db_prefix(f->a.db), 'r', uuid);
		pgs__buffer b = {0};
		pgs__pin_encode(&(pgs__pin_value){i == 650 ? holder : dead, r1 + (i == 650)}, &b);
		put_raw(f, &key, pgs__buffer_slice(&b));
		pgs__buffer_free(&b);
	}
	change(f);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == r1 + 1);
	assert_int_equal(count_kind(f, 'r'), 1);
}

/* --- races ------------------------------------------------------------------------------------------- */

static pgs_revision_pin *raced_pin;
static uint64_t raced_revision;

/* Before the call f->number, the other process pins the latest revision that was a commit. */
static void pin_before(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	if (call != f->number)
		return;
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs_pin_revision(&raced_pin, f->a.db, raced_revision, HOUR, NULL, &err);
	if (result != PGS_OK) {
		assert_int_equal(result, PGS_EOLDREV);
		assert_non_null(strstr(err.message, "the oldest readable is"));
	}
}

static void test_race__a_pin_at_every_call(void **state)
{
	fixture *f = *state;
	bool refused = false, late = false;
	for (f->number = 1; f->number < 60; f->number++) {
		raced_revision = change(f);
		change(f);
		raced_pin = NULL;
		watch_calls(f, pin_before);
		run_floor(&f->b, PGS_RETENTION_NONE);
		uint64_t calls = pgs_fault_calls(f->fault) - f->first_call;
		watch_calls(f, NULL);
		uint64_t floor = read_floor(f, NULL).floor;
		refused |= calls >= f->number && !raced_pin;
		if (raced_pin) {
			assert_true(floor <= raced_revision);
			pgs_txn_options at = PGS_TXN_OPTIONS_INIT;
			pgs_txn *t;
			at.at_revision = raced_revision;
			assert_int_equal(pgs_begin(&t, f->a.db, &at, NULL), PGS_OK);
			pgs_abort(t);
		}
		pgs_unpin_revision(raced_pin);
		late = calls < f->number;
		if (late)
			break;
	}
	assert_true(refused && late); /* both sides of the publication were seen */
}

/* A named snapshot is registered while we look: F was chosen without it. */
static void snapshot_before(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	pgs__key s = pgs__key_snapshot(pgs__db_prefix(f->a.db), "x", 1);
	if (call >= 2 && call <= f->number)
		put_raw(f, &s, (pgs_slice){0});
}

static void test_race__a_snapshot_comes(void **state)
{
	fixture *f = *state;
	change(f);
	f->number = UINT64_MAX; /* before every call */
	watch_calls(f, snapshot_before);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == 0 && f->b.report.busy);
	assert_int_equal(count_kind(f, 'k'), 0);
	f->number = 8; /* then it is there, and no more moves */
	watch_calls(f, snapshot_before);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor > 0);
}

static void floor_before(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	if (call == f->number)
		run_floor(&f->a, PGS_RETENTION_NONE);
}

/* Another worker publishes at any moment: the floor never falls, F0 is a floor that was. */
static void test_race__two_workers(void **state)
{
	fixture *f = *state;
	uint64_t calls = 0;
	for (f->number = 1; f->number == 1 || f->number <= calls + 1; f->number++) {
		pgs__floor before = read_floor(f, NULL);
		change(f);
		watch_calls(f, floor_before);
		run_floor(&f->b, PGS_RETENTION_NONE);
		calls = pgs_fault_calls(f->fault) - f->first_call;
		watch_calls(f, NULL);
		pgs__floor after = read_floor(f, NULL);
		assert_true(after.floor > before.floor && after.previous >= before.floor);
		assert_true(f->b.worker.floor.floor == after.floor);
		assert_int_equal(count_kind(f, 'k'), 0);
	}
}

/* One that wants more history kept comes second: its choice is from a floor that is no more. */
static pgs__floor raced_floor;
static void short_floor_before(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	if (call != f->number)
		return;
	run_floor(&f->a, HOUR / 4);
	raced_floor = read_floor(f, NULL);
}

static void test_race__two_retentions(void **state)
{
	fixture *f = *state;
	bool raced = false;
	for (f->number = 1; f->number <= 12; f->number++) {
		uint64_t r1 = change(f), r2 = change(f);
		put_samples(f, 2, (int64_t[]){2 * HOUR, HOUR / 2}, (uint64_t[]){r1, r2});
		watch_calls(f, short_floor_before);
		run_floor(&f->b, HOUR);
		watch_calls(f, NULL);
		pgs__floor floor = read_floor(f, NULL);
		assert_true(floor.floor >= raced_floor.floor && floor.previous >= raced_floor.previous);
		assert_true(floor.floor == r1 || floor.floor == r2);
		raced |= raced_floor.floor == r2 && f->number > 1;
	}
	assert_true(raced);
}

/* WORKER_UNFENCED: whoever lost the claim publishes nothing. */
static void break_claims(fixture *f, uint64_t call, const char *operation)
{
	(void)call, (void)operation;
	delete_kind(f, 'k');
}

static void test_race__the_claim_is_broken(void **state)
{
	fixture *f = *state;
	change(f);
	watch_calls(f, break_claims);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == 0 && f->b.report.busy);
}

/* Another worker has the floor. */
static void test_race__claimed(void **state)
{
	fixture *f = *state;
	const pgs__scope scope = {.jobs = PGS__JOB_FLOOR};
	pgs__claim claim;
	change(f);
	assert_int_equal(pgs__claim_take(&f->a.worker, &scope, &claim), PGS_OK);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(f->b.report.busy && read_floor(f, NULL).floor == 0);
	pgs__claim_release(&f->a.worker, &claim);
}

/* --- failures ------------------------------------------------------------------------------------------ */

static void test_floor__faults_at_every_call(void **state)
{
	fixture *f = *state;
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_LOSE_REPLY, PGS_FAULT_DELAY};
	pgs__lock dead = gone();
	for (size_t k = 0; k < COUNT_OF(kinds); k++)
		for (uint64_t nth = 1; nth <= 14; nth++) {
			pgs__floor before = read_floor(f, NULL);
			change(f);
			put_pin(f, 1, before.floor + 1, &dead);
			f->b.worker.options.retention_ms = PGS_RETENTION_NONE;
			pgs_fault_at(f->fault, nth, kinds[k]);
			int result = pgs__job_floor(&f->b.worker);
			pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
			pgs_fault_deliver(f->fault);
			assert_true(result == PGS_OK || (result == PGS_EIO && kinds[k] != PGS_FAULT_LOSE_REPLY) ||
				    (result == PGS_EIO && nth <= 6)); /* stat has no second try */
			pgs__floor after = read_floor(f, NULL);
			assert_true(after.floor >= before.floor);
			assert_true(after.floor == before.floor || after.previous >= before.floor ||
				    after.previous == before.previous);
			if (result == PGS_OK)
				assert_true(f->b.worker.floor.floor == after.floor);
			delete_kind(f, 'k'); /* one whose release failed */
			run_floor(&f->b, PGS_RETENTION_NONE);
			assert_true(read_floor(f, NULL).floor > before.floor);
		}
}

static void test_floor__allocation_failures(void **state)
{
	fixture *f = *state;
	pgs__lock holder = elsewhere(HOUR);
	put_pin(f, 1, change(f), &holder);
	change(f);
	f->a.worker.options.retention_ms = PGS_RETENTION_NONE;
	for (size_t nth = 1;; nth++) {
		failing_alloc_begin(nth);
		int result = pgs__job_floor(&f->a.worker);
		bool failed = failing_alloc_end();
		assert_true(result == PGS_OK || (failed && result == PGS_ENOMEM));
		assert_int_equal(count_kind(f, 'k'), 0);
		if (!failed)
			break;
		forget_observations(&f->a);
		put_floor(f, 0, 0); /* all over again */
	}
}

/* --- someone else compacts the KV ------------------------------------------------------------------------ */

static void test_compacted__by_someone_else(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	pgs__lock holder = elsewhere(HOUR);
	put_samples(f, 1, (int64_t[]){2 * HOUR}, (uint64_t[]){r1});
	run_floor(&f->b, HOUR);
	pgs__floor first = read_floor(f, NULL);
	assert_true(first.floor == r1 && first.previous == 0);
	uint64_t r2 = change(f), r3 = change(f);
	put_pin(f, 1, r2, &holder);
	pgs__key above = put_pin(f, 2, r3, &holder);
	kv_compact(f->server.kv, r3);
	run_floor(&f->b, HOUR);
	pgs__floor second = read_floor(f, NULL);
	assert_true(second.floor == r3);
	assert_true(second.previous == r1); /* r3 is above where r1 was published */
	assert_int_equal(f->b.report.lost_pins, 1);
	run_floor(&f->b, HOUR);
	assert_int_equal(f->b.report.lost_pins, 1); /* not again */
	assert_true(read_floor(f, NULL).floor == r3);
	delete_raw(f, &above);
	run_floor(&f->b, PGS_RETENTION_NONE); /* the lost one holds nothing */
	assert_true(read_floor(f, NULL).floor > r3);
	assert_int_equal(f->b.report.lost_pins, 1);
}

/* Below the revision at which the floor was published: F0 stays what it was. */
static void test_compacted__below_the_last_publication(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f), r2 = change(f), r3 = change(f), published;
	put_samples(f, 1, (int64_t[]){2 * HOUR}, (uint64_t[]){r1});
	run_floor(&f->b, HOUR);
	assert_true(read_floor(f, &published).floor == r1 && r3 < published);
	kv_compact(f->server.kv, r2);
	run_floor(&f->b, HOUR);
	pgs__floor floor = read_floor(f, NULL);
	assert_true(floor.floor == r2 && floor.previous == 0);
	change(f);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).previous == r2);
}

/* A pin the compaction did not reach still holds the floor. */
static void test_compacted__pins_above_hold(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f), r2 = change(f);
	pgs__lock holder = elsewhere(HOUR);
	change(f);
	put_pin(f, 1, r2, &holder);
	kv_compact(f->server.kv, r1);
	run_floor(&f->b, PGS_RETENTION_NONE);
	assert_true(read_floor(f, NULL).floor == r2);
	assert_int_equal(f->b.report.lost_pins, 0);
}

/* A new database has lost nothing. */
static void test_compacted__before_the_database_was(void **state)
{
	fixture *f = *state;
	pgs_db *db = create_db(f->a.store, "new", NULL);
	kv_compact(f->server.kv, kv_revision(f->server.kv) - 1);
	process p = f->a;
	p.db = db;
	worker_init(&p);
	p.worker.options.retention_ms = HOUR;
	assert_int_equal(pgs__job_floor(&p.worker), PGS_OK);
	assert_true(p.worker.floor.floor == 0);
	pgs_db_close(db);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_floor__without_retention),
		TEST(test_floor__all_at_once),
		TEST(test_floor__what_is_a_change),
		TEST(test_floor__idle_in_a_busy_store),
		TEST(test_floor__by_samples),
		TEST(test_floor__dry_run),
		TEST(test_floor__of_a_dropped_database),
		TEST(test_floor__damaged),
		TEST(test_samples__when_due),
		TEST(test_samples__none_without_retention_or_change),
		TEST(test_samples__are_few),
		TEST(test_samples__clock_went_back),
		TEST(test_samples__clock_went_ahead),
		TEST(test_samples__damaged_or_newer),
		TEST(test_floor__quota),
		TEST(test_pins__hold_the_floor),
		TEST(test_pins__of_dead_processes),
		TEST(test_pins__lease_runs_out),
		TEST(test_pins__are_waited_for),
		TEST(test_claims__are_waited_for),
		TEST(test_pins__of_databases_that_are_not_open),
		TEST(test_pins__damaged),
		cmocka_unit_test_setup_teardown(test_pins__many, setup_limited, teardown),
		TEST(test_race__a_pin_at_every_call),
		TEST(test_race__a_snapshot_comes),
		TEST(test_race__two_workers),
		TEST(test_race__two_retentions),
		TEST(test_race__the_claim_is_broken),
		TEST(test_race__claimed),
		TEST(test_floor__faults_at_every_call),
		TEST(test_floor__allocation_failures),
		TEST(test_compacted__by_someone_else),
		TEST(test_compacted__below_the_last_publication),
		TEST(test_compacted__pins_above_hold),
		TEST(test_compacted__before_the_database_was),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
