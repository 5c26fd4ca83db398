/* Opening and closing stores. */
#include <pagestore/operations.h>
#include <pagestore/store.h>

#include <string.h>

#include "backends/url.h"
#include "maintenance.h"
#include "txn/db.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"
#include "util/task.h"

#define OPEN_TIMEOUT_MS 30000
#define SOFT_QUOTA_PERCENT 80
#define IDENTITY_BLOB "identity"

/* --- backends given --------------------------------------------------------------- */

/* Every slot up to the optional ones must be there. */
static int check_slots(const void *vtable, size_t size, size_t first_slot, const char *what, pgs_error *err)
{
	for (size_t at = first_slot; at + sizeof(void *) <= size; at += sizeof(void *)) {
		void *slot;
		memcpy(&slot, (const char *)vtable + at, sizeof slot);
		if (!slot)
			return pgs__error(err, PGS_EINVAL, "the %s backend's vtable lacks the slot at offset %zu", what,
					  at);
	}
	return PGS_OK;
}

static int check_vtable(uint32_t version, uint32_t known, uint32_t size, size_t needed, const char *what,
			pgs_error *err)
{
	if (version != known)
		return pgs__error(err, PGS_EVERSION, "the %s backend is for vtable version %u; this library has %u",
				  what, version, known);
	if (size < needed)
		return pgs__error(err, PGS_EINVAL, "the %s backend's vtable has %u bytes; this library needs %zu", what,
				  size, needed);
	return PGS_OK;
}

static int check_backends(const pgs_kv *kv, const pgs_blob *blob, pgs_error *err)
{
	if (!kv || !blob || !kv->vtable || !blob->vtable)
		return pgs__error(err, PGS_EINVAL, "a store needs a KV and a blob store");
	int result = check_vtable(kv->vtable->version, PGS_KV_VERSION, kv->vtable->struct_size, PGS_KV_VTABLE_LEAST,
				  "KV", err);
	if (result == PGS_OK)
		result = check_slots(kv->vtable, PGS_KV_VTABLE_LEAST, offsetof(pgs_kv_vtable, txn), "KV", err);
	if (result == PGS_OK)
		result = check_vtable(blob->vtable->version, PGS_BLOB_VERSION, blob->vtable->struct_size,
				      PGS_BLOB_VTABLE_LEAST, "blob", err);
	if (result == PGS_OK)
		result = check_slots(blob->vtable, PGS_BLOB_VTABLE_LEAST, offsetof(pgs_blob_vtable, put), "blob", err);
	return result;
}

/* --- identity ------------------------------------------------------------------------ */

static int decode_identity(pgs_slice value, pgs__identity *out, pgs_error *err)
{
	int result = pgs__identity_decode(value, out);
	if (result == PGS_EVERSION)
		return pgs__error(err, result, "the store was written by a newer version of pagestore; update to open it");
	if (result != PGS_OK)
		return pgs__error(err, result, "the value of key i, the store's identity, is damaged");
	return PGS_OK;
}

/* Read the identity, or put a new one if there is none. */
static int get_identity(pgs_store *store, bool create, pgs__identity *out, uint64_t deadline_ms, pgs_error *err)
{
	const pgs__backend *backend = &store->backend;
	pgs__key key = pgs__key_identity();
	pgs__buffer value = {0};
	pgs__identity fresh = {.format_version = 1};
	if (pgs__random_bytes(fresh.random, sizeof fresh.random) != PGS_OK)
		return pgs__error(err, PGS_EIO, "the system gives no random bytes");
	pgs__identity_encode(&fresh, &value);
	if (value.failed) {
		pgs__buffer_free(&value);
		return pgs__error_nomem(err, "identity");
	}
	const pgs_kv_compare absent = pgs__if_absent(pgs__key_slice(&key));
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), pgs__buffer_slice(&value));
	const pgs_kv_op get = pgs__op_get(pgs__key_slice(&key), 0);
	pgs_kv_txn txn = {.success = &get, .success_count = 1};
	int result = backend->kv->vtable->txn(backend->kv, &txn, 1, deadline_ms, err);
	if (result == PGS_OK && !pgs__got(&txn, 0) && create) {
		backend->kv->vtable->release(backend->kv, &txn, 1);
		txn = (pgs_kv_txn){.compares = &absent,
				   .compare_count = 1,
				   .success = &put,
				   .success_count = 1,
				   .failure = &get,
				   .failure_count = 1};
		result = backend->kv->vtable->txn(backend->kv, &txn, 1, deadline_ms, err);
	}
	if (result == PGS_OK && txn.succeeded && txn.compare_count)
		*out = fresh;
	else if (result == PGS_OK && pgs__got(&txn, 0))
		result = decode_identity(pgs__got(&txn, 0)->value, out, err);
	else if (result == PGS_OK)
		result = pgs__error(err, PGS_ENOTFOUND, "there is no pagestore store here yet");
	backend->kv->vtable->release(backend->kv, &txn, 1);
	pgs__buffer_free(&value);
	return result;
}

static int read_random(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	memcpy(buffer, ((const pgs__identity *)ctx)->random + offset, size);
	return PGS_OK;
}

