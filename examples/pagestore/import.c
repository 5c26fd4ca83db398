/* import: a file becomes the newest version of a database.
 *
 * Every page of the file is written; the library drops those that the database
 * already holds, so that the commit is as small as the change. All of it is one
 * transaction: until the commit, and after any failure, nothing has changed. The
 * one thing done before is making the database, which is undone (but not when
 * the process is killed outright: then an empty database is left).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "format.h"
#include "interrupt.h"
#include "json.h"
#include "progress.h"
#include "report.h"
#include "size_attr.h"
#include "source.h"

enum { CHUNK_BYTES = 1 << 20, TRIES = 5 };
_Static_assert(CHUNK_BYTES % PGS_PAGE_SIZE_MAX == 0, "a chunk is a whole number of pages of any size");

typedef struct import {
	cli *c;
	source file;
	const char *note;
	uint32_t page_size;
	uint64_t pages;
	bool made_db;
	bool changed;
	pgs_txn *txn;
	uint64_t revision;
	pgs_log_entry cost; /* the numbers of the commit's log entry */
	char *buffer;       /* CHUNK_BYTES */
	cli_progress progress;
} import;

static int cannot_import(const import *im, const pgs_error *err, const char *hint)
{
	return cli_fail_pgs(err, hint, "cannot import %s into the database %s", cli_quote(im->file.path).text,
		cli_quote(im->c->operands[0]).text);
}

/* --- the database ------------------------------------------------------- */

static int page_size_differs(const import *im, uint32_t wanted, const char *whose)
{
	return cli_fail("Leave out --page-size, or import into another database; an SQLite file changes its own with "
			"PRAGMA page_size=N; VACUUM.",
		"cannot import %s into the database %s: its pages have %" PRIu32 " bytes, %s %" PRIu32,
		cli_quote(im->file.path).text, cli_quote(im->c->operands[0]).text, im->page_size, whose, wanted);
}

/* What the command line and the file ask for must agree with each other and with the database. */
static int check_page_size(const import *im, uint32_t asked)
{
	uint32_t header = im->file.sqlite_page_size;
	if (header && header != im->page_size)
		return page_size_differs(im, header, "the SQLite file's");
	if (asked && asked != im->page_size)
		return page_size_differs(im, asked, "--page-size says");
	return CLI_OK;
}

static int open_or_make(import *im, uint32_t asked)
{
	cli *c = im->c;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	const char *name = c->operands[0];
	uint32_t header = im->file.sqlite_page_size;
	options.page_size_bytes = header ? header : asked;
	if (header && asked && header != asked)
		return cli_fail("Leave out --page-size: an SQLite file's own is used.",
			"cannot import %s with --page-size %" PRIu32 ": its SQLite header says %" PRIu32,
			cli_quote(im->file.path).text, asked, header);
	int rc = pgs_db_open(&c->db, c->store, name, strlen(name), NULL, &err);
	if (rc == PGS_ENOTFOUND) {
		rc = pgs_db_create(&c->db, c->store, name, strlen(name), &options, &err);
		im->made_db = rc == PGS_OK;
		if (rc == PGS_EEXIST) /* somebody else was faster */
			rc = pgs_db_open(&c->db, c->store, name, strlen(name), NULL, &err);
	}
	if (rc != PGS_OK)
		return cannot_import(im, &err, NULL);
	im->page_size = pgs_db_page_size(c->db);
	im->pages = (im->file.size_bytes + im->page_size - 1) / im->page_size;
	return check_page_size(im, asked);
}

/* Nothing was committed: a database made for it goes again. */
static void undo_making(import *im)
{
	pgs_error err = PGS_ERROR_INIT;
	const char *name = im->c->operands[0];
	if (!im->made_db)
		return;
	pgs_db_close(im->c->db);
	im->c->db = NULL;
	if (pgs_db_drop(im->c->store, name, strlen(name), &err) != PGS_OK)
		cli_fail_pgs(&err, "`pagestore drop DB` removes it.", "the database %s was made and is left empty",
			cli_quote(name).text);
}

