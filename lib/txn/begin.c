/* Beginning and ending transactions. */
#include "txn/upload.h"

#include "txn/early.h"
#include "txn/history.h"
#include "txn/named.h"
#include "txn/newest.h"
#include "util/alloc.h"
#include "util/error.h"

#define KNOWN_RETENTION_MS 10000 /* shorter ones may end between two transactions */

static int check_options(const pgs_db *db, const pgs_txn_options *o, pgs_error *err)
{
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL, "pgs_txn_options: struct_size is not set; use PGS_TXN_OPTIONS_INIT");
	if (o->cost && o->cost->struct_size != sizeof *o->cost)
		return pgs__error(err, PGS_EINVAL, "pgs_cost: struct_size is not set; use PGS_COST_INIT");
	if (o->lock > PGS_LOCK_TRY || (o->lock && !o->write))
		return pgs__error(err, PGS_EINVAL, "lock %u: not one of PGS_LOCK_…, or the transaction is read only",
				  o->lock);
	if (o->isolation > PGS_SNAPSHOT)
		return pgs__error(err, PGS_EINVAL, "unknown isolation %u", o->isolation);
	if ((o->at_revision != 0) + (o->at_time_ms != 0) + (o->at_snapshot != NULL) > 1)
		return pgs__error(err, PGS_EINVAL, "at_revision, at_time_ms and at_snapshot exclude each other");
	if (o->freshness > PGS_LOCAL)
		return pgs__error(err, PGS_EINVAL, "freshness %u: not one of PGS_LATEST, …", o->freshness);
	if (o->freshness && (o->at_revision || o->at_time_ms || o->at_snapshot || o->lock))
		return pgs__error(err, PGS_EINVAL, "a transaction at a past revision, or with the writer lock, begins at "
						   "no other freshness than PGS_LATEST");
	if (o->at_snapshot && (o->at_snapshot_size == 0 || o->at_snapshot_size > PGS_SNAPSHOT_NAME_MAX))
		return pgs__error(err, PGS_EINVAL, "a snapshot's name has 1 to %d bytes, not %zu", PGS_SNAPSHOT_NAME_MAX,
				  o->at_snapshot_size);
	if (o->write && (o->at_revision || o->at_time_ms || o->at_snapshot))
		return pgs__error(err, PGS_EINVAL, "a past snapshot is read only");
	if (o->write && db->store->read_only)
		return pgs__error(err, PGS_EREADONLY, "the store was opened read-only");
	return PGS_OK;
}

/* Whether the latest snapshot is that of the process's last commit: it has kept the lock since. Where the KV tells of
 * changes nothing is saved; where history is given up at once that snapshot might be gone by now. */
static bool is_known(const pgs_txn *t)
{
	return t->lock.last.revision && pgs__tip_changes(t->db) == 0 &&
	       pgs__db_retention_ms(t->db) >= KNOWN_RETENTION_MS;
}

/* Open the snapshot that the options ask for. */
static int open_snapshot(pgs_txn *t, const pgs_txn_options *o, uint64_t deadline, pgs_error *err)
{
	uint64_t at = o->at_revision;
	if (o->at_snapshot)
		return pgs__named_open(&t->snapshot, t->db, (pgs_slice){o->at_snapshot, o->at_snapshot_size}, deadline, err);
	if (o->at_time_ms) {
		int result = pgs__revision_at_time(t->db, o->at_time_ms, deadline, &at, err);
		if (result != PGS_OK)
			return result;
	}
	if (is_known(t) && pgs__snapshot_open_known(&t->snapshot, t->db, &t->lock.last, deadline, NULL) == PGS_OK)
		return PGS_OK;
	return pgs__snapshot_open(&t->snapshot, t->db, at, deadline, err);
}

/* On what the process has, if that is as fresh as asked; else on the latest. *since_ms, which is the time now: since when
 * it has been known. */
static int open_fresh(pgs_txn *t, pgs__snapshot *out, uint64_t *since_ms, uint64_t deadline, pgs_error *err)
{
	if (t->freshness.kind && pgs__newest_take(t->db, &t->freshness, out, since_ms, deadline))
		return PGS_OK;
	int result = pgs__snapshot_open(out, t->db, 0, deadline, err);
	if (result == PGS_OK && t->freshness.kind == PGS_AT_LEAST && out->kv_revision < t->freshness.least_revision) {
		pgs__snapshot_close(out);
		return pgs__error(err, PGS_EINVAL, "revision %llu is above the store's latest",
				  (unsigned long long)t->freshness.least_revision);
	}
	return result;
}

