/* The deterministic simulator: one seed decides schedule, clocks, workload and faults.
 *
 *     main.c      command line: seeds, planted bugs, the shrinker       config.c   what a seed stands for
 *     sim.c       the world: fibers, the baton, virtual time            fiber.c    stacks
 *     backend.c   what stands between a client and the backends         trace.c    what happened, in words
 *     client.c    what clients do                                       maintain.c what maintenance workers do
 *     model.c     what must be true: the history of each database       audit.c    checks at the end
 *     machine.c   machines, and their cache files: shared, killed at, deleted, damaged
 *     pages.c     which pages and attributes there are
 *
 * A client is a fiber with a store handle of its own, on
 *
 *     library ─→ baton, fate, trace ─→ pgs_fault ─→ observer ─→ the memory backends all share
 *
 * At every call of a backend the baton passes: another client may run, time goes on, and the call's fate is drawn. The
 * observer sees what takes effect, when it does, whatever the caller is told: the model follows it.
 */
#ifndef PGS_SIM_SIM_H
#define PGS_SIM_SIM_H

#include <pagestore/backends.h>
#include <pagestore/fault.h>
#include <pagestore/follow.h>
#include <pagestore/history.h>
#include <pagestore/maintain.h>
#include <pagestore/txn.h>

#include "fiber.h"
#include "pages.h"
#include "rng.h"
#include "util/process.h"

#define SIM_CLIENTS_MAX 6
#define SIM_MACHINES 2
#define SIM_CACHE_BYTES ((uint64_t)4 << 20)
#define SIM_DATABASES 2
#define SIM_TXNS_MAX 4096 /* commits of one seed */

/* --- what a seed stands for (config.c) ------------------------------------------------ */

/* Kinds of trouble, each of which may be switched off. */
enum {
	SIM_ERRORS = 1,
	SIM_LOST_REPLIES = 2,
	SIM_DELAYS = 4,
	SIM_CRASHES = 8,
	SIM_FREEZES = 16,
	SIM_CLOCKS = 32,
	SIM_LIMITS = 64,
	SIM_OUTAGES = 128,
	SIM_MAINTENANCE = 256,
	SIM_DROPS = 512,
	SIM_CACHE = 1024,  /* machines have cache files, */
	SIM_DAMAGE = 2048, /* to which things happen */
	SIM_ALL = 4095
};

typedef enum sim_op {
	SIM_OP_TXN,
	SIM_OP_BULK,
	SIM_OP_SCAN,
	SIM_OP_ATTRS,
	SIM_OP_READ_OLD,
	SIM_OP_STATUS,
	SIM_OP_LOG,
	SIM_OP_DIFF,
	SIM_OP_STAT,
	SIM_OP_VERIFY,
	SIM_OP_DROP,
	SIM_OP_SLEEP,
	SIM_OP_MAINTAIN,
	SIM_OP_PIN,
	SIM_OP_SNAPSHOT_CREATE,
	SIM_OP_SNAPSHOT_READ,
	SIM_OP_SNAPSHOT_DROP,
	SIM_OP_LEVELS,
	SIM_OP_MANY,
	SIM_OP_FOLLOW,
	SIM_OP_READ_FRESH,
	SIM_OP_COUNT
} sim_op;

