/* Parts of sorted files and index files in the cache file, and fetching them: see parts.h. */
#include "content/parts.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define PART ((size_t)32 << 10) /* of a filter, or an index file */
#define READ_SLICES ((size_t)1792) /* of one read ahead: about 4 MiB, whole parts */

_Static_assert(READ_SLICES % PGS__PART_SLICES == 0, "whole parts are read");
_Static_assert(PGS__PART_SLICES * PGS__SLICE_BYTES <= PGS_PAGE_SIZE_MAX, "a part is kept as a content is");

/* What part `number` of a file's table ('t') or filter ('f') is called, or that of an index file which begins at byte
 * `number` ('i'). Names of files are never used again. */
static pgs__page_id name_part(const char *blob_name, char kind, uint64_t number)
{
	pgs__page_id id;
	XXH128_canonical_t canonical;
	XXH128_hash_t hash = XXH3_128bits_withSeed(blob_name, strlen(blob_name),
						   (uint64_t)kind << 56 | number);
	_Static_assert(sizeof canonical.digest == PGS__ID_SIZE, "a name is as long as an id");
	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(id.bytes, canonical.digest, PGS__ID_SIZE);
	return id;
}

static pgs__page_id part_id(const pgs__file *file, char kind, size_t number)
{
	return name_part(file->blob_name, kind, number);
}

/* --- slices ----------------------------------------------------------------------------- */

bool pgs__slice_take(pgs__file *file, size_t slice, const uint8_t *bytes)
{
	size_t size = pgs__slices_bytes(file, slice, slice + 1);
	if (pgs__check32(bytes, size) != pgs__fence_check(file->index.fences, slice) && !PGS__BUG(PARTS_BELIEVED))
		return false;
	pgs__slices_put(file->slices, file->slices_key, slice, bytes, size);
	return true;
}

typedef struct part {
	pgs__file *file;
	size_t first, end; /* slices */
	bool bad;
} part;

static part part_of(pgs__file *file, size_t slice)
{
	part p = {.file = file, .first = slice - slice % PGS__PART_SLICES};
	p.end = p.first + PGS__PART_SLICES;
	if (p.end > pgs__file_slices(file))
		p.end = pgs__file_slices(file);
	return p;
}

static void take_part(void *ctx, size_t index, pgs_slice stored)
{
	part *p = ctx;
	(void)index;
	p->bad = stored.size != pgs__slices_bytes(p->file, p->first, p->end);
	for (size_t i = p->first; !p->bad && i < p->end; i++)
		p->bad = !pgs__slice_take(p->file, i, (const uint8_t *)stored.data + (i - p->first) * PGS__SLICE_BYTES);
}

void pgs__parts_get_slice(pgs__disk_db *disk, pgs__file *file, size_t slice)
{
	part p = part_of(file, slice);
	if (!disk)
		return;
	pgs__page_id id = part_id(file, 't', p.first / PGS__PART_SLICES);
	pgs__disk_get(disk, &id, 1, take_part, &p);
	if (p.bad)
		pgs__disk_drop(disk, &id);
}

static void put(pgs__disk_db *disk, const pgs__page_id *id, pgs_slice bytes, bool ahead, uint64_t deadline_ms)
{
	if (ahead)
		pgs__disk_put_ahead(disk, id, bytes, deadline_ms);
	else
		pgs__disk_put(disk, id, bytes);
}

void pgs__parts_put_slices(pgs__disk_db *disk, const pgs__file *file, size_t first, size_t end, const uint8_t *bytes,
			   bool ahead, uint64_t deadline_ms)
{
	for (size_t i = first; disk && i < end; i += PGS__PART_SLICES) {
		size_t part_end = i + PGS__PART_SLICES < end ? i + PGS__PART_SLICES : end;
		pgs__page_id id = part_id(file, 't', i / PGS__PART_SLICES);
		const pgs_slice slices = {bytes + (i - first) * PGS__SLICE_BYTES, pgs__slices_bytes(file, i, part_end)};
		put(disk, &id, slices, ahead, deadline_ms);
	}
}

