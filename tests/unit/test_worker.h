/* A database of two processes, one of them through faults, and a worker of each: what tests of maintenance share. */
#ifndef TEST_WORKER_H
#define TEST_WORKER_H

#include <stdlib.h>
#include <string.h>

#include <pagestore.h>

#include "codec/meta.h"
#include "maintain/jobs.h"
#include "support/failing_alloc.h"
#include "support/kv_calls.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))
#define ALL_IDS {{0}}, {{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}}

typedef struct process {
	pgs_store *store;
	pgs_db *db;
	pgs_maintain_report report;
	pgs_error err;
	pgs__worker worker;
} process;

typedef struct fixture fixture;
struct fixture {
	server server;
	pgs_fault *fault;
	process a, b; /* b's calls go through the fault */
	void (*before)(fixture *f, uint64_t call, const char *operation); /* calls of b, from 1 on since it was set */
	uint64_t first_call;
	bool in_before;
	uint64_t number; /* for tests' own use */
};

static inline void fixture_before(void *ctx, uint64_t call, const char *operation)
{
	fixture *f = ctx;
	if (!f->before || f->in_before)
		return;
	f->in_before = true;
	f->before(f, call - f->first_call, operation);
	f->in_before = false;
}

/* Call `before` before each call of b from now on. */
static inline void watch_calls(fixture *f, void (*before)(fixture *f, uint64_t call, const char *operation))
{
	f->before = before;
	f->first_call = pgs_fault_calls(f->fault);
}

static inline void worker_init(process *p)
{
	p->report = (pgs_maintain_report)PGS_MAINTAIN_REPORT_INIT;
	p->err = (pgs_error)PGS_ERROR_INIT;
	p->worker = (pgs__worker){.db = p->db, .report = &p->report, .err = &p->err, .bytes_left = UINT64_MAX};
	p->worker.options = (pgs_maintain_options)PGS_MAINTAIN_OPTIONS_INIT;
	p->worker.options.quota_percent = 40;
}

static inline fixture *fixture_new(const pgs_kv_limits *limits, uint32_t timeout_ms)
{
	fixture *f = calloc(1, sizeof *f);
	pgs_fault_options options = PGS_FAULT_OPTIONS_INIT;
	pgs_store_options store_options = PGS_STORE_OPTIONS_INIT;
	options.before = fixture_before;
	options.before_ctx = f;
	store_options.timeout_ms = timeout_ms;
	store_options.kv_history = PGS_KV_HISTORY_OWNED;
	assert_int_equal(pgs_fault_new(&f->fault, &options, NULL), PGS_OK);
	server_start(&f->server, limits);
	f->a.store = server_open(&f->server, NULL, &store_options);
	f->b.store = server_open(&f->server, f->fault, &store_options);
	f->a.db = create_db(f->a.store, "db", NULL);
	f->b.db = open_db(f->b.store, "db");
	worker_init(&f->a);
	worker_init(&f->b);
	return f;
}

static inline int setup(void **state)
{
	failing_alloc_install();
	*state = fixture_new(NULL, 0);
	return 0;
}

/* A stock etcd's limits. */
static inline int setup_limited(void **state)
{
	const pgs_kv_limits limits = {.max_txn_ops = 128, .max_request_bytes = 3 << 19};
	failing_alloc_install();
	*state = fixture_new(&limits, 0);
	return 0;
}

/* Calls end soon. */
static inline int setup_impatient(void **state)
{
	failing_alloc_install();
	*state = fixture_new(NULL, 200);
	return 0;
}

static inline int teardown(void **state)
{
	fixture *f = *state;
	failing_alloc_end();
	pgs_db_close(f->a.db);
	pgs_db_close(f->b.db);
	pgs_close(f->a.store);
	pgs_close(f->b.store);
	server_stop(&f->server);
	pgs_fault_free(f->fault);
	free(f);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
	return 0;
}

/* --- the KV, directly ---------------------------------------------------------------- */

/* A put past all faults. */
static inline uint64_t put_raw(fixture *f, const pgs__key *key, pgs_slice value)
{
	const pgs_kv_op op = {.kind = PGS_KV_PUT, .key = pgs__key_slice(key), .value = value};
	return kv_apply(f->server.kv, &op, 1);
}

static inline uint64_t delete_raw(fixture *f, const pgs__key *key)
{
	const pgs_kv_op op = {.kind = PGS_KV_DELETE, .key = pgs__key_slice(key)};
	return kv_apply(f->server.kv, &op, 1);
}

/* The keys of a range. */
static inline size_t count_range(fixture *f, pgs_slice from, pgs_slice end)
{
	const pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = from, .range_end = end, .count_only = true};
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(f->server.kv, &txn), PGS_OK);
	size_t count = (size_t)txn.results[0].total;
	f->server.kv->vtable->release(f->server.kv, &txn, 1);
	return count;
}

static inline size_t count_kind(fixture *f, char kind)
{
	const uint8_t *prefix = pgs__db_prefix(f->a.db);
	pgs__key from = pgs__key_kind(prefix, kind), end = pgs__key_kind_end(prefix, kind);
	return count_range(f, pgs__key_slice(&from), pgs__key_slice(&end));
}

static inline void delete_kind(fixture *f, char kind)
{
	const uint8_t *prefix = pgs__db_prefix(f->a.db);
	pgs__key from = pgs__key_kind(prefix, kind), end = pgs__key_kind_end(prefix, kind);
	const pgs_kv_op op = {
		.kind = PGS_KV_DELETE, .key = pgs__key_slice(&from), .range_end = pgs__key_slice(&end)};
	kv_apply(f->server.kv, &op, 1);
}

/* A lease's holder on another machine: only watching tells when it is dead. */
static inline pgs__lock elsewhere(uint64_t lease_ms)
{
	return (pgs__lock){"owner elsewhere", "another machine", 1, 1, lease_ms};
}

/* As if so much time had passed since everything was first seen. */
static inline void age_observations(pgs__observed *observed, uint64_t ms)
{
	size_t cursor = 0;
	for (const pgs__map_slot *slot; (slot = pgs__map_next(&observed->since, &cursor));)
		*pgs__map_get(&observed->since, slot->key) -= ms;
}

/* As a process that saw nothing of it so far. */
static inline void forget_observations(process *p)
{
	pgs__observed_free(&p->db->seen->claims);
	pgs__observed_free(&p->db->seen->pins);
	pgs__observed_init(&p->db->seen->claims);
	pgs__observed_init(&p->db->seen->pins);
}

#endif
