/* Commits with one sync.
 *
 * LMDB syncs twice: the pages of a transaction, and then the meta page that points to them, because a meta page that
 * reached the disk before its pages would be the end of the store. So the meta page is left to the kernel
 * (MDB_NOMETASYNC), and what the transaction puts is written down beside its pages, to be synced with them:
 *
 *     pages of N ─┐
 *     record of N ┴─ one sync ─→ committed ─→ meta page N, not synced
 *
 * A machine that stops then comes back with meta page N - 1, which the sync of N took to the disk, and puts what the
 * record says again. The record has two slots, and transaction N writes slot N mod 2, as with meta pages:
 *
 *  J1 Meta page N - 2 is on the disk before N writes anything: the sync of N - 1 took it there, or its own. LMDB keeps
 *     the pages of that state until N is committed (it reuses what was freed before N - 1). So what a crash in the middle
 *     of N needs is there: that state, and the record of N - 1, which is in the other slot.
 *  J2 A record is put again only on the state it was made on: by number, and every commit without one wipes the slot
 *     that its number has. A record that reached the disk in part fails its check.
 *  J3 A commit that failed leaves no record.
 *
 * The record is a value of table `meta`, which LMDB never moves, as nobody puts it again; its place in the file is told
 * by the header of its page, and believed if the file has the same random bytes there.
 *
 *     0        16       32     4080               + SLOT
 *     +--------+--------+------+------------------+------------------+
 *     | "redo" | random |  0   | slot of even N   | slot of odd N    |
 *     +--------+--------+------+------------------+------------------+
 *     slot: check (8, XXH3 of the rest) ‖ N (8) ‖ size (8) ‖ puts: (table (1) ‖ varint size ‖ key ‖ varint size ‖ value) …
 */
#include "redo.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

enum {
	NAME_SIZE = 16,
	MARK_SIZE = 32,         /* name and random bytes */
	PAGE_HEADER = 16,       /* of LMDB's pages: their number is its first word */
	FIRST_SLOT = 4096 - PAGE_HEADER,
	SLOT = 64 << 10,
	SLOT_HEADER = 24,
	VALUE_SIZE = FIRST_SLOT + 2 * SLOT,
};
#define LOCK_WAIT_MS 30000 /* as when opening */

static const char name[NAME_SIZE] = "pagestore redo 1";
static const MDB_val meta_key = {4, "redo"};

/* --- what is put -------------------------------------------------------------------- */

void pgs__redo_note(pgs__buffer *puts, pgs__redo_table table, const MDB_val *key, pgs_slice head, pgs_slice value)
{
	const size_t size = head.size + value.size;
	if (puts->failed || puts->size > SLOT)
		return;
	if (puts->size == 0)
		pgs__buffer_extend(puts, SLOT_HEADER); /* filled when it is written */
	pgs__put_u8(puts, (uint8_t)table);
	pgs__put_varint(puts, key->mv_size);
	pgs__put_bytes(puts, key->mv_data, key->mv_size);
	pgs__put_varint(puts, size);
	puts->failed |= size > SLOT; /* too large: as without memory */
	if (puts->failed)
		return;
	pgs__put_bytes(puts, head.data, head.size);
	pgs__put_bytes(puts, value.data, value.size);
}

/* --- slots ---------------------------------------------------------------------------- */

static off_t slot_offset(const pgs__env *env, size_t id)
{
	return (off_t)(env->redo_offset + FIRST_SLOT + (id & 1) * SLOT);
}

static bool write_slot(const pgs__env *env, size_t id, const void *bytes, size_t size)
{
	int fd;
	return !mdb_env_get_fd(env->mdb, &fd) && pwrite(fd, bytes, size, slot_offset(env, id)) == (ssize_t)size;
}

static uint64_t check_of(const uint8_t *slot, size_t size)
{
	return XXH3_64bits(slot + 8, size - 8);
}

