/* Questions about the past that other layers ask. */
#ifndef PGS_TXN_HISTORY_H
#define PGS_TXN_HISTORY_H

#include "txn/db.h"

/* The revision of the last commit at or before Unix time `time_ms`, by the committers' clocks. Errors: ENOTFOUND (no
 * commit so early), the KV's, ECORRUPT, ENOMEM. */
int pgs__revision_at_time(pgs_db *db, int64_t time_ms, uint64_t deadline_ms, uint64_t *revision, pgs_error *err);

#endif