static int take_lock(pgs_txn *t, const pgs_txn_options *o, pgs_error *err)
{
	if (o->lock == PGS_LOCK_NONE)
		return PGS_OK;
	return pgs__writer_lock_begin(t->db, &t->lock, o->lock, pgs__txn_deadline(t), err);
}

/* A transaction without a snapshot, NULL when out of memory. */
static pgs_txn *new_txn(pgs_db *db, const pgs_txn_options *o, pgs_error *err)
{
	pgs_txn *t = pgs__calloc(1, sizeof *t);
	if (!t) {
		pgs__error_nomem(err, "transaction");
		return NULL;
	}
	t->db = db;
	t->writes_allowed = o->write;
	t->isolation = (uint8_t)o->isolation;
	t->tracks_reads = o->write && o->isolation == PGS_SERIALIZABLE;
	t->timeout_ms = o->timeout_ms;
	t->cost = o->cost;
	t->freshness = (pgs__freshness){o->freshness, o->bound_ms, o->least_revision};
	t->error.page = PGS_NO_PAGE;
	t->ahead.missed = t->ahead.next = PGS_NO_PAGE;
	return t;
}

/* Its snapshot has been getting old since then. */
static void begin_keeping(pgs_txn *t, bool named, uint64_t since_ms)
{
	pgs__keeper_init(&t->keeper, t->db, since_ms);
	if (t->db->store->read_only || named)
		t->keeper.due_ms = UINT64_MAX; /* may not; or need not, being kept by its name */
}

static int begin(pgs_txn **out, pgs_db *db, const pgs_txn_options *o, pgs_error *err)
{
	int result = o->write ? pgs__upkeep_admit(db, pgs__db_deadline(db, o->timeout_ms), err) : PGS_OK;
	if (result != PGS_OK)
		return result;
	pgs_txn *t = new_txn(db, o, err);
	if (!t)
		return PGS_ENOMEM;
	t->past = o->at_revision || o->at_time_ms || o->at_snapshot;
	result = take_lock(t, o, err);
	uint64_t since = pgs__now_ms(), deadline = since + pgs__db_timeout(db, o->timeout_ms);
	if (result == PGS_OK)
		result = o->freshness ? open_fresh(t, &t->snapshot, &since, deadline, err)
				      : open_snapshot(t, o, deadline, err);
	begin_keeping(t, o->at_snapshot, since);
	if (result != PGS_OK) {
		pgs__writer_lock_release(db, &t->lock, pgs__txn_deadline(t));
		pgs__txn_free(t);
		return result;
	}
	t->page_count = t->snapshot.extent;
	*out = t;
	return PGS_OK;
}

int pgs_begin(pgs_txn **out, pgs_db *db, const pgs_txn_options *options, pgs_error *err)
{
	const pgs_txn_options defaults = PGS_TXN_OPTIONS_INIT;
	const pgs_txn_options *o = options ? options : &defaults;
	*out = NULL;
	int result = check_options(db, o, err);
	if (result != PGS_OK)
		return result;
	pgs_cost *before = pgs__charge(o->cost);
	result = begin(out, db, o, err);
	pgs__charge(before);
	return result;
}

int pgs_fork(pgs_txn **out, const pgs_txn *of, const pgs_txn_options *options, pgs_error *err)
{
	const pgs_txn_options defaults = PGS_TXN_OPTIONS_INIT;
	const pgs_txn_options *o = options ? options : &defaults;
	*out = NULL;
	int result = check_options(of->db, o, err);
	if (result == PGS_OK && (o->at_revision || o->at_time_ms || o->at_snapshot || o->lock || o->freshness))
		result = pgs__error(err, PGS_EINVAL, "a fork has the snapshot of the transaction it comes from, and no lock");
	if (result == PGS_OK && (of->snapshot.named || (of->past && o->write)))
		result = pgs__error(err, PGS_EINVAL, of->snapshot.named ? "a transaction at a named snapshot has no forks"
									 : "a past snapshot is read only");
	if (result == PGS_OK && o->write)
		result = pgs__upkeep_admit(of->db, pgs__db_deadline(of->db, o->timeout_ms), err);
	pgs_txn *t = result == PGS_OK ? new_txn(of->db, o, err) : NULL;
	if (!t)
		return result == PGS_OK ? PGS_ENOMEM : result;
	t->past = of->past;
	t->keeper.due_ms = of->keeper.pin ? 0 : of->keeper.due_ms; /* as old; its pin is its own */
	t->snapshot = of->snapshot;
	pgs__pack_view_retain(t->snapshot.packs);
	t->page_count = t->snapshot.extent;
	*out = t;
	return PGS_OK;
}

