/* Pins of revisions: for users, and for transactions that take long. */
#include "txn/revision_pin.h"

#include "codec/seal.h"
#include "txn/snapshot.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define LEASE_DEFAULT_MS 60000
#define KEEP_LEASE_MIN_MS 60000
#define KEEP_AFTER_MIN_MS 1000
#define KEEP_RETRY_MS 1000
#define RESEND_PAUSE_MS 5
#define LATEST_TRIES 8

/* --- one pin ------------------------------------------------------------------------- */

static int pin_init(pgs__pin *pin, pgs_db *db, uint64_t revision, uint64_t lease_ms, pgs_error *err)
{
	*pin = (pgs__pin){.db = db, .revision = revision, .lease_ms = lease_ms};
	if (pgs__uuid7(pin->uuid) != PGS_OK || pgs__random_bytes(pin->owner, sizeof pin->owner) != PGS_OK)
		return pgs__error(err, PGS_EIO, "the system gives no random bytes");
	pin->sent = true;
	return PGS_OK;
}

pgs__key pgs__pin_key(const pgs__pin *pin)
{
	return pgs__key_uuid(pgs__db_prefix(pin->db), 'r', pin->uuid);
}

static int encode_pin(const pgs__pin *pin, pgs__buffer *out, pgs_error *err)
{
	pgs__pin_value value = {.revision = pin->revision};
	int result = pgs__lease_self(&value.holder, pin->lease_ms, err);
	if (result != PGS_OK)
		return result;
	memcpy(value.holder.owner, pin->owner, sizeof pin->owner);
	pgs__pin_encode(&value, out);
	return out->failed ? pgs__error_nomem(err, "pin") : PGS_OK;
}

enum { READ_PIN, READ_G, READ_M, READ_COUNT };

/* The put failed a compare. PGS_OK with pin->held 0: it may be sent again. */
static int judge(pgs__pin *pin, const pgs_kv_txn *txn, pgs_error *err)
{
	const pgs_kv_pair *own = pgs__got(txn, READ_PIN), *g = pgs__got(txn, READ_G);
	pgs__floor floor;
	if (!pgs__got(txn, READ_M))
		return pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", pin->db->name);
	if (!g || pgs__floor_decode(g->value, &floor) != PGS_OK)
		return pgs__error(err, PGS_ECORRUPT, "database %s: the value of key g, floor, is %s", pin->db->name,
				  g ? "damaged" : "not there");
	if (floor.floor > pin->revision) /* also when the pin is there: it was lost (report->lost_pins) */
		return pgs__error(err, PGS_EOLDREV, "revision %llu of database %s is gone; the oldest readable is %llu",
				  (unsigned long long)pin->revision, pin->db->name, (unsigned long long)floor.floor);
	if (own)
		pin->held = own->create_revision; /* by a put whose reply was lost */
	return PGS_OK;
}

/* One try to put the key: with pin->held set only if that is still there, else only if none is. */
static int send_pin(pgs__pin *pin, pgs_slice value, uint64_t deadline_ms, pgs_error *err)
{
	const pgs__backend *backend = pgs__db_backend(pin->db);
	const uint8_t *prefix = pgs__db_prefix(pin->db);
	pgs__key g = pgs__key_single(prefix, 'g'), m = pgs__key_single(prefix, 'm'), own = pgs__pin_key(pin);
	uint8_t bound[8];
	pgs__store_u64be(bound, pin->revision + 1); /* floor <= revision: see commit.c */
	const pgs_kv_compare compares[] = {
		{.key = pgs__key_slice(&own),
		 .target = PGS_KV_CREATE,
		 .relation = PGS_KV_EQUAL,
		 .number = pin->held},
		pgs__if_exists(pgs__key_slice(&m)),
		pgs__if_value_less(pgs__key_slice(&g), (pgs_slice){bound, sizeof bound}),
	};
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&own), value);
	const pgs_kv_op reads[READ_COUNT] = {
		[READ_PIN] = pgs__op_get(pgs__key_slice(&own), 0),
		[READ_G] = pgs__op_get(pgs__key_slice(&g), 0),
		[READ_M] = pgs__op_get(pgs__key_slice(&m), 0),
	};
	pgs_kv_txn txn = {.compares = compares,
			  .compare_count = 3,
			  .success = &put,
			  .success_count = 1,
			  .failure = reads,
			  .failure_count = READ_COUNT};
	int result = pgs__kv_send(backend->kv, &txn, deadline_ms, err);
	if (result == PGS_OK && txn.succeeded) {
		pin->held = pin->held ? pin->held : txn.revision;
	} else if (result == PGS_OK) {
		pin->held = 0;
		result = judge(pin, &txn, err);
	}
	backend->kv->vtable->release(backend->kv, &txn, 1);
	return result;
}

/* Until it is there, or cannot be, or the deadline. */
static int put_pin(pgs__pin *pin, uint64_t deadline_ms, pgs_error *err)
{
	pgs__buffer value = {0};
	bool put = false;
	int result = encode_pin(pin, &value, err);
	while (result == PGS_OK && !put) {
		result = send_pin(pin, pgs__buffer_slice(&value), deadline_ms, err);
		put = result == PGS_OK && pin->held;
		if (result == PGS_EUNKNOWN && !pgs__deadline_passed(deadline_ms)) {
			pgs__sleep_ms(RESEND_PAUSE_MS, deadline_ms);
			result = PGS_OK;
		} else if (result == PGS_OK && !put && pgs__deadline_passed(deadline_ms)) {
			result = pgs__error(err, PGS_ETIMEOUT, "pinning revision %llu of database %s took too long",
					    (unsigned long long)pin->revision, pin->db->name);
		}
	}
	pgs__buffer_free(&value);
	return result;
}

