/* Merging sorted files into new ones, as streams: memory is bounded whatever their size.
 *
 *     tables of the inputs, in chunks ── k-way by id ── decide ──→ plan of one output: table, and where each content is
 *                                                                    └─ put: contents copied through bounded buffers
 *     … until the inputs are used up: outputs, in id order, not overlapping
 *
 * Of several copies of one id the largest birth is kept (whose bytes: one that opens, if they differ in that).
 */
#ifndef PGS_CONTENT_SORTED_MERGE_H
#define PGS_CONTENT_SORTED_MERGE_H

#include "content/contents.h"
#include "content/sorted_writer.h"

/* What becomes of an id that all inputs together hold with birth `birth` (the largest; a file's own registration
 * where its table says 0). `tombstone`: no input has a content for it, only the hint. */
typedef enum pgs__merge_verdict {
	PGS__MERGE_KEEP,
	PGS__MERGE_DROP,      /* leave it out */
	PGS__MERGE_TOMBSTONE, /* leave a tombstone in its place, whose birth the decider sets in *birth */
} pgs__merge_verdict;

/* Called per id, rising. Negative: an error that ends the merge. */
typedef int (*pgs__merge_decider)(void *ctx, const pgs__page_id *id, uint64_t *birth, bool tombstone);

typedef struct pgs__merge {
	pgs__contents *contents;   /* of the database: backend, prefix, secret, page size */
	pgs__file *const *inputs;  /* registered files, borrowed */
	size_t input_count;
	uint8_t level;             /* of the outputs */
	uint64_t base_revision;    /* goes into their names */
	uint64_t file_bytes_max;   /* of an output */
	uint64_t memory_bytes;     /* for buffers and tables together */
	bool scrub;                /* prove every content by its id on the way, not only where there are copies */
	pgs__merge_decider decide; /* NULL = keep all */
	void *decide_ctx;
	/* Called now and then with the bytes copied so far; nonzero ends the merge with it. For renewing locks and for
	 * deadlines. May be NULL. */
	int (*progress)(void *ctx, uint64_t bytes_copied);
	void *progress_ctx;

	/* out */
	pgs__sorted_file *outputs; /* durable, unregistered; freed by pgs__merge_free() */
	size_t output_count, output_capacity;
	uint64_t input_bytes, output_bytes;
	uint64_t kept_count, dropped_count, dropped_bytes, damaged_count;
} pgs__merge;

/* Run it. A damaged content is copied as it is when no other copy is good, and counted: a merge loses nothing that
 * could still be mended. A damaged table ends it (ECORRUPT). Each backend call has `timeout_ms`. Errors: the blob
 * store's, ENOTFOUND (an input is gone: another merged it), ECORRUPT, ENOMEM, the callbacks'; outputs already put are
 * in m->outputs then too. */
int pgs__merge_run(pgs__merge *m, uint32_t timeout_ms, pgs_error *err);

/* Remove the outputs from the blob store: when they certainly were not registered. */
void pgs__merge_discard(pgs__merge *m, uint32_t timeout_ms);
void pgs__merge_free(pgs__merge *m);

#endif
