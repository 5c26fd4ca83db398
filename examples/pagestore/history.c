/* log, diff, verify: a database over time. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "format.h"
#include "json.h"
#include "parse.h"
#include "progress.h"
#include "report.h"

/* --- log ---------------------------------------------------------------- */

static int log_text(void *ctx, const pgs_log_entry *e)
{
	bool *any = ctx;
	if (!*any)
		printf("%10s  %-19s  %8s  %10s  %10s  %s\n", "revision", "time", "pages", "KV", "blobs", "note");
	*any = true;
	printf("%10" PRIu64 "  %s  %8" PRIu64 "  %10s  %10s  ", e->revision, cli_time_local(e->time_ms).text,
		e->pages_written, cli_size(e->kv_bytes).text, cli_size(e->blob_bytes).text);
	if (e->truncated)
		printf("[cut to %" PRIu64 " pages] ", e->page_count);
	cli_print_text(stdout, e->note, e->note_size);
	putchar('\n');
	return ferror(stdout) ? 1 : 0; /* main() says so */
}

static int log_json(void *ctx, const pgs_log_entry *e)
{
	json *j = ctx;
	char uuid[33] = "";
	for (size_t i = 0; e->uuid && i < 16; i++)
		snprintf(uuid + 2 * i, 3, "%02x", e->uuid[i]);
	json_open(j, NULL, '{');
	json_count(j, "revision", e->revision);
	json_string(j, "time", cli_time_utc(e->time_ms).text);
	json_number(j, "time_ms", e->time_ms);
	json_string(j, "uuid", uuid);
	json_count(j, "pages_written", e->pages_written);
	json_count(j, "attrs_written", e->attrs_written);
	json_bool(j, "truncated", e->truncated);
	json_count(j, "page_count", e->page_count);
	json_count(j, "kv_bytes", e->kv_bytes);
	json_count(j, "blob_bytes", e->blob_bytes);
	if (e->note)
		json_text(j, "note", e->note, e->note_size);
	else
		json_null(j, "note");
	json_close(j, '}');
	return 0;
}

int cli_log(cli *c)
{
	pgs_log_options options = PGS_LOG_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	const char *name = c->operands[0];
	const char *max = c->values[CLI_OPT_MAX];
	bool any = false;
	json j;
	if (max && (!cli_parse_number(max, &options.max_entries) || options.max_entries == 0))
		return cli_misused("It is how many commits to show, such as -n 10.", "%s is not a number from 1 on",
			cli_quote(max).text);
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	if (!c->json) {
		if (pgs_log(c->db, &options, log_text, &any, &err) < 0)
			return cli_fail_pgs(&err, NULL, "cannot read the log of the database %s", cli_quote(name).text);
		if (!any)
			printf("no commits yet\n");
		return CLI_OK;
	}
	json_begin(&j);
	json_string(&j, "db", name);
	json_open(&j, "commits", '[');
	if (pgs_log(c->db, &options, log_json, &j, &err) != PGS_OK) {
		json_discard(&j);
		return cli_fail_pgs(&err, NULL, "cannot read the log of the database %s", cli_quote(name).text);
	}
	json_close(&j, ']');
	return json_finish(&j);
}

/* --- diff --------------------------------------------------------------- */

/* Page numbers come one at a time and go out as ranges. */
typedef struct diff {
	json *json; /* NULL = as text */
	uint64_t first, last;
	uint64_t count;
	int column;
} diff;

static void diff_emit(diff *d)
{
	char range[48];
	if (d->json) {
		json_open(d->json, NULL, '[');
		json_count(d->json, NULL, d->first);
		json_count(d->json, NULL, d->last);
		json_close(d->json, ']');
		return;
	}
	int size = d->first == d->last ? snprintf(range, sizeof(range), "%" PRIu64, d->first)
				       : snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, d->first, d->last);
	if (d->column && d->column + size >= 78) {
		putchar('\n');
		d->column = 0;
	}
	d->column += printf("%s%s", d->column ? " " : "", range);
}

static int diff_page(void *ctx, uint64_t page_no)
{
	diff *d = ctx;
	if (d->count && page_no == d->last + 1) {
		d->last = page_no;
	} else {
		if (d->count)
			diff_emit(d);
		d->first = d->last = page_no;
	}
	d->count++;
	return 0;
}

/* One side: a revision, or @NAME for a snapshot. `shown` is what messages call it. */
typedef struct side {
	const char *shown;
	pgs_txn_options options;
	pgs_txn *txn;
} side;

