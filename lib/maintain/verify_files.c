/* Verification of registered sorted files: header, table and filter against each other and against the l/ key and its
 * value; deep: every content, and whether the files of a level overlap.
 *
 * Memory: a file's head (10.5 MiB for the largest) and a window over its contents. A file that is merged away meanwhile
 * has its contents in others, which are looked at then.
 */
#include "maintain/verify.h"

#include <stdio.h>
#include <string.h>

#include "util/alloc.h"
#include "util/error.h"

#define ROUNDS 5               /* over the list of files, as long as some have gone */
#define WINDOW (1u << 20)      /* of contents read at once */
#define SLICE_BYTES ((size_t)PGS__SORTED_SLICE * PGS__SORTED_ENTRY_SIZE)

static const char hint_missing[] =
	"Put that blob back from a backup; a copy of any time is right. Without one, delete its key below l/ and write "
	"the pages that verify names anew.";
static const char hint_newer[] = "Use a newer version of pagestore.";
static const char hint_head[] =
	"Put that blob back from a backup; a copy of any time is right. Maintenance does not merge the file as it is.";
static const char hint_filter[] =
	"No content is lost: lookups do without the filter, only slower. The next merge of the file makes a new one.";
static const char hint_lost_ids[] =
	"Lookups may miss contents of that file, until the blob is put back from a backup, or the file is merged.";
static const char hint_key[] =
	"Put the key, or the blob, back from a backup: they do not belong together, and lookups may miss contents.";
static const char hint_overlap[] =
	"Nothing is lost: reads look at both. A merge was cut short, or is under way; maintenance merges them.";

typedef struct file_check {
	pgs__verify *v;
	const pgs__file *file;
	const pgs__level_value *index;
	uint8_t *head;      /* up to the contents */
	const uint8_t *table; /* in the head */
	uint8_t *window;    /* bytes [window_offset, window_offset + window_used) */
	uint64_t window_offset;
	size_t window_used;
	bool narrow;        /* the file is shorter than it must be: one content at a time */
	bool gone;          /* merged away meanwhile */
} file_check;

/* --- a file's head ---------------------------------------------------------------------- */

static int file_finding(const file_check *c, int code, const char *hint, const char *what)
{
	return pgs__verify_finding(c->v, code, c->file->registered, hint, "sorted file %s: %s", c->file->blob_name,
				   what);
}

static int refresh(pgs__verify *v)
{
	int result = pgs__levels_refresh(&v->contents->levels, v->contents->backend, pgs__db_prefix(v->db),
					 pgs__verify_deadline(v), v->err);
	/* What is damaged has been reported; the others are in the map. */
	return result == PGS_ECORRUPT || result == PGS_EVERSION ? PGS_OK : result;
}

static bool is_in(const pgs__file_map *map, const pgs__file *file)
{
	for (size_t i = 0; i < map->count; i++)
		if (strcmp(map->files[i]->blob_name, file->blob_name) == 0)
			return true;
	return false;
}

/* A blob is missing: is its file registered still, or was it merged into others meanwhile? */
static int report_missing(file_check *c)
{
	int result = refresh(c->v);
	if (result != PGS_OK)
		return result;
	pgs__file_map *map = pgs__levels_map(&c->v->contents->levels);
	c->gone = !is_in(map, c->file);
	pgs__file_map_release(map);
	return c->gone ? PGS_OK : file_finding(c, PGS_ECORRUPT, hint_missing, "is registered but missing");
}

static pgs__sorted_entry entry_at(const uint8_t *table, uint64_t row)
{
	pgs__sorted_entry entry;
	pgs__sorted_entry_decode(table + row * PGS__SORTED_ENTRY_SIZE, &entry);
	return entry;
}

static size_t slice_size(const file_check *c, uint64_t slice)
{
	uint64_t rows = c->index->count - slice * PGS__SORTED_SLICE;
	return (size_t)(rows < PGS__SORTED_SLICE ? rows : PGS__SORTED_SLICE) * PGS__SORTED_ENTRY_SIZE;
}

static uint64_t slice_count(const file_check *c)
{
	return (c->index->count + PGS__SORTED_SLICE - 1) / PGS__SORTED_SLICE;
}

static bool slice_matches(const file_check *c, uint64_t slice)
{
	const uint8_t *rows = c->table + slice * SLICE_BYTES;
	return pgs__check32(rows, slice_size(c, slice)) == pgs__fence_check(c->index->fences, (size_t)slice);
}

/* Whether the table of the file is the one its l/ value has, whole or as fences, and its key: first and last id. */
static bool fits_key(const file_check *c)
{
	const pgs__level_value *index = c->index;
	const pgs__sorted_entry first = entry_at(c->table, 0), last = entry_at(c->table, index->count - 1);
	if (!pgs__page_id_equal(&first.id, &c->file->key.first) || !pgs__page_id_equal(&last.id, &c->file->key.last))
		return false;
	if (index->has_table)
		return memcmp(index->table.data, c->table, index->table.size) == 0;
	for (uint64_t i = 0; i < slice_count(c); i++) {
		const uint8_t *fence = (const uint8_t *)index->fences.data + i * PGS__FENCE_SIZE;
		if (memcmp(fence, c->table + i * SLICE_BYTES, PGS__ID_SIZE) != 0 || !slice_matches(c, i))
			return false;
	}
	return true;
}