bool pgs__redo_write(pgs__env *env, size_t id, pgs__buffer *puts)
{
	if (!env->redo_offset || puts->failed || puts->size == 0 || puts->size > SLOT)
		return false;
	pgs__store_u64be(puts->data + 8, id);
	pgs__store_u64be(puts->data + 16, puts->size);
	pgs__store_u64be(puts->data, check_of(puts->data, puts->size));
	return write_slot(env, id, puts->data, puts->size);
}

bool pgs__redo_forget(pgs__env *env, size_t id)
{
	uint8_t header[SLOT_HEADER];
	const uint8_t zeros[SLOT_HEADER] = {0};
	int fd;
	if (!env->redo_offset)
		return true;
	if (mdb_env_get_fd(env->mdb, &fd) || pread(fd, header, sizeof header, slot_offset(env, id)) != SLOT_HEADER)
		return false;
	return pgs__load_u64be(header + 8) != id || write_slot(env, id, zeros, sizeof zeros);
}

/* --- the record --------------------------------------------------------------------------- */

int pgs__redo_make(pgs__env *env, MDB_txn *txn)
{
	MDB_val key = meta_key, value = {VALUE_SIZE, NULL};
	uint8_t mark[MARK_SIZE];
	memcpy(mark, name, NAME_SIZE);
	if (pgs__random_bytes(mark + NAME_SIZE, MARK_SIZE - NAME_SIZE))
		return EIO;
	int rc = mdb_put(txn, env->meta, &key, &value, MDB_RESERVE);
	if (rc)
		return rc;
	memset(value.mv_data, 0, VALUE_SIZE);
	memcpy(value.mv_data, mark, MARK_SIZE);
	return 0;
}

/* Its bytes, in LMDB's map; NULL in *out: there is none. The result is LMDB's. */
static int get_record(pgs__env *env, MDB_txn *txn, const uint8_t **out)
{
	MDB_val key = meta_key, value;
	*out = NULL;
	int rc = mdb_get(txn, env->meta, &key, &value);
	if (rc)
		return rc == MDB_NOTFOUND ? 0 : rc;
	if (value.mv_size == VALUE_SIZE && memcmp(value.mv_data, name, NAME_SIZE) == 0)
		*out = value.mv_data;
	return 0;
}

/* Where it is in the file. Where that cannot be told, commits are synced as LMDB does. */
static void find_place(pgs__env *env, MDB_txn *txn, const uint8_t *record)
{
	MDB_stat stat;
	uint8_t mark[MARK_SIZE];
	size_t page;
	int fd;
	memcpy(&page, record - PAGE_HEADER, sizeof page);
	if (mdb_stat(txn, env->meta, &stat) || mdb_env_get_fd(env->mdb, &fd) || page > SIZE_MAX / 2 / stat.ms_psize)
		return;
	uint64_t offset = (uint64_t)page * stat.ms_psize + PAGE_HEADER;
	if (pread(fd, mark, sizeof mark, (off_t)offset) == MARK_SIZE && memcmp(mark, record, MARK_SIZE) == 0)
		env->redo_offset = offset;
}

/* What slot `id` says transaction `id` put; empty: nothing. */
static pgs_slice puts_of(const uint8_t *record, size_t id)
{
	const uint8_t *slot = record + FIRST_SLOT + (id & 1) * SLOT;
	uint64_t size = pgs__load_u64be(slot + 16);
	if (pgs__load_u64be(slot + 8) != id || size <= SLOT_HEADER || size > SLOT ||
	    check_of(slot, (size_t)size) != pgs__load_u64be(slot))
		return (pgs_slice){NULL, 0};
	return (pgs_slice){slot + SLOT_HEADER, (size_t)size - SLOT_HEADER};
}

/* --- putting it again ------------------------------------------------------------------------ */

