#include "support/machine.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore/follow.h>

#include "follow/follower.h"
#include "support/testing.h"
#include "txn/txn.h"

#define CACHE_BYTES (64u << 20)

/* --- making and unmaking ---------------------------------------------------------- */

void machine_setup(machine *m, stage *s)
{
	char path[100];
	pgs_error err = PGS_ERROR_INIT;
	*m = (machine){.s = s};
	strcpy(m->dir, "/tmp/pagestore-machine-XXXXXX");
	assert_non_null(mkdtemp(m->dir));
	snprintf(path, sizeof path, "%s/cache", m->dir);
	const pgs__disk_cache_options o = {.path = path, .size_bytes = CACHE_BYTES};
	if (pgs__disk_cache_open(&m->cache, &o, &err) != PGS_OK ||
	    pgs__disk_db_attach(&m->mine, m->cache, pgs__db_prefix(s->db), s->page_size, &err) != PGS_OK ||
	    pgs__disk_db_attach(&m->others, m->cache, pgs__db_prefix(s->db), s->page_size, &err) != PGS_OK)
		fail_msg("%s", err.message);
	s->db->contents.disk = m->mine;
	stage_other(s)->contents.disk = m->others;
	s->db->store->disk = stage_other(s)->store->disk = m->cache;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

void machine_teardown(machine *m)
{
	stage *s = m->s;
	s->before = NULL;
	pgs__follow_end(s->db);
	pgs__follow_end(stage_other(s));
	s->db->contents.disk = NULL;
	stage_other(s)->contents.disk = NULL;
	s->db->store->disk = stage_other(s)->store->disk = NULL;
	pgs_db_close(m->away);
	pgs_close(m->away_store);
	pgs__disk_db_detach(m->mine);
	pgs__disk_db_detach(m->others);
	pgs__disk_cache_close(m->cache);
	nftw(m->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

pgs_db *machine_away(machine *m)
{
	pgs_kv *kv;
	pgs_blob *blob;
	if (m->away)
		return m->away;
	stage_backends(m->s, &kv, &blob);
	assert_int_equal(pgs_open_with(&m->away_store, kv, blob, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_db_open(&m->away, m->away_store, "db", 2, &m->s->options, NULL), PGS_OK);
	return m->away;
}

/* --- what it does ------------------------------------------------------------------- */

void machine_follow(pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs_follow_step(db, 5000, &err);
	if (result != PGS_OK)
		fail_msg("pgs_follow_step: %s: %s", pgs_error_name(result), err.message);
}

pgs_txn *machine_begin(pgs_db *db, uint32_t freshness, uint32_t bound_ms, pgs_cost *cost)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	o.freshness = freshness;
	o.bound_ms = bound_ms;
	o.cost = cost;
	if (pgs_begin(&t, db, &o, &err) != PGS_OK)
		fail_msg("pgs_begin: %s", err.message);
	return t;
}

/* --- the mirror, held against the KV ------------------------------------------------------ */

typedef struct holding {
	const pgs_kv_result *kv;
	char kind;
	size_t count;
} holding;

static void hold(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	holding *h = ctx;
	assert_int_equal(answer, PGS__MIRROR_PRESENT);
	if (index >= h->kv->count)
		fail_msg("the mirror has more keys /%c than the KV: %zu", h->kind, h->kv->count);
	const pgs_kv_pair *kv = &h->kv->pairs[index];
	if (!pgs__slice_equal(kv->key, pair->key) || !pgs__slice_equal(kv->value, pair->value) ||
	    kv->create_revision != pair->create_revision || kv->mod_revision != pair->mod_revision ||
	    kv->version != pair->version)
		fail_msg("key %zu of /%c: the KV has %llu %llu %llu, the mirror %llu %llu %llu", index, h->kind,
			 (unsigned long long)kv->create_revision, (unsigned long long)kv->mod_revision,
			 (unsigned long long)kv->version, (unsigned long long)pair->create_revision,
			 (unsigned long long)pair->mod_revision, (unsigned long long)pair->version);
	h->count++;
}

static void expect_kind(machine *m, char kind, uint64_t revision)
{
	const uint8_t *prefix = pgs__db_prefix(m->s->db);
	pgs__key first = pgs__key_single(prefix, kind), end = pgs__key_single(prefix, (char)(kind + 1));
	pgs_kv_op op = pgs__op_range(pgs__key_slice(&first), pgs__key_slice(&end), revision);
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(m->s->kv->vtable->txn(m->s->kv, &txn, 1, 0, NULL), PGS_OK);
	holding h = {&txn.results[0], kind, 0};
	assert_int_equal(pgs__mirror_range(m->mine, 0, pgs__key_slice(&first), pgs__key_slice(&end), 0, hold, &h, NULL, NULL),
			 PGS_OK);
	if (h.count != txn.results[0].count)
		fail_msg("the mirror has %zu keys /%c, and the KV %zu", h.count, kind, txn.results[0].count);
	m->s->kv->vtable->release(m->s->kv, &txn, 1);
}

uint64_t machine_expect_mirror(machine *m)
{
	uint64_t sequence = pgs__mirror_sequence(m->mine);
	assert_true(sequence > 0);
	for (const char *kind = "aegmoptz"; *kind; kind++)
		expect_kind(m, *kind, sequence);
	return sequence;
}