void pgs__txn_free(pgs_txn *t)
{
	pgs__read_ahead_stop(t);
	pgs__upload_stop(t);
	pgs__early_free(t);
	pgs__txn_release_pins(t);
	for (size_t i = 0; i < t->write_count; i++) {
		pgs__free(t->writes[i].page);
		pgs__free(t->writes[i].frame);
	}
	for (size_t i = 0; i < t->file_count; i++)
		pgs__buffer_free(&t->files[i].value);
	pgs__free(t->files);
	pgs__free(t->writes);
	pgs__free(t->attr_reads);
	pgs__free(t->attr_writes);
	pgs__map_free(&t->reads);
	pgs__map_free(&t->write_index);
	pgs__arena_free(&t->arena);
	pgs__snapshot_close(&t->snapshot);
	pgs__free(t);
}

void pgs__txn_remove_files(pgs_txn *t, uint64_t deadline_ms)
{
	pgs_blob *blob = pgs__db_backend(t->db)->blob;
	pgs__upload_stop(t);
	for (size_t i = 0; i < t->file_count; i++)
		blob->vtable->remove(blob, t->files[i].blob_name, deadline_ms, NULL);
}

void pgs_abort(pgs_txn *txn)
{
	if (!txn)
		return;
	pgs_cost *before = pgs__charge(txn->cost);
	if (txn->file_count)
		pgs__txn_remove_files(txn, pgs__txn_deadline(txn));
	if (txn->lock.held)
		pgs__writer_lock_release(txn->db, &txn->lock, pgs__txn_deadline(txn));
	if (txn->keeper.pin)
		pgs__keeper_release(&txn->keeper, pgs__txn_deadline(txn));
	pgs__txn_free(txn);
	pgs__charge(before);
}

/* --- again -------------------------------------------------------------------------- */

void pgs_reset(pgs_txn *txn)
{
	if (txn->writes_allowed || txn->past)
		return;
	pgs__read_ahead_stop(txn);
	if (!txn->keeper.pin)
		return;
	pgs_cost *before = pgs__charge(txn->cost);
	pgs__keeper_release(&txn->keeper, pgs__txn_deadline(txn));
	pgs__charge(before);
}

/* Take the latest snapshot, or one as fresh as it asked for, instead of the one it has. */
static int move_on(pgs_txn *t, bool *same, uint64_t *since_ms, uint64_t deadline_ms)
{
	pgs__snapshot next;
	pgs_cost *before = pgs__charge(t->cost);
	int result = open_fresh(t, &next, since_ms, deadline_ms, &t->error);
	pgs__charge(before);
	if (result != PGS_OK)
		return result;
	*same = next.commit_revision == t->snapshot.commit_revision;
	pgs__snapshot_close(&t->snapshot);
	t->snapshot = next;
	t->page_count = next.extent;
	t->ahead.missed = PGS_NO_PAGE;
	return PGS_OK;
}

int pgs_renew(pgs_txn *txn, bool *same)
{
	*same = false;
	if (txn->writes_allowed || txn->past)
		return pgs__error(&txn->error, PGS_EINVAL, "a transaction that writes, or shows the past, is not renewed");
	uint64_t since = pgs__now_ms();
	*same = pgs__snapshot_is_latest(&txn->snapshot);
	int result = *same ? PGS_OK : move_on(txn, same, &since, since + pgs__db_timeout(txn->db, txn->timeout_ms));
	if (result == PGS_OK)
		begin_keeping(txn, false, since);
	return result;
}

uint64_t pgs_txn_revision(const pgs_txn *txn)
{
	return txn->snapshot.commit_revision;
}

const pgs_error *pgs_txn_error(const pgs_txn *txn)
{
	return &txn->error;
}

/* --- what reads and writes share ------------------------------------------------ */

int pgs__txn_check_page(pgs_txn *t, uint64_t page_no)
{
	uint64_t limit = pgs__page_limit(pgs__txn_page_size(t));
	if (page_no < limit)
		return PGS_OK;
	return pgs__error_page(&t->error, PGS_EINVAL, page_no, "page number %llu is past the largest, %llu",
			       (unsigned long long)page_no, (unsigned long long)limit - 1);
}

int pgs__txn_note_read(pgs_txn *t, uint64_t page_no, uint64_t seen_revision)
{
	if (!t->tracks_reads || pgs__map_get(&t->reads, page_no))
		return PGS_OK;
	if (pgs__map_set(&t->reads, page_no, seen_revision, NULL) != PGS_OK)
		return pgs__error_nomem(&t->error, "read set");
	return PGS_OK;
}

pgs__write *pgs__txn_find_write(const pgs_txn *t, uint64_t page_no)
{
	const uint64_t *index = pgs__map_get(&t->write_index, page_no);
	return index ? &t->writes[*index] : NULL;
}