static int put_again(pgs__env *env, MDB_txn *txn, pgs_slice puts)
{
	pgs__reader r = pgs__reader_of(puts);
	int rc = 0;
	while (!rc && pgs__reader_left(&r)) {
		uint8_t table = pgs__read_u8(&r);
		pgs_slice key = pgs__read_slice(&r, (size_t)pgs__read_varint(&r));
		pgs_slice value = pgs__read_slice(&r, (size_t)pgs__read_varint(&r));
		MDB_val k = {key.size, (void *)(uintptr_t)key.data}, v = {value.size, (void *)(uintptr_t)value.data};
		if (r.failed || table > PGS__REDO_LOG)
			return MDB_CORRUPTED;
		rc = mdb_put(txn, table == PGS__REDO_LOG ? env->log : env->versions, &k, &v, 0);
	}
	return rc;
}

/* The next transaction, if the record has it. It is committed with the same record. */
static int redo_next(pgs__env *env, bool *done, pgs_error *err)
{
	MDB_txn *txn;
	const uint8_t *record;
	pgs__buffer copy = {0};
	int status = pgs__env_write_begin(env, PGS_SYNC_FULL, &txn, err);
	if (status)
		return status;
	int rc = get_record(env, txn, &record);
	pgs_slice puts = !rc && record ? puts_of(record, mdb_txn_id(txn)) : (pgs_slice){NULL, 0};
	*done = puts.size == 0;
	if (!rc && !*done) {
		pgs__buffer_extend(&copy, SLOT_HEADER);
		pgs__put_bytes(&copy, puts.data, puts.size);
		rc = copy.failed ? ENOMEM : put_again(env, txn, puts);
	}
	if (rc || *done)
		pgs__env_write_abort(env, txn);
	if (rc)
		status = pgs__env_error(env, rc, "cannot put again what a crash lost", err);
	else if (!*done)
		status = pgs__env_write_commit(env, txn, &copy, err);
	pgs__buffer_free(&copy);
	return status;
}

/* A store that was made before there were records gets one. */
static int make_record(pgs__env *env, pgs_error *err)
{
	MDB_txn *txn;
	const uint8_t *record;
	int status = pgs__env_write_begin(env, PGS_SYNC_FULL, &txn, err);
	if (status)
		return status;
	int rc = get_record(env, txn, &record);
	bool made = !rc && !record; /* another process may have come first */
	if (made)
		rc = pgs__redo_make(env, txn);
	if (made && !rc)
		return pgs__env_write_commit(env, txn, NULL, err);
	pgs__env_write_abort(env, txn);
	return rc ? pgs__env_error(env, rc, "cannot make the redo record", err) : PGS_OK;
}

static int settle(pgs__env *env, bool missing, pgs_error *err)
{
	bool done = false;
	int status = pgs__env_lock_writers(env, pgs__now_ms() + LOCK_WAIT_MS, err);
	if (status)
		return status;
	if (missing)
		status = make_record(env, err);
	while (!status && !done)
		status = redo_next(env, &done, err);
	pgs__env_unlock_writers(env);
	return status;
}

static int look(pgs__env *env, bool *missing, bool *pending, pgs_error *err)
{
	MDB_txn *txn;
	const uint8_t *record = NULL;
	*missing = *pending = false;
	int rc = mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &txn);
	if (!rc) {
		rc = get_record(env, txn, &record);
		*missing = !record;
		*pending = record && puts_of(record, mdb_txn_id(txn) + 1).size > 0;
		if (record)
			find_place(env, txn, record);
		mdb_txn_abort(txn);
	}
	return rc ? pgs__env_error(env, rc, "cannot read the redo record", err) : PGS_OK;
}

int pgs__redo_open(pgs__env *env, bool may_make, pgs_error *err)
{
	bool missing, pending;
	int status = look(env, &missing, &pending, err);
	if (status || env->read_only || !(pending || (missing && may_make)))
		return status;
	status = settle(env, missing, err);
	return status ? status : look(env, &missing, &pending, err);
}
