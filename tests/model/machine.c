/* Machines: the cache files that their processes share, and what happens to them.
 *
 * A client is a process of a machine. In this one real process each has the cache file open by itself, as processes have
 * (locks go with its descriptor, LMDB's are left out: lib/local_cache/open.c); it hands the baton on between any two steps
 * of a call on the file, and may be killed there. What it had open is then what a child after fork() has: nothing more is
 * written, all that is left is to give back memory. That closes it, as the system does: its locks are free, the words that
 * it raised stay.
 *
 * Files are real ones, in memory where there is /dev/shm.
 */
#include "sim.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lmdb.h>

#include "local_cache/database.h"
#include "txn/txn.h"

#define NUMBER(n) ((unsigned long long)(n))
#define SHARE_DATABASES 32

/* Those who have one cache file open, by what it is and not by its path: who opens what was put there anew is not among
 * them. It goes with the last one. */
struct sim_share {
	sim_share *next;
	dev_t device;
	ino_t inode;
	unsigned users;
	struct {
		const sim_db *db;
		uint64_t acked;
	} seen[SHARE_DATABASES];
	size_t count;
};

static char directory[64];

/* --- files ---------------------------------------------------------------------------- */

bool machines_prepare(void)
{
	const char *parent = getenv("TMPDIR");
	if (access("/dev/shm", W_OK) == 0)
		parent = "/dev/shm";
	snprintf(directory, sizeof directory, "%.40s/pgs_sim-XXXXXX", parent ? parent : "/tmp");
	return mkdtemp(directory) != NULL;
}