/* --- one transaction ---------------------------------------------------- */

/* Write the `size` bytes in the buffer from page `page_no` on, the last page filled with zeros. */
static int write_chunk(import *im, uint64_t page_no, size_t size)
{
	size_t partial = size % im->page_size;
	if (partial) {
		memset(im->buffer + size, 0, im->page_size - partial);
		size += im->page_size - partial;
	}
	for (size_t at = 0; at < size; at += im->page_size, page_no++) {
		int rc = pgs_write(im->txn, page_no, im->buffer + at);
		if (rc != PGS_OK)
			return rc;
	}
	return PGS_OK;
}

/* Write every page of the file. *status is CLI_FAILED when the trouble was the file's, and said. */
static int write_pages(import *im, int *status)
{
	const uint64_t size = im->file.size_bytes;
	for (uint64_t offset = 0; offset < size; offset += CHUNK_BYTES) {
		size_t part = size - offset < CHUNK_BYTES ? (size_t)(size - offset) : CHUNK_BYTES;
		cli_progress_update(&im->progress, offset, size);
		if (cli_interrupted()) {
			cli_progress_end(&im->progress);
			*status = cli_fail(NULL, "interrupted; nothing was changed");
			return PGS_OK;
		}
		*status = source_read(&im->file, im->buffer, part, offset);
		if (*status != CLI_OK)
			return PGS_OK;
		int rc = write_chunk(im, offset / im->page_size, part);
		if (rc != PGS_OK)
			return rc;
	}
	*status = source_check(&im->file);
	return PGS_OK;
}

/* The page count and the exact size, where they are not yet right. */
static int write_size(import *im)
{
	uint64_t count, size;
	int rc = pgs_page_count(im->txn, &count);
	if (rc == PGS_OK && count != im->pages)
		rc = pgs_truncate(im->txn, im->pages);
	if (rc != PGS_OK)
		return rc;
	rc = size_attr_get(im->txn, &size);
	if (rc == PGS_OK && size == im->file.size_bytes)
		return PGS_OK;
	return rc == PGS_OK || rc == PGS_ENOTFOUND ? size_attr_set(im->txn, im->file.size_bytes) : rc;
}

/* Commit; when the answer was lost, find out. PGS_EBUSY says that it did not happen and never will. */
static int commit(import *im, pgs_error *err)
{
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	pgs_commit_token token;
	int outcome = 0;
	options.note = im->note;
	options.note_size = im->note ? strlen(im->note) : 0;
	options.token = &token;
	uint64_t before = pgs_txn_revision(im->txn);
	int rc = pgs_commit(im->txn, &options, &im->revision, err);
	im->txn = NULL;
	if (rc == PGS_EUNKNOWN) {
		im->made_db = false; /* it may hold the commit */
		rc = pgs_commit_status(im->c->db, &token, &outcome, &im->revision, err);
		if (rc == PGS_OK && outcome == PGS_COMMIT_NOT_HAPPENED)
			rc = err->code = PGS_EBUSY;
	}
	im->changed = rc == PGS_OK && im->revision != before;
	return rc;
}

/* One attempt. Returns a result of the library, or PGS_OK with *status saying how it went otherwise. */
static int attempt(import *im, int *status, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	options.write = true;
	int rc = pgs_begin(&im->txn, im->c->db, &options, err);
	if (rc != PGS_OK)
		return rc;
	*status = CLI_OK;
	rc = write_pages(im, status);
	if (rc == PGS_OK && *status == CLI_OK)
		rc = write_size(im);
	if (rc == PGS_OK && *status == CLI_OK)
		return commit(im, err);
	if (rc != PGS_OK)
		*err = *pgs_txn_error(im->txn);
	pgs_abort(im->txn);
	im->txn = NULL;
	return rc;
}

static int commit_file(import *im)
{
	pgs_error err = PGS_ERROR_INIT;
	int status = CLI_FAILED;
	int rc = PGS_OK;
	cli_progress_begin(&im->progress, "importing");
	for (int i = 0; i < TRIES; i++) {
		rc = attempt(im, &status, &err);
		if (pgs_error_class(rc) != PGS_CLASS_RETRY)
			break;
	}
	cli_progress_end(&im->progress);
	if (rc != PGS_OK)
		return cannot_import(im, &err, NULL);
	return status;
}