static int diff_take(const char *operand, side *s)
{
	*s = (side){.shown = operand, .options = PGS_TXN_OPTIONS_INIT};
	if (operand[0] != '@')
		return cli_take_revision(operand, &s->options.at_revision);
	s->options.at_snapshot = operand + 1;
	s->options.at_snapshot_size = strlen(operand + 1);
	return cli_take_snapshot(operand + 1);
}

static int diff_run(cli *c, side *a, side *b, diff *d, pgs_error *err)
{
	int rc = pgs_begin(&a->txn, c->db, &a->options, err);
	if (rc == PGS_OK)
		rc = pgs_begin(&b->txn, c->db, &b->options, err);
	if (rc == PGS_OK)
		rc = pgs_diff_txns(a->txn, b->txn, diff_page, d, err);
	if (rc == PGS_OK && d->count)
		diff_emit(d);
	return rc;
}

static void diff_name_side(json *j, const char *revision_key, const char *snapshot_key, const side *s)
{
	if (s->options.at_snapshot)
		json_string(j, snapshot_key, s->shown + 1);
	else
		json_count(j, revision_key, s->options.at_revision);
}

static const char *diff_hint(const side *a, const side *b)
{
	return a->options.at_snapshot || b->options.at_snapshot
		       ? "`pagestore log DB` and `pagestore snapshot list DB` show the revisions and snapshots there are."
		       : "`pagestore log DB` shows the revisions there are.";
}

static int diff_report(cli *c, const side *a, const side *b, diff *d)
{
	if (c->json) {
		json_close(d->json, ']');
		json_count(d->json, "pages_differing", d->count);
		return json_finish(d->json);
	}
	if (d->count)
		putchar('\n');
	printf("%" PRIu64 " page%s differ%s between %s", d->count, d->count == 1 ? "" : "s", d->count == 1 ? "s" : "",
		a->options.at_snapshot || b->options.at_snapshot ? "" : "revisions ");
	cli_print_text(stdout, a->shown, strlen(a->shown));
	printf(" and ");
	cli_print_text(stdout, b->shown, strlen(b->shown));
	putchar('\n');
	return CLI_OK;
}

int cli_diff(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	side a, b;
	json j;
	diff d = {.json = c->json ? &j : NULL}; /* cppcheck-suppress uninitvar; its address only */
	if (diff_take(c->operands[1], &a) != CLI_OK || diff_take(c->operands[2], &b) != CLI_OK)
		return CLI_USAGE;
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	if (c->json) {
		json_begin(&j);
		json_string(&j, "db", c->operands[0]);
		diff_name_side(&j, "from_revision", "from_snapshot", &a);
		diff_name_side(&j, "to_revision", "to_snapshot", &b);
		json_open(&j, "ranges", '[');
	}
	int rc = diff_run(c, &a, &b, &d, &err);
	pgs_abort(a.txn);
	pgs_abort(b.txn);
	if (rc == PGS_OK)
		return diff_report(c, &a, &b, &d);
	if (c->json)
		json_discard(&j);
	else if (d.column)
		putchar('\n');
	return cli_fail_pgs(&err, diff_hint(&a, &b), "cannot compare %s and %s of the database %s", cli_quote(a.shown).text,
		cli_quote(b.shown).text, cli_quote(c->operands[0]).text);
}

/* --- verify ------------------------------------------------------------- */

/* Findings go into the JSON as they come; notes come after them. */
typedef struct verify_note {
	uint64_t revision;
	char *message;
	const char *hint;
} verify_note;

typedef struct verify {
	json *json; /* NULL = as text */
	cli_progress progress;
	verify_note *notes;
	size_t note_count;
} verify;

static void verify_say(FILE *out, const verify *v, const pgs_verify_finding *f, const char *kind)
{
	if (v->progress.shown)
		fputs("\r\033[K", stderr);
	fputs(kind, out);
	if (f->page != PGS_NO_PAGE)
		fprintf(out, " page %" PRIu64, f->page);
	if (f->revision)
		fprintf(out, " revision %" PRIu64, f->revision);
	fputs(": ", out);
	cli_print_text(out, f->message, strlen(f->message));
	fprintf(out, "\n  %s\n", f->hint);
}

static int verify_finding(void *ctx, const pgs_verify_finding *f)
{
	verify *v = ctx;
	verify_say(stderr, v, f, pgs_error_name(f->code));
	if (!v->json)
		return 0;
	json_open(v->json, NULL, '{');
	json_string(v->json, "code", pgs_error_name(f->code));
	if (f->page != PGS_NO_PAGE)
		json_count(v->json, "page", f->page);
	else
		json_null(v->json, "page");
	json_count(v->json, "revision", f->revision);
	json_string(v->json, "message", f->message);
	json_string(v->json, "hint", f->hint);
	json_close(v->json, '}');
	return 0;
}

