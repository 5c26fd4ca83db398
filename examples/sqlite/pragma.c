/* What SQL can ask: PRAGMA pagestore_…, and refusing modes that would break things.
 *
 * A pragma's answer is one text. Those that list have a line for each entry.
 */
#include "file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One call. */
typedef struct pragma {
	sq_file *f;
	const char *value; /* NULL: none was given */
	pgs_db *db;        /* NULL: there is none yet */
	sqlite3_str *out;
} pragma;

static int bad(pragma *p, const char *why)
{
	sqlite3_str_appendf(p->out, "pagestore: %s", why);
	return SQLITE_ERROR;
}

static int failed(pragma *p, const char *what)
{
	sqlite3_str_appendf(p->out, "pagestore: %s: %s", what, p->f->error.message);
	return SQLITE_ERROR;
}

static void add_time(sqlite3_str *out, int64_t ms)
{
	char text[32];
	struct tm tm;
	time_t seconds = (time_t)(ms / 1000);
	if (gmtime_r(&seconds, &tm) && strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm))
		sqlite3_str_appendf(out, "%s.%03dZ", text, (int)(ms % 1000));
}

static void end_line(sqlite3_str *out)
{
	if (sqlite3_str_length(out) > 0)
		sqlite3_str_appendall(out, "\n");
}

/* --- modes ----------------------------------------------------------------------------------------------- */

/* SQLite handles those that are left. */
static int journal_mode(pragma *p)
{
	if (p->value && !sqlite3_stricmp(p->value, "wal"))
		return bad(p, "journal_mode=WAL is not possible, and not needed: readers and writers do not block each other");
	if (p->value && !sqlite3_stricmp(p->value, "off"))
		return bad(p, "journal_mode=OFF is not possible: statements that fail could not be undone");
	return SQLITE_NOTFOUND;
}

static int locking_mode(pragma *p)
{
	if (p->value && !sqlite3_stricmp(p->value, "exclusive"))
		return bad(p, "locking_mode=EXCLUSIVE is not possible; use BEGIN IMMEDIATE");
	return SQLITE_NOTFOUND;
}

/* --- revisions --------------------------------------------------------------------------------------------- */

/* Of the open transaction's snapshot or commit; without one, the latest. */
static int revision(pragma *p)
{
	sq_file *f = p->f;
	uint64_t number = f->state == SQ_COMMITTED ? f->committed : f->reader ? pgs_txn_revision(f->reader) : 0;
	if (!number && p->db) {
		pgs_txn *txn;
		if (pgs_begin(&txn, p->db, &f->at, &f->error) != PGS_OK)
			return failed(p, "revision");
		number = pgs_txn_revision(txn);
		pgs_abort(txn);
	}
	sqlite3_str_appendf(p->out, "%llu", (unsigned long long)number);
	return SQLITE_OK;
}

static int conflict(pragma *p)
{
	sqlite3_str_appendall(p->out, p->f->conflict);
	return SQLITE_OK;
}

static int log_line(void *ctx, const pgs_log_entry *e)
{
	sqlite3_str *out = ctx;
	end_line(out);
	sqlite3_str_appendf(out, "%llu ", (unsigned long long)e->revision);
	add_time(out, e->time_ms);
	sqlite3_str_appendf(out, " %llu pages", (unsigned long long)e->pages_written);
	return 0;
}

static int show_log(pragma *p)
{
	pgs_log_options o = PGS_LOG_OPTIONS_INIT;
	o.max_entries = p->value ? strtoull(p->value, NULL, 10) : 20;
	if (p->db && pgs_log(p->db, &o, log_line, p->out, &p->f->error) != PGS_OK)
		return failed(p, "log");
	return SQLITE_OK;
}

/* --- snapshots ----------------------------------------------------------------------------------------------- */

static int snapshot_line(void *ctx, const pgs_snapshot_info *s)
{
	sqlite3_str *out = ctx;
	end_line(out);
	sqlite3_str_appendf(out, "%.*s %llu ", (int)s->name_size, (const char *)s->name,
		(unsigned long long)s->revision);
	add_time(out, s->created_ms);
	return 0;
}

static int snapshots(pragma *p)
{
	if (p->db && pgs_snapshot_list(p->db, snapshot_line, p->out, &p->f->error) != PGS_OK)
		return failed(p, "snapshots");
	return SQLITE_OK;
}

static int snapshot(pragma *p)
{
	if (!p->value || !p->db)
		return bad(p, "pagestore_snapshot=NAME keeps the database as it is now, if there is one");
	if (pgs_snapshot_create(p->db, p->value, strlen(p->value), NULL, &p->f->error) != PGS_OK)
		return failed(p, "snapshot");
	sqlite3_str_appendall(p->out, p->value);
	return SQLITE_OK;
}

static int snapshot_drop(pragma *p)
{
	if (!p->value || !p->db)
		return bad(p, "pagestore_snapshot_drop=NAME forgets a snapshot");
	if (pgs_snapshot_drop(p->db, p->value, strlen(p->value), &p->f->error) != PGS_OK)
		return failed(p, "snapshot");
	sqlite3_str_appendall(p->out, p->value);
	return SQLITE_OK;
}

/* --- numbers -------------------------------------------------------------------------------------------------- */

static void add_number(sqlite3_str *out, const char *name, uint64_t value)
{
	end_line(out);
	sqlite3_str_appendf(out, "%s %llu", name, (unsigned long long)value);
}