int pgs__pin_take(pgs__pin *pin, pgs_db *db, uint64_t revision, uint64_t lease_ms, uint64_t deadline_ms,
		  pgs_error *err)
{
	int result = pin_init(pin, db, revision, lease_ms, err);
	return result == PGS_OK ? put_pin(pin, deadline_ms, err) : result;
}

int pgs__pin_renew(pgs__pin *pin, uint64_t deadline_ms, pgs_error *err)
{
	return put_pin(pin, deadline_ms, err);
}

void pgs__pin_release(pgs__pin *pin, uint64_t deadline_ms)
{
	if (!pin->sent)
		return;
	pgs__key key = pgs__pin_key(pin);
	const pgs_kv_op op = pgs__op_delete(pgs__key_slice(&key), (pgs_slice){0}); /* no one else puts this key */
	pgs_kv_txn txn;
	pgs__kv_read(pgs__db_backend(pin->db), &txn, &op, 1, deadline_ms, NULL);
	pgs__kv_release(pgs__db_backend(pin->db), &txn, 1);
	*pin = (pgs__pin){0};
}

/* --- transactions ---------------------------------------------------------------------- */

void pgs__keeper_init(pgs__keeper *keeper, const pgs_db *db, uint64_t now_ms)
{
	uint64_t half = pgs__db_retention_ms(db) / 2;
	keeper->pin = NULL;
	keeper->due_ms = now_ms + (half > KEEP_AFTER_MIN_MS ? half : KEEP_AFTER_MIN_MS);
}

void pgs__keeper_release(pgs__keeper *keeper, uint64_t deadline_ms)
{
	if (!keeper->pin)
		return;
	pgs__pin_release(keeper->pin, deadline_ms);
	pgs__free(keeper->pin);
	keeper->pin = NULL;
}

void pgs__keeper_pin(pgs__keeper *keeper, pgs_db *db, uint64_t revision, uint64_t deadline_ms)
{
	uint64_t retention = pgs__db_retention_ms(db), now = pgs__now_ms();
	/* Between two calls that reach the backend much time may pass: be as patient as the retention. */
	uint64_t lease = retention > KEEP_LEASE_MIN_MS ? retention : KEEP_LEASE_MIN_MS;
	if (!keeper->pin)
		keeper->pin = pgs__calloc(1, sizeof *keeper->pin);
	int result = PGS_ENOMEM;
	if (keeper->pin)
		result = keeper->pin->sent ? pgs__pin_renew(keeper->pin, deadline_ms, NULL)
					   : pgs__pin_take(keeper->pin, db, revision, lease, deadline_ms, NULL);
	if (result == PGS_OK)
		keeper->due_ms = now + lease / 3;
	else if (result == PGS_EOLDREV || result == PGS_ENOTFOUND)
		keeper->due_ms = UINT64_MAX; /* too late */
	else
		keeper->due_ms = now + KEEP_RETRY_MS;
}

/* --- the API ------------------------------------------------------------------------------ */

struct pgs_revision_pin {
	pgs__pin pin;
};

/* Pin what a snapshot reads: of the latest until it is not passed by the floor at once. */
static int pin_snapshot(pgs__pin *pin, pgs_db *db, uint64_t revision, uint64_t lease_ms, uint64_t *shown,
			pgs_error *err)
{
	uint64_t deadline = pgs__db_deadline(db, 0);
	int result = PGS_EOLDREV;
	for (int i = 0; result == PGS_EOLDREV && i < (revision ? 1 : LATEST_TRIES); i++) {
		pgs__snapshot snapshot;
		result = pgs__snapshot_open(&snapshot, db, revision, deadline, err);
		if (result == PGS_OK) {
			*shown = revision ? revision : snapshot.commit_revision;
			result = pgs__pin_take(pin, db, snapshot.kv_revision, lease_ms, deadline, err);
			if (result != PGS_OK)
				pgs__pin_release(pin, deadline);
		}
		pgs__snapshot_close(&snapshot);
	}
	return result;
}

int pgs_pin_revision(pgs_revision_pin **out, pgs_db *db, uint64_t revision, uint32_t lease_ms, uint64_t *revision_out,
		     pgs_error *err)
{
	uint64_t shown = 0;
	*out = NULL;
	if (db->store->read_only)
		return pgs__error(err, PGS_EREADONLY, "the store was opened read-only");
	pgs_revision_pin *p = pgs__calloc(1, sizeof *p);
	if (!p)
		return pgs__error_nomem(err, "pin");
	int result = pin_snapshot(&p->pin, db, revision, lease_ms ? lease_ms : LEASE_DEFAULT_MS, &shown, err);
	if (result != PGS_OK) {
		pgs__free(p);
		return result;
	}
	if (revision_out)
		*revision_out = shown;
	*out = p;
	return PGS_OK;
}

int pgs_pin_renew(pgs_revision_pin *pin, pgs_error *err)
{
	return pgs__pin_renew(&pin->pin, pgs__db_deadline(pin->pin.db, 0), err);
}

void pgs_unpin_revision(pgs_revision_pin *pin)
{
	if (!pin)
		return;
	pgs__pin_release(&pin->pin, pgs__db_deadline(pin->pin.db, 0));
	pgs__free(pin);
}
