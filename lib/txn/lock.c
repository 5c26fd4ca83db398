/* The writer lock. */
#include "txn/lock.h"

#include "txn/lease.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define LEASE_MS 10000
#define WAIT_MIN_MS 1
#define WAIT_MAX_MS 20
#define RELEASE_TRIES 3

static int encode_lock(pgs__buffer *out, pgs_error *err)
{
	pgs__lock value;
	int result = pgs__lease_self(&value, LEASE_MS, err);
	if (result != PGS_OK)
		return result;
	pgs__lock_encode(&value, out);
	return out->failed ? pgs__error_nomem(err, "writer lock") : PGS_OK;
}

void pgs__writer_keys_make(pgs__writer_keys *out, const uint8_t *prefix)
{
	out->lock = pgs__key_lock(prefix, "w");
	out->asked = pgs__key_lock(prefix, "w-asked");
	out->end = out->lock;
	out->end.bytes[out->end.size - 1]++;
}

/* What is done about another's lock: PGS_OK to look again. */
typedef int (*on_held)(pgs_db *db, pgs__writer_lock *lock, const pgs_kv_pair *pair, uint64_t deadline_ms,
		       pgs_error *err);

/* One who wants the lock. */
typedef struct taker {
	pgs_db *db;
	pgs__writer_lock *lock;
	pgs_slice value;
	on_held held;
	uint64_t deadline_ms;
	pgs_error *err;
} taker;

/* What was found where the lock could not be put: it, and the database's metadata. */
static int judge_found(const taker *t, const pgs_kv_pair *pair, const pgs_kv_pair *meta)
{
	if (!meta)
		return pgs__error(t->err, PGS_ENOTFOUND, "database %s was dropped", t->db->name);
	if (!pair)
		return PGS_OK;
	if (!pgs__slice_equal(pair->value, t->value))
		return t->held(t->db, t->lock, pair, t->deadline_ms, t->err);
	/* Ours, after a lost reply: its value is what we put. */
	pgs__turn_taken(t->db, t->lock, pair->create_revision);
	return PGS_OK;
}

/* Whether others hold it, without trying to take it, which would keep the KV's writers busy. *free: nobody does. */
static int look(const taker *t, bool *free)
{
	pgs__key key = pgs__key_lock(pgs__db_prefix(t->db), "w"), m = pgs__key_single(pgs__db_prefix(t->db), 'm');
	const pgs_kv_op reads[] = {pgs__op_get(pgs__key_slice(&key), 0), pgs__op_get(pgs__key_slice(&m), 0)};
	const pgs__backend *backend = pgs__db_backend(t->db);
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend, &txn, reads, 2, t->deadline_ms, t->err);
	*free = result == PGS_OK && !pgs__got(&txn, 0);
	if (result == PGS_OK)
		result = judge_found(t, pgs__got(&txn, 0), pgs__got(&txn, 1));
	pgs__kv_release(backend, &txn, 1);
	return result;
}

/* One try. PGS_OK: taken (lock->held is set), or another's was met (it is not, and `held` said so). */
static int try_take(const taker *t)
{
	pgs__key key = pgs__key_lock(pgs__db_prefix(t->db), "w"), m = pgs__key_single(pgs__db_prefix(t->db), 'm');
	const pgs_kv_compare compares[] = {pgs__if_exists(pgs__key_slice(&m)), pgs__if_absent(pgs__key_slice(&key))};
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), t->value);
	const pgs_kv_op reads[] = {pgs__op_get(pgs__key_slice(&key), 0), pgs__op_get(pgs__key_slice(&m), 0)};
	pgs_kv_txn txn = {.compares = compares,
			  .compare_count = PGS__BUG(LOCK_TAKEN_UNCOMPARED) ? 1 : 2,
			  .success = &put,
			  .success_count = 1,
			  .failure = reads,
			  .failure_count = 2};
	const pgs__backend *backend = pgs__db_backend(t->db);
	uint64_t sent_ms = pgs__now_ms();
	int result = pgs__kv_send(backend->kv, &txn, t->deadline_ms, t->err);
	if (result == PGS_OK && txn.succeeded)
		pgs__turn_taken(t->db, t->lock, txn.revision);
	else if (result == PGS_OK)
		result = judge_found(t, pgs__got(&txn, 0), pgs__got(&txn, 1));
	backend->kv->vtable->release(backend->kv, &txn, 1);
	t->lock->renew_ms = sent_ms + LEASE_MS / 3;
	return result;
}

