/* Databases: create, open, close, list, drop. */
#include <pagestore/store.h>

#include <string.h>

#include "codec/seal.h"
#include "follow/follower.h"
#include "maintain/dropped.h"
#include "maintenance.h"
#include "txn/catch_up.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define CACHE_BYTES_DEFAULT (64u << 20)
#define WRITE_BUFFER_DEFAULT (64u << 20)
#define DELTA_DIVISOR_DEFAULT 8
#define COMPRESSION_LEVEL_DEFAULT 1
#define TIMEOUT_DEFAULT_MS 30000
#define KV_BYTES 4096 /* of a new database in the KV, at the most */
#define LIST_PAGE 500 /* names at a time */

static uint64_t store_deadline(const pgs_store *store)
{
	return pgs__now_ms() + (store->timeout_ms ? store->timeout_ms : TIMEOUT_DEFAULT_MS);
}

/* --- arguments --------------------------------------------------------------------- */

static int check_name(const void *name, size_t size, pgs_error *err)
{
	if (name && size >= 1 && size <= PGS_DB_NAME_MAX)
		return PGS_OK;
	return pgs__error(err, PGS_EINVAL, "a database's name has 1 to %d bytes, not %zu", PGS_DB_NAME_MAX, size);
}

static bool is_page_size(uint32_t size)
{
	return size >= PGS_PAGE_SIZE_MIN && size <= PGS_PAGE_SIZE_MAX && (size & (size - 1)) == 0;
}

static int check_options(const pgs_db_options *o, pgs_error *err)
{
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL, "pgs_db_options: struct_size is not set; use PGS_DB_OPTIONS_INIT");
	if (o->page_size_bytes && !is_page_size(o->page_size_bytes))
		return pgs__error(err, PGS_EINVAL, "page size %u is not a power of two from %d to %d",
				  o->page_size_bytes, PGS_PAGE_SIZE_MIN, PGS_PAGE_SIZE_MAX);
	if (o->maintain && pgs__thresholds_check(o->maintain, err) != PGS_OK)
		return PGS_EINVAL;
	if (o->order > PGS_ORDER_COUNTER)
		return pgs__error(err, PGS_EINVAL, "unknown order %u", o->order);
	return PGS_OK;
}

/* What a failure is called after an attempt whose reply was lost: that one may have been applied, or may yet be. */
static int after_unknown(bool unknown, int result, const char *what, const char *name, pgs_error *err)
{
	if (!unknown || result == PGS_OK || result == PGS_EEXIST || result == PGS_ENOTFOUND)
		return result;
	return pgs__error(err, PGS_EUNKNOWN, "%s database %s was sent and not confirmed; look whether it is there", what,
			  name);
}

/* --- names ---------------------------------------------------------------------------- */

static int unseal_prefix(pgs_slice value, uint8_t prefix[PGS__PREFIX_SIZE], const char *name, pgs_error *err)
{
	if (!pgs__unseal(&value) || value.size != PGS__PREFIX_SIZE)
		return pgs__error(err, PGS_ECORRUPT, "the value of key n/%s is damaged", name);
	memcpy(prefix, value.data, PGS__PREFIX_SIZE);
	return PGS_OK;
}

