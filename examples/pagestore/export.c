/* export: a version of a database becomes a file. */
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
#include "sqlite_file.h"
#include "target.h"

enum { BATCH_PAGES = 256 };

typedef struct export
{
	cli *c;
	pgs_txn *txn;
	uint64_t revision;
	int64_t time_ms; /* of the revision's commit; 0 = not in the log any more */
	uint64_t pages;
	uint64_t size_bytes;
	uint32_t page_size;
	char *buffer; /* BATCH_PAGES pages */
	target file;
}
export;

static bool to_stdout(const export *ex)
{
	return strcmp(ex->c->operands[1], "-") == 0;
}

static int cannot_export(const export *ex, const pgs_error *err, const char *hint)
{
	return cli_fail_pgs(err, hint, "cannot export the database %s", cli_quote(ex->c->operands[0]).text);
}

static int take_options(cli *c, pgs_txn_options *options)
{
	const char *at = c->values[CLI_OPT_AT], *time = c->values[CLI_OPT_TIME], *snapshot = c->values[CLI_OPT_SNAPSHOT];
	if ((at != NULL) + (time != NULL) + (snapshot != NULL) > 1)
		return cli_misused(NULL, "export takes --at, --time or --snapshot, not both");
	if (c->json && strcmp(c->operands[1], "-") == 0)
		return cli_misused(NULL, "export to stdout leaves no room there for --json");
	if (at)
		return cli_take_revision(at, &options->at_revision);
	if (time)
		return cli_take_time(time, &options->at_time_ms);
	if (!snapshot)
		return CLI_OK;
	options->at_snapshot = snapshot;
	options->at_snapshot_size = strlen(snapshot);
	return cli_take_snapshot(snapshot);
}

/* The exact size, if the attribute is there and agrees with the page count: an
 * engine that wrote to the database since need not have kept it right. */
static int find_size(export *ex)
{
	uint64_t size;
	int rc = pgs_page_count(ex->txn, &ex->pages);
	if (rc != PGS_OK)
		return rc;
	ex->size_bytes = ex->pages * ex->page_size;
	rc = size_attr_get(ex->txn, &size);
	if (rc == PGS_ENOTFOUND)
		return PGS_OK;
	if (rc != PGS_OK)
		return rc;
	if (size <= ex->size_bytes && ex->size_bytes - size < ex->page_size)
		ex->size_bytes = size;
	else
		cli_warn("the size kept with the database %s is not that of its %" PRIu64 " pages; writing whole pages",
			cli_quote(ex->c->operands[0]).text, ex->pages);
	return PGS_OK;
}

static int read_batch(export *ex, uint64_t first, size_t count)
{
	uint64_t page_nos[BATCH_PAGES];
	void *buffers[BATCH_PAGES];
	for (size_t i = 0; i < count; i++) {
		page_nos[i] = first + i;
		buffers[i] = ex->buffer + i * ex->page_size;
	}
	return pgs_read_many(ex->txn, page_nos, count, buffers);
}

static int copy_pages(export *ex, cli_progress *progress)
{
	uint64_t left = ex->size_bytes;
	for (uint64_t first = 0; first < ex->pages; first += BATCH_PAGES) {
		size_t count = ex->pages - first < BATCH_PAGES ? (size_t)(ex->pages - first) : BATCH_PAGES;
		uint64_t bytes = (uint64_t)count * ex->page_size;
		if (bytes > left)
			bytes = left;
		cli_progress_update(progress, first, ex->pages);
		if (cli_interrupted()) {
			cli_progress_end(progress);
			return cli_fail(NULL, "interrupted; %s was not written", cli_quote(ex->c->operands[1]).text);
		}
		if (read_batch(ex, first, count) != PGS_OK) {
			cli_progress_end(progress);
			return cannot_export(ex, pgs_txn_error(ex->txn), NULL);
		}
		if (target_write(&ex->file, ex->buffer, (size_t)bytes) != CLI_OK)
			return CLI_FAILED;
		left -= bytes;
	}
	return CLI_OK;
}

