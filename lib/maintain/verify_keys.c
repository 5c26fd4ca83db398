/* Verification of single keys: attributes, the changelog, what registers sorted files; and deep: contents in c/, locks,
 * claims, pins, samples. */
#include "maintain/verify.h"

#include <string.h>

#include "codec/meta.h"
#include "codec/seal.h"
#include "codec/sorted_file.h"
#include "txn/changes.h"
#include "util/alloc.h"
#include "util/error.h"

#define LIST_PAGE 500
#define LARGE_PAGE 8           /* l/ values, of up to 84 KiB */
#define CONTENT_BYTES (1u << 20) /* contents read at once */

static const char hint_malformed[] = "Delete the key: pagestore writes none of that form.";
static const char hint_attr[] = "Set the attribute anew, or put the key back from a backup of the KV.";
static const char hint_change[] =
	"Put the key, or the blob named, back from a backup. Without one, commits, diff and log across that revision "
	"fail until maintenance prunes it, when the retention has passed.";
static const char hint_level[] =
	"Put the key back from a backup of the KV: contents of that file cannot be read without it. Nothing is merged "
	"or dropped meanwhile.";
static const char hint_holder[] =
	"Delete the key when no process uses the database: until then it may stop commits or maintenance.";
static const char hint_samples[] = "Delete the key: maintenance begins a new one.";

static const char *printable_key(char out[2 * PGS__KEY_MAX], const pgs_kv_pair *pair)
{
	return pgs__printable(out, (size_t)2 * PGS__KEY_MAX, pair->key.data, pair->key.size);
}

/* --- attributes and the changelog ------------------------------------------------------ */

static int check_attr(pgs__verify *v, const pgs_kv_pair *pair)
{
	pgs_slice value = pair->value, name = {0};
	char text[2 * PGS_ATTR_NAME_MAX];
	if (pgs__key_tail(pair->key, 'a', &name) && pgs__unseal(&value))
		return PGS_OK;
	return pgs__verify_finding(v, PGS_ECORRUPT, pair->mod_revision, hint_attr, "attribute %s is damaged",
				   pgs__printable(text, sizeof text, name.data, name.size));
}

int pgs__verify_attrs(pgs__verify *v)
{
	return pgs__verify_list(v, 'a', 0, LIST_PAGE, check_attr);
}

static int check_change(pgs__verify *v, const pgs_kv_pair *pair)
{
	pgs__change change;
	pgs_slice runs;
	uint8_t *file;
	pgs_error e = PGS_ERROR_INIT;
	bool current = true;
	int code = pgs__change_open(v->db, pair->value, pgs__verify_deadline(v), &change, &runs, &file, &e);
	pgs__free(file);
	if (code == PGS_OK)
		return PGS_OK;
	if (code != PGS_ECORRUPT && code != PGS_EVERSION) {
		*v->err = e;
		return code;
	}
	int result = pgs__verify_is_current(v, pair, &current); /* it may have been pruned, and its blob removed */
	if (result != PGS_OK || !current)
		return result;
	return pgs__verify_finding(v, code, pair->mod_revision, hint_change,
				   "the changelog entry of revision %llu: %.300s",
				   (unsigned long long)pair->mod_revision, e.message);
}

int pgs__verify_changes(pgs__verify *v)
{
	return pgs__verify_list(v, 'x', 0, LIST_PAGE, check_change);
}

/* --- registered files --------------------------------------------------------------------- */

static int check_level(pgs__verify *v, const pgs_kv_pair *pair)
{
	char key_text[2 * PGS__KEY_MAX];
	pgs__level_key key;
	pgs__level_value value;
	if (!pgs__key_parse_level(pair->key, &key))
		return pgs__verify_finding(v, PGS_ECORRUPT, pair->mod_revision, hint_malformed,
					   "the key of a sorted file, %s, is malformed", printable_key(key_text, pair));
	int code = pgs__level_value_decode(pair->value, &value);
	if (code == PGS_OK)
		return PGS_OK;
	return pgs__verify_finding(v, code, pair->mod_revision, hint_level,
				   "index of sorted file at key %s is damaged or of a newer version",
				   printable_key(key_text, pair));
}

int pgs__verify_levels(pgs__verify *v)
{
	return pgs__verify_list(v, 'l', 0, LARGE_PAGE, check_level);
}

/* --- contents -------------------------------------------------------------------------------- */

static int check_content(pgs__verify *v, const pgs_kv_pair *pair)
{
	char key_text[2 * PGS__KEY_MAX];
	pgs_slice tail;
	pgs__page_id id;
	if (!pgs__key_tail(pair->key, 'c', &tail) || tail.size != PGS__ID_SIZE)
		return pgs__verify_finding(v, PGS_ECORRUPT, pair->mod_revision, hint_malformed,
					   "the key of a content, %s, is malformed", printable_key(key_text, pair));
	memcpy(id.bytes, tail.data, PGS__ID_SIZE);
	return pgs__verify_copy(v, &id, pair->value, pair->mod_revision, printable_key(key_text, pair));
}

int pgs__verify_contents(pgs__verify *v)
{
	size_t limit = CONTENT_BYTES / v->contents->page_size;
	return pgs__verify_list(v, 'c', 0, limit, check_content);
}

/* --- holders, samples ---------------------------------------------------------------------------- */

static int check_lock(pgs__verify *v, const pgs_kv_pair *pair)
{
	char key_text[2 * PGS__KEY_MAX];
	pgs_slice role;
	pgs__lock lock;
	pgs__claim_value claim;
	if (!pgs__key_tail(pair->key, 'k', &role))
		return PGS_OK;
	bool is_claim = role.size > 2 && memcmp(role.data, "m-", 2) == 0;
	int code = is_claim ? pgs__claim_decode(pair->value, &claim) : pgs__lock_decode(pair->value, &lock);
	if (code == PGS_OK)
		return PGS_OK;
	return pgs__verify_finding(v, code, pair->mod_revision, hint_holder,
				   "the lock or claim at key %s is damaged or of a newer version",
				   printable_key(key_text, pair));
}

static int check_pin(pgs__verify *v, const pgs_kv_pair *pair)
{
	char key_text[2 * PGS__KEY_MAX];
	pgs__pin_value pin;
	int code = pgs__pin_decode(pair->value, &pin);
	if (code == PGS_OK)
		return PGS_OK;
	return pgs__verify_finding(v, code, pair->mod_revision, hint_holder,
				   "the pin at key %s is damaged or of a newer version", printable_key(key_text, pair));
}

static int check_samples(pgs__verify *v)
{
	pgs__key key = pgs__key_single(pgs__db_prefix(v->db), 'v');
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&key), 0);
	pgs__samples samples;
	pgs_kv_txn txn;
	int result = pgs__kv_read(v->contents->backend, &txn, &op, 1, pgs__verify_deadline(v), v->err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	int code = pair ? pgs__samples_decode(pair->value, &samples) : PGS_OK;
	if (code != PGS_OK)
		result = pgs__verify_finding(v, code, pair->mod_revision, hint_samples,
					     "the samples of time and revision (key v) are damaged or of a newer "
					     "version");
	pgs__kv_release(v->contents->backend, &txn, 1);
	return result;
}

int pgs__verify_locks(pgs__verify *v)
{
	int result = pgs__verify_list(v, 'k', 0, LIST_PAGE, check_lock);
	if (result == PGS_OK)
		result = pgs__verify_list(v, 'r', 0, LIST_PAGE, check_pin);
	return result == PGS_OK ? check_samples(v) : result;
}
