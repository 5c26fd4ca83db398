/* Verification: what its parts share.
 *
 *     verify.c            pointers of all retained revisions, and the contents they need; attributes, changelog
 *     verify_index.c      packs and named snapshots: the pointers in their index files
 *     verify_files.c      sorted files: header, table, fences, filter; deep: every content, and the levels
 *     verify_keys.c       single keys, l/ and, deep: contents in c/, locks, pins, samples
 *     verify_blobs.c      deep: d/ keys, and blobs that nothing names
 *
 * Damage is a finding, and the work goes on. What is only untidy is a note. Others may commit, flush, merge, fold and
 * sweep meanwhile: before something missing is reported, it is looked at again whether it must still be there.
 */
#ifndef PGS_MAINTAIN_VERIFY_H
#define PGS_MAINTAIN_VERIFY_H

#include <pagestore/history.h>

#include "txn/index_file.h"
#include "txn/snapshot.h"
#include "util/map.h"

#define PGS__VERIFY_BATCH 256

/* A pointer waiting to be checked. */
typedef struct pgs__verify_pointer {
	uint64_t page_no;
	uint64_t revision;
	uint64_t hash;        /* by which `checked` knows it */
	pgs__pointer pointer; /* its delta is in the batch's arena */
} pgs__verify_pointer;

/* The named snapshot whose pointers are being checked. */
typedef struct pgs__verify_snapshot {
	const pgs_kv_pair *pair; /* its key as it was read */
	char name[4 * PGS_SNAPSHOT_NAME_MAX + 1]; /* printable */
} pgs__verify_snapshot;

typedef struct pgs__verify {
	pgs_db *db;
	pgs__contents *contents;
	const pgs_verify_options *options;
	pgs_verify_report *report;
	pgs_error *err;           /* never NULL */
	pgs__map checked;         /* hash of (page, id): seen already */
	pgs__map said;            /* hash of a finding: reported already */
	pgs__verify_pointer batch[PGS__VERIFY_BATCH];
	size_t count;
	pgs__arena arena;
	uint8_t *pages;           /* one content per batch entry */
	pgs__workbench *bench;
	const pgs__verify_snapshot *snapshot; /* NULL = pointers are of revisions */
	uint64_t last_commit;     /* revision: no pointers are put behind it, but by folding packs */
	bool has_packs;           /* in some revision */
	uint64_t done, total;     /* pointers and copies of contents; the total as far as it is known */
} pgs__verify;

/* The deadline of a step that begins now: verification takes long, each step gets the store's timeout. */
uint64_t pgs__verify_deadline(const pgs__verify *v);

/* Report damage, or a note: `hint` is static and says what to do. What the callback returns. */
int pgs__verify_finding(pgs__verify *v, int code, uint64_t revision, const char *hint, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
int pgs__verify_note(pgs__verify *v, uint64_t revision, const char *hint, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* Count one pointer or copy; calls back now and then. */
int pgs__verify_progress(pgs__verify *v);

/* Visit the keys of a kind at a revision (0 = as they are when they are read), so many at a time. Errors: the KV's, the
 * visitor's. */
typedef int (*pgs__verify_visitor)(pgs__verify *v, const pgs_kv_pair *pair);
int pgs__verify_list(pgs__verify *v, char kind, uint64_t revision, size_t limit, pgs__verify_visitor visit);

/* Whether a key is still as it was read, at the latest revision. */
int pgs__verify_is_current(pgs__verify *v, const pgs_kv_pair *pair, bool *current);

/* Take an encoded pointer; contents are checked in batches, at the latest by the flush. */
int pgs__verify_add_pointer(pgs__verify *v, uint64_t page_no, uint64_t revision, pgs_slice value);
int pgs__verify_flush(pgs__verify *v);

/* Check a copy of a content; `place` says where it is, in a finding's message. */
int pgs__verify_copy(pgs__verify *v, const pgs__page_id *id, pgs_slice stored, uint64_t revision, const char *place);
/* It is damaged, as `why` says: is another copy good? */
int pgs__verify_bad_copy(pgs__verify *v, const pgs__page_id *id, uint64_t revision, const char *why);

/* The parts. Errors: those that stop verification. */
int pgs__verify_pack(pgs__verify *v, const pgs_kv_pair *pair); /* an o/ key: every pointer in it */
int pgs__verify_snapshots(pgs__verify *v);
int pgs__verify_levels(pgs__verify *v); /* l/ values */
int pgs__verify_files(pgs__verify *v);
int pgs__verify_attrs(pgs__verify *v);
int pgs__verify_changes(pgs__verify *v);
int pgs__verify_contents(pgs__verify *v);
int pgs__verify_locks(pgs__verify *v);
int pgs__verify_blobs(pgs__verify *v);

#endif
