/* Changelog entries: what a commit changed.
 *
 *     u8         1 commit, 2 aborted (then only the seal follows), 3 commit whose page runs are in a blob
 *     16         digest of the commit
 *     u64        bytes put into the KV   u64 bytes put into the blob store
 *     varint     base revision B
 *     varint     page count after the commit
 *     varint     0, or 1 + the lowest page count it truncated to
 *     varint     pages written
 *     varint n   attributes: n × (varint size, bytes)
 *     varint     note size, bytes; size + 1, so that 0 is no note
 *     kind 1     runs (below)            kind 3   varint name size, file name, varint file size
 *     seal
 *
 * Attribute names are 1 … 255 bytes, in no order. The lengths of kind 1's runs add up to the pages written.
 *
 * Runs of pages: varint n, then n × (varint pages skipped since the last run's end, varint length - 1). A blob
 * of runs is "PGSR", u16 format version, runs, seal. Runs rise and never touch.
 */
#ifndef PGS_CODEC_CHANGELOG_H
#define PGS_CODEC_CHANGELOG_H

#include <pagestore/error.h>

#include "util/cursor.h"

typedef enum pgs__change_kind {
	PGS__CHANGE_COMMIT = 1,
	PGS__CHANGE_ABORTED = 2,
	PGS__CHANGE_COMMIT_RUNS_IN_BLOB = 3
} pgs__change_kind;

typedef struct pgs__page_run {
	uint64_t first;
	uint64_t count;
} pgs__page_run;

/* Borrowing: slices point into what was encoded from or decoded. */
typedef struct pgs__change {
	pgs__change_kind kind;
	uint8_t digest[16];
	uint64_t kv_bytes;
	uint64_t blob_bytes;
	uint64_t base_revision;
	uint64_t page_count;
	bool truncated;
	uint64_t truncated_to;
	uint64_t pages_written;
	size_t attr_count;
	const pgs_slice *attrs; /* encode: names. decode: NULL, use pgs__change_attrs() */
	pgs_slice attr_bytes;   /* decode: the encoded names */
	bool has_note;
	pgs_slice note;
	pgs_slice runs;         /* kind 1: the encoded runs, see pgs__runs_next(); encode: empty = none */
	pgs_slice file_name;    /* kind 3 */
	uint64_t file_size;
} pgs__change;

/* Append the encoding with its seal. kv_bytes is at a fixed place, so a caller who learns it later encodes twice. */
void pgs__change_encode(const pgs__change *change, pgs__buffer *out);

/* Checks everything, runs included. PGS_OK, PGS_ECORRUPT or PGS_EVERSION (unknown kind). */
int pgs__change_decode(pgs_slice bytes, pgs__change *out);

/* Walk the names of a decoded entry: start with *rest = change->attr_bytes; false at the end. */
bool pgs__change_next_attr(pgs_slice *rest, pgs_slice *name);

/* Append `count` runs, rising and not touching. */
void pgs__runs_encode(const pgs__page_run *runs, size_t count, pgs__buffer *out);

/* Walk encoded runs. */
typedef struct pgs__runs_reader {
	pgs__reader reader;
	uint64_t left;
	uint64_t next_page;
} pgs__runs_reader;
int pgs__runs_open(pgs_slice runs, pgs__runs_reader *out);     /* PGS_OK or PGS_ECORRUPT */
bool pgs__runs_next(pgs__runs_reader *r, pgs__page_run *run); /* false at the end, or r->reader.failed */

/* A blob of runs. Decoding gives the runs inside, checked. PGS_OK, PGS_ECORRUPT or PGS_EVERSION. */
void pgs__runs_file_encode(pgs_slice runs, pgs__buffer *out);
int pgs__runs_file_decode(pgs_slice file, pgs_slice *runs);

#endif
