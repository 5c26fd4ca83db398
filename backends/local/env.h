/* The LMDB environment under a local KV: opened once per process, shared by
 * every handle on it, and the only place that knows LMDB's rules:
 *
 *  L1 An environment is never open twice in a process, and nobody else opens
 *     or closes its files: closing any descriptor of them would drop LMDB's
 *     fcntl() locks. (Hence the registry, keyed by data.mdb's device and inode.)
 *  L2 An environment is used only by the process that opened it.
 *  L3 The map is resized only while no LMDB transaction of this process runs:
 *     a transaction holds `map_lock` shared, a resize holds it exclusively.
 */
#ifndef PGS_LOCAL_ENV_H
#define PGS_LOCAL_ENV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <lmdb.h>
#include <pagestore/backends.h>

#include "util/cursor.h"

typedef struct pgs__env {
	struct pgs__env *next; /* in the registry, whose lock guards it and `users` */
	unsigned users;
	dev_t device;
	ino_t inode;
	unsigned forks; /* of this process, when it was opened */
	bool read_only; /* LMDB itself was opened read-only */
	char *path;

	MDB_env *mdb;
	MDB_dbi versions;
	MDB_dbi log;
	MDB_dbi meta;
	unsigned sync_flags; /* LMDB's; changed by whoever has the write transaction */
	uint8_t identity[16];
	uint64_t redo_offset; /* of the redo record in the data file (redo.c); 0 = none, commits are synced twice */
	pthread_rwlock_t map_lock;

	_Atomic uint64_t seen; /* the last transaction of LMDB's that a read transaction was seen to begin after */

	/* Read transactions, reset, ready to be renewed: each keeps a reader slot. */
	pthread_mutex_t pool_lock;
	struct pgs__view *pool;
	unsigned pool_size;

	/* Writers of this process queue up here (commit.c); `turn` tells that a
	 * batch is done. */
	pthread_mutex_t queue_lock;
	pthread_cond_t turn;
	struct pgs__batch *queue_first;
	struct pgs__batch **queue_last;
	bool writing;
	int writer_fd; /* writer.lock: writers of other processes; -1 when read-only */

	/* Watches of this process sleep here until `commits` moves. */
	pthread_mutex_t wake_lock;
	pthread_cond_t wake;
	uint64_t commits;
} pgs__env;

/* A read transaction and its cursors. */
typedef struct pgs__view {
	struct pgs__view *next;
	MDB_txn *txn;
	MDB_cursor *versions;
	MDB_cursor *log;
} pgs__view;

/* Open, or take another reference to, the environment in directory `path`.
 * Errors: as pgs_kv_local_open(). */
int pgs__env_open(pgs__env **out, const char *path, const pgs_local_options *options, pgs_error *err);
void pgs__env_release(pgs__env *env);

/* PGS_EINVAL in a process forked from the one that opened `env` (L2). */
int pgs__env_check(const pgs__env *env, pgs_error *err);

/* How often this process was forked from another since the first environment was opened. No system call. */
unsigned pgs__env_forks(void);

/* Begin and end a read transaction. */
int pgs__env_view_begin(pgs__env *env, pgs__view **out, pgs_error *err);
void pgs__env_view_end(pgs__env *env, pgs__view *view);

/* The last transaction of LMDB's that a read transaction which begins now would see; 0 = not known. No system call. */
uint64_t pgs__env_last_visible(pgs__env *env);

/* Begin a write transaction. End it with commit or abort, in the same thread.
 * `puts` is all that it puts, to be synced once (redo.c); NULL: it is synced as
 * LMDB does. A failed commit says PGS_EUNKNOWN only when the disk may have it. */
int pgs__env_write_begin(pgs__env *env, pgs_sync sync, MDB_txn **out, pgs_error *err);
int pgs__env_write_commit(pgs__env *env, MDB_txn *txn, pgs__buffer *puts, pgs_error *err);
void pgs__env_write_abort(pgs__env *env, MDB_txn *txn);

/* Keep out the writers of other processes, waiting until the deadline. LMDB
 * has a lock of its own for that, but one that cannot be waited for with a
 * limit: a stopped process that holds it would stop everyone for good. */
int pgs__env_lock_writers(pgs__env *env, uint64_t deadline_ms, pgs_error *err);
void pgs__env_unlock_writers(pgs__env *env);

/* Wake this process's watches. */
void pgs__env_announce(pgs__env *env);

/* Make the data file as long as its last commit says: see env_open.c. The
 * caller keeps writers out. */
int pgs__env_extend(pgs__env *env, pgs_error *err);

/* The PGS_E… of LMDB result `rc`, with a message that says what was tried. */
int pgs__env_error(const pgs__env *env, int rc, const char *what, pgs_error *err);
int pgs__env_error_at(const char *path, size_t map_bytes, int rc, const char *what, pgs_error *err);

/* The opening half of the module, used by the registry alone. */
int pgs__env_create(pgs__env **out, const char *path, const pgs_local_options *options, pgs_error *err);
void pgs__env_destroy(pgs__env *env);

#endif