static int verify_noted(void *ctx, const pgs_verify_finding *f)
{
	verify *v = ctx;
	if (!v->json) {
		verify_say(stdout, v, f, "note");
		return 0;
	}
	verify_note *notes = realloc(v->notes, (v->note_count + 1) * sizeof *notes);
	if (!notes)
		return PGS_ENOMEM;
	v->notes = notes;
	notes[v->note_count] = (verify_note){f->revision, strdup(f->message), f->hint};
	if (!notes[v->note_count].message)
		return PGS_ENOMEM;
	v->note_count++;
	return 0;
}

static void verify_list_notes(const verify *v)
{
	json_open(v->json, "notes", '[');
	for (size_t i = 0; i < v->note_count; i++) {
		json_open(v->json, NULL, '{');
		json_count(v->json, "revision", v->notes[i].revision);
		json_string(v->json, "message", v->notes[i].message);
		json_string(v->json, "hint", v->notes[i].hint);
		json_close(v->json, '}');
	}
	json_close(v->json, ']');
}

static int verify_progress(void *ctx, uint64_t done, uint64_t total)
{
	verify *v = ctx;
	cli_progress_update(&v->progress, done, total);
	return 0;
}

static int verify_summary_json(json *j, const pgs_verify_report *r)
{
	json_count(j, "findings_count", r->findings);
	json_count(j, "from_revision", r->from_revision);
	json_count(j, "to_revision", r->to_revision);
	json_count(j, "pointers_checked", r->pointers_checked);
	json_count(j, "contents_checked", r->contents_checked);
	json_count(j, "bytes_checked", r->bytes_checked);
	json_count(j, "files_checked", r->files_checked);
	json_count(j, "copies_checked", r->copies_checked);
	json_count(j, "snapshots_checked", r->snapshots_checked);
	json_count(j, "notes_count", r->notes);
	return json_finish(j);
}

static void verify_summary_text(const char *name, const pgs_verify_report *r, bool deep)
{
	printf("%s: revisions %" PRIu64 " to %" PRIu64 ", %" PRIu64 " pointers, %" PRIu64 " contents, ",
		cli_quote(name).text, r->from_revision, r->to_revision, r->pointers_checked, r->contents_checked);
	if (deep)
		printf("%" PRIu64 " snapshot%s, %" PRIu64 " copies in %" PRIu64 " file%s and the KV, ",
			r->snapshots_checked, r->snapshots_checked == 1 ? "" : "s", r->copies_checked,
			r->files_checked, r->files_checked == 1 ? "" : "s");
	printf("%s checked: ", cli_size(r->bytes_checked).text);
	if (r->findings)
		printf("%" PRIu64 " finding%s", r->findings, r->findings == 1 ? "" : "s");
	else
		printf("no damage");
	if (r->notes)
		printf(", %" PRIu64 " note%s", r->notes, r->notes == 1 ? "" : "s");
	putchar('\n');
}

static int verify_report(cli *c, verify *v, const pgs_verify_report *report)
{
	if (!c->json) {
		verify_summary_text(c->operands[0], report, c->values[CLI_OPT_DEEP] != NULL);
		return report->findings ? CLI_FAILED : CLI_OK;
	}
	json_close(v->json, ']');
	verify_list_notes(v);
	int status = verify_summary_json(v->json, report);
	return report->findings ? CLI_FAILED : status;
}

static void verify_forget(verify *v)
{
	for (size_t i = 0; i < v->note_count; i++)
		free(v->notes[i].message);
	free(v->notes);
}

int cli_verify(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	pgs_verify_options options = PGS_VERIFY_OPTIONS_INIT;
	json j;
	verify v = {.json = c->json ? &j : NULL}; /* cppcheck-suppress uninitvar; its address only */
	const char *name = c->operands[0];
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	if (c->json) {
		json_begin(&j);
		json_string(&j, "db", name);
		json_open(&j, "findings", '[');
	}
	options.finding = verify_finding;
	options.note = verify_noted;
	options.progress = verify_progress;
	options.ctx = &v;
	options.deep = c->values[CLI_OPT_DEEP] != NULL;
	cli_progress_begin(&v.progress, "verifying");
	int rc = pgs_verify(c->db, &options, &report, &err), status;
	cli_progress_end(&v.progress);
	if (rc == PGS_OK || (rc == PGS_ECORRUPT && report.findings)) {
		status = verify_report(c, &v, &report);
	} else {
		if (c->json)
			json_discard(&j);
		status = cli_fail_pgs(&err, NULL, "cannot verify the database %s", cli_quote(name).text);
	}
	verify_forget(&v);
	return status;
}