/* --- parts that are copied --------------------------------------------------------------- */

typedef struct whole_part {
	uint8_t *out;
	size_t size;
	bool found;
} whole_part;

static void take_whole(void *ctx, size_t index, pgs_slice stored)
{
	whole_part *p = ctx;
	(void)index;
	p->found = stored.size == p->size;
	if (p->found)
		memcpy(p->out, stored.data, p->size);
}

/* --- filters ------------------------------------------------------------------------------ */

static size_t filter_bytes(const pgs__file *file)
{
	return (size_t)file->index.filter_size + PGS__FILTER_CHECK_SIZE;
}

static size_t filter_part_size(const pgs__file *file, size_t at)
{
	size_t left = filter_bytes(file) - at;
	return left < PART ? left : PART;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the visitor writes it */
static bool collect_filter(pgs__disk_db *disk, const pgs__file *file, uint8_t *bits)
{
	bool found = true;
	for (size_t at = 0; found && at < filter_bytes(file); at += PART) {
		pgs__page_id id = part_id(file, 'f', at / PART);
		whole_part p = {bits + at, filter_part_size(file, at), false};
		pgs__disk_get(disk, &id, 1, take_whole, &p);
		found = p.found;
	}
	return found;
}

static void drop_filter(pgs__disk_db *disk, const pgs__file *file)
{
	for (size_t at = 0; at < filter_bytes(file); at += PART) {
		pgs__page_id id = part_id(file, 'f', at / PART);
		pgs__disk_drop(disk, &id);
	}
}

uint8_t *pgs__parts_get_filter(pgs__disk_db *disk, const pgs__file *file)
{
	uint8_t *bits = disk ? pgs__malloc(filter_bytes(file)) : NULL;
	if (bits && collect_filter(disk, file, bits)) {
		if (pgs__sorted_filter_check((pgs_slice){bits, filter_bytes(file)}) || PGS__BUG(PARTS_BELIEVED))
			return bits;
		drop_filter(disk, file);
	}
	pgs__free(bits);
	return NULL;
}

void pgs__parts_put_filter(pgs__disk_db *disk, const pgs__file *file, const uint8_t *bits, bool ahead,
			   uint64_t deadline_ms)
{
	for (size_t at = 0; disk && at < filter_bytes(file); at += PART) {
		pgs__page_id id = part_id(file, 'f', at / PART);
		put(disk, &id, (pgs_slice){bits + at, filter_part_size(file, at)}, ahead, deadline_ms);
	}
}

/* --- index files ---------------------------------------------------------------------------- */

static size_t index_part_size(size_t size, size_t at)
{
	return size - at < PART ? size - at : PART;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the visitor writes it */
bool pgs__parts_get_index(pgs__disk_db *disk, const char *blob_name, uint64_t offset, void *out, size_t size)
{
	bool found = disk != NULL;
	for (size_t at = 0; found && at < size; at += PART) {
		pgs__page_id id = name_part(blob_name, 'i', offset + at);
		whole_part p = {(uint8_t *)out + at, index_part_size(size, at), false};
		pgs__disk_get(disk, &id, 1, take_whole, &p);
		found = p.found;
	}
	return found;
}

void pgs__parts_put_index(pgs__disk_db *disk, const char *blob_name, uint64_t offset, pgs_slice bytes)
{
	for (size_t at = 0; disk && at < bytes.size; at += PART) {
		pgs__page_id id = name_part(blob_name, 'i', offset + at);
		const pgs_slice stored = {(const uint8_t *)bytes.data + at, index_part_size(bytes.size, at)};
		pgs__disk_put(disk, &id, stored);
	}
}

void pgs__parts_drop_index(pgs__disk_db *disk, const char *blob_name, uint64_t offset, size_t size)
{
	for (size_t at = 0; disk && at < size; at += PART) {
		pgs__page_id id = name_part(blob_name, 'i', offset + at);
		pgs__disk_drop(disk, &id);
	}
}

/* --- fetching ------------------------------------------------------------------------------- */

/* Whether all of the next read is in the cache file. */
static bool is_there(pgs__disk_db *disk, const pgs__file *file, size_t first, size_t end, bool filter)
{
	pgs__page_id ids[READ_SLICES / PGS__PART_SLICES + 64];
	bool there[READ_SLICES / PGS__PART_SLICES + 64] = {false};
	size_t count = 0;
	for (size_t i = first; i < end; i += PGS__PART_SLICES)
		ids[count++] = part_id(file, 't', i / PGS__PART_SLICES);
	for (size_t at = 0; filter && at < filter_bytes(file); at += PART)
		ids[count++] = part_id(file, 'f', at / PART);
	if (!disk || pgs__disk_look(disk, ids, count, there) != PGS_OK)
		return false;
	for (size_t i = 0; i < count; i++)
		if (!there[i])
			return false;
	return true;
}

static void keep_table(pgs__disk_db *disk, pgs__file *file, size_t first, size_t end, const uint8_t *bytes,
		       uint64_t deadline_ms)
{
	bool good = true;
	for (size_t i = first; i < end; i++) {
		const uint8_t *slice = bytes + (i - first) * PGS__SLICE_BYTES;
		size_t size = pgs__slices_bytes(file, i, i + 1);
		if (!disk)
			pgs__slice_take(file, i, slice);
		else
			good &= pgs__check32(slice, size) == pgs__fence_check(file->index.fences, i);
	}
	if (disk && good)
		pgs__parts_put_slices(disk, file, first, end, bytes, true, deadline_ms);
}

static void keep_filter(pgs__disk_db *disk, pgs__file *file, const uint8_t *bytes, uint64_t deadline_ms)
{
	uint8_t *bits;
	if (!pgs__sorted_filter_check((pgs_slice){bytes, filter_bytes(file)}))
		return;
	pgs__parts_put_filter(disk, file, bytes, true, deadline_ms);
	if (!pgs__filters_has_room(file->filters, &file->filter, file->index.filter_size) ||
	    !(bits = pgs__malloc(filter_bytes(file))))
		return;
	memcpy(bits, bytes, filter_bytes(file));
	pgs__filters_keep(file->filters, &file->filter, bits, (size_t)file->index.filter_size);
}

int pgs__parts_fetch(pgs__contents *contents, pgs__file *file, size_t *at, bool *read, uint64_t deadline_ms,
		     pgs_error *err)
{
	size_t count = pgs__file_slices(file), first = *at, end = first + READ_SLICES < count ? first + READ_SLICES : count;
	bool filter = end == count && file->index.filter_size;
	*read = false;
	*at = end == count ? PGS__PARTS_DONE : end;
	if (file->index.has_table || is_there(contents->disk, file, first, end, filter))
		return PGS_OK;
	size_t table = pgs__slices_bytes(file, first, end), size = table + (filter ? filter_bytes(file) : 0);
	uint8_t *bytes = pgs__malloc(size);
	if (!bytes)
		return pgs__error_nomem(err, "table of a sorted file");
	pgs_blob_range range = {
		.name = file->blob_name,
		.offset = PGS__SORTED_HEADER_SIZE + (uint64_t)first * PGS__SLICE_BYTES,
		.size = size,
		.buffer = bytes,
	};
	int result = pgs__blob_get(contents->backend->blob, &range, 1, deadline_ms, err);
	*read = result == PGS_OK;
	if (result == PGS_OK)
		keep_table(contents->disk, file, first, end, bytes, deadline_ms);
	if (result == PGS_OK && filter)
		keep_filter(contents->disk, file, bytes + table, deadline_ms);
	pgs__free(bytes);
	return result;
}
