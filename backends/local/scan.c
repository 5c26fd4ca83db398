/* Walking the keys of a range as of one revision.
 *
 * In `versions` the newest of a key comes first, so the version visible at R is
 * the first one at or behind (key, R):
 *
 *     a@9 a@4 a@2 | b@7 b@5 | d@3          at 5: a@4, b@5, d@3
 *
 * After giving a key out, its older versions are stepped over, and when there
 * are many (a counter has thousands), jumped over. */
#include "scan.h"

#include <string.h>

#include "util/error.h"
#include "util/kv_check.h"

/* A seek costs about as much as this many steps. */
#define STEPS_MAX 4

void pgs__scan_start(pgs__scan *scan, MDB_cursor *cursor, pgs_slice key, pgs_slice range_end, uint64_t revision)
{
	scan->cursor = cursor;
	scan->key = key;
	scan->range_end = range_end;
	scan->revision = revision;
	scan->jump = true;
	scan->arrived = false;
	scan->last_size = 0;
	scan->rc = 0;
}

static int seek(pgs__scan *scan, pgs_slice key, uint64_t revision, MDB_val *k, MDB_val *v)
{
	uint8_t stored[PGS__LOCAL_STORED_KEY_MAX];
	*k = pgs__record_key(stored, key, revision);
	return mdb_cursor_get(scan->cursor, k, v, MDB_SET_RANGE);
}

static bool is_last(const pgs__scan *scan, const MDB_val *k)
{
	return scan->last_size && k->mv_size == scan->last_size + 8 && !memcmp(k->mv_data, scan->last, scan->last_size);
}

/* Go to the first stored version behind those of the key given last. */
static int leave_last(pgs__scan *scan, MDB_val *k, MDB_val *v)
{
	pgs_slice last = {scan->last, scan->last_size};
	if (scan->arrived) {
		scan->arrived = false;
		return mdb_cursor_get(scan->cursor, k, v, MDB_GET_CURRENT);
	}
	if (scan->jump) {
		scan->jump = false;
		return last.size ? seek(scan, last, 0, k, v) : seek(scan, scan->key, scan->revision, k, v);
	}
	for (int step = 0; step < STEPS_MAX; step++) {
		int rc = mdb_cursor_get(scan->cursor, k, v, MDB_NEXT);
		if (rc || !is_last(scan, k))
			return rc;
	}
	return seek(scan, last, 0, k, v);
}

static void remember(pgs__scan *scan, pgs_slice key)
{
	scan->last_size = key.size <= sizeof scan->last ? key.size : sizeof scan->last;
	memcpy(scan->last, key.data, scan->last_size);
}

/* On a stored version: give the one visible at the revision, if it is there and no delete. */
static int visible(pgs__scan *scan, MDB_val *k, MDB_val *v, pgs__record *out, bool *found, pgs_error *err)
{
	int status = pgs__record_decode(out, k, v, err);
	if (status)
		return status;
	remember(scan, out->key);
	if (out->mod_revision > scan->revision) {
		pgs_slice key = {scan->last, scan->last_size};
		scan->rc = seek(scan, key, scan->revision, k, v);
		if (scan->rc)
			return PGS_EIO;
		if (!is_last(scan, k)) {
			scan->arrived = true; /* the key did not exist yet, and this is the newest of the next one */
			return PGS_OK;
		}
		status = pgs__record_decode(out, k, v, err);
	}
	*found = !status && !out->deleted;
	return status;
}

int pgs__scan_next(pgs__scan *scan, pgs__record *out, bool *found, pgs_error *err)
{
	*found = false;
	while (!*found) {
		MDB_val k, v;
		/* A single key is looked at once. */
		if (scan->range_end.size == 0 && scan->last_size)
			return PGS_OK;
		scan->rc = leave_last(scan, &k, &v);
		int status = scan->rc ? PGS_EIO : PGS_OK;
		if (!status && k.mv_size > 8 &&
			!pgs__kv_in_range((pgs_slice){k.mv_data, k.mv_size - 8}, scan->key, scan->range_end))
			return PGS_OK;
		if (!status)
			status = visible(scan, &k, &v, out, found, err);
		if (status == PGS_EIO && scan->rc == MDB_NOTFOUND)
			return PGS_OK;
		if (status)
			return status;
	}
	return PGS_OK;
}
