/* Pins: r/<uuid> keeps a revision readable.
 *
 *     absent ── put, comparing floor <= revision and that m exists ──→ held ── deleted by the holder ──→ absent
 *                                                                       └── deleted by the collector when its
 *                                                                           holder is dead (txn/lease.h)
 *
 * Whoever publishes a floor reads all of r/ at P, keeps the floor at or below every live pin, and compares that nothing
 * in r/ was put since P. So a pin that was put either is respected, or was put after the floor was published and
 * compared it. Renewing puts the key again; a pin that was broken meanwhile is put anew, comparing the floor again.
 *
 * What is pinned is a revision of the KV. For a snapshot that is kv_revision, not commit_revision: a commit's B and its
 * reads rely on the former, and the floor may lie between the two.
 */
#ifndef PGS_TXN_REVISION_PIN_H
#define PGS_TXN_REVISION_PIN_H

#include "txn/db.h"

typedef struct pgs__pin {
	pgs_db *db;
	bool sent;          /* its key may be there */
	uint8_t uuid[16];
	uint8_t owner[16];
	uint64_t revision;  /* of the KV */
	uint64_t lease_ms;
	uint64_t held;      /* create revision of the key; 0 = not held */
} pgs__pin;

/* r/<uuid>, once it was sent. */
pgs__key pgs__pin_key(const pgs__pin *pin);

/* Put a pin of `revision`. Errors: EOLDREV (the floor has passed it), ENOTFOUND (dropped), EUNKNOWN, the KV's. After an
 * error it may still be there, or come yet: release it. */
int pgs__pin_take(pgs__pin *pin, pgs_db *db, uint64_t revision, uint64_t lease_ms, uint64_t deadline_ms,
		  pgs_error *err);

/* Put it again, anew if it was broken. Errors: as above; after EOLDREV it is not held any more. */
int pgs__pin_renew(pgs__pin *pin, uint64_t deadline_ms, pgs_error *err);

/* Delete it, if it was ever sent; what cannot be deleted ends with its lease. */
void pgs__pin_release(pgs__pin *pin, uint64_t deadline_ms);

/* --- transactions that outlive half the retention ---------------------------------------- */

/* When a transaction pins its revision, or renews the pin; and the pin. */
typedef struct pgs__keeper {
	uint64_t due_ms; /* monotonic; UINT64_MAX = never */
	pgs__pin *pin;   /* NULL: it has not been due */
} pgs__keeper;

/* A transaction begins now: with half the retention, but at least a second, to go. */
void pgs__keeper_init(pgs__keeper *keeper, const pgs_db *db, uint64_t now_ms);

/* Give the pin back. */
void pgs__keeper_release(pgs__keeper *keeper, uint64_t deadline_ms);

/* It is due. Failing is no error here: whether the revision is readable the next read or the commit tells. */
void pgs__keeper_pin(pgs__keeper *keeper, pgs_db *db, uint64_t revision, uint64_t deadline_ms);

#endif
