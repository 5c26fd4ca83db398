/* maintain: compaction and collection, and what it reports. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "format.h"
#include "interrupt.h"
#include "json.h"
#include "parse.h"
#include "progress.h"
#include "report.h"

enum { INTERRUPTED = 1 }; /* what the progress callback ends pgs_maintain() with */

static int take_retention(const char *text, uint64_t *retention_ms)
{
	if (strcmp(text, "none") == 0) {
		*retention_ms = PGS_RETENTION_NONE;
		return CLI_OK;
	}
	if (cli_parse_number(text, retention_ms) && *retention_ms > 0 && *retention_ms < PGS_RETENTION_NONE)
		return CLI_OK;
	return cli_misused("It is a number of milliseconds from 1 on, or none: --retention 86400000 keeps a day.",
		"%s is not a retention", cli_quote(text).text);
}

static int show_progress(void *ctx, const pgs_maintain_progress *p)
{
	cli_progress *bar = ctx;
	if (cli_interrupted())
		return INTERRUPTED;
	bar->label = p->job;
	if (p->total)
		cli_progress_update(bar, p->done, p->total);
	return 0;
}

/* "12 contents", "1 content" */
static cli_short count_of(uint64_t n, const char *what)
{
	cli_short s;
	snprintf(s.text, sizeof(s.text), "%" PRIu64 " %s%s", n, what, n == 1 ? "" : "s");
	return s;
}

static void text_done(const pgs_maintain_report *r)
{
	if (r->flushed_pages)
		printf("moved out of the KV  %s\n", count_of(r->flushed_pages, "content").text);
	if (r->merges)
		printf("merged               %s, in %s\n", count_of(r->merged_files, "sorted file").text,
			count_of(r->merges, "merge").text);
	if (r->dropped_contents)
		printf("dropped              %s, %s\n", count_of(r->dropped_contents, "content").text,
			cli_size(r->dropped_bytes).text);
	if (r->damaged_contents)
		printf("damaged              %s, kept as found: `pagestore verify` names them\n",
			count_of(r->damaged_contents, "content").text);
	if (r->folded_packs)
		printf("folded               %s, %s\n", count_of(r->folded_packs, "pack").text,
			count_of(r->folded_pointers, "pointer").text);
	if (r->pruned_changes)
		printf("pruned               %s of the log\n", count_of(r->pruned_changes, "commit").text);
	if (r->removed_blobs)
		printf("removed              %s, %s; %" PRIu64 " of them never in use\n",
			count_of(r->removed_blobs, "blob").text, cli_size(r->removed_bytes).text, r->removed_orphans);
	if (r->lost_pins)
		printf("lost                 %s: someone else compacted the KV\n", count_of(r->lost_pins, "pin").text);
	if (r->compacted_revision)
		printf("compacted the KV     to revision %" PRIu64 "\n", r->compacted_revision);
	if (r->bytes_read || r->bytes_written)
		printf("blobs                %s read, %s written\n", cli_size(r->bytes_read).text,
			cli_size(r->bytes_written).text);
}

static void text_due(const pgs_maintain_report *r, bool dry_run)
{
	const char *left = dry_run ? "due                 " : "still due           ";
	if (r->due_flush_pages)
		printf("%s %s to move out of the KV\n", left, count_of(r->due_flush_pages, "content").text);
	if (r->due_packs)
		printf("%s %s to fold\n", left, count_of(r->due_packs, "pack").text);
	if (r->due_merge_files)
		printf("%s %s to merge\n", left, count_of(r->due_merge_files, "sorted file").text);
	if (r->due_blobs)
		printf("%s %s to remove, once no retained revision needs them\n", left,
			count_of(r->due_blobs, "blob").text);
	if (r->busy)
		printf("%s some of it: another worker is at it\n", left);
}

static void report_text(const pgs_maintain_report *r, bool dry_run)
{
	if (r->floor_revision)
		printf("readable from        revision %" PRIu64 "\n", r->floor_revision);
	else
		printf("readable from        the beginning\n");
	text_done(r);
	text_due(r, dry_run);
	if (r->more && !dry_run)
		printf("more is left; run it again\n");
}

static int report_json(const char *name, const pgs_maintain_report *r)
{
	json j;
	json_begin(&j);
	if (name)
		json_string(&j, "db", name);
	json_bool(&j, "more", r->more);
	json_bool(&j, "busy", r->busy);
	json_count(&j, "floor_revision", r->floor_revision);
	json_count(&j, "flushed_pages", r->flushed_pages);
	json_count(&j, "merges", r->merges);
	json_count(&j, "merged_files", r->merged_files);
	json_count(&j, "bytes_read", r->bytes_read);
	json_count(&j, "bytes_written", r->bytes_written);
	json_count(&j, "dropped_contents", r->dropped_contents);
	json_count(&j, "dropped_bytes", r->dropped_bytes);
	json_count(&j, "damaged_contents", r->damaged_contents);
	json_count(&j, "folded_packs", r->folded_packs);
	json_count(&j, "folded_pointers", r->folded_pointers);
	json_count(&j, "pruned_changes", r->pruned_changes);
	json_count(&j, "removed_blobs", r->removed_blobs);
	json_count(&j, "removed_bytes", r->removed_bytes);
	json_count(&j, "removed_orphans", r->removed_orphans);
	json_count(&j, "lost_pins", r->lost_pins);
	json_count(&j, "compacted_revision", r->compacted_revision);
	json_count(&j, "due_flush_pages", r->due_flush_pages);
	json_count(&j, "due_merge_files", r->due_merge_files);
	json_count(&j, "due_packs", r->due_packs);
	json_count(&j, "due_blobs", r->due_blobs);
	return json_finish(&j);
}

/* The database named, or all of the store. */
static int maintain(cli *c, const pgs_maintain_options *options, pgs_maintain_report *report)
{
	pgs_error err = PGS_ERROR_INIT;
	const char *name = c->operand_count ? c->operands[0] : NULL;
	int rc = name ? pgs_maintain(c->db, options, report, &err)
		      : pgs_maintain_store(c->store, options, report, &err);
	if (rc == PGS_OK)
		return CLI_OK;
	if (rc == INTERRUPTED)
		return cli_fail("Run it again: it goes on from what is there.", "interrupted; what was done stays done");
	if (name)
		return cli_fail_pgs(&err, NULL, "cannot maintain the database %s", cli_quote(name).text);
	return cli_fail_pgs(&err, NULL, "cannot maintain all of the store");
}

int cli_maintain(cli *c)
{
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	cli_progress bar;
	const char *retention = c->values[CLI_OPT_RETENTION];
	options.all = c->values[CLI_OPT_ALL] != NULL;
	options.dry_run = c->values[CLI_OPT_DRY_RUN] != NULL;
	options.scrub = c->values[CLI_OPT_SCRUB] != NULL;
	options.progress = show_progress;
	options.progress_ctx = &bar;
	if (retention && take_retention(retention, &options.retention_ms) != CLI_OK)
		return CLI_USAGE;
	if ((c->operand_count ? cli_open_db : cli_open_store)(c, CLI_WRITE) != CLI_OK)
		return CLI_FAILED;
	cli_interrupt_catch();
	cli_progress_begin(&bar, "maintaining");
	int status = maintain(c, &options, &report);
	cli_progress_end(&bar);
	if (status != CLI_OK)
		return status;
	if (c->json)
		return report_json(c->operand_count ? c->operands[0] : NULL, &report);
	report_text(&report, options.dry_run);
	return CLI_OK;
}