/* The prefix of a name, and the mod revision of its key. */
static int find_prefix(pgs_store *store, const void *name, size_t size, const char *printable,
		       uint8_t prefix[PGS__PREFIX_SIZE], uint64_t *revision, uint64_t deadline_ms, pgs_error *err)
{
	pgs__key key = pgs__key_name(name, size);
	pgs_kv_op get = pgs__op_get(pgs__key_slice(&key), 0);
	pgs_kv_txn txn;
	int result = pgs__kv_read(&store->backend, &txn, &get, 1, deadline_ms, err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (pair) {
		*revision = pair->mod_revision;
		result = unseal_prefix(pair->value, prefix, printable, err);
	} else if (result == PGS_OK) {
		result = pgs__error(err, PGS_ENOTFOUND, "there is no database %s in this store", printable);
	}
	pgs__kv_release(&store->backend, &txn, 1);
	return result;
}

/* --- handles ----------------------------------------------------------------------------- */

static void db_free(pgs_db *db)
{
	if (!db)
		return;
	pgs__follow_end(db);
	pgs__turn_close(db);
	pgs__catch_up_end(db);
	pgs__cache_free(db->contents.cache);
	pgs__disk_db_detach(db->contents.disk);
	pgs__levels_free(&db->contents.levels);
	pgs__workbench_pool_free(&db->contents.benches);
	pgs__pack_view_release(db->packs);
	pgs__upkeep_free(db);
	pgs__newest_free(db->newest);
	pgs__tip_free(&db->tip);
	pthread_mutex_destroy(&db->packs_lock);
	pthread_mutex_lock(&db->store->lock);
	pgs__sightings_leave(&db->store->sightings, db->seen);
	pthread_mutex_unlock(&db->store->lock);
	pgs__free(db);
}

/* Without its part of the cache file a database is read from the store alone. */
static void attach_cache(pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs__contents *c = &db->contents;
	if (db->store->disk &&
	    pgs__disk_db_attach(&c->disk, db->store->disk, c->prefix, c->page_size, &err) != PGS_OK)
		pgs__log(db->store, PGS_LOG_WARN, "database %s goes without a cache: %s", db->name, err.message);
}

static int db_new(pgs_db **out, pgs_store *store, const char *name, const uint8_t *prefix, const pgs__meta *meta,
		  const pgs_db_options *o, pgs_error *err)
{
	*out = NULL;
	pgs_db *db = pgs__calloc(1, sizeof *db);
	if (!db)
		return pgs__error_nomem(err, "database");
	uint32_t divisor = o->delta_max_divisor ? o->delta_max_divisor : DELTA_DIVISOR_DEFAULT;
	db->store = store;
	db->references = 1;
	strncpy(db->name, name, sizeof db->name - 1);
	db->order = meta->order;
	db->created_ms = meta->created_ms;
	db->write_buffer_bytes = o->write_buffer_bytes ? o->write_buffer_bytes : WRITE_BUFFER_DEFAULT;
	if (db->write_buffer_bytes < meta->page_size)
		db->write_buffer_bytes = meta->page_size;
	db->delta_max = meta->page_size / divisor;
	db->maintain = o->maintain ? *o->maintain : (pgs_maintain_options)PGS_MAINTAIN_OPTIONS_INIT;
	pgs__contents *c = &db->contents;
	c->backend = &store->backend;
	c->page_size = meta->page_size;
	memcpy(c->prefix, prefix, PGS__PREFIX_SIZE);
	memcpy(c->secret, meta->secret, PGS__SECRET_SIZE);
	pthread_mutex_init(&db->packs_lock, NULL);
	pthread_mutex_lock(&store->lock);
	db->seen = pgs__sightings_enter(&store->sightings, prefix);
	pthread_mutex_unlock(&store->lock);
	pgs__workbench_pool_init(&c->benches, c->page_size,
				 o->compression_level ? o->compression_level : COMPRESSION_LEVEL_DEFAULT);
	int levels = pgs__levels_init(&c->levels);
	db->cache_bytes = o->cache_bytes ? o->cache_bytes : CACHE_BYTES_DEFAULT;
	int cache = pgs__cache_new(&c->cache, c->page_size, db->cache_bytes);
	int upkeep = pgs__upkeep_init(db), tip = pgs__tip_init(&db->tip), turn = pgs__turn_init(&db->turn);
	db->newest = pgs__newest_new();
	if (!db->seen || !db->newest || levels != PGS_OK || cache != PGS_OK || upkeep != PGS_OK || tip != PGS_OK ||
	    turn != PGS_OK) {
		db_free(db);
		return pgs__error_nomem(err, "database");
	}
	attach_cache(db);
	*out = db;
	return PGS_OK;
}

/* The open database of this prefix, referenced, or NULL. */
static pgs_db *find_open(pgs_store *store, const uint8_t *prefix)
{
	pthread_mutex_lock(&store->lock);
	pgs_db *db = store->databases;
	while (db && memcmp(db->contents.prefix, prefix, PGS__PREFIX_SIZE) != 0)
		db = db->next;
	if (db)
		db->references++;
	pthread_mutex_unlock(&store->lock);
	return db;
}

/* Enter a new database in the store's list; if another thread was first, take its instead. */
static pgs_db *publish(pgs_store *store, pgs_db *db)
{
	pthread_mutex_lock(&store->lock);
	pgs_db *other = store->databases;
	while (other && memcmp(other->contents.prefix, db->contents.prefix, PGS__PREFIX_SIZE) != 0)
		other = other->next;
	if (other) {
		other->references++;
	} else {
		db->next = store->databases;
		store->databases = db;
	}
	pthread_mutex_unlock(&store->lock);
	if (!other) {
		pgs__maintenance_opened(store);
		return db;
	}
	db_free(db);
	return other;
}

void pgs_db_close(pgs_db *db)
{
	if (!db)
		return;
	pgs_store *store = db->store;
	pthread_mutex_lock(&store->lock);
	bool last = --db->references == 0;
	for (pgs_db **link = &store->databases; last && *link; link = &(*link)->next)
		if (*link == db) {
			*link = db->next;
			break;
		}
	pthread_mutex_unlock(&store->lock);
	if (last)
		db_free(db);
}

uint32_t pgs_db_page_size(const pgs_db *db)
{
	return db->contents.page_size;
}

/* --- opening -------------------------------------------------------------------------------- */

/* Besides the metadata, how large the database is: whether that is right does not matter here. */
static int read_meta(pgs_store *store, const uint8_t *prefix, const char *name, pgs__meta *meta, pgs__key_space *space,
		     uint64_t deadline_ms, pgs_error *err)
{
	enum { GET_M, GET_E, GET_T, GET_COUNT };
	pgs__key m = pgs__key_single(prefix, 'm'), e = pgs__key_single(prefix, 'e'), t = pgs__key_single(prefix, 't');
	const pgs_kv_op gets[GET_COUNT] = {
		[GET_M] = pgs__op_get(pgs__key_slice(&m), 0),
		[GET_E] = pgs__op_get(pgs__key_slice(&e), 0),
		[GET_T] = pgs__op_get(pgs__key_slice(&t), 0),
	};
	pgs_kv_txn txn;
	int result = pgs__kv_read(&store->backend, &txn, gets, GET_COUNT, deadline_ms, err);
	if (result == PGS_OK && pgs__got(&txn, GET_E))
		pgs__number_decode(pgs__got(&txn, GET_E)->value, &space->page_count);
	if (result == PGS_OK && pgs__got(&txn, GET_T))
		space->commits = pgs__got(&txn, GET_T)->version;
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (pair) {
		result = pgs__meta_decode(pair->value, meta);
		if (result == PGS_OK && meta->parent.size)
			result = PGS_EVERSION; /* a branch: its pages are in a database we would not look in */
		meta->parent = (pgs_slice){0}; /* borrowed from the reply */
	} else if (result == PGS_OK) {
		result = pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", name);
	}
	pgs__kv_release(&store->backend, &txn, 1);
	if (pair && result == PGS_EVERSION)
		return pgs__error(err, result, "database %s was written by a newer version of pagestore; update to open it",
				  name);
	if (pair && result != PGS_OK)
		return pgs__error(err, PGS_ECORRUPT, "the metadata of database %s (key m) is damaged", name);
	return result;
}

static int open_prefix(pgs_db **out, pgs_store *store, const uint8_t *prefix, const char *name,
		       const pgs_db_options *o, uint64_t deadline_ms, pgs_error *err)
{
	pgs__meta meta;
	pgs__key_space space = {0};
	*out = find_open(store, prefix);
	if (*out)
		return PGS_OK;
	int result = read_meta(store, prefix, name, &meta, &space, deadline_ms, err);
	if (result == PGS_OK)
		result = db_new(out, store, name, prefix, &meta, o, err);
	if (result != PGS_OK)
		return result;
	atomic_init(&(*out)->page_count, space.page_count);
	atomic_init(&(*out)->commits, space.commits);
	if (store->backend.concurrency > 1) {
		pgs__contents *c = &(*out)->contents;
		pgs__levels_open(&c->levels, c->backend, c->prefix, deadline_ms);
	}
	*out = publish(store, *out);
	return result;
}

int pgs_db_open(pgs_db **out, pgs_store *store, const void *name, size_t name_size, const pgs_db_options *options,
		pgs_error *err)
{
	const pgs_db_options defaults = PGS_DB_OPTIONS_INIT;
	const pgs_db_options *o = options ? options : &defaults;
	uint64_t deadline = store_deadline(store), revision;
	uint8_t prefix[PGS__PREFIX_SIZE];
	char printable[4 * PGS_DB_NAME_MAX + 1];
	*out = NULL;
	int result = check_name(name, name_size, err);
	if (result == PGS_OK)
		result = check_options(o, err);
	if (result != PGS_OK)
		return result;
	pgs__printable(printable, sizeof printable, name, name_size);
	result = find_prefix(store, name, name_size, printable, prefix, &revision, deadline, err);
	if (result == PGS_OK)
		result = open_prefix(out, store, prefix, printable, o, deadline, err);
	if (result == PGS_OK && o->expect_page_size_bytes && o->expect_page_size_bytes != (*out)->contents.page_size) {
		result = pgs__error(err, PGS_EINVAL, "database %s has pages of %u bytes, not %u", printable,
				    (*out)->contents.page_size, o->expect_page_size_bytes);
		pgs_db_close(*out);
		*out = NULL;
	}
	return result;
}

/* --- creating ---------------------------------------------------------------------------------- */

/* A creation happens at most once, however late its requests arrive: it is announced under N/<prefix>, and making the
 * database consumes that. Nobody depends on an announcement, so maintenance removes what is left of them. */

/* The values a database begins with. */
typedef struct creation {
	uint8_t prefix[PGS__PREFIX_SIZE];
	pgs__key announcement;
	uint64_t announced; /* create revision of that key */
	pgs__meta meta;
	pgs__buffer name_value, meta_value, floor_value;
	uint8_t zero[PGS__NUMBER_SIZE];
} creation;

static int creation_init(creation *c, const pgs_db_options *o, pgs_error *err)
{
	*c = (creation){.meta = {.format_version = 1, .hash_kind = 1}};
	c->meta.order = (uint8_t)o->order;
	c->meta.page_size = o->page_size_bytes ? o->page_size_bytes : PGS_PAGE_SIZE_DEFAULT;
	c->meta.created_ms = pgs__unix_ms();
	if (pgs__random_bytes(c->prefix, sizeof c->prefix) != PGS_OK ||
	    pgs__random_bytes(c->meta.secret, sizeof c->meta.secret) != PGS_OK)
		return pgs__error(err, PGS_EIO, "the system gives no random bytes");
	c->prefix[0] |= 0x80; /* never like n/ or i */
	c->announcement = pgs__announced_key(c->prefix);
	pgs__put_bytes(&c->name_value, c->prefix, sizeof c->prefix);
	pgs__seal(&c->name_value, 0);
	pgs__meta_encode(&c->meta, &c->meta_value);
	pgs__floor_encode(&(pgs__floor){0, 0}, &c->floor_value);
	pgs__number_encode(0, c->zero);
	if (c->name_value.failed || c->meta_value.failed || c->floor_value.failed)
		return pgs__error_nomem(err, "database");
	return PGS_OK;
}

static void creation_free(creation *c)
{
	pgs__buffer_free(&c->name_value);
	pgs__buffer_free(&c->meta_value);
	pgs__buffer_free(&c->floor_value);
}

static int exists_already(const char *printable, pgs_error *err)
{
	return pgs__error(err, PGS_EEXIST, "database %s exists already", printable);
}

/* Errors: EEXIST, EUNKNOWN (another prefix is to be taken), the KV's. */
static int announce(creation *c, pgs_store *store, const pgs__key *name, const char *printable, uint64_t deadline_ms,
		    pgs_error *err)
{
	const pgs_kv_compare compares[] = {pgs__if_absent(pgs__key_slice(name)),
					   pgs__if_absent(pgs__key_slice(&c->announcement))};
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&c->announcement), (pgs_slice){0});
	pgs_kv_txn txn = {.compares = compares, .compare_count = 2, .success = &put, .success_count = 1};
	pgs_kv *kv = store->backend.kv;
	int result = kv->vtable->txn(kv, &txn, 1, deadline_ms, err);
	if (result == PGS_OK && !txn.succeeded)
		result = exists_already(printable, err);
	c->announced = result == PGS_OK ? txn.revision : 0;
	kv->vtable->release(kv, &txn, 1);
	return result;
}

