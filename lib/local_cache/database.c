/* Opening caches, and finding databases in them. */
#include "local_cache/database.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "local_cache/mirror_record.h"
#include "local_cache/queue.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define ATTACH_WAIT_MS 1000
#define CLOSE_WAIT_MS 1000
#define ATTACH_PAGES 16
#define DROP_WAIT_MS 100
#define TOUCH_SECONDS ((uint64_t)24 * 3600) /* how exact it is known when a database was last attached */

/* --- trouble ---------------------------------------------------------------------------- */

void pgs__disk_tell(pgs__disk_cache *cache, uint32_t kind, const char *format, ...)
{
	char line[512];
	va_list arguments;
	if (!cache->logger || atomic_fetch_or(&cache->told, kind) & kind)
		return;
	va_start(arguments, format);
	vsnprintf(line, sizeof line, format, arguments);
	va_end(arguments);
	cache->logger(cache->logger_ctx, PGS_LOG_WARN, line);
}

int pgs__disk_failed(pgs__disk_cache *cache, int rc, const char *what, pgs_error *err)
{
	pgs_error local = PGS_ERROR_INIT;
	int code = pgs__cache_file_error(cache->file, rc, what, &local);
	if (code == PGS_OK)
		return PGS_OK;
	if (code != PGS_EBUSY)
		pgs__disk_tell(cache, code == PGS_ENOSPC ? PGS__TOLD_FULL : PGS__TOLD_FAILED, "%s", local.message);
	if (err)
		*err = local;
	return code;
}

/* --- caches ------------------------------------------------------------------------------- */

int pgs__disk_cache_open(pgs__disk_cache **out, const pgs__disk_cache_options *options, pgs_error *err)
{
	bool started_over;
	*out = NULL;
	pgs__disk_cache *cache = pgs__calloc(1, sizeof *cache);
	if (!cache)
		return pgs__error_nomem(err, "opening the cache");
	int status = pgs__cache_file_open(&cache->file, options, &started_over, err);
	if (status != PGS_OK) {
		pgs__free(cache);
		return status;
	}
	memcpy(cache->identity, options->identity, sizeof cache->identity);
	cache->logger = options->logger;
	cache->logger_ctx = options->logger_ctx;
	if (started_over && cache->logger)
		cache->logger(cache->logger_ctx, PGS_LOG_WARN,
			      "the cache was started over: it was damaged, of another version or size, or in use when the "
			      "machine crashed");
	*out = cache;
	return PGS_OK;
}

void pgs__disk_cache_close(pgs__disk_cache *cache)
{
	if (!cache)
		return;
	if (!cache->file->forked)
		pgs__disk_flush(cache, pgs__now_ms() + CLOSE_WAIT_MS, NULL);
	pgs__cache_file_release(cache->file);
	pgs__free(cache);
}

int pgs__disk_cache_checkpoint(pgs__disk_cache *cache, uint64_t deadline_ms, pgs_error *err)
{
	return pgs__disk_failed(cache, pgs__cache_file_checkpoint(cache->file, deadline_ms), "syncing", err);
}

/* --- the list of databases ------------------------------------------------------------------ */

typedef struct record {
	uint8_t identity[16], prefix[PGS__PREFIX_SIZE];
	uint32_t number;
	uint64_t attached; /* Unix s */
} record;

typedef struct search {
	record wanted; /* number and time are filled */
	int slot;      /* or -1 */
	uint32_t before; /* whose it was before; 0 = nobody's */
	bool locked;   /* its byte was locked for us */
} search;

static void record_key(pgs__cache_meta_value *m, unsigned slot)
{
	const uint8_t key[2] = {'d', (uint8_t)slot};
	pgs__cache_meta_key(m, key, sizeof key);
}

static int record_get(pgs__cache_file *file, MDB_txn *txn, unsigned slot, record *out)
{
	pgs__cache_meta_value m;
	pgs__reader r;
	record_key(&m, slot);
	int rc = pgs__cache_meta_get(file, txn, &m, &r);
	if (rc)
		return rc == PGS__CACHE_BAD_RECORD ? MDB_CORRUPTED : rc; /* whose pages are whose is not known any more */
	pgs__read_bytes(&r, out->identity, sizeof out->identity);
	pgs__read_bytes(&r, out->prefix, sizeof out->prefix);
	out->number = pgs__read_u32be(&r);
	out->attached = pgs__read_u64(&r);
	return r.failed ? MDB_CORRUPTED : 0;
}

