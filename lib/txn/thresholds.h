/* The thresholds of maintenance: what was given, filled up with the database's own and the defaults. */
#ifndef PGS_TXN_THRESHOLDS_H
#define PGS_TXN_THRESHOLDS_H

#include <pagestore/maintain.h>

#define PGS__RETENTION_DEFAULT_MS 3600000
#define PGS__FILE_BYTES_MAX (256ull << 20)

/* PGS_OK, or PGS_EINVAL saying which is out of its bounds. Zeros are in bounds: they mean the default. */
int pgs__thresholds_check(const pgs_maintain_options *o, pgs_error *err);

/* `given` (NULL = nothing) with its zeros taken from `own`, then from the defaults. Bounds of a call (memory, budgets,
 * progress) come from `given` alone; the default for memory is filled in. */
pgs_maintain_options pgs__thresholds_resolve(const pgs_maintain_options *given, const pgs_maintain_options *own);

#endif
