/* What the backends were asked during this run: stat, and --stats. */
#include "operations.h"

#include <inttypes.h>

#include "format.h"

static void print_one(void *ctx, const pgs_operation_stat *s)
{
	if (s->requests == 0)
		return;
	fprintf(ctx, "  %-7s %-8s %8" PRIu64 " %8" PRIu64 " %8" PRIu64 " %11s %11s", s->backend, s->operation,
		s->requests, s->failures, s->retries, cli_size(s->bytes_sent).text, cli_size(s->bytes_received).text);
	fprintf(ctx, " %9s %9s %9s\n", cli_duration(s->p50_us).text, cli_duration(s->p99_us).text,
		cli_duration(s->max_us).text);
}

void cli_print_operations(FILE *out, pgs_store *store)
{
	fprintf(out, "  %-7s %-8s %8s %8s %8s %11s %11s %9s %9s %9s\n", "backend", "asked to", "requests", "failed",
		"retries", "sent", "received", "p50", "p99", "max");
	pgs_store_operations(store, print_one, out, NULL);
}

static void json_one(void *ctx, const pgs_operation_stat *s)
{
	json *j = ctx;
	if (s->requests == 0)
		return;
	json_open(j, NULL, '{');
	json_string(j, "backend", s->backend);
	json_string(j, "operation", s->operation);
	json_count(j, "requests", s->requests);
	json_count(j, "failures", s->failures);
	json_count(j, "retries", s->retries);
	json_count(j, "bytes_sent", s->bytes_sent);
	json_count(j, "bytes_received", s->bytes_received);
	json_count(j, "p50_us", s->p50_us);
	json_count(j, "p99_us", s->p99_us);
	json_count(j, "max_us", s->max_us);
	json_close(j, '}');
}

void cli_json_operations(json *j, pgs_store *store)
{
	json_open(j, "operations", '[');
	pgs_store_operations(store, json_one, j, NULL);
	json_close(j, ']');
}