static void withdraw(const creation *c, pgs_store *store)
{
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&c->announcement), (pgs_slice){0});
	pgs_kv_txn txn;
	pgs__kv_read(&store->backend, &txn, &delete, 1, store_deadline(store), NULL);
	pgs__kv_release(&store->backend, &txn, 1);
}

#define NOT_ANNOUNCED 1 /* beside the PGS_… codes: the announcement was removed by another, or by ourselves */

/* One transaction makes the name and everything below it. */
static int creation_send(creation *c, pgs_store *store, const pgs__key *name, const char *printable,
			 uint64_t deadline_ms, pgs_error *err)
{
	pgs__key m = pgs__key_single(c->prefix, 'm'), t = pgs__key_single(c->prefix, 't'),
		 g = pgs__key_single(c->prefix, 'g'), e = pgs__key_single(c->prefix, 'e'),
		 z = pgs__key_single(c->prefix, 'z');
	const pgs_slice number = {c->zero, sizeof c->zero};
	const pgs_kv_compare compares[] = {
		pgs__if_absent(pgs__key_slice(name)),
		{.key = pgs__key_slice(&c->announcement),
		 .target = PGS_KV_CREATE,
		 .relation = PGS_KV_EQUAL,
		 .number = c->announced},
	};
	const pgs_kv_op puts[] = {
		pgs__op_put(pgs__key_slice(name), pgs__buffer_slice(&c->name_value)),
		pgs__op_put(pgs__key_slice(&m), pgs__buffer_slice(&c->meta_value)),
		pgs__op_put(pgs__key_slice(&g), pgs__buffer_slice(&c->floor_value)),
		pgs__op_put(pgs__key_slice(&t), number),
		pgs__op_put(pgs__key_slice(&e), number),
		pgs__op_put(pgs__key_slice(&z), (pgs_slice){0}),
		pgs__op_delete(pgs__key_slice(&c->announcement), (pgs_slice){0}),
	};
	const pgs_kv_op get = pgs__op_get(pgs__key_slice(name), 0);
	pgs_kv_txn txn = {.compares = compares,
			  .compare_count = 2,
			  .success = puts,
			  .success_count = sizeof puts / sizeof *puts,
			  .failure = &get,
			  .failure_count = 1};
	pgs_kv *kv = store->backend.kv;
	int result = kv->vtable->txn(kv, &txn, 1, deadline_ms, err);
	if (result == PGS_OK && !txn.succeeded) {
		const pgs_kv_pair *pair = pgs__got(&txn, 0);
		/* Ours, if an attempt's reply was lost. */
		if (!pair)
			result = NOT_ANNOUNCED;
		else if (!pgs__slice_equal(pair->value, pgs__buffer_slice(&c->name_value)))
			result = exists_already(printable, err);
	}
	kv->vtable->release(kv, &txn, 1);
	return result;
}

