/* Verification of which blobs there are: d/ keys against what names the same file, and blobs that nothing names.
 *
 *     floor read ─→ blobs listed ─→ those with B < floor ─→ less what d/, l/, o/, s/ and x/ name, as of one revision
 *
 * as sweeping does (orphans.c has why that is right), but what is left is only noted. A blob whose B is at the floor or
 * above may be in the making, and is not looked at. If a key or value is damaged, what it names is not known: then
 * nothing is said of orphans, as the damage is a finding already.
 */
#include "maintain/verify.h"

#include <string.h>

#include "codec/changelog.h"
#include "codec/meta.h"
#include "codec/snapshot_record.h"
#include "util/alloc.h"
#include "util/error.h"

#define ATTEMPTS 5     /* when the KV is compacted meanwhile */
#define KEYS_PAGE 500
#define VALUES_PAGE 20
#define FOLDER_SIZE (2 * PGS__PREFIX_SIZE + 1)

static const char hint_orphan[] = "Left by a writer that died or gave up. Maintenance removes it with its next sweep.";
static const char hint_stranger[] =
	"Pagestore gives no such names, and never removes it. Remove it if nobody else needs it.";
static const char hint_in_use[] =
	"Delete that d/ key before maintenance runs: it would remove a blob that is in use.";
static const char hint_malformed[] =
	"Delete the key: pagestore writes none of that form, and removes no blob while it is there.";

typedef struct candidate {
	char name[PGS__FILE_NAME_MAX + 1];
} candidate;

typedef struct names {
	pgs__verify *v;
	uint64_t floor;
	uint64_t revision;    /* of the keys */
	candidate *list;
	size_t count, capacity;
	pgs__map named;       /* hashes of names in l/, o/, s/ and x/ */
	pgs__map unregistered; /* and in d/, to the mod revision of the key */
	bool unsure;          /* what is named is not known in full */
} names;

/* --- blobs ------------------------------------------------------------------------------ */

static int collect_blob(void *ctx, const char *name, uint64_t size)
{
	names *n = ctx;
	const char *file = name + FOLDER_SIZE;
	pgs__file_name parsed;
	(void)size;
	if (!pgs__file_name_parse((pgs_slice){file, strlen(file)}, &parsed))
		return pgs__verify_note(n->v, 0, hint_stranger, "blob %s is not of a name that pagestore gives", name);
	if (parsed.base_revision >= n->floor)
		return PGS_OK;
	if (pgs__grow(&n->list, &n->capacity, n->count + 1, sizeof *n->list) != PGS_OK)
		return pgs__error_nomem(n->v->err, "list of blobs");
	memcpy(n->list[n->count++].name, file, strlen(file) + 1); /* a name that parses is short enough */
	return PGS_OK;
}

/* False: not to be known, and there are no candidates. */
static int read_floor(names *n, bool *known)
{
	pgs__key g = pgs__key_single(pgs__db_prefix(n->v->db), 'g');
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&g), 0);
	pgs__floor floor;
	pgs_kv_txn txn;
	int result = pgs__kv_read(n->v->contents->backend, &txn, &op, 1, pgs__verify_deadline(n->v), n->v->err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	*known = pair && pgs__floor_decode(pair->value, &floor) == PGS_OK;
	n->floor = *known ? floor.floor : 0;
	pgs__kv_release(n->v->contents->backend, &txn, 1);
	return result;
}

static int list_blobs(names *n)
{
	pgs_blob *blob = n->v->contents->backend->blob;
	char folder[PGS__BLOB_NAME_SIZE];
	pgs__blob_name(folder, pgs__db_prefix(n->v->db), "");
	return blob->vtable->list(blob, folder, collect_blob, n, pgs__verify_deadline(n->v), n->v->err);
}

/* --- names -------------------------------------------------------------------------------- */

static uint64_t hash_of(pgs_slice name)
{
	return pgs__check64(name.data, name.size) >> 1;
}

/* A key other than d/ names the file. */
static int mark(names *n, pgs_slice name, const char *by)
{
	const uint64_t *unregistered = pgs__map_get(&n->unregistered, hash_of(name));
	if (pgs__map_set(&n->named, hash_of(name), 1, NULL) != PGS_OK)
		return pgs__error_nomem(n->v->err, "names of blobs");
	if (!unregistered)
		return PGS_OK;
	return pgs__verify_finding(n->v, PGS_ECORRUPT, *unregistered, hint_in_use,
				   "file %.*s is to be removed (d/), but %s names it", (int)name.size,
				   (const char *)name.data, by);
}

static int mark_unregistered(names *n, const pgs_kv_pair *pair)
{
	char text[2 * PGS__KEY_MAX];
	pgs_slice name = {0};
	if (pgs__key_tail(pair->key, 'd', &name) && pgs__file_name_ok(name))
		return pgs__map_set(&n->unregistered, hash_of(name), pair->mod_revision, NULL) == PGS_OK
			       ? PGS_OK
			       : pgs__error_nomem(n->v->err, "names of blobs");
	n->unsure = true;
	return pgs__verify_finding(n->v, PGS_ECORRUPT, pair->mod_revision, hint_malformed,
				   "the key of an unregistered file, %s, is malformed",
				   pgs__printable(text, sizeof text, pair->key.data, pair->key.size));
}

