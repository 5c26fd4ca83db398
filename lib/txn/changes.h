/* Reading the changelog between two revisions. */
#ifndef PGS_TXN_CHANGES_H
#define PGS_TXN_CHANGES_H

#include "codec/changelog.h"
#include "txn/db.h"

/* Called per commit in revision order; `runs` are its page runs, wherever they were kept. All borrowed for the call.
 * Returns 0 to go on; anything else ends the reading with it. */
typedef int (*pgs__change_visitor)(void *ctx, uint64_t revision, const pgs__change *change, pgs_slice runs);

/* Visit the commits with after < revision <= through, where `through` is a commit's revision. Errors: EOLDREV (history
 * gone), the KV's and blob store's, ETIMEOUT, ECORRUPT, EVERSION, ENOMEM, the visitor's. */
int pgs__changes_read(pgs_db *db, uint64_t after, uint64_t through, uint64_t deadline_ms, pgs__change_visitor visit,
		      void *ctx, pgs_error *err);

/* Decode an entry, and fetch its runs if they are in a blob: *file (to be freed with pgs__free()) then holds them. */
int pgs__change_open(pgs_db *db, pgs_slice value, uint64_t deadline_ms, pgs__change *change, pgs_slice *runs,
		     uint8_t **file, pgs_error *err);

/* The same for an entry that a watch delivered, perhaps long after it was put: PGS_EOLDREV if it has been collected since,
 * and its file with it. */
int pgs__change_open_watched(pgs_db *db, const pgs_kv_pair *pair, uint64_t deadline_ms, pgs__change *change,
			     pgs_slice *runs, uint8_t **file, pgs_error *err);

#endif
