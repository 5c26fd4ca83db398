/* Tables and filters of sorted files in the machine's cache file, in parts: eight slices of a table; 32 KiB of a filter.
 * And what was read of index files (txn/index_file.h).
 *
 * A part is kept as contents are, under a name made of the file's, what it is and where it begins. So it is the
 * database's alone, and evicted by the same queues. It is not believed: a slice is held against its fence, a filter
 * against its check, an index file's header, table and blocks against theirs; parts that fail are dropped and counted, and
 * read from the blob.
 */
#ifndef PGS_CONTENT_PARTS_H
#define PGS_CONTENT_PARTS_H

#include "content/contents.h"

#define PGS__PART_SLICES 8 /* slices that are kept, and read, together */

/* Take the part that has this slice, into the slices in memory: those that are good. `disk` may be NULL, here and below:
 * then there is nothing. */
void pgs__parts_get_slice(pgs__disk_db *disk, pgs__file *file, size_t slice);

/* Keep slices [first, end) of a table, which are whole parts; `ahead`: nobody has asked for them. */
void pgs__parts_put_slices(pgs__disk_db *disk, const pgs__file *file, size_t first, size_t end, const uint8_t *bytes,
			   bool ahead, uint64_t deadline_ms);

/* The file's filter with its check, from pgs__malloc(), or NULL. */
uint8_t *pgs__parts_get_filter(pgs__disk_db *disk, const pgs__file *file);
void pgs__parts_put_filter(pgs__disk_db *disk, const pgs__file *file, const uint8_t *bits, bool ahead,
			   uint64_t deadline_ms);

/* Bytes of an index file, from `offset`: what one check covers, asked for as it was put. Not checked here. */
bool pgs__parts_get_index(pgs__disk_db *disk, const char *blob_name, uint64_t offset, void *out, size_t size);
void pgs__parts_put_index(pgs__disk_db *disk, const char *blob_name, uint64_t offset, pgs_slice bytes);
void pgs__parts_drop_index(pgs__disk_db *disk, const char *blob_name, uint64_t offset, size_t size);

/* Read the file's table and filter, where the l/ value does not have them, before somebody needs them; what the cache
 * file has is not read again. The filter is kept in memory too; so is the table, if there is no cache file. *at: how far
 * it has come, 0 first; each call makes one read of 4 MiB or so; PGS__PARTS_DONE is the end. *read: whether there was
 * one. Errors: the blob store's (ENOTFOUND: the file is gone), ENOMEM. What is damaged is left to who needs it. */
#define PGS__PARTS_DONE SIZE_MAX
int pgs__parts_fetch(pgs__contents *contents, pgs__file *file, size_t *at, bool *read, uint64_t deadline_ms,
		     pgs_error *err);

/* Of a table: slices, and the bytes of [first, end). */
static inline size_t pgs__file_slices(const pgs__file *file)
{
	return (size_t)((file->index.count + PGS__SORTED_SLICE - 1) / PGS__SORTED_SLICE);
}

static inline size_t pgs__slices_bytes(const pgs__file *file, size_t first, size_t end)
{
	uint64_t from = (uint64_t)first * PGS__SORTED_SLICE, to = (uint64_t)end * PGS__SORTED_SLICE;
	to = to < file->index.count ? to : file->index.count;
	return (size_t)(to - from) * PGS__SORTED_ENTRY_SIZE;
}

/* A slice's bytes, if they are good, are kept in memory. */
bool pgs__slice_take(pgs__file *file, size_t slice, const uint8_t *bytes);

#endif
