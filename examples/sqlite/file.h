/* file.h: what the parts of the SQLite VFS share
 *
 *   vfs.c      the VFS: names, opening             file.c     a database file: reading, writing, controls
 *   stores.c   stores and databases by URL         locks.c    snapshots, and who may write
 *   journal.c  rollback journals without images    commit.c   one commit of the store per transaction
 *   header.c   page 1's counters, kept apart       pragma.c   what SQL can ask
 *   pages.c    sets of pages                       tables.c   and in which tables
 *   prefetch.c pages that will be read next        btree.c    … which the b-tree names
 *   errors.c   why something failed                super.c    transactions that change several databases
 *   held.c     pages that stay pinned              uri.c      what a URI's parameters say
 *   files.c    which files are open
 */
#ifndef SQ_FILE_H
#define SQ_FILE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <pagestore.h>

#include <sqlite3ext.h>
#ifndef SQLITE_CORE
extern const sqlite3_api_routines *sqlite3_api;
#endif

#define SQ_VFS_NAME "pagestore"

/* --- errors.c ------------------------------------------------------------------------------------- */

/* Tell SQLite's log why something fails, and keep it for the thread. */
void sq_tell(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *sq_last_error(void); /* what this thread was told last; "" = nothing */
/* Make pagestore_error() known to a connection. */
int sq_error_function_create(sqlite3 *db);

/* --- pages.c: sets of page numbers -------------------------------------------------------------- */

typedef struct sq_pages {
	uint64_t *words;
	uint64_t word_count;
} sq_pages;

int sq_pages_add(sq_pages *set, uint64_t page); /* SQLITE_OK or SQLITE_IOERR_NOMEM */
bool sq_pages_has(const sq_pages *set, uint64_t page);
void sq_pages_remove(sq_pages *set, uint64_t page);
uint64_t sq_pages_next(const sq_pages *set, uint64_t from); /* PGS_NO_PAGE: none */
void sq_pages_clear(sq_pages *set);
void sq_pages_free(sq_pages *set);

/* --- stores.c: shared by all connections of the process --------------------------------------------- */

/* A database of a store. It need not exist yet. */
typedef struct sq_database sq_database;
struct sq_database {
	struct sq_store *store;
	sq_database *next;
	char *name;
	_Atomic unsigned references;
	pthread_mutex_t lock; /* what follows */
	pgs_db *db;           /* NULL: not opened, there may be none */
	const void *writer;   /* the file that has the turn to write, of this process; NULL = none */
	pthread_cond_t turn;  /* it was given back */
};

/* The database `name` of the store at `url`, which is opened if need be. Errors: SQLite's codes; err says more. */
int sq_database_enter(sq_database **out, const char *url, const char *name, bool read_only, bool create,
		      pgs_error *err);
void sq_database_leave(sq_database *database);
bool sq_database_is_shared(sq_database *database); /* by other connections of this process */

/* The open database, opening it if it exists by now; NULL in *db if it does not. PGS_OK or an error. */
int sq_database_open(sq_database *database, pgs_db **db, pgs_error *err);

/* The same, making it if it does not exist. */
int sq_database_create(sq_database *database, uint32_t page_size, pgs_db **db, pgs_error *err);

/* The turn to write: taken by one file of the process at a time. False: another had it for all of `wait_ms`. */
bool sq_turn_take(sq_database *database, const void *file, unsigned wait_ms);
void sq_turn_give(sq_database *database, const void *file);

/* --- header.c: page 1's counters ------------------------------------------------------------------------ */

/* The bytes of page 1 that change although nothing a transaction relies on does: change counter, size and freelist at
 * [24, 40), version-valid-for and library version at [92, 100). They are kept apart from the rest of page 1, in page 0
 * of the store's database, and the counters are made up for each connection. */
enum { SQ_HEADER_SIZE = 100, SQ_KEPT_SIZE = 24 };

typedef struct sq_header {
	uint8_t kept[SQ_KEPT_SIZE]; /* those bytes, as SQLite sees them */
	uint32_t page_size;         /* SQLite's; 0 = an empty file */
} sq_header;

uint32_t sq_get4(const uint8_t *at);
void sq_put4(uint8_t *at, uint32_t value);

/* What page 0 says; false if it is not ours. */
bool sq_header_decode(sq_header *header, const uint8_t *page);
void sq_header_encode(const sq_header *header, uint8_t *page, size_t page_size);

/* The same allocation, whatever the counters. */
bool sq_header_same(const sq_header *a, const sq_header *b);

/* Set both counters, and the library's version. */
void sq_header_count(sq_header *header, uint32_t counter);
uint32_t sq_header_counter(const sq_header *header);
/* Both counters agree, or else the page count means nothing (SQLite before 3.7 did not maintain it). */
bool sq_header_is_valid(const sq_header *header);
int64_t sq_header_size(const sq_header *header);  /* the file's, in bytes */

/* Copy the kept bytes that lie in [offset, offset + size) of the file into `bytes`, or out of them. */
void sq_header_overlay(const sq_header *header, uint8_t *bytes, size_t size, int64_t offset);
void sq_header_learn(sq_header *header, const uint8_t *bytes, size_t size, int64_t offset);
/* Whether all of [offset, offset + size) is kept bytes. */
bool sq_header_covers(size_t size, int64_t offset);
/* A copy of a WAL database says that it is one, and could not be opened: say that it is none. True if it was. */
bool sq_header_leave_wal(uint8_t *page);
/* Zero the kept bytes in the store's page 1. */
void sq_header_strip(uint8_t *page);

/* --- prefetch.c: pages that will be read next -------------------------------------------------------------- */

typedef struct sq_prefetch sq_prefetch;
struct sq_file;

/* SQLite has read [offset, offset + size) of the file. Only where reads wait for a network (file->prefetches). */
void sq_prefetch_saw(struct sq_file *file, int64_t offset, const uint8_t *bytes, size_t size);

/* What was known of b-trees is of another revision. */
void sq_prefetch_forget(struct sq_file *file);
void sq_prefetch_free(struct sq_file *file);

typedef struct sq_prefetch_stat {
	uint64_t asked, unread; /* pages; of those asked for, not read since */
} sq_prefetch_stat;
sq_prefetch_stat sq_prefetch_stat_get(const struct sq_file *file);
void sq_prefetch_stat_reset(struct sq_file *file);

/* --- a database file ---------------------------------------------------------------------------------------- */

typedef enum sq_write_state {
	SQ_NOT_WRITING,
	SQ_WRITING,   /* RESERVED or more; `writer` may be NULL as long as there is no database */
	SQ_PREPARED,  /* all is written that the commit is to have, which others of the connection's have to join */
	SQ_FAILED,    /* the commit was refused: what is written until the lock is given up goes nowhere */
	SQ_COMMITTED  /* committed, and a reader of this connection is still at it */
} sq_write_state;

#define SQ_HELD 64

/* A page that is pinned by the reader, whether SQLite has it or not (held.c). */
typedef struct sq_held {
	uint64_t page;     /* that is held, or was asked for last */
	const void *bytes; /* NULL: it is not held */
	uint32_t uses;     /* how often SQLite has it */
	bool wanted;       /* it was asked for again */
} sq_held;

/* A page of the file is a page of the store's database of the same number, if both have the same size; page_size below
 * is the store's. Byte x of the file is in page x / page_size + 1.
 *
 *     lock         transactions
 *     NONE         none
 *     SHARED       reader; with the turn to write also writer, which has the store's writer lock
 *     RESERVED …   reader and writer, of one snapshot
 *     committed    reader; what the commit wrote is read by `after`
 */
typedef struct sq_file {
	sqlite3_file base; /* first */
	sq_database *database;
	sqlite3 **connection; /* told by SQLITE_FCNTL_PDB */
	struct sq_file *next; /* of all that are open */
	const char *name;     /* as SQLite knows it */
	bool read_only;
	int refused;          /* it could not be opened: the code that everything fails with (vfs.c); 0 = open */
	pgs_txn_options at;   /* how its transactions begin, to read: what past state they show, and their timeout */
	char *at_name;
	bool follows;         /* the process follows its database, */
	uint32_t fetch;       /* fetching PGS_FETCH_… */
	int (*busy)(void *);  /* SQLITE_FCNTL_BUSYHANDLER */
	void *busy_ctx;
	int64_t mmap_bytes;

	int lock;
	sq_write_state state;
	pgs_db *db;           /* NULL: there is none yet */
	uint32_t page_size;
	pgs_txn *reader;
	pgs_txn *resting;     /* without a lock: the last reader, to be renewed */
	sq_held held[SQ_HELD];
	pgs_txn *old_reader;  /* has pages that SQLite still holds (xFetch); while it is there, no more are handed out */
	pgs_txn *writer;
	pgs_txn *after;
	size_t fetched;       /* pages of the reader SQLite holds */
	bool has_turn;        /* from the start */
	bool ahead;           /* it is locked, though SQLite has not asked for that yet */
	char *super;          /* PREPARED: the super-journal that decides; NULL = there is none. With the next file */
	struct sq_file *next_waiting; /* that waits for one (super.c) */

	sq_header seen;       /* at the snapshot, with the counter this connection was told */
	sq_header now;        /* as SQLite wrote it last */
	bool header_written;
	int64_t size;         /* of the file, in bytes, as SQLite sees it */

	/* SQLite's cache holds pages of one revision. It is kept until it is told another counter. */
	uint32_t counter;
	uint64_t cache_revision;
	bool cache_stale;
	bool others;          /* commits of others were seen */
	sq_pages known;       /* pages read or written since then: what a commit relies on */
	sq_pages written;     /* by the open transaction, or, committed, by the last one */
	uint64_t committed;   /* its revision */
	bool merged;          /* others had committed since the snapshot */

	uint8_t *scratch;     /* a page */
	bool prefetch_off;    /* PRAGMA pagestore_prefetch */
	bool prefetches;      /* it is not, and reads may wait for a network */
	sq_prefetch *prefetch; /* NULL: nothing was learned yet */
	pgs_cost cost;        /* of all its transactions, since it was opened or set to zero */
	uint64_t conflicts;
	char conflict[PGS_ERROR_MESSAGE_SIZE + 64]; /* the last one's reason */
	pgs_error error;      /* of the last call that failed */
} sq_file;

extern const sqlite3_io_methods sq_file_methods;

/* An SQLite code for a failure of the library, whose details are in file->error; it is logged. `io` is the code if it
 * is the storage's (SQLITE_IOERR_…). */
int sq_fail(sq_file *file, int result, int io);

/* Remember that SQLite relies on a page. */
static inline int sq_rely(sq_file *file, uint64_t page)
{
	return sq_pages_add(&file->known, page);
}

/* Pages there are at `size` bytes, page 0 included; 0 for an empty file. */
static inline uint64_t sq_page_count(const sq_file *file, int64_t size)
{
	return size > 0 ? ((uint64_t)size + file->page_size - 1) / file->page_size + 1 : 0;
}

/* Bytes of the snapshot, before the transaction: what journals are about. */
int sq_read_seen(sq_file *file, uint8_t *bytes, size_t size, int64_t offset);

/* Begin to write to a file that has no database. */
int sq_create(sq_file *file, uint32_t page_size);

/* uri.c */

/* Take the parameters of a file's URI: NULL and the store's URL, to be freed with sqlite3_free(); or why they cannot be
 * meant. */
const char *sq_uri_take(sq_file *file, const char *name, char **url);

/* held.c */

/* A held page, used once more; NULL: it is not held. */
const void *sq_held_get(sq_file *file, uint64_t page);
/* The reader has just pinned it for SQLite: hold it from now on, if that is worth it. */
void sq_held_add(sq_file *file, uint64_t page, const void *bytes);
/* SQLite gives a page back. False: it is not held, so it is to be unpinned. */
bool sq_held_give(sq_file *file, uint64_t page, const void *bytes);
/* The pins end with their transaction. */
void sq_held_forget(sq_file *file);

/* The lock is given up: end the reader, or keep it for the next lock. */
void sq_reader_rest(sq_file *file);
/* A reader of the latest revision from what was kept; false: begin one. */
bool sq_reader_renew(sq_file *file);
/* End what was kept. */
void sq_reader_drop(sq_file *file);

/* files.c */
void sq_files_add(sq_file *file);
void sq_files_remove(sq_file *file);
void sq_files_connect(sq_file *file, sqlite3 **connection);
/* NULL: SQLite has not told yet. */
sqlite3 *sq_connection_of(const sq_file *file);
/* The files of a file's connection: the first one (after = NULL), or the one after another; NULL: no more. */
sq_file *sq_files_next(const sq_file *of, const sq_file *after);
/* The file of this VFS whose journal SQLite knows by this name, and at this address; NULL: there is none. */
const sq_file *sq_files_find_journal(const char *name);
/* Its place among the connection's schemas, -1 if it cannot be told. */
int sq_schema_of(const sq_file *file);
/* Whether the connection writes, or may be writing, to a file of another VFS, too. */
bool sq_writes_foreign_file(const sq_file *file);

/* locks.c */
int sq_lock(sqlite3_file *file, int level);
int sq_unlock(sqlite3_file *file, int level);
void sq_end(sq_file *file);
/* Whether a statement of the file's connection is at work whose text begins with `word`. */
bool sq_is_running(const sq_file *file, const char *word);
int sq_fork_writer(sq_file *file, pgs_txn **out);
/* Why something is refused: for PRAGMA pagestore_conflict, and the log. */
int sq_refuse(sq_file *file, int code, const char *why);

/* commit.c: SQLITE_FCNTL_SYNC, with the super-journal's name or NULL; what was prepared is committed now; the
 * transaction is given up, or has ended. */
int sq_commit(sq_file *file, const char *super);
int sq_publish(sq_file *file);
/* Take the turns of all that the transaction may change, in one order for all, or none. */
bool sq_turns_take(const sq_file *of);
void sq_discard(sq_file *file);

/* pragma.c: SQLITE_NOTFOUND if it is none of ours. */
int sq_pragma(sq_file *file, char **argument);

/* tables.c: make the tables known to a connection. */
int sq_tables_create(sqlite3 *db);

/* super.c: super-journals. Deleting one commits what waits for it. */
size_t sq_super_size(void);
int sq_super_open(sqlite3_file *file, const char *name);
bool sq_super_exists(const char *name);
int sq_super_delete(const char *name);
int sq_super_join(sq_file *file, const char *name); /* NULL: leave */

/* journal.c */
typedef struct sq_journal sq_journal;
size_t sq_journal_size(void);
void sq_journal_open(sqlite3_file *journal, sq_file *of);

#endif
