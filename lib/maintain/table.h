/* Walking the table of a registered sorted file, wherever it is. */
#ifndef PGS_MAINTAIN_TABLE_H
#define PGS_MAINTAIN_TABLE_H

#include "content/levels.h"
#include "maintain/worker.h"

/* How long a call that starts now may take, in milliseconds. */
uint32_t pgs__worker_timeout_ms(const pgs__worker *w);

/* Called per row, rising; a birth of 0 comes as the file's registration. Return 0 to go on. */
typedef int (*pgs__table_visitor)(void *ctx, const pgs__sorted_entry *entry);

/* Errors: the visitor's, ENOTFOUND (the file has gone), ECORRUPT, the blob store's, ENOMEM. */
int pgs__table_visit(pgs__worker *w, const pgs__file *file, pgs__table_visitor visit, void *ctx);

#endif