/* The copy of the identity in the blob store; where calls wait for a network it is read while the KV is asked. */
typedef struct blob_identity {
	pgs_blob *blob;
	pgs__task task;
	uint8_t random[sizeof((pgs__identity *)NULL)->random];
	uint64_t deadline_ms;
	int result;
	pgs_error err; /* that it is not there yet is no failure */
} blob_identity;

static void *read_blob_identity(void *ctx)
{
	blob_identity *b = ctx;
	pgs_blob_range range = {.name = IDENTITY_BLOB, .size = sizeof b->random, .buffer = b->random};
	b->result = b->blob->vtable->get(b->blob, &range, 1, b->deadline_ms, &b->err);
	return NULL;
}

/* The blob store keeps a copy, so that a KV and a blob store that do not belong together are not mixed. */
static int check_blob_identity(pgs_store *store, const blob_identity *copy, pgs__identity *identity,
			       uint64_t deadline_ms, pgs_error *err)
{
	pgs_blob *blob = store->backend.blob;
	const int result = copy->result;
	if (result == PGS_ENOTFOUND && store->read_only)
		return PGS_OK;
	if (result == PGS_ENOTFOUND)
		return blob->vtable->put(blob, IDENTITY_BLOB, sizeof identity->random, read_random, identity,
					 deadline_ms, err);
	if (result == PGS_OK && memcmp(copy->random, identity->random, sizeof copy->random) != 0)
		return pgs__error(err, PGS_ECORRUPT,
				  "the KV and the blob store belong to different stores: check both halves of the URL");
	return result == PGS_OK ? PGS_OK : pgs__error(err, result, "%s", copy->err.message);
}

/* A path or a size that cannot be is the caller's mistake; what else goes wrong makes reads slower, and nothing more. */
static int open_cache(pgs_store *store, const pgs_store_options *o, const pgs__identity *identity, pgs_error *err)
{
	pgs_error local = PGS_ERROR_INIT;
	pgs__disk_cache_options how = {.path = o->cache_path, .size_bytes = o->cache_size_bytes,
				       .logger = o->logger, .logger_ctx = o->logger_ctx};
	if (!o->cache_path)
		return o->cache_size_bytes ? pgs__error(err, PGS_EINVAL, "a cache's size is given without its path")
					   : PGS_OK;
	memcpy(how.identity, identity->random, sizeof how.identity);
	int result = pgs__disk_cache_open(&store->disk, &how, &local);
	if (result == PGS_EINVAL || result == PGS_ENOTFOUND || result == PGS_EREADONLY)
		return pgs__error(err, result, "%s", local.message);
	if (result != PGS_OK)
		pgs__log(store, PGS_LOG_WARN, "going on without a cache: %s", local.message);
	return PGS_OK;
}

static int identify(pgs_store *store, const pgs_store_options *o, pgs_error *err)
{
	pgs__identity identity;
	uint64_t deadline = pgs__now_ms() + (store->timeout_ms ? store->timeout_ms : OPEN_TIMEOUT_MS);
	blob_identity copy = {.blob = store->backend.blob, .deadline_ms = deadline, .err = PGS_ERROR_INIT};
	bool beside = store->backend.concurrency > 1 && pgs__task_start(&copy.task, read_blob_identity, &copy);
	int result;
	do /* a lost reply is asked for again: what is there by then is the answer */
		result = get_identity(store, !o->must_exist && !store->read_only, &identity, deadline, err);
	while (result == PGS_EUNKNOWN && !pgs__deadline_passed(deadline));
	if (beside)
		pgs__task_join(&copy.task);
	else if (result == PGS_OK)
		read_blob_identity(&copy);
	if (result == PGS_OK)
		result = check_blob_identity(store, &copy, &identity, deadline, err);
	return result == PGS_OK ? open_cache(store, o, &identity, err) : result;
}

/* --- opening ----------------------------------------------------------------------------- */

static int check_options(const pgs_store_options *o, pgs_error *err)
{
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL, "pgs_store_options: struct_size is not set; use PGS_STORE_OPTIONS_INIT");
	if (o->maintenance > PGS_MAINTENANCE_THREAD || o->kv_history > PGS_KV_HISTORY_SHARED ||
	    o->pressure > PGS_PRESSURE_LIMIT)
		return pgs__error(err, PGS_EINVAL, "pgs_store_options: unknown maintenance, kv_history or pressure");
	if (o->soft_quota_percent > 100 && o->soft_quota_percent != PGS_SOFT_QUOTA_OFF)
		return pgs__error(err, PGS_EINVAL, "pgs_store_options: soft_quota_percent is %u, more than 100",
				  o->soft_quota_percent);
	return PGS_OK;
}

static void close_backends(pgs_kv *kv, pgs_blob *blob)
{
	if (kv && kv->vtable && kv->vtable->close)
		kv->vtable->close(kv);
	if (blob && blob->vtable && blob->vtable->close)
		blob->vtable->close(blob);
}

