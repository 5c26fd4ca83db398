/* New pages of a large transaction, compressed beside their writer: see early.c. */
#ifndef PGS_TXN_EARLY_H
#define PGS_TXN_EARLY_H

#include "txn/txn.h"

/* A page was written: begin to compress what has come together, if that is worth it. */
void pgs__early_note(pgs_txn *t);

/* Whether the write's page is being read by another thread: then it is not to be changed, or freed. */
bool pgs__early_is_busy(const pgs_txn *t, const pgs__write *w);

/* What was made of the page is not wanted. A page that is busy is given away: w->page is NULL then. */
void pgs__early_drop(pgs_txn *t, pgs__write *w);

/* Wait for it; from then on w->early has what was made, or has no frame. */
void pgs__early_finish(pgs_txn *t);

/* Free all; no write has w->early any more. */
void pgs__early_free(pgs_txn *t);

#endif