static int mark_level(names *n, const pgs_kv_pair *pair)
{
	pgs__level_key key;
	if (pgs__key_parse_level(pair->key, &key))
		return mark(n, (pgs_slice){key.file_name, strlen(key.file_name)}, "a key below l/");
	n->unsure = true;
	return PGS_OK;
}

static int mark_pack(names *n, const pgs_kv_pair *pair)
{
	pgs__pack pack;
	if (pgs__pack_decode(pair->value, &pack) == PGS_OK)
		return pack.in_file ? mark(n, pack.file_name, "a pack") : PGS_OK;
	n->unsure = true;
	return PGS_OK;
}

static int mark_snapshot(names *n, const pgs_kv_pair *pair)
{
	pgs__snapshot_record record;
	pgs__snapshot_file file;
	int result = PGS_OK;
	if (pgs__snapshot_decode(pair->value, &record) != PGS_OK) {
		n->unsure = true;
		return PGS_OK;
	}
	pgs__snapshot_files_reader files = pgs__snapshot_files_open(&record);
	while (result == PGS_OK && pgs__snapshot_next_file(&files, &file))
		result = mark(n, file.name, "a named snapshot");
	if (result == PGS_OK && record.attrs_in_file)
		result = mark(n, record.attrs_name, "a named snapshot");
	return result;
}

static int mark_change(names *n, const pgs_kv_pair *pair)
{
	pgs__change change;
	if (pgs__change_decode(pair->value, &change) != PGS_OK) {
		n->unsure = true;
		return PGS_OK;
	}
	return change.kind == PGS__CHANGE_COMMIT_RUNS_IN_BLOB ? mark(n, change.file_name, "the changelog") : PGS_OK;
}

typedef struct source {
	char kind;
	bool keys_only;
	int (*mark)(names *n, const pgs_kv_pair *pair);
} source;

static const source sources[] = {
	{'d', true, mark_unregistered}, /* before the others */
	{'l', true, mark_level},
	{'o', false, mark_pack},
	{'s', false, mark_snapshot},
	{'x', false, mark_change},
};

typedef struct marking {
	names *n;
	const source *from;
} marking;

static int mark_pair(void *ctx, const pgs_kv_pair *pair)
{
	const marking *m = ctx;
	return m->from->mark(m->n, pair);
}

/* All of a kind; everything as of when the first key was read. */
static int mark_kind(names *n, const source *from)
{
	const pgs__key_space space = pgs__db_space(n->v->db);
	marking m = {n, from};
	pgs__walk walk;
	int result = PGS_OK;
	pgs__walk_kind(&walk, pgs__db_prefix(n->v->db), from->kind, &space, from->keys_only ? KEYS_PAGE : VALUES_PAGE);
	walk.keys_only = from->keys_only;
	walk.revision = n->revision;
	while (result == PGS_OK && pgs__walk_more(&walk))
		result = pgs__walk_pairs(&walk, n->v->contents->backend, true, mark_pair, &m, pgs__verify_deadline(n->v),
					 n->v->err);
	n->revision = walk.revision;
	return result;
}

static int mark_all(names *n)
{
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < sizeof sources / sizeof *sources; i++)
		result = mark_kind(n, &sources[i]);
	return result;
}

/* --- together ---------------------------------------------------------------------------------- */

static void forget_names(names *n)
{
	pgs__map_free(&n->named);
	pgs__map_free(&n->unregistered);
	n->revision = 0;
	n->unsure = false;
}

/* A sweep may have removed it since it was listed. */
static int note_orphan(names *n, const candidate *c)
{
	pgs_blob *blob = n->v->contents->backend->blob;
	char name[PGS__BLOB_NAME_SIZE];
	uint64_t size;
	pgs__blob_name(name, pgs__db_prefix(n->v->db), c->name);
	int result = blob->vtable->stat(blob, name, &size, pgs__verify_deadline(n->v), n->v->err);
	if (result == PGS_ENOTFOUND)
		return PGS_OK;
	if (result != PGS_OK)
		return result;
	return pgs__verify_note(n->v, 0, hint_orphan, "blob %s (%llu bytes) is named by no key", name,
				(unsigned long long)size);
}

int pgs__verify_blobs(pgs__verify *v)
{
	names n = {.v = v};
	bool known;
	int result = read_floor(&n, &known);
	if (result == PGS_OK)
		result = list_blobs(&n);
	int marked = result == PGS_OK ? PGS_EOLDREV : result;
	for (int i = 0; marked == PGS_EOLDREV && i < ATTEMPTS; i++) {
		forget_names(&n);
		marked = mark_all(&n);
	}
	result = marked;
	for (size_t i = 0; known && !n.unsure && result == PGS_OK && i < n.count; i++) {
		pgs_slice name = {n.list[i].name, strlen(n.list[i].name)};
		if (!pgs__map_get(&n.named, hash_of(name)) && !pgs__map_get(&n.unregistered, hash_of(name)))
			result = note_orphan(&n, &n.list[i]);
	}
	forget_names(&n);
	pgs__free(n.list);
	return result;
}