/* --- the result --------------------------------------------------------- */

static int note_cost(void *ctx, const pgs_log_entry *entry)
{
	import *im = ctx;
	im->cost = *entry;
	im->cost.note = NULL; /* borrowed for the call */
	im->cost.uuid = NULL;
	return 0;
}

static void report_text(const import *im)
{
	const uint64_t bytes = im->cost.kv_bytes + im->cost.blob_bytes;
	printf("%s: ", cli_quote(im->c->operands[0]).text);
	if (!im->changed) {
		printf("unchanged, still revision %" PRIu64 "\n", im->revision);
		return;
	}
	printf("revision %" PRIu64 ", %" PRIu64 " of %" PRIu64 " pages changed\n", im->revision, im->cost.pages_written,
		im->pages);
	printf("  cost %s: %s in the KV, %s in blobs; %s of the file's %s\n", cli_size(bytes).text,
		cli_size(im->cost.kv_bytes).text, cli_size(im->cost.blob_bytes).text,
		cli_percent(bytes, im->file.size_bytes).text, cli_size(im->file.size_bytes).text);
}

static int report_json(const import *im)
{
	json j;
	json_begin(&j);
	json_string(&j, "db", im->c->operands[0]);
	json_bool(&j, "created", im->made_db);
	json_bool(&j, "changed", im->changed);
	json_count(&j, "revision", im->revision);
	json_count(&j, "page_size_bytes", im->page_size);
	json_count(&j, "page_count", im->pages);
	json_count(&j, "file_bytes", im->file.size_bytes);
	json_count(&j, "pages_written", im->cost.pages_written);
	json_count(&j, "kv_bytes", im->cost.kv_bytes);
	json_count(&j, "blob_bytes", im->cost.blob_bytes);
	json_ratio(&j, "cost_ratio", im->cost.kv_bytes + im->cost.blob_bytes, im->file.size_bytes);
	return json_finish(&j);
}

static int report(import *im)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_log_options options = PGS_LOG_OPTIONS_INIT;
	options.max_entries = 1;
	options.from_revision = options.to_revision = im->revision;
	if (im->changed && pgs_log(im->c->db, &options, note_cost, im, &err) != PGS_OK)
		return cli_fail_pgs(
			&err, "The import itself is done.", "cannot read what revision %" PRIu64 " cost", im->revision);
	if (im->c->json)
		return report_json(im);
	report_text(im);
	return CLI_OK;
}

static int take_options(import *im, uint32_t *page_size)
{
	const char *text = im->c->values[CLI_OPT_PAGE_SIZE];
	*page_size = 0;
	im->note = im->c->values[CLI_OPT_NOTE];
	if (im->note && strlen(im->note) > PGS_NOTE_MAX)
		return cli_misused(NULL, "the note has %zu bytes, at most %d are kept", strlen(im->note), PGS_NOTE_MAX);
	return text ? cli_take_page_size(text, page_size) : CLI_OK;
}

int cli_import(cli *c)
{
import im = {.c = c, .file = {.fd = - 1 } };
	uint32_t asked;
	if (take_options(&im, &asked) != CLI_OK)
		return CLI_USAGE;
	cli_interrupt_catch();
	int status = source_open(&im.file, c->operands[1]);
	if (status == CLI_OK && !(im.buffer = malloc(CHUNK_BYTES)))
		status = cli_fail(NULL, "cannot import: out of memory");
	if (status == CLI_OK)
		status = cli_open_store(c, CLI_MAKE);
	if (status == CLI_OK)
		status = open_or_make(&im, asked);
	if (status == CLI_OK) {
		status = commit_file(&im);
		if (status == CLI_OK)
			status = report(&im);
		else
			undo_making(&im);
	}
	source_close(&im.file);
	free(im.buffer);
	return status;
}