int pgs_open_with(pgs_store **out, pgs_kv *kv, pgs_blob *blob, const pgs_store_options *options, pgs_error *err)
{
	const pgs_store_options defaults = PGS_STORE_OPTIONS_INIT;
	const pgs_store_options *o = options ? options : &defaults;
	*out = NULL;
	int result = check_options(o, err);
	if (result == PGS_OK)
		result = check_backends(kv, blob, err);
	pgs_store *store = result == PGS_OK ? pgs__calloc(1, sizeof *store) : NULL;
	if (!store) {
		close_backends(kv, blob);
		return result == PGS_OK ? pgs__error_nomem(err, "store") : result;
	}
	store->backend.kv = kv;
	store->backend.blob = blob;
	kv->vtable->limits(kv, &store->backend.limits);
	store->backend.concurrency = PGS_BLOB_HAS(blob, concurrency) ? blob->vtable->concurrency(blob) : 1;
	store->timeout_ms = o->timeout_ms;
	store->read_only = o->read_only;
	store->maintenance = o->maintenance ? o->maintenance : PGS_MAINTENANCE_MANUAL;
	store->owns_kv = o->kv_history == PGS_KV_HISTORY_OWNED;
	store->limits_writers = o->pressure ? o->pressure == PGS_PRESSURE_LIMIT
					    : store->maintenance != PGS_MAINTENANCE_MANUAL;
	store->logger = o->logger;
	store->logger_ctx = o->logger_ctx;
	pthread_mutex_init(&store->lock, NULL);
	pgs__room_init(&store->room, o->soft_quota_percent == PGS_SOFT_QUOTA_OFF ? 0
				       : o->soft_quota_percent ? o->soft_quota_percent
							       : SOFT_QUOTA_PERCENT);
	result = identify(store, o, err);
	if (result == PGS_OK)
		result = pgs__maintenance_start(store, err);
	if (result != PGS_OK) {
		pgs_close(store);
		return result;
	}
	*out = store;
	return PGS_OK;
}

int pgs_open(pgs_store **out, const char *url, const pgs_store_options *options, pgs_error *err)
{
	const pgs_store_options defaults = PGS_STORE_OPTIONS_INIT;
	const pgs_store_options *o = options ? options : &defaults;
	const pgs__open_how how = {o->read_only, o->must_exist, o->timeout_ms};
	pgs__url_cache cache = {0};
	pgs_kv *kv;
	pgs_blob *blob;
	*out = NULL;
	int result = check_options(o, err);
	if (result == PGS_OK && !url)
		result = pgs__error(err, PGS_EINVAL, "no store URL was given; try dir:/path");
	if (result == PGS_OK)
		result = pgs__url_split_cache(&cache, url, err);
	if (result == PGS_OK)
		result = pgs__backends_open(cache.url, &how, &kv, &blob, err);
	/* What a URL of these kinds names is the store's alone: it looks after itself. */
	pgs_store_options own = *o;
	if (cache.path)
		own.cache_path = cache.path;
	if (cache.size_bytes)
		own.cache_size_bytes = cache.size_bytes;
	if (result == PGS_OK && (strncmp(url, "mem:", 4) == 0 || strncmp(url, "dir:", 4) == 0)) {
		own.maintenance = o->maintenance ? o->maintenance : PGS_MAINTENANCE_BY_WRITERS;
		own.kv_history = o->kv_history ? o->kv_history : PGS_KV_HISTORY_OWNED;
	}
	if (result == PGS_OK)
		result = pgs_open_with(out, kv, blob, &own, err);
	pgs__url_cache_free(&cache);
	return result == PGS_OK ? PGS_OK : pgs__error_prefix(err, result, "opening %s", pgs__url_shown(url));
}

void pgs_close(pgs_store *store)
{
	if (!store)
		return;
	pgs__maintenance_stop(store);
	pgs__disk_cache_close(store->disk);
	close_backends(store->backend.kv, store->backend.blob);
	pgs__sightings_free(&store->sightings);
	pgs__room_free(&store->room);
	pthread_mutex_destroy(&store->lock);
	pgs__free(store);
}

/* --- operations -------------------------------------------------------------------------- */

typedef struct visit {
	pgs_operation_visitor visitor;
	void *ctx;
} visit;

/* A backend compiled at another time fills in what it knew of the struct. */
static void visit_known(void *ctx, const pgs_operation_stat *stat)
{
	const visit *v = ctx;
	pgs_operation_stat known = {0};
	memcpy(&known, stat, stat->struct_size < sizeof known ? stat->struct_size : sizeof known);
	known.struct_size = sizeof known;
	v->visitor(v->ctx, &known);
}

int pgs_store_operations(pgs_store *store, pgs_operation_visitor visitor, void *ctx, pgs_error *err)
{
	if (!store || !visitor)
		return pgs__error(err, PGS_EINVAL, "pgs_store_operations: a store and a visitor are needed");
	visit v = {visitor, ctx};
	const pgs__backend *backend = &store->backend;
	if (PGS_KV_HAS(backend->kv, operations))
		backend->kv->vtable->operations(backend->kv, visit_known, &v);
	if (PGS_BLOB_HAS(backend->blob, operations))
		backend->blob->vtable->operations(backend->blob, visit_known, &v);
	return PGS_OK;
}
