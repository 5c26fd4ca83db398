/* The numbers of the machine's cache file. */
#include "cache.h"

#include <inttypes.h>
#include <stdio.h>

cli_short cli_age(uint64_t ms)
{
	cli_short s = {"never"};
	if (ms < 1000)
		snprintf(s.text, sizeof s.text, "%" PRIu64 " ms", ms);
	else if (ms != UINT64_MAX)
		snprintf(s.text, sizeof s.text, ms < 1000000 ? "%.1f s" : "%.0f s", (double)ms / 1000);
	return s;
}

static void print_mirror(const pgs_cache_stat *s)
{
	if (s->mirror_revision)
		printf("  mirror             to KV revision %" PRIu64 ": %" PRIu64 " keys, %s; readable from %" PRIu64 "\n",
			s->mirror_revision, s->mirror_keys, cli_size(s->mirror_bytes).text, s->mirror_horizon);
	else if (s->mirror_loading)
		printf("  mirror             is being loaded, at KV revision %" PRIu64 "\n", s->mirror_loading);
	else
		printf("  mirror             none: `pagestore follow` keeps one\n");
	if (s->mirror_required > s->mirror_revision)
		printf("  behind             this machine's own commit %" PRIu64 ": transactions ask the KV until it is there\n",
			s->mirror_required);
	if (s->keeper_pid > 0)
		printf("  kept by            process %" PRId64 ", which had all commits %s ago\n", s->keeper_pid,
			cli_age(s->mirror_confirmed_ms).text);
	else
		printf("  kept by            %s\n", s->keeper_pid ? "a process of another namespace" : "nobody now");
}

void cli_print_cache(const pgs_cache_stat *s)
{
	if (!s->usable) {
		printf("cache file           none: cache=PATH in the store's URL has one\n");
		return;
	}
	printf("cache file           %s of %s, %s on disk; %" PRIu64 " pages, %s\n", cli_size(s->used_bytes).text,
		cli_size(s->limit_bytes).text, cli_size(s->disk_bytes).text, s->page_count, cli_size(s->page_bytes).text);
	printf("  all processes      %" PRIu64 " hits (%s), %" PRIu64 " misses; %" PRIu64 " pages put, %" PRIu64
	       " evicted, %" PRIu64 " not kept\n",
		s->all_hits, cli_size(s->all_hit_bytes).text, s->all_misses, s->all_puts, s->all_evictions,
		s->all_puts_dropped);
	printf("  trouble            %" PRIu64 " pages damaged, %" PRIu64 " calls failed\n", s->all_bad, s->all_errors);
	print_mirror(s);
}

void cli_json_cache(json *j, const pgs_cache_stat *s)
{
	if (!s->usable) {
		json_null(j, "cache");
		return;
	}
	json_open(j, "cache", '{');
	json_count(j, "limit_bytes", s->limit_bytes);
	json_count(j, "used_bytes", s->used_bytes);
	json_count(j, "disk_bytes", s->disk_bytes);
	json_count(j, "page_count", s->page_count);
	json_count(j, "page_bytes", s->page_bytes);
	json_count(j, "hits", s->all_hits);
	json_count(j, "hit_bytes", s->all_hit_bytes);
	json_count(j, "misses", s->all_misses);
	json_count(j, "puts", s->all_puts);
	json_count(j, "put_bytes", s->all_put_bytes);
	json_count(j, "puts_dropped", s->all_puts_dropped);
	json_count(j, "evictions", s->all_evictions);
	json_count(j, "bad", s->all_bad);
	json_count(j, "errors", s->all_errors);
	json_count(j, "mirror_revision", s->mirror_revision);
	json_count(j, "mirror_loading", s->mirror_loading);
	json_count(j, "mirror_horizon", s->mirror_horizon);
	json_count(j, "mirror_keys", s->mirror_keys);
	json_count(j, "mirror_bytes", s->mirror_bytes);
	json_count(j, "mirror_required", s->mirror_required);
	if (s->mirror_confirmed_ms == UINT64_MAX)
		json_null(j, "mirror_confirmed_ms");
	else
		json_count(j, "mirror_confirmed_ms", s->mirror_confirmed_ms);
	json_number(j, "keeper_pid", s->keeper_pid);
	json_close(j, '}');
}
