/* The packs of a database as of one structure epoch (`z`): the pointers of large commits, not yet folded into p/.
 *
 * Every put or deletion of a pack rewrites z, so a view of one epoch is the same for ever, and is shared by
 * reference.
 */
#ifndef PGS_TXN_PACKS_H
#define PGS_TXN_PACKS_H

#include "codec/pack.h"
#include "txn/index_file.h"

typedef struct pgs__pack_view pgs__pack_view;

/* The view at KV revision `revision`, where z had mod revision `epoch`: the database's current one if it is of that
 * epoch, else read. PGS_OK (release it), or an error of the KV or blob store, ECORRUPT, EVERSION, ENOMEM;
 * PGS_ENOTFOUND when an index file is missing: here, and below, for pgs__explain_missing() to judge. */
int pgs__pack_view_get(pgs_db *db, uint64_t epoch, uint64_t revision, uint64_t deadline_ms, pgs__pack_view **out,
		       pgs_error *err);
void pgs__pack_view_retain(pgs__pack_view *view);
void pgs__pack_view_release(pgs__pack_view *view);

size_t pgs__pack_view_count(const pgs__pack_view *view);

/* Pack `index` of the view, 0 the newest; borrowed from it. */
typedef struct pgs__pack_info {
	uint64_t revision;
	const uint8_t *uuid;
	const pgs__pack *decoded;
} pgs__pack_info;
pgs__pack_info pgs__pack_view_at(const pgs__pack_view *view, size_t index);

/* What the packs younger than `age` say about a page. */
typedef struct pgs__pack_answer {
	bool found;
	uint64_t revision;        /* of the pack */
	bool absent;              /* truncated away */
	uint8_t *pointer;         /* else: the encoded pointer, in the finder's arena */
	size_t pointer_size;
} pgs__pack_answer;

/* A walk over rising pages, which keeps the index blocks it is in. */
typedef struct pgs__pack_finder pgs__pack_finder;
int pgs__pack_finder_new(pgs__pack_finder **out, pgs__pack_view *view, const pgs__backend *backend,
			 uint64_t deadline_ms, pgs_error *err);
/* These rising pages will be looked for (borrowed): what lies together of them is read together. */
void pgs__pack_expect(pgs__pack_finder *finder, const uint64_t *pages, size_t count);
int pgs__pack_find(pgs__pack_finder *finder, uint64_t page_no, uint64_t age, pgs__pack_answer *out);
/* Whether a pack younger than `age` says anything about a page. */
int pgs__pack_covers(pgs__pack_finder *finder, uint64_t page_no, uint64_t age, bool *covered);
/* The first page at or after `from` that a pack has a pointer of (ranges do not count); UINT64_MAX when none has. */
int pgs__pack_next_page(pgs__pack_finder *finder, uint64_t from, uint64_t *page_no);
void pgs__pack_finder_free(pgs__pack_finder *finder);

/* A walk over the entries of one pack from a page on, in the order of pages; the pointer is borrowed until the next step. */
typedef struct pgs__pack_walk {
	const pgs__pack_view *view; /* borrowed */
	size_t index;
	size_t at;                  /* inline: the next entry */
	pgs__index_cursor cursor;   /* in a file */
} pgs__pack_walk;
void pgs__pack_walk_open(pgs__pack_walk *walk, const pgs__pack_view *view, size_t index, const pgs__backend *backend,
			 uint64_t first_page);
int pgs__pack_walk_next(pgs__pack_walk *walk, bool *found, uint64_t *page_no, pgs_slice *pointer, uint64_t deadline_ms,
			pgs_error *err);
void pgs__pack_walk_close(pgs__pack_walk *walk);

/* Every page the packs of the view have a pointer for: calls `visit` per encoded pointer, newest pack first; or those
 * of one pack. */
typedef int (*pgs__pack_visitor)(void *ctx, uint64_t page_no, uint64_t revision, pgs_slice pointer);
int pgs__pack_view_visit(pgs__pack_view *view, const pgs__backend *backend, uint64_t deadline_ms,
			 pgs__pack_visitor visit, void *ctx, pgs_error *err);
int pgs__pack_view_visit_one(const pgs__pack_view *view, size_t index, const pgs__backend *backend,
			     uint64_t deadline_ms, pgs__pack_visitor visit, void *ctx, pgs_error *err);

#endif