/* The machine's cache file, and the follower of this process. What is not there is zero. */
static void add_cache(pragma *p)
{
	pgs_cache_stat c = PGS_CACHE_STAT_INIT;
	pgs_follow_stat f = PGS_FOLLOW_STAT_INIT;
	pgs_cache_stat_get(p->db, &c, NULL);
	pgs_follow_stat_get(p->db, &f, NULL);
	add_number(p->out, "disk_cache_hits", c.hits);
	add_number(p->out, "disk_cache_misses", c.misses);
	add_number(p->out, "disk_cache_pages", c.page_count);
	add_number(p->out, "disk_cache_used_bytes", c.used_bytes);
	add_number(p->out, "disk_cache_limit_bytes", c.limit_bytes);
	add_number(p->out, "disk_cache_bad", c.bad);
	add_number(p->out, "mirror_revision", c.mirror_revision);
	add_number(p->out, "mirror_keeper_pid", c.keeper_pid > 0 ? (uint64_t)c.keeper_pid : 0);
	add_number(p->out, "follows", f.running);
	add_number(p->out, "follow_revision", f.revision);
	add_number(p->out, "follow_behind", f.behind);
}

static int show_stat(pragma *p)
{
	pgs_db_stat s = PGS_DB_STAT_INIT;
	if (!p->db)
		return SQLITE_OK;
	if (pgs_stat(p->db, &s, &p->f->error) != PGS_OK)
		return failed(p, "stat");
	add_number(p->out, "revision", s.revision);
	add_number(p->out, "commits", s.commit_count);
	add_number(p->out, "pages", s.page_count);
	add_number(p->out, "page_size", s.page_size_bytes);
	add_number(p->out, "oldest_revision", s.floor_revision);
	add_number(p->out, "snapshots", s.snapshot_count);
	add_number(p->out, "blob_bytes", s.blob_bytes);
	add_number(p->out, "store_kv_bytes", s.store_kv_bytes);
	add_number(p->out, "cache_hits", s.cache_hits);
	add_number(p->out, "cache_misses", s.cache_misses);
	add_number(p->out, "connection_conflicts", p->f->conflicts);
	add_cache(p);
	return SQLITE_OK;
}

static int show_cost(pragma *p)
{
	pgs_cost *c = &p->f->cost;
	const sq_prefetch_stat ahead = sq_prefetch_stat_get(p->f);
	if (p->value && sqlite3_stricmp(p->value, "reset") != 0)
		return bad(p, "pagestore_cost tells what this connection has cost, pagestore_cost=reset begins anew");
	add_number(p->out, "kv_requests", c->kv_requests);
	add_number(p->out, "kv_bytes_sent", c->kv_bytes_sent);
	add_number(p->out, "kv_bytes_received", c->kv_bytes_received);
	add_number(p->out, "blob_gets", c->blob_gets);
	add_number(p->out, "blob_bytes_received", c->blob_bytes_received);
	add_number(p->out, "blob_puts", c->blob_puts);
	add_number(p->out, "blob_bytes_sent", c->blob_bytes_sent);
	add_number(p->out, "cache_hits", c->cache_hits);
	add_number(p->out, "cache_misses", c->cache_misses);
	add_number(p->out, "disk_cache_hits", c->disk_cache_hits);
	add_number(p->out, "disk_cache_misses", c->disk_cache_misses);
	add_number(p->out, "pages_ahead", c->pages_ahead);
	add_number(p->out, "prefetched", ahead.asked);
	add_number(p->out, "prefetched_unread", ahead.unread);
	if (p->value) {
		*c = (pgs_cost)PGS_COST_INIT;
		sq_prefetch_stat_reset(p->f);
	}
	return SQLITE_OK;
}

static int prefetch(pragma *p)
{
	sq_file *f = p->f;
	if (p->value)
		f->prefetch_off = !sqlite3_stricmp(p->value, "off") || !strcmp(p->value, "0");
	f->prefetches = !f->prefetch_off && f->db && pgs_prefetch_is_useful(f->db);
	sqlite3_str_appendall(p->out, f->prefetch_off ? "off" : "on");
	return SQLITE_OK;
}

/* --- which ---------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int (*run)(pragma *p);
	bool needs_db;
} pragmas[] = {
	{"journal_mode", journal_mode, false},
	{"locking_mode", locking_mode, false},
	{"pagestore_revision", revision, true},
	{"pagestore_conflict", conflict, false},
	{"pagestore_log", show_log, true},
	{"pagestore_snapshots", snapshots, true},
	{"pagestore_snapshot", snapshot, true},
	{"pagestore_snapshot_drop", snapshot_drop, true},
	{"pagestore_stat", show_stat, true},
	{"pagestore_cost", show_cost, false},
	{"pagestore_prefetch", prefetch, false},
};

/* argument[0] is for the answer, [1] the name, [2] the value. */
int sq_pragma(sq_file *f, char **argument)
{
	size_t i = 0, count = sizeof pragmas / sizeof *pragmas;
	while (i < count && sqlite3_stricmp(argument[1], pragmas[i].name) != 0)
		i++;
	if (i == count || f->refused)
		return SQLITE_NOTFOUND;
	pragma p = {.f = f, .value = argument[2], .out = sqlite3_str_new(NULL)};
	int result = SQLITE_OK;
	if (pragmas[i].needs_db && sq_database_open(f->database, &p.db, &f->error) != PGS_OK)
		result = failed(&p, "database");
	if (result == SQLITE_OK)
		result = pragmas[i].run(&p);
	argument[0] = sqlite3_str_finish(p.out);
	return result;
}
