/* Reading index files: pointers of a large pack, or of a named snapshot, in page order (codec/pack.h).
 *
 * An open file is its table of blocks, 32 bytes for up to 256 pointers; blocks are read as they are needed, and
 * checked. Nothing here is shared between threads, but an open file may be read by any number of cursors at once.
 */
#ifndef PGS_TXN_INDEX_FILE_H
#define PGS_TXN_INDEX_FILE_H

#include "codec/pack.h"
#include "txn/db.h"

typedef struct pgs__index_file {
	char blob_name[PGS__BLOB_NAME_SIZE];
	uint64_t pointer_count, file_size;
	uint8_t *table;
	size_t table_size;
	pgs__disk_db *disk; /* the machine's cache file, where finding looks first, or NULL */
} pgs__index_file;

/* Open the database's file `name`, reading header and table; `cached`: from the machine's cache file (content/parts.h),
 * if it has them, and blocks too as pages are looked for. Walks read the blob. PGS_OK (close it); PGS_ENOTFOUND when there is no such
 * blob, with a message: the caller knows whether that is damage. Errors: the blob store's, ECORRUPT (also: another page
 * size), EVERSION, ENOMEM. *out is zeroed on failure. */
int pgs__index_file_open(pgs__index_file *out, const pgs_db *db, pgs_slice name, bool cached, uint64_t deadline_ms,
			 pgs_error *err);
void pgs__index_file_close(pgs__index_file *file); /* also when zeroed */

/* The blocks that were read last, and the entry found last: neighbours are not looked for from a block's start. Start
 * zeroed, but for `expected`; free with pgs__free(bytes). */
typedef struct pgs__index_block_kept {
	const uint64_t *expected; /* rising pages that will be looked for: neighbouring blocks that have some are read */
	size_t expected_count;    /* together, up to 256 KiB */
	uint8_t *bytes;
	size_t first, end;        /* blocks in there */
	size_t index;             /* of the block that is being walked */
	pgs__entries_reader reader;
	bool at;      /* the entry below has been read */
	uint64_t page_no;
	pgs_slice pointer;
} pgs__index_block_kept;

/* Find a page's encoded pointer, borrowed from `kept` until the next call with it. Errors: as opening. */
int pgs__index_file_find(const pgs__index_file *file, const pgs__backend *backend, uint64_t page_no,
			 pgs__index_block_kept *kept, bool *found, pgs_slice *pointer, uint64_t deadline_ms,
			 pgs_error *err);

/* The first page at or after `from` that has a pointer; UINT64_MAX when none has. Errors: as opening. */
int pgs__index_file_next(const pgs__index_file *file, const pgs__backend *backend, uint64_t from,
			 pgs__index_block_kept *kept, uint64_t *page_no, uint64_t deadline_ms, pgs_error *err);

/* A walk over the pages of [first, end), in rising order. Neighbouring blocks are read together, up to 256 KiB at
 * once (one block, if that is larger): the memory a cursor takes. */
typedef struct pgs__index_cursor {
	const pgs__index_file *file; /* borrowed */
	const pgs__backend *backend;
	uint64_t first, end;
	size_t block;                /* the next one to walk */
	size_t read_end;             /* blocks [block, read_end) are in bytes */
	uint8_t *bytes;
	size_t at;                   /* in bytes: where `block` begins */
	pgs__entries_reader reader;  /* of the block being walked */
} pgs__index_cursor;

void pgs__index_cursor_open(pgs__index_cursor *cursor, const pgs__index_file *file, const pgs__backend *backend,
			    uint64_t first, uint64_t end);
/* The next entry, its encoded pointer borrowed until the next call; *found is false at the end. Errors: as opening. */
int pgs__index_cursor_next(pgs__index_cursor *cursor, bool *found, uint64_t *page_no, pgs_slice *pointer,
			   uint64_t deadline_ms, pgs_error *err);
void pgs__index_cursor_close(pgs__index_cursor *cursor);

#endif