static int record_put(pgs__cache_file *file, MDB_txn *txn, unsigned slot, const record *in)
{
	pgs__cache_meta_value m;
	record_key(&m, slot);
	pgs__put_bytes(&m.writer, in->identity, sizeof in->identity);
	pgs__put_bytes(&m.writer, in->prefix, sizeof in->prefix);
	pgs__put_u32be(&m.writer, in->number);
	pgs__put_u64(&m.writer, in->attached);
	return pgs__cache_meta_put(file, txn, &m);
}

/* The slot of a database: *slot is -1 if it has none. */
static int find(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	search *s = ctx;
	s->slot = -1;
	for (unsigned i = 0; i < PGS__SHARED_SLOTS; i++) {
		record r;
		int rc = record_get(file, txn, i, &r);
		if (rc == MDB_NOTFOUND)
			continue;
		if (rc)
			return rc;
		if (memcmp(r.identity, s->wanted.identity, sizeof r.identity) != 0 ||
		    memcmp(r.prefix, s->wanted.prefix, sizeof r.prefix) != 0)
			continue;
		s->wanted = r;
		s->slot = (int)i;
		return 0;
	}
	return 0;
}

/* A slot that nobody has attached, and that is free or not wanted for the longest; its byte is locked. */
static int choose(pgs__cache_file *file, MDB_txn *txn, search *s)
{
	uint64_t oldest = UINT64_MAX;
	s->slot = -1;
	s->before = 0;
	for (unsigned i = 0; i < PGS__SHARED_SLOTS; i++) {
		record r = {0};
		int rc = record_get(file, txn, i, &r);
		if (rc && rc != MDB_NOTFOUND)
			return rc;
		bool idle = !file->attached[i] && !pgs__shared_others(&file->state, PGS__LOCK_ATTACHED + (off_t)i);
		if (idle && r.attached < oldest) {
			oldest = r.attached;
			s->slot = (int)i;
			s->before = r.number;
		}
	}
	if (s->slot < 0)
		return ERANGE;
	s->locked = pgs__shared_lock(&file->state, PGS__LOCK_ATTACHED + (off_t)s->slot, true, 0);
	return s->locked ? 0 : EBUSY;
}

static int assign(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	search *s = ctx;
	int rc = find(file, txn, s);
	if (rc || s->slot >= 0)
		return rc ? rc : PGS__CACHE_NOTHING_TO_DO;
	rc = choose(file, txn, s);
	if (!rc)
		rc = pgs__cache_meta_number(file, txn, &s->wanted.number);
	s->wanted.attached = (uint64_t)(pgs__unix_ms() / 1000);
	if (!rc)
		rc = record_put(file, txn, (unsigned)s->slot, &s->wanted);
	if (!rc && s->before)
		rc = pgs__queue_disown(file, txn, s->before);
	return rc ? rc : pgs__mirror_discard(file, txn, (unsigned)s->slot);
}

static void slot_given(pgs__cache_file *file, void *ctx)
{
	pgs__shared_slot *slot = &file->state.words->slots[((const search *)ctx)->slot];
	atomic_store(&slot->sequence, 0);
	atomic_store(&slot->required, 0);
	atomic_store(&slot->confirmed_ms, 0);
	atomic_store(&slot->verified, 0);
}

/* It was dropped. Should it come back with the store's backup, it begins anew, with another number. */
static int disown(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	search *s = ctx;
	int rc = find(file, txn, s);
	if (rc || s->slot < 0)
		return rc ? rc : PGS__CACHE_NOTHING_TO_DO;
	rc = pgs__queue_disown(file, txn, s->wanted.number);
	if (!rc)
		rc = pgs__cache_meta_number(file, txn, &s->wanted.number);
	if (!rc)
		rc = record_put(file, txn, (unsigned)s->slot, &s->wanted);
	return rc ? rc : pgs__mirror_discard(file, txn, (unsigned)s->slot);
}

static int touch(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	search *s = ctx;
	s->wanted.attached = (uint64_t)(pgs__unix_ms() / 1000);
	return record_put(file, txn, (unsigned)s->slot, &s->wanted);
}

/* --- attaching ---------------------------------------------------------------------------------- */

