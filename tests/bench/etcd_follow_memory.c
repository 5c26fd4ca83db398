/* What memory a follower takes that loads the mirror of 10^6 pages from etcd into a cache file, and follows: in a process
 * of its own, all of it counted, but what it had when it was forked. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore/backends.h>
#include <pagestore/follow.h>

#include "etcd_fixture.h"
#include "local_cache/mirror.h"
#include "txn/db.h"

#define PAGES 1000000
#define QUICK_PAGES 3000
#define COMMITS 2000
#define QUICK_COMMITS 20
#define PER_COMMIT 5
#define MIB 64

/* What the two processes tell one another. */
typedef struct talk {
	char endpoints[256], cache[BENCH_PATH_MAX];
	_Atomic bool filled;           /* the database is there */
	_Atomic bool loaded;           /* the follower has its mirror */
	_Atomic uint64_t through;      /* the last commit */
	double peak_mib, load_s;
} talk;

static void wait_for(const _Atomic bool *flag, pid_t other)
{
	while (!*flag) {
		bench_check(other == 0 || waitpid(other, NULL, WNOHANG) == 0, "the follower's process ended");
		usleep(1000);
	}
}

/* --- the follower's process ---------------------------------------------------------------- */

static void wait_for_mirror(const pgs_db *db, uint64_t revision)
{
	while (pgs__mirror_sequence(db->contents.disk) < revision)
		usleep(1000);
}

static void follow(talk *t)
{
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	bench_memory memory;
	pgs_kv *kv;
	pgs_blob *blob;
	bench_db ours;
	bench_memory_start(&memory);
	double since = bench_seconds();
	options.cache_path = t->cache;
	bench_must(pgs_kv_etcd_open(&kv, t->endpoints, "bench", NULL, &err), &err, "pgs_kv_etcd_open");
	bench_must(pgs_blob_memory_new(&blob, &err), &err, "pgs_blob_memory_new"); /* the pages are in their pointers */
	bench_must(pgs_open_with(&ours.store, kv, blob, &options, &err), &err, "pgs_open_with");
	bench_must(pgs_db_open(&ours.db, ours.store, "bench", 5, NULL, &err), &err, "pgs_db_open");
	bench_must(pgs_follow_start(ours.db, NULL, &err), &err, "pgs_follow_start");
	wait_for_mirror(ours.db, 1);
	t->load_s = bench_seconds() - since;
	t->loaded = true;
	while (!t->through)
		usleep(1000);
	wait_for_mirror(ours.db, t->through);
	t->peak_mib = bench_memory_end(&memory);
	bench_db_close(&ours);
}

/* --- the bench's ----------------------------------------------------------------------------- */

static void commit_some(etcd_db *d, uint32_t commits, talk *t)
{
	pgs_error err = PGS_ERROR_INIT;
	bench_random random = {1};
	pgs_txn *last;
	for (uint32_t i = 0; i < commits; i++) {
		uint32_t pages[PER_COMMIT];
		for (uint32_t k = 0; k < PER_COMMIT; k++)
			pages[k] = (uint32_t)(bench_random_next(&random) % d->pages);
		etcd_db_commit(d, &random, pages, PER_COMMIT, NULL);
	}
	bench_must(pgs_begin(&last, d->ours.db, NULL, &err), &err, "pgs_begin");
	t->through = pgs_txn_revision(last);
	pgs_abort(last);
}

static void run(const bench_env *env, bench_result *out)
{
	etcd_db d;
	talk *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bench_check(t != MAP_FAILED, "mmap");
	bench_path(env, "follow-memory", t->cache);
	fflush(stdout);
	pid_t pid = fork();
	bench_check(pid >= 0, "fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		wait_for(&t->filled, 0);
		follow(t);
		_exit(0);
	}
	out->skipped = !etcd_db_open(env, &d, env->quick ? QUICK_PAGES : PAGES, etcd_db_small_page);
	if (!out->skipped) {
		snprintf(t->endpoints, sizeof t->endpoints, "%s", etcd_endpoints(d.etcd));
		t->filled = true;
		wait_for(&t->loaded, pid);
		commit_some(&d, env->quick ? QUICK_COMMITS : COMMITS, t);
	} else {
		kill(pid, SIGKILL);
	}
	waitpid(pid, NULL, 0);
	if (!out->skipped) {
		bench_check(t->peak_mib > 0, "the follower's process failed");
		printf("# loaded in %.1f s\n", t->load_s);
		out->ours = t->peak_mib;
		out->baseline = MIB;
		etcd_db_close(&d);
	}
	munmap(t, sizeof *t);
}

const bench bench_follow_memory = {"follow_memory", "64 MiB", "MiB", 1, false, run};
