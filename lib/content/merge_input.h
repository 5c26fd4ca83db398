/* One input of a merge: a registered sorted file, whose table is walked and whose contents are read forward.
 *
 * Memory: a chunk of the table (none when the l/ value has it), and a window over the contents. Both are allocated
 * when they are first needed.
 */
#ifndef PGS_CONTENT_MERGE_INPUT_H
#define PGS_CONTENT_MERGE_INPUT_H

#include "content/levels.h"

/* How the reads of all inputs of a merge are done. */
typedef struct pgs__merge_reader {
	pgs_blob *blob;
	uint32_t page_size;
	uint32_t timeout_ms;      /* of each read; 0 = none */
	size_t chunk_slices;      /* of a table read at once */
	size_t window_bytes;      /* at least a page */
	int (*before)(void *ctx); /* called before each read; nonzero ends it with that */
	void *before_ctx;
	pgs_error *err;
} pgs__merge_reader;

typedef struct pgs__merge_input {
	const pgs__file *file;
	pgs__sorted_entry entry; /* the current one, unless `ended` */
	bool ended;

	uint64_t row;           /* of the current entry */
	uint64_t next_offset;   /* where the next content must begin: contents have no gaps */
	const uint8_t *rows;    /* rows [rows_first, rows_end): in `chunk`, or all of them in the l/ value */
	uint64_t rows_first, rows_end;
	uint8_t *chunk;
	uint8_t *window;        /* bytes [window_offset, window_offset + window_used) of the file */
	uint64_t window_offset;
	size_t window_used;
} pgs__merge_input;

/* Stand at the first entry. Errors as pgs__merge_input_next(). */
int pgs__merge_input_open(pgs__merge_input *input, const pgs__file *file, const pgs__merge_reader *reader);
void pgs__merge_input_close(pgs__merge_input *input);

/* Go to the next entry, or to the end. Errors: ECORRUPT (the table), ENOTFOUND (the file has gone), the blob
 * store's, ENOMEM, those of reader->before. */
int pgs__merge_input_next(pgs__merge_input *input, const pgs__merge_reader *reader);

/* A content, `length` bytes (at most a page) at `offset` of the file; valid until the next call for this input. What
 * is not in the window is read together with what follows, `ahead` bytes in all (at most the window's size). */
int pgs__merge_input_content(pgs__merge_input *input, const pgs__merge_reader *reader, uint64_t offset, size_t length,
			     size_t ahead, const uint8_t **out);

#endif