/* Whether every content passes the filter. */
static bool passes_filter(const file_check *c)
{
	const size_t size = (size_t)c->index->filter_size;
	const uint8_t *filter = c->table + c->index->count * PGS__SORTED_ENTRY_SIZE;
	for (uint64_t i = 0; size && i < c->index->count; i++) {
		const pgs__sorted_entry entry = entry_at(c->table, i);
		if (entry.length > 0 && !pgs__filter_may_have(filter, size, &entry.id))
			return false;
	}
	return true;
}

/* The first thing that is wrong with it. */
static int check_head(const file_check *c)
{
	const pgs__level_value *index = c->index;
	const size_t table_size = (size_t)index->count * PGS__SORTED_ENTRY_SIZE;
	const pgs_slice filter = {c->table + table_size, (size_t)index->filter_size + PGS__FILTER_CHECK_SIZE};
	pgs__sorted_header header;
	int code = pgs__sorted_header_decode(c->head, &header);
	if (code == PGS_EVERSION)
		return file_finding(c, code, hint_newer, "is of a newer version");
	if (code != PGS_OK || header.page_size != c->v->contents->page_size)
		return file_finding(c, PGS_ECORRUPT, hint_head, "its header is damaged");
	if (header.count != index->count || header.file_size != index->file_size ||
	    header.filter_size != index->filter_size)
		return file_finding(c, PGS_ECORRUPT, hint_key,
				    "its header is damaged, or its l/ value is another file's");
	if (pgs__sorted_table_check((pgs_slice){c->table, table_size}, &header) != PGS_OK)
		return file_finding(c, PGS_ECORRUPT, hint_head, "its table is damaged");
	if (!fits_key(c))
		return file_finding(c, PGS_ECORRUPT, hint_key, "its table is not the one its l/ key and value tell");
	if (header.filter_size && !pgs__sorted_filter_check(filter))
		return file_finding(c, PGS_ECORRUPT, hint_filter, "its filter is damaged");
	if (!passes_filter(c))
		return file_finding(c, PGS_ECORRUPT, hint_lost_ids, "its filter leaves out ids of its table");
	return PGS_OK;
}

/* --- contents -------------------------------------------------------------------------------- */

static int read_bytes(file_check *c, uint64_t offset, size_t size)
{
	pgs_blob *blob = c->v->contents->backend->blob;
	pgs_blob_range range = {.name = c->file->blob_name, .offset = offset, .size = size, .buffer = c->window};
	int result = blob->vtable->get(blob, &range, 1, pgs__verify_deadline(c->v), c->v->err);
	c->window_offset = offset;
	c->window_used = result == PGS_OK ? size : 0;
	return result;
}

/* Make the window have the content: PGS_OK, ENOTFOUND, ECORRUPT (it lies past the end of the file), or the store's. */
static int read_content(file_check *c, const pgs__sorted_entry *e)
{
	uint64_t rest = c->index->file_size - e->offset;
	size_t size = rest < WINDOW ? (size_t)rest : WINDOW;
	if (e->offset >= c->window_offset && e->offset + e->length <= c->window_offset + c->window_used)
		return PGS_OK;
	int result = PGS_ECORRUPT;
	if (!c->narrow)
		result = read_bytes(c, e->offset, size < e->length ? e->length : size);
	if (result == PGS_ECORRUPT) {
		c->narrow = true;
		result = read_bytes(c, e->offset, e->length);
	}
	return result;
}

static int check_entry(file_check *c, const pgs__sorted_entry *e)
{
	char place[PGS__BLOB_NAME_SIZE + 64];
	int result = PGS_OK;
	if (e->length == 0)
		return PGS_OK; /* a tombstone */
	snprintf(place, sizeof place, "sorted file %s offset %llu", c->file->blob_name, (unsigned long long)e->offset);
	if (!pgs__sorted_place_ok(e, c->v->contents->page_size, c->index->contents_offset, c->index->file_size))
		result = PGS_ECORRUPT;
	if (result == PGS_OK)
		result = read_content(c, e);
	if (result == PGS_ENOTFOUND)
		return report_missing(c);
	if (result == PGS_OK) {
		const pgs_slice stored = {c->window + (e->offset - c->window_offset), e->length};
		return pgs__verify_copy(c->v, &e->id, stored, c->file->registered, place);
	}
	char why[sizeof place + 64];
	snprintf(why, sizeof why, "%s: the content is not in the file", place);
	return result == PGS_ECORRUPT ? pgs__verify_bad_copy(c->v, &e->id, c->file->registered, why) : result;
}

