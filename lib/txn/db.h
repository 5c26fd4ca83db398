/* What a store and a database are, inside. */
#ifndef PGS_TXN_DB_H
#define PGS_TXN_DB_H

#include <pthread.h>
#include <stdatomic.h>

#include <pagestore/maintain.h>
#include <pagestore/store.h>

#include "codec/meta.h"
#include "content/contents.h"
#include "content/walk.h"
#include "txn/lease.h"
#include "txn/pressure.h"
#include "txn/room.h"
#include "txn/thresholds.h"
#include "txn/tip.h"
#include "txn/turn.h"

struct pgs_store {
	pgs__backend backend;
	uint32_t timeout_ms;
	bool read_only;
	uint32_t maintenance; /* PGS_MAINTENANCE_…, resolved */
	bool owns_kv;         /* its history may be compacted */
	bool limits_writers;  /* past the hard marks of pressure.h they are refused */
	pgs__room room;       /* in the KV: its own rule, always in force */
	/* Who does maintenance (lib/maintenance.c): called after a commit, and (urgent) when a writer is held up. NULL =
	 * nobody. Must be cheap when nothing is due. */
	void (*help)(pgs_db *db, bool urgent);
	struct pgs__keeper *keeper; /* the thread, if it was asked for */
	_Atomic bool helping; /* one thread is at automatic maintenance; others do not wait for it */
	uint32_t next_database; /* pgs_maintain_store(): with which it begins, so that bounded calls get to all */
	pgs__disk_cache *disk; /* the machine's cache file, or NULL */
	pgs_logger logger;
	void *logger_ctx;
	pthread_mutex_t lock; /* the list of open databases and their reference counts, and the list of sightings */
	pgs_db *databases;
	pgs__sightings *sightings;
};

/* One per open database of a store; handles are references to it. */
struct pgs_db {
	pgs_store *store;
	pgs_db *next;
	uint32_t references;
	char name[4 * PGS_DB_NAME_MAX + 1]; /* printable, for messages */
	uint8_t order;
	int64_t created_ms;
	uint64_t write_buffer_bytes, cache_bytes;
	size_t delta_max;            /* bytes a delta may have */
	pgs_maintain_options maintain; /* as given; zeros mean the defaults */
	pgs__contents contents;      /* prefix, secret, page size, cache, files */
	pthread_mutex_t packs_lock;   /* packs, folded */
	struct pgs__pack_view *packs; /* as last seen; NULL = never */
	struct {                      /* of the pack of that revision, pages below `page` are folded; a hint */
		uint64_t pack, page;
	} folded;
	pgs__tip tip;
	struct pgs__bringing *line;     /* commits that wait to bring the mirror along (catch_up.c) */
	struct pgs__newest *newest;     /* txn/newest.h */
	struct pgs__follower *follower; /* follow/follower.h; NULL: nobody follows */
	pgs__turn turn;
	_Atomic uint32_t quiet;      /* commits in a row, of this process, with nobody else's since their snapshots */
	_Atomic bool contended;      /* the last commit's first attempt failed */
	_Atomic uint64_t log_rest_ms; /* until then there is too much in the changelog to read it along (catch_up.c) */
	_Atomic uint64_t page_count, commits; /* as last seen: walks over keys begin by them */
	_Atomic uint64_t orphans_looked_ms; /* when all blobs were last listed for orphans; 0 = never */
	pgs__sightings *seen;        /* the store's */
	pgs__upkeep upkeep;
};

static inline const pgs__backend *pgs__db_backend(const pgs_db *db)
{
	return &db->store->backend;
}

static inline const uint8_t *pgs__db_prefix(const pgs_db *db)
{
	return db->contents.prefix;
}

/* How long a call may take. 0 = the store's timeout. */
uint32_t pgs__db_timeout(const pgs_db *db, uint32_t timeout_ms);

/* The absolute deadline of a call that starts now. */
uint64_t pgs__db_deadline(const pgs_db *db, uint32_t timeout_ms);

/* What walks over its keys begin by: note what was just read at the latest revision. */
pgs__key_space pgs__db_space(pgs_db *db);
void pgs__db_note_space(pgs_db *db, uint64_t page_count, uint64_t commits);

/* How much history this process wants kept. */
static inline uint64_t pgs__db_retention_ms(const pgs_db *db)
{
	if (db->maintain.retention_ms == PGS_RETENTION_NONE)
		return 0;
	return db->maintain.retention_ms ? db->maintain.retention_ms : PGS__RETENTION_DEFAULT_MS;
}

/* One line to the store's logger. */
void pgs__log(const pgs_store *store, int level, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