/* Make it under one prefix. *again: it certainly was not made, and another prefix may do better. */
static int create_once(creation *c, pgs_store *store, const pgs__key *name, const char *printable,
		       const pgs_db_options *o, uint64_t deadline, bool *again, pgs_error *err)
{
	bool unknown = false;
	int result = creation_init(c, o, err);
	if (result == PGS_OK)
		result = announce(c, store, name, printable, deadline, err);
	*again = result == PGS_EUNKNOWN;
	if (result != PGS_OK)
		return result == PGS_EUNKNOWN ? pgs__error(err, PGS_EIO, "creating database %s was not confirmed", printable)
					      : result;
	do {
		result = creation_send(c, store, name, printable, deadline, err);
		unknown |= result == PGS_EUNKNOWN;
	} while (result == PGS_EUNKNOWN && !pgs__deadline_passed(deadline));
	if (result != PGS_OK && !unknown)
		withdraw(c, store);
	*again = result == NOT_ANNOUNCED && !unknown;
	return *again ? pgs__error(err, PGS_EBUSY, "creating database %s was interrupted by maintenance", printable)
		      : after_unknown(unknown, result, "creating", printable, err);
}

static int create(pgs_db **out, pgs_store *store, const void *name, size_t name_size, const pgs_db_options *o,
		  pgs_error *err)
{
	uint64_t deadline = store_deadline(store);
	pgs__key key = pgs__key_name(name, name_size);
	char printable[4 * PGS_DB_NAME_MAX + 1];
	creation c = {.zero = {0}};
	pgs__printable(printable, sizeof printable, name, name_size);
	int result = pgs__room_admit(store, printable, KV_BYTES, deadline, err);
	bool again = result == PGS_OK;
	while (again) {
		creation_free(&c);
		result = create_once(&c, store, &key, printable, o, deadline, &again, err);
		again &= !pgs__deadline_passed(deadline);
	}
	if (result == PGS_OK)
		result = db_new(out, store, printable, c.prefix, &c.meta, o, err);
	if (result == PGS_OK)
		*out = publish(store, *out);
	creation_free(&c);
	return result;
}

