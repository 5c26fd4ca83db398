/* A mix of what SQLite is used for, after its own speedtest1: inserts in and out of order, indexes, joins, LIKE, keys
 * that are numbers and texts, REPLACE, ranges deleted, large transactions, random point queries, VACUUM.
 *
 * A step is one statement, run so many times with the parameters it names: :i counts from 1, :r is the same numbers in
 * random order, :text is :r in words, :low and :high are a range of random numbers, a hundredth of all. */
#include "sqlite_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct speedtest_step {
	const char *name;
	unsigned share;     /* runs are a so-manieth of the rows; 0: one run */
	bool alone;         /* each run is a transaction of its own */
	const char *before; /* SQL that is part of it; may be NULL */
	const char *sql;
} speedtest_step;

/* Tables: a has no index, b a key in order, c indexes, d keys that are texts, e is filled from others. */
static const speedtest_step steps[] = {
	{"insert, no index", 1, false, "CREATE TABLE a(i INTEGER, r INTEGER, t TEXT)",
	 "INSERT INTO a VALUES(:i, :r, :text)"},
	{"insert, by key", 1, false, "CREATE TABLE b(i INTEGER PRIMARY KEY, r INTEGER, t TEXT)",
	 "INSERT INTO b VALUES(:i, :r, :text)"},
	{"insert, random key", 1, false, "CREATE TABLE c(i INTEGER PRIMARY KEY, r INTEGER, t TEXT)",
	 "INSERT INTO c VALUES(:r, :i, :text)"},
	{"range, no index", 2000, false, NULL, "SELECT count(*), sum(r), sum(length(t)) FROM a WHERE r BETWEEN :low AND :high"},
	{"LIKE, no index", 5000, false, NULL, "SELECT count(*), sum(r) FROM a WHERE t LIKE '%six%' || (:i % 10) || '%'"},
	{"ORDER BY", 5000, false, NULL, "SELECT r, t FROM a WHERE t LIKE '%five%' ORDER BY t"},
	{"ORDER BY LIMIT", 5000, false, NULL, "SELECT r, t FROM a ORDER BY t, r LIMIT 10 OFFSET :i"},
	{"create indexes", 0, false, "CREATE INDEX a_i ON a(i); CREATE INDEX b_r ON b(r); CREATE INDEX b_t ON b(t);"
	 "CREATE INDEX c_t ON c(t, r)", "CREATE UNIQUE INDEX a_r ON a(r)"},
	{"range, index", 5, false, NULL, "SELECT count(*), sum(i), sum(length(t)) FROM b WHERE r BETWEEN :low AND :low + 50"},
	{"range, key", 5, false, NULL, "SELECT count(*), sum(r), sum(length(t)) FROM c WHERE i BETWEEN :low AND :low + 50"},
	{"range, text index", 5, false, NULL, "SELECT count(*), sum(i) FROM b WHERE t BETWEEN :text AND :text || 'z'"},
	{"insert, 3 indexes", 1, false, "CREATE TABLE d(t TEXT PRIMARY KEY, i INTEGER UNIQUE, r INTEGER);"
	 "CREATE INDEX d_r ON d(r, i)", "INSERT INTO d VALUES(:text, :i, :r)"},
	{"delete all, fill", 0, false, "CREATE TABLE e(i INTEGER PRIMARY KEY, r INTEGER, t TEXT);"
	 "INSERT INTO e SELECT * FROM c; DELETE FROM c", "INSERT INTO c SELECT * FROM e"},
	{"VACUUM", 0, true, NULL, "VACUUM"},
	{"add a column", 0, false, "ALTER TABLE b ADD COLUMN more DEFAULT 123", "SELECT sum(more) FROM b"},
	{"update ranges", 100, false, NULL, "UPDATE b SET more = more + 1 WHERE r BETWEEN :low AND :high"},
	{"update rows", 1, false, NULL, "UPDATE b SET more = more + :i WHERE i = :r"},
	{"update indexed", 1, false, NULL, "UPDATE d SET r = r + 100000000 WHERE i = :r"},
	{"update all", 0, false, NULL, "UPDATE b SET more = more * 2, t = t || ' more'"},
	{"delete ranges", 100, false, NULL, "DELETE FROM b WHERE r BETWEEN :low AND :low + 50"},
	{"delete rows", 2, false, NULL, "DELETE FROM e WHERE i = :r"},
	{"REPLACE from a table", 0, false, "REPLACE INTO b(i, r, t) SELECT i, r, t FROM c",
	 "REPLACE INTO e SELECT i, r, t FROM b WHERE i % 2"},
	{"four-way join", 5, false, NULL, "SELECT a.t, b.r, c.t, d.r FROM a, b, c, d WHERE a.r = :r AND b.i = a.i AND "
	 "c.i = b.r AND d.i = c.r"},
	{"subquery in results", 100, false, NULL, "SELECT i, (SELECT count(*) FROM b WHERE b.r BETWEEN c.i AND c.i + 9) FROM c "
	 "WHERE i BETWEEN :low AND :low + 20"},
	{"REPLACE, number key", 1, false, "CREATE TABLE f(i INTEGER PRIMARY KEY, t TEXT)", "REPLACE INTO f VALUES(:r % 40000, :text)"},
	{"REPLACE, text key", 1, false, "CREATE TABLE g(t TEXT PRIMARY KEY, i INTEGER) WITHOUT ROWID",
	 "REPLACE INTO g VALUES(:text, :i)"},
	{"point, number key", 1, true, NULL, "SELECT t FROM f WHERE i = :r"},
	{"point, text key", 1, true, NULL, "SELECT i FROM g WHERE t = :text"},
	{"DISTINCT", 0, false, NULL, "SELECT count(*) FROM (SELECT DISTINCT substr(t, 1, 12) FROM d)"},
	{"integrity_check", 0, true, NULL, "PRAGMA integrity_check"},
	{"ANALYZE", 0, true, NULL, "ANALYZE"},
	{"VACUUM at the end", 0, true, NULL, "VACUUM"},
};
#define STEPS (sizeof steps / sizeof *steps)
#define ROUNDS_MAX 101 /* with the one that warms up */

