/* Orphans: blobs of files that nobody registered, left by writers that died or gave up.
 *
 *     floor read ─→ blobs listed ─→ those with B < floor ─→ less what l/, o/, s/, x/ and d/ name ─→ removed
 *
 * A file's name says the oldest revision B its writer relied on. Who registers it compares floor <= B in the same
 * transaction: once a floor above B is published that fails, for ever. So what is named by no key, read after that, is
 * never going to be (invariant 8). A file that moves from one key to another does so in one transaction, and the keys
 * are read as of one revision: none is missed on the way.
 */
#include "maintain/sweep.h"

#include <stdlib.h>
#include <string.h>

#include "codec/changelog.h"
#include "codec/pack.h"
#include "codec/snapshot_record.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define KEYS_PAGE 500
#define VALUES_PAGE 20       /* o/, s/ and x/ values at once: a megabyte each at most, and few are that large */
#define FOLDER_SIZE (2 * PGS__PREFIX_SIZE + 1)
#define STRANGERS_LOGGED 3
#define ATTEMPTS 5           /* at reading the keys, when the KV is compacted meanwhile */

typedef struct candidate {
	char name[PGS__FILE_NAME_MAX + 1];
	bool named; /* by a key */
} candidate;

typedef struct orphans {
	pgs__worker *w;
	uint64_t floor;
	uint64_t revision; /* of the keys */
	candidate *list;   /* sorted: the blob store lists in that order */
	size_t count, capacity;
	uint64_t *sizes;
	size_t size_capacity;
	size_t strangers;
} orphans;

/* --- candidates ------------------------------------------------------------------ */

static void log_stranger(orphans *o, const char *name)
{
	if (o->strangers++ < STRANGERS_LOGGED)
		pgs__log(o->w->db->store, PGS_LOG_WARN,
			 "database %s: blob %s is not of a name that pagestore gives; it is left alone", o->w->db->name, name);
}

static int collect_blob(void *ctx, const char *name, uint64_t size)
{
	orphans *o = ctx;
	const char *file = name + FOLDER_SIZE;
	pgs__file_name parsed;
	if (!pgs__file_name_parse((pgs_slice){file, strlen(file)}, &parsed)) {
		log_stranger(o, name);
		return PGS_OK;
	}
	if (parsed.base_revision >= o->floor && !PGS__BUG(ORPHAN_WITHOUT_BASE))
		return PGS_OK;
	if (pgs__grow(&o->list, &o->capacity, o->count + 1, sizeof *o->list) != PGS_OK ||
	    pgs__grow(&o->sizes, &o->size_capacity, o->count + 1, sizeof *o->sizes) != PGS_OK)
		return pgs__error_nomem(o->w->err, "list of blobs");
	o->list[o->count] = (candidate){.named = false};
	memcpy(o->list[o->count].name, file, strlen(file)); /* a name that parses is short enough */
	o->sizes[o->count++] = size;
	return PGS_OK;
}

static int list_blobs(orphans *o)
{
	pgs_blob *blob = pgs__db_backend(o->w->db)->blob;
	char folder[PGS__BLOB_NAME_SIZE];
	pgs__blob_name(folder, pgs__db_prefix(o->w->db), "");
	return blob->vtable->list(blob, folder, collect_blob, o, pgs__worker_deadline(o->w), o->w->err);
}

/* --- what is named ------------------------------------------------------------------ */

static int compare_name(const void *key, const void *element)
{
	const pgs_slice *name = key;
	const candidate *c = element;
	return pgs__slice_compare(*name, (pgs_slice){c->name, strlen(c->name)});
}

static void mark(orphans *o, pgs_slice name)
{
	candidate *c = o->count ? bsearch(&name, o->list, o->count, sizeof *o->list, compare_name) : NULL;
	if (c)
		c->named = true;
}

static int bad_key(orphans *o, const char *kind)
{
	return pgs__error(o->w->err, PGS_ECORRUPT,
			  "database %s: a key below %s/ is malformed: no blob is removed, as it may name one",
			  o->w->db->name, kind);
}

static int bad_value(orphans *o, int result, const pgs_kv_pair *pair, const char *what)
{
	return pgs__error(o->w->err, result,
			  "database %s: %s of revision %llu is damaged or of a newer version: no blob is removed, as it may "
			  "name one",
			  o->w->db->name, what, (unsigned long long)pair->mod_revision);
}

static int mark_level(orphans *o, const pgs_kv_pair *pair)
{
	pgs__level_key key;
	if (!pgs__key_parse_level(pair->key, &key))
		return bad_key(o, "l");
	mark(o, (pgs_slice){key.file_name, strlen(key.file_name)});
	return PGS_OK;
}

static int mark_unregistered(orphans *o, const pgs_kv_pair *pair)
{
	pgs_slice name;
	if (!pgs__key_tail(pair->key, 'd', &name))
		return bad_key(o, "d");
	mark(o, name);
	return PGS_OK;
}