typedef struct sim_config {
	uint64_t seed;
	uint32_t troubles; /* SIM_… that are on */
	uint32_t clients;
	uint64_t steps;
	uint32_t burst;      /* per mille: the client that ran goes on */
	uint32_t favourite;  /* per mille: a preferred client is picked; the preference moves now and then */
	/* per 10,000 calls */
	uint32_t error, lose, delay, crash, freeze, outage;
	uint32_t delayed_blobs;
	uint32_t deliver;    /* per mille of steps: what was delayed is delivered */
	uint32_t latency_us; /* of a call, at most */
	uint32_t freeze_ms;
	uint32_t inspect;    /* per 10,000 steps: everything is verified */
	uint32_t maintain_all; /* per mille of maintenance runs: all there is to do */
	uint32_t jump;       /* per 10,000 steps: everybody's time jumps */
	uint32_t timeout_ms;
	pgs_kv_limits limits;
	uint32_t databases;
	uint64_t cache_bytes, write_buffer_bytes;
	uint32_t delta_divisor;
	uint32_t order;
	uint32_t touch;      /* pages of a transaction, about */
	uint32_t hot;        /* pages most transactions work on */
	uint32_t palette;    /* contents that come again and again; 0: none */
	uint32_t pause;      /* per mille: a transaction waits, up to freeze_ms, before its next step */
	bool deltas;         /* contents are small changes, or all new, and seldom seen before */
	bool scanners;       /* transactions read more than fits into compares */
	bool blind;          /* transactions write more than they read */
	bool fat;            /* bulk commits of large deltas, whose packs need index files */
	uint32_t weights[SIM_CLIENTS_MAX][SIM_OP_COUNT];
	pgs_maintain_options maintain;
	uint32_t by_writers; /* PGS_MAINTENANCE_… */
	uint32_t kv_history;
	bool one_machine;
	bool silent;         /* the KV does not tell whether anything has changed */
	uint32_t turns;      /* per mille: transactions begin with the writer lock, one after the other */
	uint32_t fresh;      /* per mille: a transaction begins on what its client has */
	uint32_t mute;       /* per 10,000 looks of a follower: its watch says nothing any more */
	uint32_t cache;      /* per mille: a process uses its machine's cache file; 0: there are none */
	uint32_t cache_room; /* LMDB's pages that the disk has for it; 0: enough */
	uint32_t cache_step; /* per mille of the steps of a call on it: others run */
	uint32_t cache_crash; /* per 10,000 of those: the process is killed there */
	uint32_t cache_freeze; /* per mille: it is stopped there for a while */
	uint32_t disturb;    /* per 100,000 steps: something happens to a machine or its file */
} sim_config;

void config_from_seed(sim_config *out, uint64_t seed, uint32_t troubles, uint32_t clients_max, uint64_t steps);

/* --- the model (model.c) ---------------------------------------------------------------- */

/* A page's content: a number in the table of contents; 0 is zeros. */
typedef uint32_t sim_content;

typedef struct sim_state {
	uint64_t revision; /* of the commit that made it */
	uint64_t at_us;    /* when it did */
	sim_content pages[SIM_PAGES];
	uint64_t extent;
	uint32_t attrs[SIM_ATTRS]; /* 0: absent */
	uint8_t uuid[16];
} sim_state;

typedef struct sim_snapshot {
	char name[8];
	uint64_t revision;    /* that it shows; 0: it does not exist */
	uint64_t puts, drops; /* how often it was made, and dropped */
	uint64_t readers;
} sim_snapshot;
#define SIM_SNAPSHOTS 3

/* One database, from its creation to its being dropped. */
typedef struct sim_db {
	uint8_t prefix[8];
	sim_state *states; /* [0]: as created */
	size_t count, capacity;
	uint64_t page_touched[SIM_PAGES]; /* the last commit that wrote it, or truncated below it */
	uint64_t dropped; /* revision; 0: not */
	uint64_t floor, floor_put; /* and the revision at which it was published */
	struct sim_db *next;
	const struct sim_link *turn; /* who put the writer lock; NULL: nobody has it */
	bool turn_asked;             /* somebody has asked for it */
	bool turn_spent;             /* its holder has committed since, and been told */
	uint64_t turns_broken;
	sim_snapshot snapshots[SIM_SNAPSHOTS];
} sim_db;

/* A transaction, and what became of it. */
typedef struct sim_txn {
	sim_db *db;
	struct sim_txn *with;  /* committed together with it: another database's; NULL: alone */
	pgs_commit_token token;
	uint64_t kv_revision; /* R */
	size_t base_index;     /* of the state it reads */
	bool has_turn;         /* it began with the writer lock, and had it then, */
	uint64_t turns_broken; /* when so many had been broken */
	uint32_t isolation;
	sim_state view;        /* the base, with its own writes */
	uint64_t truncated_to; /* UINT64_MAX: not */
	bool extent_set;       /* truncated, or set */
	bool extent_read;
	bool page_read[SIM_PAGES], page_written[SIM_PAGES];
	bool attr_read[SIM_ATTRS], attr_written[SIM_ATTRS];
	int client;
	uint64_t began_step;
	bool sent;             /* pgs_commit() was called */
	bool returned;         /* and has returned, */
	int result;            /* with this; EUNKNOWN also when its client died */
	bool never;            /* was refused, or said not to have happened: it may never take effect */
	uint64_t committed;    /* the revision at which it took effect; 0: it did not, so far */
} sim_txn;