typedef struct speedtest_side {
	bench_sqlite on;
	double times[STEPS][ROUNDS_MAX];
	unsigned round;
} speedtest_side;

typedef struct speedtest {
	uint32_t rows;
	uint32_t *order;
	speedtest_side ours, native;
} speedtest;

/* --- a step --------------------------------------------------------------------------------- */

/* A number in words: what it was is read off again. */
static int words_of(uint32_t number, char *out, size_t size)
{
	static const char *const digits[] = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"};
	char figures[16];
	int used = 0;
	snprintf(figures, sizeof figures, "%u", number);
	for (const char *f = figures; *f; f++)
		used += snprintf(out + used, size - (size_t)used, "%s%s", f == figures ? "" : " ", digits[*f - '0']);
	return used + snprintf(out + used, size - (size_t)used, " %u", number);
}

static void bind_number(sqlite3_stmt *s, const char *name, uint32_t value)
{
	int index = sqlite3_bind_parameter_index(s, name);
	if (index)
		sqlite3_bind_int64(s, index, value);
}

static void bind(const speedtest *t, sqlite3_stmt *s, uint32_t run)
{
	char text[128];
	uint32_t random = t->order[run] + 1;
	int index = sqlite3_bind_parameter_index(s, ":text");
	bind_number(s, ":i", run + 1);
	bind_number(s, ":r", random);
	bind_number(s, ":low", random);
	bind_number(s, ":high", random + t->rows / 100);
	if (index)
		sqlite3_bind_text(s, index, text, words_of(random, text, sizeof text), SQLITE_TRANSIENT);
}

static double run_step(const speedtest *t, bench_sqlite *on, const speedtest_step *step)
{
	uint32_t runs = step->share ? t->rows / step->share : 1;
	double since = bench_seconds();
	if (!step->alone)
		bench_sql(on->db, "BEGIN");
	if (step->before)
		bench_sql(on->db, step->before);
	sqlite3_stmt *s = bench_sql_prepare(on->db, step->sql);
	for (uint32_t i = 0; i < runs; i++) {
		bind(t, s, i);
		on->sum += bench_sql_run(s);
	}
	sqlite3_finalize(s);
	if (!step->alone)
		bench_sql(on->db, "COMMIT");
	return bench_seconds() - since;
}

/* --- all of them ------------------------------------------------------------------------------ */

static double run_all(const speedtest *t, speedtest_side *side)
{
	double total = 0;
	bench_sqlite_open(&side->on);
	for (size_t i = 0; i < STEPS; i++)
		total += side->times[i][side->round] = run_step(t, &side->on, &steps[i]);
	side->round++;
	bench_sqlite_remove(&side->on);
	return total * 1e3;
}

static double run_ours(void *ctx)
{
	speedtest *t = ctx;
	return run_all(t, &t->ours);
}

static double run_native(void *ctx)
{
	speedtest *t = ctx;
	return run_all(t, &t->native);
}

/* A line for each step: which of them lose. */
static void show_steps(speedtest *t)
{
	for (size_t i = 0; i < STEPS; i++) {
		double ours = bench_median(t->ours.times[i] + 1, t->ours.round - 1);
		double native = bench_median(t->native.times[i] + 1, t->native.round - 1);
		fprintf(stderr, "  %-25s %10.2f %10.2f ms       %8.4f\n", steps[i].name, ours * 1e3, native * 1e3, ours / native);
	}
}

static void run(const bench_env *env, bench_result *out)
{
	speedtest *t = bench_alloc(sizeof *t);
	*t = (speedtest){.rows = env->quick ? 1000 : 50000};
	t->order = bench_shuffled(t->rows, 1);
	t->ours.on = (bench_sqlite){.env = env};
	t->native.on = (bench_sqlite){.env = env, .journal_mode = "DELETE"};
	bench_compare(env, run_ours, run_native, t, out);
	bench_check(t->ours.on.sum == t->native.on.sum, "sqlite: the two databases give different results");
	if (!env->quick)
		show_steps(t);
	free(t->order);
	free(t);
}

const bench bench_sqlite_speedtest = {"sqlite_speedtest", "a file, DELETE, FULL", "ms", 1.3, false, run};
