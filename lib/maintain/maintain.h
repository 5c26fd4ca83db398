/* One call of maintenance on one database: what pgs_maintain() and what runs by itself share. */
#ifndef PGS_MAINTAIN_MAINTAIN_H
#define PGS_MAINTAIN_MAINTAIN_H

#include <pagestore/maintain.h>

/* pgs_maintain(); with `compact` false the KV is left as it is: the caller does that once for several databases. */
int pgs__maintain_db(pgs_db *db, const pgs_maintain_options *options, bool compact, pgs_maintain_report *report,
		     pgs_error *err);

/* Compact the KV, when the store owns it and there is something to forget; `db` is any of its databases. */
int pgs__maintain_compact(pgs_db *db, const pgs_maintain_options *options, pgs_maintain_report *report,
			  pgs_error *err);

/* Check what a caller gave, and begin its report. PGS_OK, PGS_EINVAL, PGS_EREADONLY. */
int pgs__maintain_check(const pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
			pgs_error *err);

/* Add one report to another, as pgs_maintain_store() does. */
void pgs__maintain_add(pgs_maintain_report *sum, const pgs_maintain_report *part);

/* Whether a call did something that readers or a later call could notice, the floor aside. */
bool pgs__maintain_did(const pgs_maintain_report *report);

#endif
