/* What the sqlite_… benchmarks measure on: the same work on two databases of SQLite, one in a store on a directory (the
 * VFS of examples/sqlite), and one that is a file. Both have what SQLite has by default, and pages without copying:
 * pages of 4096 bytes, a cache of 2000 KiB, synchronous=FULL, mmap_size of 1 GiB (which the VFS sets itself). */
#ifndef PGS_BENCH_SQLITE_FIXTURE_H
#define PGS_BENCH_SQLITE_FIXTURE_H

#include <sqlite3.h>

#include "fixtures.h"

/* One side. */
typedef struct bench_sqlite {
	const bench_env *env;
	const char *journal_mode;   /* of the file; NULL: it is ours */
	const char *uri;            /* ours: NULL = a store on a directory */
	sqlite3 *db;
	sqlite3_stmt *statement;    /* of the benchmark, prepared once; finalized by bench_sqlite_close() */
	bench_random random;
	int64_t sum;                /* of what was read: the two sides' must agree */
} bench_sqlite;

/* Open the side's database, made if need be. */
void bench_sqlite_open(bench_sqlite *side);
void bench_sqlite_close(bench_sqlite *side);
/* Close it, and remove its files. */
void bench_sqlite_remove(bench_sqlite *side);

/* What a benchmark does with each side. */
typedef struct bench_sqlite_work {
	void (*set_up)(bench_sqlite *side);   /* it is open, and new */
	double (*round)(bench_sqlite *side);
} bench_sqlite_work;

/* Measure it on ours, and on a file with that journal_mode. */
void bench_sqlite_compare(const bench_env *env, const char *journal_mode, const bench_sqlite_work *work,
			  bench_result *out);

/* A million rows; a round selects some of them by key, each in a transaction of its own: nanoseconds of one. */
extern const bench_sqlite_work bench_sqlite_points;

/* SQL whose failure ends the program. */
void bench_sql(sqlite3 *db, const char *text);
sqlite3_stmt *bench_sql_prepare(sqlite3 *db, const char *text);
/* Run a prepared statement to its end, and reset it; returns the sum of its rows' numbers, and of its texts' sizes. */
int64_t bench_sql_run(sqlite3_stmt *statement);

#endif