static int take(const taker *t)
{
	pgs__writer_lock *lock = t->lock;
	int result = PGS_OK;
	while (result == PGS_OK && lock->held == 0) {
		bool free = true;
		if (pgs__turn_resume(t->db, lock, t->deadline_ms)) {
			if (pgs__now_ms() >= lock->renew_ms)
				pgs__writer_lock_renew(t->db, lock, t->deadline_ms);
			continue;
		}
		if (pgs__turn_is_contended(t->db))
			result = look(t, &free);
		if (result == PGS_OK && free)
			result = try_take(t);
		if (result == PGS_EUNKNOWN && !pgs__deadline_passed(t->deadline_ms)) {
			pgs__sleep_ms(WAIT_MAX_MS, t->deadline_ms);
			result = PGS_OK;
		}
	}
	return result;
}

static int take_or(pgs_db *db, pgs__writer_lock *lock, on_held held, uint64_t deadline_ms, pgs_error *err)
{
	pgs__buffer value = {0};
	int result = encode_lock(&value, err);
	const taker t = {db, lock, pgs__buffer_slice(&value), held, deadline_ms, err};
	lock->last.revision = 0;
	if (result == PGS_OK)
		result = take(&t);
	pgs__buffer_free(&value);
	return result;
}

int pgs__writer_lock_take(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms, pgs_error *err)
{
	return take_or(db, lock, pgs__writer_lock_wait, deadline_ms, err);
}

static pgs_kv_compare if_created(pgs_slice key, uint64_t revision)
{
	return (pgs_kv_compare){
		.key = key, .target = PGS_KV_CREATE, .relation = PGS_KV_EQUAL, .number = revision};
}

void pgs__writer_lock_renew(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms)
{
	pgs__key key = pgs__key_lock(pgs__db_prefix(db), "w");
	pgs__buffer value = {0};
	lock->renew_ms = pgs__now_ms() + LEASE_MS / 3;
	if (encode_lock(&value, NULL) == PGS_OK) {
		const pgs_kv_compare ours = if_created(pgs__key_slice(&key), lock->held);
		const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), pgs__buffer_slice(&value));
		pgs_kv_txn txn = {.compares = &ours, .compare_count = 1, .success = &put, .success_count = 1};
		const pgs__backend *backend = pgs__db_backend(db);
		if (pgs__kv_send(backend->kv, &txn, deadline_ms, NULL) == PGS_OK && !txn.succeeded)
			lock->held = 0;
		backend->kv->vtable->release(backend->kv, &txn, 1);
	}
	pgs__buffer_free(&value);
}

/* --- others' -------------------------------------------------------------------------- */

/* Whether the lock may be broken: its lease ran out under our eyes, or its process is gone. */
static bool is_dead(pgs__writer_lock *lock, const pgs_kv_pair *pair)
{
	pgs__lock value;
	uint64_t now = pgs__now_ms(), lease = LEASE_MS;
	bool readable = pgs__lock_decode(pair->value, &value) == PGS_OK;
	if (lock->seen != pair->mod_revision) {
		lock->seen = pair->mod_revision;
		lock->seen_since = now;
		lock->waits = 0;
	}
	if (readable) {
		if (lock->waits % 8 == 0 && pgs__lease_is_gone(&value))
			return true;
		lease = value.lease_ms;
	}
	return now - lock->seen_since >= lease;
}

/* Delete it, and what was asked of its holder, if it is still what the compare says. */
static int delete_lock(pgs_db *db, pgs_kv_compare same, uint64_t deadline_ms, pgs_error *err)
{
	pgs__writer_keys keys;
	pgs__writer_keys_make(&keys, pgs__db_prefix(db));
	same.key = pgs__key_slice(&keys.lock);
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&keys.lock), pgs__key_slice(&keys.end));
	pgs_kv_txn txn = {.compares = &same, .compare_count = 1, .success = &delete, .success_count = 1};
	const pgs__backend *backend = pgs__db_backend(db);
	int result = pgs__kv_send(backend->kv, &txn, deadline_ms, err);
	backend->kv->vtable->release(backend->kv, &txn, 1);
	return result;
}

static int break_lock(pgs_db *db, const pgs_kv_pair *pair, uint64_t deadline_ms, pgs_error *err)
{
	int result = delete_lock(db, pgs__if_mod(pair->key, PGS_KV_EQUAL, pair->mod_revision), deadline_ms, err);
	if (result == PGS_OK)
		pgs__log(db->store, PGS_LOG_WARN, "database %s: broke the writer lock of a dead or stuck writer",
			 db->name);
	return result == PGS_EUNKNOWN ? PGS_OK : result; /* the next look tells */
}

/* A lock of this process's that could not be given back. It is deleted, not used: a request to delete it may still be
 * on its way. */
