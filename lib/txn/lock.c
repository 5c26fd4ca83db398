/* The writer lock. */
#include "txn/lock.h"

#include "txn/lease.h"
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

/* What is done about another's lock: PGS_OK to look again. */
typedef int (*on_held)(pgs_db *db, pgs__writer_lock *lock, const pgs_kv_pair *pair, uint64_t deadline_ms,
		       pgs_error *err);

/* One try. PGS_OK: taken (lock->held is set) or another's was met (it is not, and `held` said so). */
static int try_take(pgs_db *db, pgs__writer_lock *lock, pgs_slice value, on_held held, uint64_t deadline_ms,
		    pgs_error *err)
{
	pgs__key key = pgs__key_lock(pgs__db_prefix(db), "w"), m = pgs__key_single(pgs__db_prefix(db), 'm');
	const pgs_kv_compare compares[] = {pgs__if_absent(pgs__key_slice(&key)), pgs__if_exists(pgs__key_slice(&m))};
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), value);
	const pgs_kv_op reads[] = {pgs__op_get(pgs__key_slice(&key), 0), pgs__op_get(pgs__key_slice(&m), 0)};
	pgs_kv_txn txn = {.compares = compares,
			  .compare_count = 2,
			  .success = &put,
			  .success_count = 1,
			  .failure = reads,
			  .failure_count = 2};
	const pgs__backend *backend = pgs__db_backend(db);
	int result = pgs__kv_send(backend->kv, &txn, deadline_ms, err);
	if (result == PGS_OK && txn.succeeded) {
		lock->held = txn.revision;
	} else if (result == PGS_OK && !pgs__got(&txn, 1)) {
		result = pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", db->name);
	} else if (result == PGS_OK) {
		const pgs_kv_pair *pair = pgs__got(&txn, 0);
		/* Ours after a lost reply? Then its value is what we put. */
		if (pair && pgs__slice_equal(pair->value, value))
			lock->held = pair->create_revision;
		else if (pair)
			result = held(db, lock, pair, deadline_ms, err);
	}
	backend->kv->vtable->release(backend->kv, &txn, 1);
	if (lock->held)
		lock->renew_ms = pgs__now_ms() + LEASE_MS / 3;
	return result;
}

static int take(pgs_db *db, pgs__writer_lock *lock, on_held held, uint64_t deadline_ms, pgs_error *err)
{
	pgs__buffer value = {0};
	int result = encode_lock(&value, err);
	while (result == PGS_OK && lock->held == 0) {
		result = try_take(db, lock, pgs__buffer_slice(&value), held, deadline_ms, err);
		if (result == PGS_EUNKNOWN && !pgs__deadline_passed(deadline_ms)) {
			pgs__sleep_ms(WAIT_MAX_MS, deadline_ms);
			result = PGS_OK;
		}
	}
	pgs__buffer_free(&value);
	return result;
}

int pgs__writer_lock_take(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms, pgs_error *err)
{
	return take(db, lock, pgs__writer_lock_wait, deadline_ms, err);
}

void pgs__writer_lock_renew(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms)
{
	pgs__key key = pgs__key_lock(pgs__db_prefix(db), "w");
	pgs__buffer value = {0};
	lock->renew_ms = pgs__now_ms() + LEASE_MS / 3;
	if (encode_lock(&value, NULL) == PGS_OK) {
		const pgs_kv_compare ours = {.key = pgs__key_slice(&key),
					     .target = PGS_KV_CREATE,
					     .relation = PGS_KV_EQUAL,
					     .number = lock->held};
		const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), pgs__buffer_slice(&value));
		pgs_kv_txn txn = {.compares = &ours, .compare_count = 1, .success = &put, .success_count = 1};
		const pgs__backend *backend = pgs__db_backend(db);
		if (pgs__kv_send(backend->kv, &txn, deadline_ms, NULL) == PGS_OK && !txn.succeeded)
			lock->held = 0;
		backend->kv->vtable->release(backend->kv, &txn, 1);
	}
	pgs__buffer_free(&value);
}

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

static int break_lock(pgs_db *db, const pgs_kv_pair *pair, uint64_t deadline_ms, pgs_error *err)
{
	const pgs_kv_compare same = pgs__if_mod(pair->key, PGS_KV_EQUAL, pair->mod_revision);
	const pgs_kv_op delete = pgs__op_delete(pair->key, (pgs_slice){0});
	pgs_kv_txn txn = {.compares = &same, .compare_count = 1, .success = &delete, .success_count = 1};
	const pgs__backend *backend = pgs__db_backend(db);
	int result = pgs__kv_send(backend->kv, &txn, deadline_ms, err);
	backend->kv->vtable->release(backend->kv, &txn, 1);
	if (result == PGS_OK)
		pgs__log(db->store, PGS_LOG_WARN, "database %s: broke the writer lock of a dead or stuck writer",
			 db->name);
	return result == PGS_EUNKNOWN ? PGS_OK : result; /* the next look tells */
}

/* Another's lock was met by someone who does not wait: what was seen of it is kept from one try to the next. */
static int refuse(pgs_db *db, pgs__writer_lock *lock, const pgs_kv_pair *pair, uint64_t deadline_ms, pgs_error *err)
{
	pgs__lease lease = {.create_revision = pair->create_revision, .mod_revision = pair->mod_revision};
	pgs__lease *const leases[] = {&lease};
	(void)lock;
	if (pgs__lock_decode(pair->value, &lease.holder) != PGS_OK)
		lease.holder = (pgs__lock){.lease_ms = LEASE_MS};
	pgs__observed_judge(&db->seen->writers, leases, 1, pgs__now_ms());
	if (lease.dead)
		return break_lock(db, pair, deadline_ms, err);
	return pgs__error(err, PGS_EBUSY, "database %s: another transaction holds the writer lock", db->name);
}

int pgs__writer_lock_try(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms, pgs_error *err)
{
	return take(db, lock, refuse, deadline_ms, err);
}

int pgs__writer_lock_wait(pgs_db *db, pgs__writer_lock *lock, const pgs_kv_pair *pair, uint64_t deadline_ms,
			  pgs_error *err)
{
	if (is_dead(lock, pair))
		return break_lock(db, pair, deadline_ms, err);
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
	if (lock->held == 0)
		return;
	pgs__key key = pgs__key_lock(pgs__db_prefix(db), "w");
	const pgs_kv_compare ours = {.key = pgs__key_slice(&key),
				     .target = PGS_KV_CREATE,
				     .relation = PGS_KV_EQUAL,
				     .number = lock->held};
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&key), (pgs_slice){0});
	pgs_kv_txn txn = {.compares = &ours, .compare_count = 1, .success = &delete, .success_count = 1};
	const pgs__backend *backend = pgs__db_backend(db);
	int result = PGS_EIO;
	/* What is left there keeps all others out until its lease ends. */
	for (int i = 0; result != PGS_OK && i < RELEASE_TRIES && (i == 0 || !pgs__deadline_passed(deadline_ms)); i++) {
		result = pgs__kv_send(backend->kv, &txn, deadline_ms, NULL);
		backend->kv->vtable->release(backend->kv, &txn, 1);
	}
	lock->held = 0;
}