/* --- the world (sim.c) --------------------------------------------------------------------- */

typedef enum client_state { CLIENT_READY, CLIENT_SLEEPING, CLIENT_DONE } client_state;

typedef struct sim_link sim_link;
typedef struct sim_share sim_share;

typedef struct sim_client {
	int index;
	char name[16]; /* "c2.1": client 2, its second life */
	int life;
	fiber *fiber;
	struct pgs_cost *charged; /* of a thread, which fibers are not: pgs__charge() */
	client_state state;
	uint64_t wake_us;
	sim_rng work, random;
	uint32_t rate;           /* per mille: how fast its monotonic clock goes */
	uint64_t mono_offset_ms; /* what it began with, and what a dead one slept */
	int64_t wall_offset_ms;
	bool dead;               /* crashed: unwinding, unseen */
	bool buried;             /* and that is done */
	uint64_t faults;         /* that it has suffered */
	uint64_t outage_end_us;
	pgs__process process;
	sim_link *link;
	pgs_store *store;
	pgs_db *db;              /* the open database, */
	sim_db *model;           /* and what it is in the model */
	sim_share *share;        /* who has the same cache file open; NULL: it has none */
	int database;            /* its number */
	const char *doing;
	uint64_t acked;          /* its last commit there that was acknowledged */
	pgs_revision_pin *pin;
	uint64_t pinned, pin_renewed_us;
	bool quiet;              /* no faults: the auditor */
	bool atomic;             /* nobody else runs: the inspector */
	bool troubled;           /* its last call had no answer */
} sim_client;

/* Processes of one machine share a clock, and a cache file. */
typedef struct sim_machine {
	char path[80];
	uint64_t boot; /* how often it was started */
	uint64_t mono_offset_ms;
	uint32_t rate;
	bool torn; /* the file is not what LMDB wrote, and nobody has opened it since */
} sim_machine;

typedef struct sim {
	sim_config config;
	uint64_t now_us, step, end_step;
	bool over;        /* no new operations, no new faults */
	sim_rng schedule, faults, misfortune;
	sim_machine machines[SIM_MACHINES];
	sim_share *shares;
	sim_client clients[SIM_CLIENTS_MAX + 1]; /* the last one is the auditor */
	sim_client *current;
	int favourite;
	uint64_t next_pid;
	pgs_kv *kv;
	pgs_blob *blob;
	sim_link *links;
	sim_db *databases;
	sim_txn *txns;
	size_t txn_count;
	uint64_t last_commit; /* the newest observed, of any database */
	uint64_t compacted;   /* of the KV */
	uint64_t floors;      /* published */
	uint64_t commits, crashes; /* for the summary */
	uint64_t digest;      /* of everything that happened */
	char failure[1024];   /* "": none */
} sim;

extern sim world;

/* Run one seed. True if nothing was found; else world.failure says what. Whatever is left is freed by world_free(). */
bool sim_run(const sim_config *config);
void sim_free(void);

/* The check that failed ends the run: this does not return from a fiber. */
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* From a client's fiber: let others run; time goes on. */
void sim_pass_baton(void);
void sim_sleep_us(uint64_t us);
uint64_t client_now_ms(const sim_client *c);

/* A new life for a client: new process, clocks, backends. */
void client_reborn(sim_client *c);

/* It is killed now: unwinding is all it does from here on. */
void client_dies(sim_client *c);

/* From outside all fibers: kill a client, and let it be buried. */
void sim_kill(sim_client *c);

/* --- machines (machine.c) --------------------------------------------------------------------- */

/* Cache files are made in a directory of this name, which is made for them, and removed. */
bool machines_prepare(void);
void machines_clean_up(void);

void machines_start(void); /* of a seed */
void machines_stop(void);
sim_machine *machine_of(const sim_client *c);

/* From outside all fibers, before each turn: something may happen to a machine. */
void machines_disturb(void);

/* A client has opened its store, or is about to close it. */
void machine_join(sim_client *c);
void machine_leave(sim_client *c);
void machine_left_behind(sim_client *c); /* it was killed */

/* The last commit of the client's database that was acknowledged to anybody who shares its cache file with it. */
uint64_t machine_acked(const sim_client *c);
void machine_note_ack(sim_client *c, uint64_t revision);

/* pgs__switch_point(). */
void machine_step(void);

/* --- backends (backend.c) --------------------------------------------------------------------- */