/* Every content, by the table that readers use; slices that do not match their fence are left out. */
static int check_contents(file_check *c)
{
	const uint8_t *table = c->index->has_table ? c->index->table.data : c->table;
	size_t page_size = c->v->contents->page_size;
	int result = PGS_OK;
	c->window = pgs__malloc(WINDOW < page_size ? page_size : WINDOW);
	if (!c->window)
		return pgs__error_nomem(c->v->err, "verification");
	c->v->total += c->index->count;
	for (uint64_t i = 0; result == PGS_OK && !c->gone && i < slice_count(c); i++) {
		if (!c->index->has_table && !slice_matches(c, i))
			continue;
		uint64_t first = i * PGS__SORTED_SLICE, rows = slice_size(c, i) / PGS__SORTED_ENTRY_SIZE;
		for (uint64_t at = first; result == PGS_OK && !c->gone && at < first + rows; at++) {
			const pgs__sorted_entry entry = entry_at(table, at);
			result = check_entry(c, &entry);
		}
	}
	pgs__free(c->window);
	return result;
}

static int check_size(const file_check *c)
{
	pgs_blob *blob = c->v->contents->backend->blob;
	uint64_t size;
	int result = blob->vtable->stat(blob, c->file->blob_name, &size, pgs__verify_deadline(c->v), c->v->err);
	if (result == PGS_ENOTFOUND)
		return PGS_OK; /* gone since its head was read */
	if (result == PGS_OK && size > c->index->file_size)
		return file_finding(c, PGS_ECORRUPT, hint_head, "is longer than its header says");
	return result;
}

/* --- a file -------------------------------------------------------------------------------------- */

static int read_head(file_check *c)
{
	pgs_blob *blob = c->v->contents->backend->blob;
	const size_t size = (size_t)c->index->contents_offset;
	c->head = pgs__malloc(size);
	if (!c->head)
		return pgs__error_nomem(c->v->err, "verification");
	c->table = c->head + PGS__SORTED_HEADER_SIZE;
	pgs_blob_range range = {.name = c->file->blob_name, .size = size, .buffer = c->head};
	return blob->vtable->get(blob, &range, 1, pgs__verify_deadline(c->v), c->v->err);
}

static int check_file(pgs__verify *v, const pgs__file *file, bool *gone)
{
	file_check c = {.v = v, .file = file, .index = &file->index};
	int result = read_head(&c);
	bool readable = result == PGS_OK;
	if (result == PGS_ENOTFOUND)
		result = report_missing(&c);
	else if (result == PGS_ECORRUPT)
		result = file_finding(&c, PGS_ECORRUPT, hint_head, "is shorter than its index says");
	else if (result == PGS_OK)
		result = check_head(&c);
	if (result == PGS_OK && readable && v->options->deep)
		result = check_size(&c);
	if (result == PGS_OK && readable && v->options->deep)
		result = check_contents(&c);
	pgs__free(c.head);
	*gone |= c.gone;
	v->report->files_checked += result == PGS_OK && !c.gone;
	return result;
}

/* --- all files -------------------------------------------------------------------------------------- */

/* The file of its level that overlaps files[i] from before it, or NULL. */
static const pgs__file *overlapping(const pgs__file_map *map, size_t i)
{
	const pgs__level_key *key = &map->files[i]->key;
	if (i == 0 || key->level == 0 || map->files[i - 1]->key.level != key->level ||
	    memcmp(pgs__file_map_furthest(map, i - 1)->bytes, key->first.bytes, PGS__ID_SIZE) < 0)
		return NULL;
	return map->files[map->furthest[i - 1]];
}

/* Files that overlap now; those that a merge replaces in several steps do, for a while. */
static int check_levels(pgs__verify *v)
{
	int result = refresh(v);
	if (result != PGS_OK)
		return result;
	pgs__file_map *map = pgs__levels_map(&v->contents->levels);
	for (size_t i = 0; result == PGS_OK && i < map->count; i++) {
		const pgs__file *other = overlapping(map, i);
		if (other)
			result = pgs__verify_note(v, map->files[i]->registered, hint_overlap,
						  "sorted files %s and %s of level %u overlap", other->blob_name,
						  map->files[i]->blob_name, map->files[i]->key.level);
	}
	pgs__file_map_release(map);
	return result;
}

/* The files that are not `done` yet. */
static int check_map(pgs__verify *v, const pgs__file_map *map, pgs__map *done, bool *gone)
{
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < map->count; i++) {
		const char *name = map->files[i]->blob_name;
		bool existed;
		if (pgs__map_set(done, pgs__check64(name, strlen(name)) >> 1, 1, &existed) != PGS_OK)
			return pgs__error_nomem(v->err, "verification");
		if (!existed)
			result = check_file(v, map->files[i], gone);
	}
	return result;
}

int pgs__verify_files(pgs__verify *v)
{
	pgs__map done = {0};
	bool gone = true;
	int result = PGS_OK;
	for (int i = 0; result == PGS_OK && gone && i < ROUNDS; i++) {
		gone = false;
		result = refresh(v);
		if (result != PGS_OK)
			break;
		pgs__file_map *map = pgs__levels_map(&v->contents->levels);
		result = check_map(v, map, &done, &gone);
		pgs__file_map_release(map);
	}
	pgs__map_free(&done);
	return result == PGS_OK && v->options->deep ? check_levels(v) : result;
}