int pgs_db_create(pgs_db **out, pgs_store *store, const void *name, size_t name_size, const pgs_db_options *options,
		  pgs_error *err)
{
	const pgs_db_options defaults = PGS_DB_OPTIONS_INIT;
	const pgs_db_options *o = options ? options : &defaults;
	*out = NULL;
	int result = check_name(name, name_size, err);
	if (result == PGS_OK)
		result = check_options(o, err);
	if (result == PGS_OK && store->read_only)
		result = pgs__error(err, PGS_EREADONLY, "the store was opened read-only");
	return result == PGS_OK ? create(out, store, name, name_size, o, err) : result;
}

/* --- listing ---------------------------------------------------------------------------------------- */

typedef struct listing {
	pgs_db_lister lister;
	void *ctx;
} listing;

static int list_name(void *ctx, const pgs_kv_pair *pair)
{
	const listing *l = ctx;
	return l->lister(l->ctx, (const char *)pair->key.data + 2, pair->key.size - 2);
}

int pgs_db_list(pgs_store *store, pgs_db_lister lister, void *ctx, pgs_error *err)
{
	const pgs__key from = {.size = 2, .bytes = "n/"}, end = {.size = 2, .bytes = "n0"}; /* '0' follows '/' */
	listing l = {lister, ctx};
	pgs__walk names;
	int result = PGS_OK;
	pgs__walk_range(&names, &from, &end, LIST_PAGE);
	names.keys_only = true;
	while (result == PGS_OK && pgs__walk_more(&names))
		result = pgs__walk_pairs(&names, &store->backend, false, list_name, &l, store_deadline(store), err);
	return result;
}

