/* Maintenance that runs by itself: hooks of stores and databases (lib/maintenance.c). */
#ifndef PGS_MAINTENANCE_H
#define PGS_MAINTENANCE_H

#include <pagestore/store.h>

/* Begin as store->maintenance says. PGS_OK, PGS_ENOMEM (no thread could be started). */
int pgs__maintenance_start(pgs_store *store, pgs_error *err);

/* End it: the thread, if there is one, at its next step. */
void pgs__maintenance_stop(pgs_store *store);

/* A database was opened: the thread may have to look after it sooner than it meant to wake. */
void pgs__maintenance_opened(pgs_store *store);

#endif