/* The way from one client's life to the backends. The links outlive their clients: what was delayed may come later. */
sim_link *link_new(sim_client *owner, pgs_kv **kv, pgs_blob **blob);
bool link_has_delayed(const sim_link *link);
void link_deliver(sim_link *link);
void link_kill(sim_link *link); /* nothing gets through any more */
void link_free(sim_link *link);
void link_free_all(void);
sim_link *link_next(sim_link *link);

/* --- clients (client.c, maintain.c, audit.c) ---------------------------------------------------- */

void client_main(void *client);
void auditor_main(void *client);
bool client_connect(sim_client *c);
bool client_connect_store(sim_client *c);
bool client_find_db(sim_client *c, int database);
void client_disconnect(sim_client *c);

/* Whether an error may be: of the storage, with faults having been injected since `faults_before`; or the database
 * is dropped. Fails if it may not. */
void client_expect_error(sim_client *c, const char *what, int result, const pgs_error *err, uint64_t faults_before);
bool client_open_db(sim_client *c, int database);
void client_close_db(sim_client *c);
void client_check_pages(sim_client *c, pgs_txn *t, const sim_state *state, uint64_t kv_revision, uint64_t faults);
/* The same of a named snapshot, which may be gone if `drops` is not what it was. */
void client_check_snapshot(sim_client *c, pgs_txn *t, const sim_state *given, const sim_snapshot *s, uint64_t drops,
	uint64_t faults);
void client_ask_status(sim_client *c, sim_txn *txn);
void client_check_log(sim_client *c);

void op_maintain(sim_client *c);
void op_pin(sim_client *c);
void op_snapshot_create(sim_client *c);
void op_snapshot_read(sim_client *c);
void op_snapshot_drop(sim_client *c);
void op_levels(sim_client *c);
void op_follow(sim_client *c);

/* How fresh a transaction has to be (freshness.c). */
typedef struct sim_promise {
	uint32_t kind;     /* PGS_LATEST, … */
	uint64_t revision; /* of the oldest commit that may be its last */
	pgs_txn_options options;
} sim_promise;

/* Ask for some freshness, `fresh` per mille of the time for less than the latest, before pgs_begin(); and hold the
 * revision it begins at against that. */
void promise_draw(sim_client *c, sim_promise *out, uint32_t fresh);
void promise_check(const sim_promise *promise, uint64_t revision);
void client_drop_pin(sim_client *c);
void audit_collection(sim_client *c);
void audit_database(sim_client *c);

/* Verify every database, now, between two calls. */
void inspect(void);

/* --- model.c -------------------------------------------------------------------------------------- */

const uint8_t *content_bytes(sim_content content);
sim_content content_new(sim_rng *rng, int page, sim_content old); /* old: what the page holds */
sim_content content_fat(sim_rng *rng, sim_content old);           /* a large change, for a delta of some 200 bytes */
void contents_reset(void);

sim_db *model_db(const uint8_t *prefix);           /* NULL: none such */
sim_db *model_created(const uint8_t *prefix, uint64_t revision);
sim_state *model_at(sim_db *db, uint64_t revision); /* the last commit at or before it; NULL: before its creation */
sim_state *model_last(sim_db *db);
/* May beginning at `revision` be refused, the floor having been `floor` when it was tried? Not when the floor shows the
 * same commit. */
bool model_may_refuse(sim_db *db, uint64_t revision, uint64_t floor);
void model_committed(sim_db *db, const uint8_t *uuid, uint64_t revision);
sim_txn *model_txn_new(void);
sim_txn *model_find_txn(const uint8_t *uuid);
void model_committed_together(uint64_t revision); /* all commits of this revision have been told */
void model_never(sim_txn *txn);                   /* it can no longer take effect */
bool model_changes(const sim_txn *txn);           /* it has something to commit */
void model_returned(sim_txn *txn, int result, uint64_t revision, uint64_t conflict_page, uint64_t faults);
void model_free(void);

/* --- trace.c ----------------------------------------------------------------------------------------- */

extern bool trace_on, trace_live;

/* Something happened: always in the digest; in words when the trace is on. */
void trace_note(uint64_t a, uint64_t b, uint64_t c);
void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
void trace_print_last(void);
void trace_reset(void);
const char *trace_txn(const pgs_kv_txn *txn);
const char *trace_blob(const char *name);
const char *trace_key(pgs_slice key);

#endif
