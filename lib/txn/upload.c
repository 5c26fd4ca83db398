/* Uploading full contents ahead of the commit.
 *
 *      frames of writes ── by id ── a file: made here, its writes point at it from now on ── put
 *
 * Where the blob store waits for a network, the put is a task beside the caller, who goes on to write and to compress;
 * one at a time. The frames are the upload's then, so writes may change or go; who reads one of them waits. A put that
 * failed in the task is run again by the call that waits for it, which is the one to say why it fails. */
#include "txn/upload.h"

#include <stdlib.h>

#include "util/alloc.h"
#include "util/error.h"
#include "util/task.h"

#define FILE_TABLES_SHARE 3 /* of the commit's request: whole tables of files that ride in it, */
#define FILE_TABLES_MAX 8   /* and of so many files at the most */
#define OTHER_OPS 8         /* of a commit, besides files and attributes */
#define KEEP_SHARE 8        /* of the cache file: what a transaction writes to files and leaves there */

struct pgs__upload {
	pgs__task task;
	pgs__sorted_put put;
	uint64_t deadline_ms;
	int status;
	pgs_cost cost; /* the task's */
	size_t count;
	pgs__sorted_item items[];
};

/* --- the frames ------------------------------------------------------------------------ */

static int by_id(const void *a, const void *b)
{
	const pgs__write *x = *(pgs__write *const *)a, *y = *(pgs__write *const *)b;
	return memcmp(x->pointer.id.bytes, y->pointer.id.bytes, PGS__ID_SIZE);
}

static bool needs_file(const pgs__write *w)
{
	return w->state == PGS__WRITE_READY && w->frame != NULL && !w->in_kv;
}

/* The writes with a frame, by id; several pages of a group may have one content, which is stored once. */
static size_t collect_frames(pgs_txn *t, pgs__write **writes, pgs__sorted_item *items)
{
	size_t count = 0, unique = 0;
	for (size_t i = 0; i < t->write_count; i++)
		if (needs_file(&t->writes[i]))
			writes[count++] = &t->writes[i];
	if (count > 1)
		qsort(writes, count, sizeof *writes, by_id);
	for (size_t i = 0; i < count; i++) {
		const pgs__write *w = writes[i];
		if (unique == 0 || !pgs__page_id_equal(&items[unique - 1].id, &w->pointer.id))
			items[unique++] = (pgs__sorted_item){w->pointer.id, w->frame, w->frame_size, 0, 0};
	}
	return unique;
}

/* Point the writes whose contents are in the newest file at it; the upload has their frames. */
static void point_at_file(pgs_txn *t, pgs__write **writes, size_t *next, const pgs__upload *u)
{
	for (size_t i = 0; i < u->count; i++)
		while (writes[*next] && pgs__page_id_equal(&writes[*next]->pointer.id, &u->items[i].id)) {
			pgs__write *w = writes[(*next)++];
			w->in_file = true;
			w->file = (uint32_t)(t->file_count - 1);
			w->offset = u->items[i].offset;
			t->frame_bytes -= w->frame_size;
			if (w->frame != u->items[i].bytes)
				pgs__free(w->frame);
			w->frame = NULL;
		}
}

/* --- one file ------------------------------------------------------------------------------ */

static void *run(void *ctx)
{
	pgs__upload *u = ctx;
	pgs__charge(&u->cost);
	u->status = pgs__sorted_put_run(&u->put, u->deadline_ms, NULL);
	return NULL;
}

static void upload_free(pgs__upload *u, bool with_frames)
{
	for (size_t i = 0; with_frames && i < u->count; i++)
		pgs__free((void *)u->items[i].bytes);
	pgs__sorted_put_free(&u->put);
	pgs__free(u);
}

/* Wait for what is under way. */
static void join(pgs_txn *t, pgs__upload *u)
{
	pgs__task_join(&u->task);
	if (t->cost)
		pgs__cost_add(t->cost, &u->cost);
	u->cost = (pgs_cost){0};
}

/* How large the next file's table may be that rides in the commit. The other files have fences. */
static size_t table_max(const pgs_txn *t)
{
	size_t room = pgs__max_bytes(pgs__db_backend(t->db)) / FILE_TABLES_SHARE;
	bool fits = t->file_count < FILE_TABLES_MAX && (t->file_count + 1) * PGS__LEVEL_TABLE_MAX <= room;
	return fits ? PGS__LEVEL_TABLE_MAX : 0;
}

/* The commit registers all files in its one transaction: say that they do not fit before more is uploaded. */
static int check_files_fit(const pgs_txn *t, pgs_error *err)
{
	const pgs__backend *backend = pgs__db_backend(t->db);
	size_t bytes = 0, ops = pgs__max_ops(backend), room = pgs__max_bytes(backend) / 4 * 3;
	for (size_t i = 0; i < t->file_count; i++)
		bytes += t->files[i].value.size + PGS__KEY_MAX;
	if (t->file_count + t->attr_write_count + OTHER_OPS <= ops && bytes < room)
		return PGS_OK;
	return pgs__error(err, PGS_ELIMIT,
			  "database %s: the transaction has filled %zu files, and one commit cannot register more on this "
			  "KV; commit in parts, use larger pages, or give a larger write_buffer_bytes for fewer files",
			  t->db->name, t->file_count);
}