void machines_clean_up(void)
{
	DIR *d = opendir(directory);
	for (const struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.')
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(directory);
}

static void remove_file(const sim_machine *m)
{
	static const char *const suffixes[] = {"", "-lock", "-state"};
	for (size_t i = 0; i < 3; i++) {
		char path[sizeof m->path + 8];
		snprintf(path, sizeof path, "%s%s", m->path, suffixes[i]);
		unlink(path);
	}
}

static void boot(sim_machine *m)
{
	uint64_t rate = rng_below(&world.misfortune, 3);
	m->boot++;
	m->mono_offset_ms = 1 + rng_below(&world.misfortune, 1000000);
	m->rate = !(world.config.troubles & SIM_CLOCKS) ? 1000 : rate == 0 ? 700 : rate == 1 ? 1500 : 1000;
}

void machines_start(void)
{
	for (int i = 0; world.config.cache && i < SIM_MACHINES; i++) {
		sim_machine *m = &world.machines[i];
		snprintf(m->path, sizeof m->path, "%.60s/%d-%d", directory, (int)getpid(), i);
		remove_file(m);
		boot(m);
	}
}

void machines_stop(void)
{
	for (int i = 0; world.config.cache && i < SIM_MACHINES; i++)
		remove_file(&world.machines[i]);
	while (world.shares) {
		sim_share *s = world.shares;
		world.shares = s->next;
		free(s);
	}
}

sim_machine *machine_of(const sim_client *c)
{
	return &world.machines[!world.config.one_machine && c->index % 2];
}

/* --- who shares it ------------------------------------------------------------------------ */

void machine_join(sim_client *c)
{
	if (!c->store->disk)
		return;
	pgs__cache_file *file = c->store->disk->file;
	sim_share *s = world.shares;
	machine_of(c)->torn = false;
	while (s && (s->device != file->state.device || s->inode != file->state.inode))
		s = s->next;
	if (!s) {
		s = calloc(1, sizeof *s);
		*s = (sim_share){.next = world.shares, .device = file->state.device, .inode = file->state.inode};
		world.shares = s;
	}
	s->users++;
	c->share = s;
	if (world.config.cache_room) { /* as if the disk had been full */
		file->full_pages = world.config.cache_room;
		file->full_until_ms = UINT64_MAX;
	}
	if (c->dead)
		machine_left_behind(c);
	trace("has its machine's cache file");
}

void machine_left_behind(sim_client *c)
{
	if (c->share)
		c->store->disk->file->forked = true;
}

void machine_leave(sim_client *c)
{
	sim_share *s = c->share;
	c->share = NULL;
	if (!s || --s->users)
		return;
	sim_share **at = &world.shares;
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	free(s);
}

static bool has_part(const sim_client *c)
{
	return c->share && c->db && c->db->contents.disk;
}

uint64_t machine_acked(const sim_client *c)
{
	for (size_t i = 0; has_part(c) && i < c->share->count; i++)
		if (c->share->seen[i].db == c->model)
			return c->share->seen[i].acked;
	return 0;
}

void machine_note_ack(sim_client *c, uint64_t revision)
{
	size_t i = 0;
	if (!has_part(c))
		return;
	while (i < c->share->count && c->share->seen[i].db != c->model)
		i++;
	if (i == SHARE_DATABASES)
		return;
	c->share->count += i == c->share->count;
	c->share->seen[i].db = c->model;
	if (c->share->seen[i].acked < revision)
		c->share->seen[i].acked = revision;
}

/* --- steps --------------------------------------------------------------------------------- */

void machine_step(void)
{
	sim_client *c = world.current;
	const sim_config *g = &world.config;
	if (c->dead || c->atomic || c->quiet || !rng_chance(&world.faults, g->cache_step, 1000))
		return;
	sim_pass_baton();
	if (rng_chance(&world.faults, g->cache_freeze, 1000) && !world.over)
		sim_sleep_us(rng_below(&world.faults, 200000));
	if (c->dead || world.over || !rng_chance(&world.faults, g->cache_crash, 10000))
		return;
	trace("is killed while it uses the cache file");
	client_dies(c);
	link_kill(c->link);
}

/* --- damage ----------------------------------------------------------------------------------- */

#define LMDB_PAGE 4096

/* Open a machine's file beside its processes, which are between two calls. NULL: there is none. */
static MDB_env *open_beside(const sim_machine *m, unsigned flags)
{
	MDB_env *env;
	struct stat st;
	if (m->torn || stat(m->path, &st) != 0 || st.st_size == 0 || mdb_env_create(&env) != 0)
		return NULL;
	mdb_env_set_maxdbs(env, 8);
	mdb_env_set_mapsize(env, SIM_CACHE_BYTES);
	if (mdb_env_open(env, m->path, flags | MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOSYNC, 0666) == 0)
		return env;
	mdb_env_close(env);
	return NULL;
}

/* Go to some record of a table. */
static bool pick_record(MDB_txn *txn, const char *table, MDB_cursor **cursor, MDB_val *key, MDB_val *value)
{
	MDB_dbi dbi;
	MDB_stat st;
	if (mdb_dbi_open(txn, table, 0, &dbi) != 0 || mdb_stat(txn, dbi, &st) != 0 || st.ms_entries == 0 ||
	    mdb_cursor_open(txn, dbi, cursor) != 0)
		return false;
	uint64_t skip = rng_below(&world.misfortune, st.ms_entries);
	int rc = mdb_cursor_get(*cursor, key, value, MDB_FIRST);
	while (rc == 0 && skip--)
		rc = mdb_cursor_get(*cursor, key, value, MDB_NEXT);
	return rc == 0 && value->mv_size > 0;
}

/* A bit of a value, in the file, changes. Never LMDB's own bytes: what it follows them to while it runs is not its fault
 * (tests/crash/cache_file.c does that, too). */
static void flip(const sim_machine *m)
{
	static const char *const tables[] = {"pages", "pages", "mirror", "meta"};
	const char *table = tables[rng_below(&world.misfortune, 4)];
	MDB_env *env = open_beside(m, MDB_RDONLY);
	MDB_cursor *cursor = NULL;
	MDB_txn *txn;
	MDB_val key, value;
	size_t page_no;
	if (!env || mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) != 0) {
		mdb_env_close(env);
		return;
	}
	if (pick_record(txn, table, &cursor, &key, &value)) {
		size_t at = rng_below(&world.misfortune, value.mv_size);
		const uint8_t *byte = (const uint8_t *)value.mv_data + at;
		const uint8_t *page = (const uint8_t *)value.mv_data - (uintptr_t)value.mv_data % LMDB_PAGE;
		memcpy(&page_no, page, sizeof page_no); /* each begins with its number */
		uint8_t bad = *byte ^ (uint8_t)(1u << rng_below(&world.misfortune, 8));
		int fd = open(m->path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || pwrite(fd, &bad, 1, (off_t)(page_no * LMDB_PAGE) + (byte - page)) != 1)
			sim_fail("the simulator cannot write %s", m->path);
		close(fd);
		trace("* a bit flips in %s's cache file: byte %zu of a value of `%s`", "a machine", at, table);
	}
	if (cursor)
		mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
	mdb_env_close(env);
}