/* --- dropping ------------------------------------------------------------------------------------------ */

/* The name, the metadata and the floor go at once: from then on no transaction of the database commits or begins.
 * *space: how large it was, if that is seen. */
static int unname(pgs_store *store, const pgs__key *name, const uint8_t *prefix, uint64_t revision,
		  const char *printable, pgs__key_space *space, uint64_t deadline_ms, pgs_error *err)
{
	enum { GET_E, GET_T };
	pgs__key e = pgs__key_single(prefix, 'e');
	pgs__key m = pgs__key_single(prefix, 'm'), g = pgs__key_single(prefix, 'g'), t = pgs__key_single(prefix, 't');
	pgs__key marker = pgs__dropped_key(prefix);
	const pgs_kv_compare same = pgs__if_mod(pgs__key_slice(name), PGS_KV_EQUAL, revision);
	const pgs_kv_op ops[] = {
		[GET_E] = pgs__op_get(pgs__key_slice(&e), 0),
		[GET_T] = pgs__op_get(pgs__key_slice(&t), 0),
		pgs__op_delete(pgs__key_slice(name), (pgs_slice){0}),
		pgs__op_delete(pgs__key_slice(&m), (pgs_slice){0}),
		pgs__op_delete(pgs__key_slice(&g), (pgs_slice){0}),
		pgs__op_delete(pgs__key_slice(&t), (pgs_slice){0}),
		pgs__op_put(pgs__key_slice(&marker), (pgs_slice){0}),
	};
	const pgs_kv_op get = pgs__op_get(pgs__key_slice(&marker), 0);
	pgs_kv_txn txn = {.compares = &same,
			  .compare_count = 1,
			  .success = ops,
			  .success_count = sizeof ops / sizeof *ops,
			  .failure = &get,
			  .failure_count = 1};
	pgs_kv *kv = store->backend.kv;
	int result = kv->vtable->txn(kv, &txn, 1, deadline_ms, err);
	if (result == PGS_OK && !txn.succeeded && !pgs__got(&txn, 0))
		result = pgs__error(err, PGS_ENOTFOUND, "database %s was dropped by another", printable);
	if (result == PGS_OK && txn.succeeded && pgs__got(&txn, GET_E) && pgs__got(&txn, GET_T) &&
	    pgs__number_decode(pgs__got(&txn, GET_E)->value, &space->page_count) == PGS_OK)
		space->commits = pgs__got(&txn, GET_T)->version;
	kv->vtable->release(kv, &txn, 1);
	return result;
}