/* Make a file of the first items that fit. */
static int prepare(pgs_txn *t, const pgs__sorted_item *items, size_t count, pgs__upload **out, pgs_error *err)
{
	const pgs__sorted_target target = {
		.backend = pgs__db_backend(t->db),
		.prefix = pgs__db_prefix(t->db),
		.page_size = pgs__txn_page_size(t),
		.level = 0,
		.base_revision = t->snapshot.kv_revision,
		.table_max = table_max(t),
	};
	const size_t fit = pgs__sorted_file_fit(items, count);
	pgs__upload *u = pgs__calloc(1, sizeof *u + fit * sizeof u->items[0]);
	*out = u;
	if (!u || pgs__grow(&t->files, &t->file_capacity, t->file_count + 1, sizeof *t->files) != PGS_OK) {
		pgs__free(u);
		return pgs__error_nomem(err, "sorted files");
	}
	u->count = fit;
	memcpy(u->items, items, fit * sizeof *items);
	int result = pgs__sorted_put_prepare(&u->put, &target, u->items, fit, &t->files[t->file_count], err);
	if (result != PGS_OK)
		pgs__free(u);
	return result;
}

/* Put it, or begin to. */
static int start(pgs_txn *t, pgs__upload *u, uint64_t deadline_ms, pgs_error *err)
{
	u->deadline_ms = deadline_ms;
	if (pgs__db_backend(t->db)->concurrency > 1 && pgs__task_start(&u->task, run, u))
		return PGS_OK;
	int result = pgs__sorted_put_run(&u->put, deadline_ms, err);
	if (result != PGS_OK)
		pgs__buffer_free(&t->files[t->file_count].value);
	return result;
}

int pgs__upload_finish(pgs_txn *t, uint64_t deadline_ms, pgs_error *err)
{
	pgs__upload *u = t->upload;
	if (!u)
		return PGS_OK;
	join(t, u);
	if (u->status != PGS_OK)
		u->status = pgs__sorted_put_run(&u->put, deadline_ms, err);
	if (u->status != PGS_OK)
		return u->status;
	t->upload = NULL;
	upload_free(u, true);
	return PGS_OK;
}

void pgs__upload_stop(pgs_txn *t)
{
	pgs__upload *u = t->upload;
	if (!u)
		return;
	u->put.cancelled = true;
	join(t, u);
	t->upload = NULL;
	upload_free(u, true);
}

/* --- all of them ------------------------------------------------------------------------------ */

/* This machine need not fetch what it made. What is much goes past the cache, which is for what is used. */
static void keep(const pgs_txn *t, const pgs__upload *u)
{
	pgs__disk_db *disk = t->db->contents.disk;
	if (!disk || t->file_bytes > pgs__disk_size(disk) / KEEP_SHARE)
		return;
	for (size_t i = 0; i < u->count; i++)
		pgs__disk_put(disk, &u->items[i].id, (pgs_slice){u->items[i].bytes, u->items[i].size});
}

static int upload_next(pgs_txn *t, pgs__write **writes, size_t *next, const pgs__sorted_item *items, size_t *count,
		       uint64_t deadline_ms, pgs_error *err)
{
	pgs__upload *u = NULL;
	int result = pgs__upload_finish(t, deadline_ms, err);
	if (result == PGS_OK)
		result = check_files_fit(t, err);
	if (result == PGS_OK)
		result = prepare(t, items, *count, &u, err);
	if (result != PGS_OK)
		return result;
	*count = u->count;
	result = start(t, u, deadline_ms, err);
	if (result != PGS_OK) {
		upload_free(u, false);
		return result;
	}
	t->file_bytes += t->files[t->file_count++].size;
	keep(t, u);
	point_at_file(t, writes, next, u);
	if (u->task.running)
		t->upload = u;
	else
		upload_free(u, true);
	return PGS_OK;
}

int pgs__upload_frames(pgs_txn *t, uint64_t deadline_ms, pgs_error *err)
{
	pgs__write **writes = pgs__calloc(t->write_count + 1, sizeof *writes); /* NULL ends it */
	pgs__sorted_item *items = pgs__calloc(t->write_count + 1, sizeof *items);
	int result = writes && items ? PGS_OK : pgs__error_nomem(err, "sorted files");
	size_t count = result == PGS_OK ? collect_frames(t, writes, items) : 0;
	size_t next = 0, used = 0;
	for (size_t done = 0; result == PGS_OK && done < count; done += used) {
		pgs__txn_keep(t, deadline_ms);
		used = count - done;
		result = upload_next(t, writes, &next, items + done, &used, deadline_ms, err);
	}
	pgs__free(items);
	pgs__free(writes);
	return result;
}
