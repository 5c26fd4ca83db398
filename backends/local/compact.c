/* Forgetting history.
 *
 * First the compacted revision is published; then the log is walked from its
 * beginning up to that revision R, in LMDB transactions of bounded size between
 * which writers get in. For each key K changed at S <= R:
 *
 *  - versions of K older than S go: nothing at or above R sees them;
 *  - the version at S goes too if it is a delete and S < R (at R, a watch
 *    starting there still wants it: the next compaction meets it again);
 *  - the log record of S goes if S < R.
 *
 * Each step may be done twice, so a crash or a deadline in between loses
 * nothing: the next compaction begins where the log begins.
 */
#include "kv.h"

#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

/* Per LMDB transaction: dirty pages stay few, writers wait little. */
#define STEP_DELETES 500
#define STEP_KEYS 5000

typedef struct sweep {
	pgs__env *env;
	uint64_t until;     /* R */
	uint64_t revision;  /* S: the record in `record`; 0 = none */
	pgs__buffer record; /* a copy: LMDB's memory does not outlast a write */
	size_t offset;      /* of the next key in it */
	size_t limit;       /* of deletes in an LMDB transaction */
	size_t deletes;     /* in this one */
	size_t keys;
	bool done;
} sweep;

static int failed(sweep *s, int rc, pgs_error *err)
{
	return pgs__env_error(s->env, rc, "cannot compact", err);
}

/* --- publishing --------------------------------------------------------------- */

static int check_target(pgs__env *env, MDB_txn *txn, uint64_t revision, pgs_error *err)
{
	MDB_cursor *log;
	uint64_t now = 0, compacted = 0;
	int rc = mdb_cursor_open(txn, env->log, &log);
	if (rc)
		return pgs__env_error(env, rc, "cannot compact", err);
	int status = pgs__read_revision(env, log, &now, err);
	mdb_cursor_close(log);
	if (!status)
		status = pgs__read_compacted(env, txn, &compacted, err);
	if (status)
		return status;
	if (revision > now)
		return pgs__error(err, PGS_EINVAL, "compaction to revision %llu: the store is at %llu",
			(unsigned long long)revision, (unsigned long long)now);
	if (revision <= compacted)
		return pgs__error(err, PGS_EOLDREV, "compaction to revision %llu: already done to %llu",
			(unsigned long long)revision, (unsigned long long)compacted);
	return PGS_OK;
}

static int publish(pgs__env *env, MDB_txn *txn, uint64_t revision, pgs_error *err)
{
	uint8_t bytes[8];
	int status = check_target(env, txn, revision, err);
	if (status)
		return status;
	pgs__store_u64be(bytes, revision);
	MDB_val key = {9, "compacted"}, value = {sizeof bytes, bytes};
	int rc = mdb_put(txn, env->meta, &key, &value, 0);
	return rc ? pgs__env_error(env, rc, "cannot compact", err) : PGS_OK;
}

/* --- sweeping ----------------------------------------------------------------- */

/* Delete stored versions of `key` from `from` downwards, as many as this LMDB transaction may. *all: none is left. */
static int drop_versions(sweep *s, MDB_cursor *versions, pgs_slice key, uint64_t from, bool *all, pgs_error *err)
{
	uint8_t stored[PGS__LOCAL_STORED_KEY_MAX];
	for (*all = false; s->deletes < s->limit; s->deletes++) {
		MDB_val k = pgs__record_key(stored, key, from), v;
		int rc = mdb_cursor_get(versions, &k, &v, MDB_SET_RANGE);
		if (rc && rc != MDB_NOTFOUND)
			return failed(s, rc, err);
		if (rc || k.mv_size != key.size + 8 || memcmp(k.mv_data, key.data, key.size)) {
			*all = true;
			return PGS_OK;
		}
		rc = mdb_cursor_del(versions, 0);
		if (rc)
			return failed(s, rc, err);
	}
	return PGS_OK;
}

/* Is the version at exactly S a delete that nobody needs any more? */
static int is_dead(sweep *s, MDB_cursor *versions, pgs_slice key, bool *dead, pgs_error *err)
{
	uint8_t stored[PGS__LOCAL_STORED_KEY_MAX];
	pgs__record record;
	MDB_val k = pgs__record_key(stored, key, s->revision), v;
	*dead = false;
	if (s->revision == s->until)
		return PGS_OK;
	int rc = mdb_cursor_get(versions, &k, &v, MDB_SET_KEY);
	if (rc == MDB_NOTFOUND)
		return PGS_OK;
	if (rc)
		return failed(s, rc, err);
	int status = pgs__record_decode(&record, &k, &v, err);
	*dead = !status && record.deleted;
	return status;
}

static int sweep_key(sweep *s, MDB_cursor *versions, pgs_slice key, bool *all, pgs_error *err)
{
	bool dead;
	int status = is_dead(s, versions, key, &dead, err);
	return status ? status : drop_versions(s, versions, key, dead ? s->revision : s->revision - 1, all, err);
}