static int give_back_late(pgs_db *db, const pgs_kv_pair *pair, uint64_t deadline_ms, pgs_error *err)
{
	int result = delete_lock(db, pgs__if_mod(pair->key, PGS_KV_EQUAL, pair->mod_revision), deadline_ms, err);
	return result == PGS_EUNKNOWN ? PGS_OK : result;
}

/* Ask for a lock that was met: it may be kept by who does not need it. Failing is no error: it may end anyway. */
static void ask(pgs_db *db, const pgs_kv_pair *pair, uint64_t deadline_ms)
{
	pgs__writer_keys keys;
	pgs__buffer value = {0};
	pgs__writer_keys_make(&keys, pgs__db_prefix(db));
	if (encode_lock(&value, NULL) == PGS_OK) {
		const pgs_kv_compare compares[] = {if_created(pgs__key_slice(&keys.lock), pair->create_revision),
						   pgs__if_absent(pgs__key_slice(&keys.asked))};
		const pgs_kv_op put = pgs__op_put(pgs__key_slice(&keys.asked), pgs__buffer_slice(&value));
		pgs_kv_txn txn = {.compares = compares, .compare_count = 2, .success = &put, .success_count = 1};
		const pgs__backend *backend = pgs__db_backend(db);
		if (pgs__kv_send(backend->kv, &txn, deadline_ms, NULL) == PGS_OK)
			pgs__turn_asked(db, pair->create_revision);
		backend->kv->vtable->release(backend->kv, &txn, 1);
	}
	pgs__buffer_free(&value);
}

/* Another's lock was met by someone who does not wait: what was seen of it is kept from one try to the next. */
static int refuse(pgs_db *db, pgs__writer_lock *lock, const pgs_kv_pair *pair, uint64_t deadline_ms, pgs_error *err)
{
	pgs__lease lease = {.create_revision = pair->create_revision, .mod_revision = pair->mod_revision};
	pgs__lease *const leases[] = {&lease};
	(void)lock;
	if (pgs__turn_was_left(db, pair->create_revision))
		return give_back_late(db, pair, deadline_ms, err);
	if (pgs__lock_decode(pair->value, &lease.holder) != PGS_OK)
		lease.holder = (pgs__lock){.lease_ms = LEASE_MS};
	pgs__observed_judge(&db->seen->writers, leases, 1, pgs__now_ms());
	if (lease.dead)
		return break_lock(db, pair, deadline_ms, err);
	if (pgs__turn_met(db, pair->create_revision))
		ask(db, pair, deadline_ms);
	return pgs__error(err, PGS_EBUSY, "database %s: another transaction holds the writer lock", db->name);
}

int pgs__writer_lock_begin(pgs_db *db, pgs__writer_lock *lock, uint32_t how, uint64_t deadline_ms, pgs_error *err)
{
	lock->worth_keeping = pgs__turn_is_soon(db);
	return take_or(db, lock, how == PGS_LOCK_TRY ? refuse : pgs__writer_lock_wait, deadline_ms, err);
}

int pgs__writer_lock_wait(pgs_db *db, pgs__writer_lock *lock, const pgs_kv_pair *pair, uint64_t deadline_ms,
			  pgs_error *err)
{
	if (pgs__turn_was_left(db, pair->create_revision))
		return give_back_late(db, pair, deadline_ms, err);
	if (is_dead(lock, pair))
		return break_lock(db, pair, deadline_ms, err);
	if (pgs__turn_met(db, pair->create_revision))
		ask(db, pair, deadline_ms);
	uint32_t pause = WAIT_MIN_MS << (lock->waits < 5 ? lock->waits : 5);
	lock->waits++;
	pgs__sleep_ms(pause < WAIT_MAX_MS ? pause : WAIT_MAX_MS, deadline_ms);
	if (pgs__deadline_passed(deadline_ms))
		return pgs__error(err, PGS_EBUSY, "database %s: another writer held the commit lock past the timeout",
				  db->name);
	return PGS_OK;
}

void pgs__writer_lock_release(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms)
{
	const pgs_kv_compare ours = if_created((pgs_slice){0}, lock->held);
	int result = lock->held ? PGS_EIO : PGS_OK;
	/* What is left there keeps other processes out until its lease ends. */
	for (int i = 0; result != PGS_OK && i < RELEASE_TRIES && (i == 0 || !pgs__deadline_passed(deadline_ms)); i++)
		result = delete_lock(db, ours, deadline_ms, NULL);
	if (result != PGS_OK)
		pgs__turn_leave(db, lock->held);
	lock->held = 0;
}