/* A record of a mirror is lost, as if LMDB had never had it. Nobody has the file open. */
static void lose_record(const sim_machine *m)
{
	MDB_env *env = open_beside(m, 0);
	MDB_cursor *cursor = NULL;
	MDB_txn *txn;
	MDB_val key, value;
	if (env && mdb_txn_begin(env, NULL, 0, &txn) == 0) {
		bool there = pick_record(txn, "mirror", &cursor, &key, &value) && mdb_cursor_del(cursor, 0) == 0;
		if (cursor)
			mdb_cursor_close(cursor);
		if (there)
			trace("* a mirror loses a record");
		if (!there || mdb_txn_commit(txn) != 0)
			mdb_txn_abort(txn);
	}
	mdb_env_close(env);
}

/* The file is cut short. Nobody has it open. */
static void cut(sim_machine *m)
{
	struct stat st;
	if (stat(m->path, &st) == 0 && truncate(m->path, (off_t)rng_below(&world.misfortune, 64) * 1024) == 0)
		m->torn = true;
	trace("* the cache file is cut short");
}

/* Whatever was not synced may be there or not, page by page. */
static void lose_unsynced(sim_machine *m)
{
	uint8_t page[LMDB_PAGE];
	m->torn = true;
	int fd = open(m->path, O_RDWR | O_CLOEXEC);
	for (uint64_t i = 0; fd >= 0 && i < 64; i++) {
		if (rng_below(&world.misfortune, 3))
			continue;
		uint64_t from = rng_below(&world.misfortune, 64);
		memset(page, 0, sizeof page);
		if (rng_below(&world.misfortune, 2) && pread(fd, page, sizeof page, (off_t)(from * sizeof page)) < 0)
			break;
		if (pwrite(fd, page, sizeof page, (off_t)(i * sizeof page)) < 0)
			break;
	}
	if (fd >= 0)
		close(fd);
}

/* Whether what the file has is all on disk: PATH-state says so, which is. */
static bool is_clean(const sim_machine *m)
{
	pgs__shared_words words = {0};
	char path[sizeof m->path + 8];
	snprintf(path, sizeof path, "%s-state", m->path);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool clean = fd >= 0 && read(fd, &words, sizeof words) == (ssize_t)sizeof words &&
		     words.condition == PGS__SHARED_CLEAN;
	if (fd >= 0)
		close(fd);
	return clean;
}

/* --- what happens to them -------------------------------------------------------------------- */

static void kill_all(const sim_machine *m)
{
	for (int i = 0; i < SIM_CLIENTS_MAX; i++)
		if (machine_of(&world.clients[i]) == m)
			sim_kill(&world.clients[i]);
}

/* All processes of a machine die, and what was not synced. */
static void crash_machine(sim_machine *m)
{
	kill_all(m);
	bool clean = is_clean(m);
	trace("* machine %d crashes; its cache file is %s", (int)(m - world.machines), clean ? "whole" : "not");
	if (!clean)
		lose_unsynced(m);
	boot(m);
}

void machines_disturb(void)
{
	const sim_config *g = &world.config;
	sim_rng *r = &world.misfortune;
	if (!g->disturb || world.over || !rng_chance(r, g->disturb, 100000))
		return;
	sim_machine *m = &world.machines[rng_below(r, g->one_machine ? 1 : SIM_MACHINES)];
	switch (rng_below(r, 8)) {
	case 0:
		crash_machine(m);
		break;
	case 1:
		trace("* the cache file of machine %d is deleted", (int)(m - world.machines));
		remove_file(m);
		break;
	case 2:
		kill_all(m);
		lose_record(m);
		break;
	case 3:
		kill_all(m);
		cut(m);
		break;
	case 4:
		kill_all(m);
		break;
	default:
		flip(m);
		break;
	}
}