/* The rest of the current log record, or as much of it as fits. *all: it is finished. */
static int sweep_record(sweep *s, MDB_cursor *versions, bool *all, pgs_error *err)
{
	pgs__reader r = pgs__reader_of(pgs__buffer_slice(&s->record));
	pgs_slice key;
	r.offset = s->offset;
	*all = true;
	while (*all && s->keys < STEP_KEYS && pgs__log_next(&r, &key)) {
		int status = sweep_key(s, versions, key, all, err);
		if (status)
			return status;
		if (*all)
			s->offset = r.offset;
		s->keys++;
	}
	if (r.failed)
		return pgs__error(err, PGS_ECORRUPT, "the log record of revision %llu in '%s' is malformed",
			(unsigned long long)s->revision, s->env->path);
	*all = s->offset == s->record.size;
	return PGS_OK;
}

static int load_record(sweep *s, const MDB_val *key, const MDB_val *value, pgs_error *err)
{
	if (key->mv_size != 8)
		return failed(s, MDB_CORRUPTED, err);
	s->revision = pgs__load_u64be(key->mv_data);
	s->offset = 0;
	s->record.size = 0;
	pgs__put_bytes(&s->record, value->mv_data, value->mv_size);
	return s->record.failed ? pgs__error_nomem(err, "compaction") : PGS_OK;
}

/* Another process that compacts may have gone past the record begun here. */
static bool is_current(const sweep *s, const MDB_val *key)
{
	return s->revision && key->mv_size == 8 && pgs__load_u64be(key->mv_data) == s->revision;
}

/* One LMDB transaction's worth. */
static int sweep_step(sweep *s, MDB_cursor *versions, MDB_cursor *log, pgs_error *err)
{
	s->deletes = s->keys = 0;
	while (s->deletes < s->limit && s->keys < STEP_KEYS) {
		MDB_val key, value;
		bool all;
		/* At least one record stays: the one of R. */
		int rc = mdb_cursor_get(log, &key, &value, MDB_FIRST);
		if (rc)
			return failed(s, rc, err);
		int status = is_current(s, &key) ? PGS_OK : load_record(s, &key, &value, err);
		if (!status && s->revision > s->until) {
			s->done = true;
			return PGS_OK;
		}
		if (!status)
			status = sweep_record(s, versions, &all, err);
		if (status || !all)
			return status;
		s->done = s->revision == s->until;
		if (s->done)
			return PGS_OK;
		rc = mdb_cursor_del(log, 0);
		if (rc)
			return failed(s, rc, err);
		s->revision = 0;
		s->keys++;
	}
	return PGS_OK;
}

/* --- transactions --------------------------------------------------------------- */

static int sweep_txn(sweep *s, MDB_txn *txn, pgs_error *err)
{
	MDB_cursor *versions, *log;
	int rc = mdb_cursor_open(txn, s->env->versions, &versions);
	if (!rc)
		rc = mdb_cursor_open(txn, s->env->log, &log);
	return rc ? failed(s, rc, err) : sweep_step(s, versions, log, err);
}

/* Publish (when `s` is NULL) or sweep once, with other writers kept out. */
static int run_locked(pgs__local_kv *kv, sweep *s, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	MDB_txn *txn;
	int status = pgs__writers_enter(kv->env, deadline_ms, err);
	if (status)
		return status;
	status = pgs__env_write_begin(kv->env, kv->sync, &txn, err);
	if (status) {
		pgs__writers_leave(kv->env);
		return status;
	}
	status = s ? sweep_txn(s, txn, err) : publish(kv->env, txn, revision, err);
	if (status)
		pgs__env_write_abort(kv->env, txn);
	else
		status = pgs__env_write_commit(kv->env, txn, NULL, err);
	/* Deleting is what leaves pages unwritten at the file's end. */
	if (!status && s)
		status = pgs__env_extend(kv->env, err);
	pgs__writers_leave(kv->env);
	return status;
}

int pgs__local_compact(pgs_kv *base, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	pgs__local_kv *kv = (pgs__local_kv *)base;
	int status = pgs__env_check(kv->env, err);
	if (status)
		return status;
	if (kv->read_only)
		return pgs__error(err, PGS_EREADONLY, "compacting '%s', which is open read-only", kv->env->path);
	if (pgs__deadline_passed(deadline_ms))
		return pgs__error(err, PGS_ETIMEOUT, "the deadline passed before compacting '%s'", kv->env->path);
	status = run_locked(kv, NULL, revision, deadline_ms, err);
	/* From here on history is forgotten; what there is no time to remove, the next compaction does. */
	sweep s = {.env = kv->env, .until = revision, .limit = STEP_DELETES};
	int dead;
	/* A reader that died in the middle of a read would keep LMDB from reusing what is freed. */
	if (!status)
		mdb_reader_check(kv->env->mdb, &dead);
	while (!status && !s.done && !pgs__deadline_passed(deadline_ms)) {
		status = run_locked(kv, &s, revision, deadline_ms, err);
		if (status == PGS_ETIMEOUT) {
			status = PGS_OK;
			break;
		}
		/* LMDB deletes by writing elsewhere: where little room is left, smaller steps may fit. Each
		 * begins with the log's first record, as what the failed one thought it did was undone. */
		if (status == PGS_ENOSPC && s.limit > 1) {
			s.limit /= 4;
			s.revision = 0;
			status = PGS_OK;
		}
	}
	pgs__buffer_free(&s.record);
	return status;
}