static int note_time(void *ctx, const pgs_log_entry *entry)
{
	export *ex = ctx;
	ex->time_ms = entry->time_ms;
	return 0;
}

static int report(export *ex)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_log_options options = PGS_LOG_OPTIONS_INIT;
	json j;
	if (to_stdout(ex))
		return CLI_OK;
	options.max_entries = 1;
	options.from_revision = options.to_revision = ex->revision;
	pgs_log(ex->c->db, &options, note_time, ex, &err);
	if (!ex->c->json) {
		printf("%s: wrote revision %" PRIu64 "%s%s, %" PRIu64 " page%s, %s, to %s\n",
			cli_quote(ex->c->operands[0]).text, ex->revision, ex->time_ms ? " of " : "",
			ex->time_ms ? cli_time_local(ex->time_ms).text : "", ex->pages, ex->pages == 1 ? "" : "s",
			cli_size(ex->size_bytes).text, cli_quote(ex->c->operands[1]).text);
		return CLI_OK;
	}
	json_begin(&j);
	json_string(&j, "db", ex->c->operands[0]);
	json_string(&j, "file", ex->c->operands[1]);
	json_count(&j, "revision", ex->revision);
	if (ex->time_ms)
		json_string(&j, "time", cli_time_utc(ex->time_ms).text);
	json_count(&j, "page_size_bytes", ex->page_size);
	json_count(&j, "page_count", ex->pages);
	json_count(&j, "file_bytes", ex->size_bytes);
	return json_finish(&j);
}

/* SQLite would apply what an earlier database of that name left behind. */
static void warn_of_companions(const char *path)
{
	static const char *const suffixes[] = {"-wal", "-journal"};
	for (size_t i = 0; i < 2; i++) {
		if (sqlite_has_companion(path, suffixes[i]))
			cli_warn("%s has a %s file beside it from what was there before:\n"
				 "  remove that before opening the exported file with SQLite",
				cli_quote(path).text, suffixes[i]);
	}
}

static int write_file(export *ex)
{
	cli_progress progress;
	ex->buffer = malloc((size_t)BATCH_PAGES * ex->page_size);
	if (!ex->buffer)
		return cli_fail(NULL, "cannot export: out of memory");
	int status = target_open(&ex->file, ex->c->operands[1]);
	if (status == CLI_OK) {
		cli_progress_begin(&progress, "exporting");
		status = copy_pages(ex, &progress);
		cli_progress_end(&progress);
	}
	if (status == CLI_OK)
		status = target_finish(&ex->file);
	target_discard(&ex->file);
	free(ex->buffer);
	return status;
}

static const char *begin_hint(int rc, const pgs_txn_options *options)
{
	if (options->at_snapshot)
		return rc == PGS_ENOTFOUND ? "`pagestore snapshot list DB` shows the snapshots there are." : NULL;
	switch (rc) {
	case PGS_ENOTFOUND:
	case PGS_EINVAL:
		return "`pagestore log DB` shows the revisions and times there are.";
	case PGS_EOLDREV:
		return "`pagestore stat DB` shows the oldest revision that can still be read.";
	default:
		return NULL;
	}
}

int cli_export(cli *c)
{
	export ex = {.c = c, .file = {.fd = -1}};
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	if (take_options(c, &options) != CLI_OK)
		return CLI_USAGE;
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	int rc = pgs_begin(&ex.txn, c->db, &options, &err);
	if (rc != PGS_OK)
		return cannot_export(&ex, &err, begin_hint(rc, &options));
	cli_interrupt_catch();
	ex.revision = pgs_txn_revision(ex.txn);
	ex.page_size = pgs_db_page_size(c->db);
	int status = CLI_FAILED;
	if (find_size(&ex) == PGS_OK)
		status = write_file(&ex);
	else
		cannot_export(&ex, pgs_txn_error(ex.txn), NULL);
	pgs_abort(ex.txn);
	if (status == CLI_OK && !to_stdout(&ex)) {
		warn_of_companions(c->operands[1]);
		status = report(&ex);
	}
	return status;
}
