/* Leases: what the holder of a lock, a claim or a pin says of itself, and when others may take it for dead.
 *
 * A holder is dead when its process was one of this machine and is gone, or when an observer has seen its key at the
 * same mod revision for as long as its lease, by the observer's own monotonic clock: clocks of two machines are never
 * compared, nor times of one clock before and after a restart. Judging wrongly costs a holder its turn, and nothing
 * else: what it does afterwards fails its compare (invariants 7 and 9).
 */
#ifndef PGS_TXN_LEASE_H
#define PGS_TXN_LEASE_H

#include <pthread.h>

#include <pagestore/error.h>
#include <pagestore/sys/kv.h>

#include "codec/keys.h"
#include "codec/meta.h"
#include "util/map.h"

/* What a holder puts into the KV: this process, a random owner. PGS_OK or PGS_EIO. */
int pgs__lease_self(pgs__lock *out, uint64_t lease_ms, pgs_error *err);

/* Whether the holder is of another machine, or of none that is known: only its lease tells when it is dead. */
bool pgs__lease_is_elsewhere(const pgs__lock *holder);

/* Whether the holder's process is certainly gone. */
bool pgs__lease_is_gone(const pgs__lock *holder);

/* Since when this process has seen which mod revisions. As a key has a mod revision only once, its number alone is
 * enough to go by. */
typedef struct pgs__observed {
	pthread_mutex_t lock;
	pgs__map since; /* mod revision → monotonic ms */
} pgs__observed;

void pgs__observed_init(pgs__observed *observed);
void pgs__observed_free(pgs__observed *observed);

/* What was seen of one database. Store handles keep it past the database handle, so that maintenance that opens a
 * database again and again learns who is dead. */
typedef struct pgs__sightings {
	struct pgs__sightings *next;
	uint8_t prefix[PGS__PREFIX_SIZE];
	uint32_t references;
	uint64_t left_ms; /* without references: since when */
	pgs__observed claims, pins, writers;
} pgs__sightings;

/* Those of a database, from a list or new; NULL when out of memory. With the list's lock held, as leaving. */
pgs__sightings *pgs__sightings_enter(pgs__sightings **list, const uint8_t *prefix);

/* Give a reference back. What has seen something stays in the list for a day. */
void pgs__sightings_leave(pgs__sightings **list, pgs__sightings *sightings);

/* Free the list, to which there are no references. */
void pgs__sightings_free(pgs__sightings **list);

/* One key of a kind, as read now. */
typedef struct pgs__lease {
	pgs__key key;
	uint64_t create_revision, mod_revision;
	pgs__lock holder;
	bool dead;          /* out */
	uint64_t dead_at_ms; /* out: from when on it is, unless the key changes; 0 = not known */
} pgs__lease;

/* Judge all keys of a kind, as read by a request sent at `asked_ms`; what was seen of others is forgotten. Out of
 * memory, a holder not seen before is alive. */
void pgs__observed_judge(pgs__observed *observed, pgs__lease *const *leases, size_t count, uint64_t asked_ms);

#endif
