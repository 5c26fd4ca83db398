/* What dropped databases leave behind, and blobs of databases that never came to be. Of a store, not of a database. */
#ifndef PGS_MAINTAIN_DROPPED_H
#define PGS_MAINTAIN_DROPPED_H

#include "txn/db.h"

/* The key D/<prefix>: a database that was dropped, and is to be swept. */
pgs__key pgs__dropped_key(const uint8_t *prefix);

/* The key N/<prefix>: a database is about to be created there (lib/db.c). */
pgs__key pgs__announced_key(const uint8_t *prefix);

/* Remove the keys and blobs of a dropped database, and then its D/ key. It can be stopped anywhere, and begun again, also
 * by several processes at once. `known`: how large it was, if that is known, else NULL. Stops at `end_ms` (0 = never);
 * *done: all is gone. Errors: the backends', ENOMEM. */
int pgs__sweep_database(pgs_store *store, const uint8_t *prefix, const pgs__key_space *known, uint64_t end_ms,
			pgs_maintain_report *report, bool *done, pgs_error *err);

/* The same for every D/ key there is, within options->budget_ms; and forget announcements, whose creation died, or takes
 * another prefix. Errors: as above; the first, and the others are still
 * swept. */
int pgs__sweep_dropped(pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
		       pgs_error *err);

/* Remove the blobs of folders that belong to no database: put after their database was dropped and swept, by a writer
 * that did not know. Errors: as above. */
int pgs__sweep_stray_blobs(pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
			   pgs_error *err);

#endif
