/* The registered sorted files of a database, as last read from the KV.
 *
 * A map of them is immutable and shared by reference; a new one replaces it when files were registered or went. It
 * may be behind: contents never move without being somewhere else first, so a reader that finds nothing refreshes
 * and looks again (invariant 2).
 */
#ifndef PGS_CONTENT_LEVELS_H
#define PGS_CONTENT_LEVELS_H

#include <pthread.h>
#include <stdatomic.h>

#include "codec/seal.h"
#include "codec/sorted_file.h"
#include "content/backend.h"

typedef struct pgs__file {
	_Atomic uint32_t references;
	uint64_t registered; /* mod revision of its l/ key */
	pgs__level_key key;
	char blob_name[PGS__BLOB_NAME_SIZE];
	pgs__level_value index; /* borrows from `value` */
	uint8_t *value;
} pgs__file;

/* Searched in this order: level by level, in each the newest first. */
typedef struct pgs__file_map {
	_Atomic uint32_t references;
	size_t count;
	pgs__file *files[];
} pgs__file_map;

typedef struct pgs__levels {
	pthread_mutex_t lock;
	pgs__file_map *map; /* never NULL once initialised */
} pgs__levels;

/* PGS_OK or PGS_ENOMEM. */
int pgs__levels_init(pgs__levels *levels);
void pgs__levels_free(pgs__levels *levels);

/* The current map, to be released. */
pgs__file_map *pgs__levels_map(pgs__levels *levels);
void pgs__file_map_release(pgs__file_map *map);

/* Read the l/ keys and the values not known yet. Errors: the KV's, ENOMEM; ECORRUPT, EVERSION: of a file's value, and
 * then the map has all others. */
int pgs__levels_refresh(pgs__levels *levels, const pgs__backend *backend, const uint8_t *prefix, uint64_t deadline_ms,
			pgs_error *err);

/* Add files this process has just registered; best effort, as a refresh finds them too. */
typedef struct pgs__registration {
	pgs_slice key;
	pgs_slice value;
} pgs__registration;
void pgs__levels_add(pgs__levels *levels, const uint8_t *prefix, const pgs__registration *files, size_t count,
		     uint64_t revision);

#endif
