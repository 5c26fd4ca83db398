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
#include "content/filters.h"
#include "content/slices.h"
#include "util/task.h"

typedef struct pgs__file {
	_Atomic uint32_t references;
	uint64_t registered; /* mod revision of its l/ key */
	pgs__level_key key;
	char blob_name[PGS__BLOB_NAME_SIZE];
	pgs__level_value index; /* borrows from `value` */
	uint8_t *value;
	pgs__filters *filters;   /* of the levels it belongs to */
	pgs__filter_slot filter;
	pgs__slices *slices;     /* of the levels too, */
	uint64_t slices_key;     /* and what the file is called there */
} pgs__file;

/* Searched level by level. Files of level 0, whose ranges overlap, come newest first; those of other levels, whose
 * ranges usually do not (they may, while a merge goes on), by their first id. */
typedef struct pgs__file_map {
	_Atomic uint32_t references;
	uint64_t generation; /* another one for every map of other files */
	uint64_t listed;     /* the revision at which the l/ keys were listed */
	size_t count;
	pgs__file **files;
	uint32_t *furthest; /* furthest[i]: that of the files of i's level up to i whose last id is the greatest */
} pgs__file_map;

/* The first reading of the list, beside whoever opened the database. */
typedef struct pgs__levels_opening {
	_Atomic bool running;
	pthread_mutex_t lock;
	pgs__task task;
	struct pgs__levels *levels;
	const pgs__backend *backend;
	const uint8_t *prefix;
	uint64_t deadline_ms;
} pgs__levels_opening;

typedef struct pgs__levels {
	pgs__levels_opening opening;
	pthread_mutex_t lock;
	pgs__file_map *map; /* never NULL once initialised */
	pgs__filters filters;
	pgs__slices slices;
} pgs__levels;

/* PGS_OK or PGS_ENOMEM. */
int pgs__levels_init(pgs__levels *levels);
void pgs__levels_free(pgs__levels *levels);

/* Read the list for the first time, beside the caller, if there can be a thread: the first content that is looked for
 * needs it. `backend` and `prefix` stay until pgs__levels_free(). Once. That it fails is left to a later refresh. */
void pgs__levels_open(pgs__levels *levels, const pgs__backend *backend, const uint8_t *prefix, uint64_t deadline_ms);

/* Wait for that; mostly there is nothing to wait for. */
void pgs__levels_wait_slow(pgs__levels *levels);
static inline void pgs__levels_wait(pgs__levels *levels)
{
	if (atomic_load_explicit(&levels->opening.running, memory_order_acquire))
		pgs__levels_wait_slow(levels);
}

/* The current map, to be released. */
pgs__file_map *pgs__levels_map(pgs__levels *levels);
void pgs__file_map_release(pgs__file_map *map);

static inline const pgs__page_id *pgs__file_map_furthest(const pgs__file_map *map, size_t at)
{
	return &map->files[map->furthest[at]]->key.last;
}

/* Where the level that begins at file `first` ends: the first file of another level, or the count. */
size_t pgs__file_map_level_end(const pgs__file_map *map, size_t first);

/* Of the files [first, end) of one level other than 0: past the last one whose first id is at most `id`. */
size_t pgs__file_map_up_to(const pgs__file_map *map, size_t first, size_t end, const pgs__page_id *id);

/* Read the l/ keys, all as of one revision, and the values not known yet. The map stays the same one when the files
 * did. Errors: the KV's, ENOMEM; ECORRUPT, EVERSION: of a file's value, and
 * then the map has all others. */
int pgs__levels_refresh(pgs__levels *levels, const pgs__backend *backend, const uint8_t *prefix, uint64_t deadline_ms,
			pgs_error *err);

static inline pgs__file *pgs__file_retain(pgs__file *file)
{
	atomic_fetch_add(&file->references, 1);
	return file;
}
void pgs__file_release(pgs__file *file); /* NULL is allowed */

/* What one revision did to an l/ key, as a watch tells it. */
typedef struct pgs__level_change {
	pgs_slice key, value;
	bool deleted;
} pgs__level_change;

/* Apply them; best effort, as the map may be behind. Files that came are given to `added`. */
typedef void (*pgs__file_visitor)(void *ctx, pgs__file *file);
void pgs__levels_follow(pgs__levels *levels, const uint8_t *prefix, const pgs__level_change *changes, size_t count,
			uint64_t revision, pgs__file_visitor added, void *ctx);

/* Add files this process has just registered; best effort, as a refresh finds them too. */
typedef struct pgs__registration {
	pgs_slice key;
	pgs_slice value;
} pgs__registration;
void pgs__levels_add(pgs__levels *levels, const uint8_t *prefix, const pgs__registration *files, size_t count,
		     uint64_t revision);

#endif