/* Lock the slot that was found, and look again: it may have been given to another database in between. */
static int hold(pgs__cache_file *file, search *s, uint64_t deadline_ms, bool *held)
{
	int slot = s->slot;
	bool first = !file->attached[slot];
	*held = false;
	if (first && !pgs__shared_lock(&file->state, PGS__LOCK_ATTACHED + slot, false, deadline_ms))
		return EBUSY;
	int rc = pgs__cache_file_read(file, find, s);
	*held = !rc && s->slot == slot;
	if (!*held && first)
		pgs__shared_unlock(&file->state, PGS__LOCK_ATTACHED + slot);
	return rc;
}

static int attach(pgs__cache_file *file, search *s, uint64_t deadline_ms)
{
	for (;;) {
		bool held = false;
		int rc = pgs__cache_file_read(file, find, s);
		if (!rc && s->slot >= 0) {
			rc = hold(file, s, deadline_ms, &held);
		} else if (!rc) {
			rc = pgs__cache_file_write(file, ATTACH_PAGES, deadline_ms, assign, slot_given, s);
			if (!rc)
				held = pgs__shared_lock(&file->state, PGS__LOCK_ATTACHED + s->slot, false, 0);
			else if (s->locked)
				pgs__shared_unlock(&file->state, PGS__LOCK_ATTACHED + s->slot);
			rc = rc == PGS__CACHE_NOTHING_TO_DO ? 0 : rc;
		}
		if (held && s->wanted.attached + TOUCH_SECONDS < (uint64_t)(pgs__unix_ms() / 1000))
			pgs__cache_file_write(file, ATTACH_PAGES, deadline_ms, touch, NULL, s);
		if (rc || held)
			return rc;
		if (pgs__deadline_passed(deadline_ms))
			return EBUSY;
	}
}

int pgs__disk_db_attach(pgs__disk_db **out, pgs__disk_cache *cache, const uint8_t prefix[PGS__PREFIX_SIZE],
			uint32_t page_size, pgs_error *err)
{
	pgs__cache_file *file = cache->file;
	search s = {.slot = -1};
	*out = NULL;
	pgs__disk_db *db = pgs__calloc(1, sizeof *db);
	if (!db)
		return pgs__error_nomem(err, "a database's cache");
	memcpy(s.wanted.identity, cache->identity, sizeof s.wanted.identity);
	memcpy(s.wanted.prefix, prefix, PGS__PREFIX_SIZE);
	pthread_mutex_lock(&file->attach_lock);
	int rc = attach(file, &s, pgs__now_ms() + ATTACH_WAIT_MS);
	if (!rc)
		file->attached[s.slot]++;
	pthread_mutex_unlock(&file->attach_lock);
	if (rc) {
		pgs__free(db);
		if (rc == ERANGE)
			return pgs__error(err, PGS_ELIMIT, "the cache '%s' has %d databases, all in use", file->path,
					  PGS__SHARED_SLOTS);
		return pgs__disk_failed(cache, rc, "opening a database's cache", err);
	}
	*db = (pgs__disk_db){.cache = cache, .file = file, .page_size = page_size, .number = s.wanted.number,
			     .slot = (unsigned)s.slot};
	memcpy(db->prefix, prefix, PGS__PREFIX_SIZE);
	*out = db;
	return PGS_OK;
}

void pgs__disk_db_detach(pgs__disk_db *db)
{
	if (!db)
		return;
	pgs__cache_file *file = db->file;
	if (!file->forked) {
		pgs__mirror_follow_unlock(db);
		pthread_mutex_lock(&file->attach_lock);
		if (--file->attached[db->slot] == 0)
			pgs__shared_unlock(&file->state, PGS__LOCK_ATTACHED + (off_t)db->slot);
		pthread_mutex_unlock(&file->attach_lock);
	}
	pgs__free(db);
}

void pgs__disk_db_dropped(pgs__disk_cache *cache, const uint8_t prefix[PGS__PREFIX_SIZE])
{
	search s = {.slot = -1};
	memcpy(s.wanted.identity, cache->identity, sizeof s.wanted.identity);
	memcpy(s.wanted.prefix, prefix, PGS__PREFIX_SIZE);
	int rc = pgs__cache_file_write(cache->file, ATTACH_PAGES, pgs__now_ms() + DROP_WAIT_MS, disown, slot_given, &s);
	pgs__disk_failed(cache, rc, "forgetting a database", NULL);
}