/* Best effort: what stays is left to pgs_maintain_store(). */
static void sweep(pgs_store *store, const uint8_t *prefix, const pgs__key_space *space, const char *printable)
{
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	bool done = false;
	if (pgs__sweep_database(store, prefix, space, store_deadline(store), &report, &done, NULL) != PGS_OK || !done)
		pgs__log(store, PGS_LOG_WARN, "database %s is dropped, but not all of it is removed yet", printable);
}

int pgs_db_drop(pgs_store *store, const void *name, size_t name_size, pgs_error *err)
{
	uint64_t deadline = store_deadline(store), revision;
	uint8_t prefix[PGS__PREFIX_SIZE];
	char printable[4 * PGS_DB_NAME_MAX + 1];
	int result = check_name(name, name_size, err);
	if (result == PGS_OK && store->read_only)
		result = pgs__error(err, PGS_EREADONLY, "the store was opened read-only");
	if (result != PGS_OK)
		return result;
	pgs__printable(printable, sizeof printable, name, name_size);
	result = find_prefix(store, name, name_size, printable, prefix, &revision, deadline, err);
	if (result != PGS_OK)
		return result;
	pgs__key key = pgs__key_name(name, name_size);
	pgs__key_space space = {.commits = UINT64_MAX};
	bool unknown = false;
	do {
		result = unname(store, &key, prefix, revision, printable, &space, deadline, err);
		unknown |= result == PGS_EUNKNOWN;
	} while (result == PGS_EUNKNOWN && !pgs__deadline_passed(deadline));
	result = after_unknown(unknown, result, "dropping", printable, err);
	if (result == PGS_OK && store->disk)
		pgs__disk_db_dropped(store->disk, prefix);
	if (result == PGS_OK)
		sweep(store, prefix, &space, printable);
	return result;
}
