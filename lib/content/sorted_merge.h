/* Merging sorted files into new ones, as streams: memory is bounded whatever their size.
 *
 *     tables of the inputs, in chunks ── k-way by id ── decide ──→ plan of one output: table, and where each content is
 *                                                                    └─ put: contents copied through bounded buffers
 *     … until the inputs are used up: outputs, in id order, not overlapping
 *
 * Of several copies of one id one is kept, with the largest birth of them. Whose bytes: the youngest copy's that opens
 * and hashes to the id. Of contents and tombstones of one id, the tombstones count when the largest of their births is
 * at least the largest of the contents', and the contents alone when it is less.
 */
#ifndef PGS_CONTENT_SORTED_MERGE_H
#define PGS_CONTENT_SORTED_MERGE_H

#include "content/contents.h"
#include "content/sorted_writer.h"

/* What becomes of an id. */
typedef enum pgs__merge_verdict {
	PGS__MERGE_KEEP,      /* the content, or the tombstone, as it is */
	PGS__MERGE_DROP,      /* leave it out */
	PGS__MERGE_TOMBSTONE, /* leave a tombstone in its place, whose birth the decider sets in *birth */
} pgs__merge_verdict;

/* Called once per id, rising. Either `tombstone` is false, the inputs have its content, and *birth is the largest
 * birth of the copies; or it is true, what counts is a tombstone, and *birth is the largest of the tombstones' (there
 * may be contents, all of them covered by it, which are left out whatever is decided). A birth of 0 in a table is given
 * as the mod revision of that file's l/ key. What is put into *birth matters for PGS__MERGE_TOMBSTONE alone. Returns
 * a verdict; negative: an error that ends the merge. */
typedef int (*pgs__merge_decider)(void *ctx, const pgs__page_id *id, uint64_t *birth, bool tombstone);

typedef struct pgs__merge {
	pgs__contents *contents;   /* of the database: backend, prefix, secret, page size */
	pgs__file *const *inputs;  /* registered files, borrowed; in any order */
	size_t input_count;
	uint8_t level;             /* of the outputs */
	uint64_t base_revision;    /* goes into their names */
	uint64_t file_bytes_max;   /* of an output, unless one content is larger; 0 = PGS__SORTED_FILE_MAX, the most */
	size_t table_max;          /* as pgs__sorted_target's; 0 = PGS__LEVEL_TABLE_MAX */
	uint64_t memory_bytes;     /* for buffers and tables together; a few pages per input are taken in any case */
	bool scrub;                /* prove every content by its id on the way, not only where there are copies */
	pgs__merge_decider decide; /* NULL = keep all */
	void *decide_ctx;
	/* Called before each read, with the bytes of contents copied so far; nonzero ends the merge with it. For
	 * renewing locks and for deadlines. May be NULL. */
	int (*progress)(void *ctx, uint64_t bytes_copied);
	void *progress_ctx;

	/* out */
	pgs__sorted_file *outputs; /* durable, unregistered, in id order; after an error the last may be in any state */
	size_t output_count, output_capacity;
	uint64_t input_bytes, output_bytes; /* sizes of the files */
	uint64_t kept_count;       /* contents in the outputs */
	uint64_t dropped_count;    /* ids with a content in the inputs and none in the outputs */
	uint64_t dropped_bytes;    /* of contents, of all copies that were left out */
	uint64_t damaged_count;    /* contents found damaged, without a good copy, and copied all the same */
} pgs__merge;

/* Run it. A damaged content is copied as it is when no other copy is good, and counted: a merge loses nothing that
 * could still be mended. A damaged table ends it (ECORRUPT). Each backend call has `timeout_ms` (0 = no limit), a put
 * as much for every 16 MiB. Errors: the blob store's, ENOTFOUND (an input is gone: another merged it), ECORRUPT (a
 * table; a content that cannot even be read), ENOMEM, the callbacks'; outputs put by then are in m->outputs too, and
 * are to be discarded. */
int pgs__merge_run(pgs__merge *m, uint32_t timeout_ms, pgs_error *err);

/* Remove the outputs from the blob store: when they certainly were not registered. Best effort, for at most
 * `timeout_ms`: what stays is an orphan. */
void pgs__merge_discard(pgs__merge *m, uint32_t timeout_ms);
void pgs__merge_free(pgs__merge *m); /* the outputs' memory */

#endif