static int mark_pack(orphans *o, const pgs_kv_pair *pair)
{
	pgs__pack pack;
	int result = pgs__pack_decode(pair->value, &pack);
	if (result != PGS_OK)
		return bad_value(o, result, pair, "the pack");
	if (pack.in_file)
		mark(o, pack.file_name);
	return PGS_OK;
}

static int mark_snapshot(orphans *o, const pgs_kv_pair *pair)
{
	pgs__snapshot_record record;
	pgs__snapshot_file file;
	int result = pgs__snapshot_decode(pair->value, &record);
	if (result != PGS_OK)
		return bad_value(o, result, pair, "the named snapshot");
	pgs__snapshot_files_reader files = pgs__snapshot_files_open(&record);
	while (pgs__snapshot_next_file(&files, &file))
		mark(o, file.name);
	if (record.attrs_in_file)
		mark(o, record.attrs_name);
	return PGS_OK;
}

static int mark_change(orphans *o, const pgs_kv_pair *pair)
{
	pgs__change change;
	int result = pgs__change_decode(pair->value, &change);
	if (result != PGS_OK)
		return bad_value(o, result, pair, "the changelog entry");
	if (change.kind == PGS__CHANGE_COMMIT_RUNS_IN_BLOB)
		mark(o, change.file_name);
	return PGS_OK;
}

typedef struct source {
	char kind;
	bool keys_only;
	const char *files; /* kinds of files it may name; NULL = any */
	int (*mark)(orphans *o, const pgs_kv_pair *pair);
} source;

static const source sources[] = {
	{'l', true, "s", mark_level},
	{'d', true, NULL, mark_unregistered},
	{'o', false, "i", mark_pack},
	{'s', false, NULL, mark_snapshot},
	{'x', false, "x", mark_change},
};

/* Whether anything that the source may name is not named yet: a long changelog is not read for nothing. */
static bool is_wanted(const orphans *o, const source *from)
{
	for (size_t i = 0; i < o->count; i++)
		if (!o->list[i].named && (!from->files || strchr(from->files, o->list[i].name[0])))
			return true;
	return false;
}

typedef struct marking {
	orphans *o;
	const source *from;
} marking;

static int mark_pair(void *ctx, const pgs_kv_pair *pair)
{
	const marking *m = ctx;
	return m->from->mark(m->o, pair);
}

/* All of a kind; everything as of when the first key was read. */
static int mark_kind(orphans *o, const source *from)
{
	const pgs__key_space space = pgs__db_space(o->w->db);
	marking m = {o, from};
	pgs__walk walk;
	int result = PGS_OK;
	pgs__walk_kind(&walk, pgs__db_prefix(o->w->db), from->kind, &space, from->keys_only ? KEYS_PAGE : VALUES_PAGE);
	walk.keys_only = from->keys_only;
	walk.revision = o->revision;
	while (result == PGS_OK && pgs__walk_more(&walk))
		result = pgs__walk_pairs(&walk, pgs__db_backend(o->w->db), true, mark_pair, &m, pgs__worker_deadline(o->w),
					 o->w->err);
	o->revision = walk.revision;
	return result;
}

static int mark_named(orphans *o)
{
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < sizeof sources / sizeof *sources; i++)
		if (is_wanted(o, &sources[i]))
			result = mark_kind(o, &sources[i]);
	return result;
}

/* --- removing ------------------------------------------------------------------------ */

static int remove_unnamed(orphans *o, bool *all)
{
	pgs_blob *blob = pgs__db_backend(o->w->db)->blob;
	for (size_t i = 0; i < o->count; i++) {
		char name[PGS__BLOB_NAME_SIZE];
		if (o->list[i].named)
			continue;
		if (pgs__worker_spent(o->w)) {
			*all = false;
			return PGS_OK;
		}
		pgs__blob_name(name, pgs__db_prefix(o->w->db), o->list[i].name);
		int result = blob->vtable->remove(blob, name, pgs__worker_deadline(o->w), o->w->err);
		if (result != PGS_OK)
			return result;
		o->w->report->removed_blobs++;
		o->w->report->removed_orphans++;
		o->w->report->removed_bytes += o->sizes[i];
	}
	return PGS_OK;
}

int pgs__orphans_remove(pgs__worker *w, uint64_t floor, bool *all)
{
	orphans o = {.w = w, .floor = floor};
	*all = true;
	int result = list_blobs(&o);
	int marked = result == PGS_OK && o.count ? PGS_EOLDREV : result;
	for (int i = 0; marked == PGS_EOLDREV && i < ATTEMPTS; i++) { /* what is marked may stay so: it is kept */
		o.revision = 0;
		marked = mark_named(&o);
	}
	result = marked;
	if (result == PGS_OK)
		result = remove_unnamed(&o, all);
	pgs__free(o.list);
	pgs__free(o.sizes);
	return result;
}
