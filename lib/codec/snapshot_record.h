/* Named snapshots: what is registered under s/<name>. It is all a reader needs besides the files it names, so that a
 * snapshot stays readable when the KV's history is gone.
 *
 *     u8         1 attributes inline, 2 attributes in a blob
 *     varint     S, the KV revision it was taken at
 *     varint     T, the revision of the last commit at or before S
 *     varint     commit counter (the value of t)
 *     varint     page count
 *     u64        created, Unix ms
 *     varint n   index files: n × (varint first page - end of the file before, varint page past the last - first page,
 *                varint name size, file name, varint file size, varint pointers)
 *     kind 1     attributes (below)       kind 2   varint name size, file name, varint file size
 *     seal
 *
 * 1 <= T <= S. The files rise and do not overlap; no file is empty; none goes past the page count.
 *
 * Attributes: varint n, n × (varint name size, name, varint value size, value); names rise strictly. A blob of
 * attributes is "PGSA", u16 format version, attributes, seal.
 */
#ifndef PGS_CODEC_SNAPSHOT_RECORD_H
#define PGS_CODEC_SNAPSHOT_RECORD_H

#include <pagestore/error.h>

#include "util/cursor.h"

/* Attributes up to so many bytes are inline, by writers. */
#define PGS__SNAPSHOT_ATTRS_INLINE_MAX 65536

/* An index file of a snapshot: the pointers of pages [first, end). */
typedef struct pgs__snapshot_file {
	uint64_t first, end;
	pgs_slice name; /* borrowed */
	uint64_t file_size;
	uint64_t pointer_count;
} pgs__snapshot_file;

/* Borrowing: slices point into what was encoded from or decoded. */
typedef struct pgs__snapshot_record {
	uint64_t revision;        /* S */
	uint64_t commit_revision; /* T */
	uint64_t counter;
	uint64_t page_count;
	int64_t created_ms;
	size_t file_count;
	const pgs__snapshot_file *files; /* encode. decode: NULL, use pgs__snapshot_next_file() */
	pgs_slice file_bytes;            /* decode: the encoded files */
	bool attrs_in_file;
	pgs_slice attrs;          /* inline: the encoded attributes; encode: empty = none */
	pgs_slice attrs_name;     /* in a file */
	uint64_t attrs_size;
} pgs__snapshot_record;

/* Append the encoding with its seal. */
void pgs__snapshot_encode(const pgs__snapshot_record *record, pgs__buffer *out);

/* Checks everything, inline attributes included. PGS_OK, PGS_ECORRUPT or PGS_EVERSION (unknown kind). */
int pgs__snapshot_decode(pgs_slice bytes, pgs__snapshot_record *out);

/* Walk the files of a decoded record. */
typedef struct pgs__snapshot_files_reader {
	pgs__reader reader;
	uint64_t next_page;
} pgs__snapshot_files_reader;
pgs__snapshot_files_reader pgs__snapshot_files_open(const pgs__snapshot_record *record);
bool pgs__snapshot_next_file(pgs__snapshot_files_reader *r, pgs__snapshot_file *file); /* false at the end */

/* Builds attributes; feed names in rising order. Start zeroed; finished by pgs__attrs_finish(). */
typedef struct pgs__attrs_writer {
	pgs__buffer bytes; /* without n */
	uint64_t count;
} pgs__attrs_writer;
void pgs__attrs_add(pgs__attrs_writer *w, pgs_slice name, pgs_slice value);
void pgs__attrs_finish(const pgs__attrs_writer *w, pgs__buffer *out);

/* Walk encoded attributes. */
typedef struct pgs__attrs_reader {
	pgs__reader reader;
	uint64_t left;
	pgs_slice last_name;
} pgs__attrs_reader;
int pgs__attrs_open(pgs_slice attrs, pgs__attrs_reader *out); /* PGS_OK or PGS_ECORRUPT */
/* The next attribute (borrowed); false at the end, or r->reader.failed. */
bool pgs__attrs_next(pgs__attrs_reader *r, pgs_slice *name, pgs_slice *value);

/* A blob of attributes. Decoding gives the attributes inside, checked. PGS_OK, PGS_ECORRUPT or PGS_EVERSION. */
void pgs__attrs_file_encode(pgs_slice attrs, pgs__buffer *out);
int pgs__attrs_file_decode(pgs_slice file, pgs_slice *attrs);

#endif
