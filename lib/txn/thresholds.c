/* The thresholds of maintenance. */
#include "txn/thresholds.h"

#include "util/error.h"

#define QUOTA_PERCENT_DEFAULT 40
#define FLUSH_PAGES_DEFAULT 2500
#define FLUSH_BYTES_DEFAULT 160000000
#define LEVEL0_FILES_DEFAULT 4
#define LEVEL_FANOUT_DEFAULT 10
#define MEMORY_DEFAULT (64ull << 20)

int pgs__thresholds_check(const pgs_maintain_options *o, pgs_error *err)
{
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL,
				  "pgs_maintain_options: struct_size is not set; use PGS_MAINTAIN_OPTIONS_INIT");
	if (o->file_bytes > PGS__FILE_BYTES_MAX)
		return pgs__error(err, PGS_EINVAL, "file_bytes %llu is more than a sorted file may have, %llu",
				  (unsigned long long)o->file_bytes, PGS__FILE_BYTES_MAX);
	if (o->level_fanout == 1)
		return pgs__error(err, PGS_EINVAL, "level_fanout is at least 2: with 1 no level would be larger than the last");
	if (o->quota_percent > 100)
		return pgs__error(err, PGS_EINVAL, "quota_percent %u is more than all", o->quota_percent);
	return PGS_OK;
}

static uint64_t first_of(uint64_t given, uint64_t own, uint64_t usual)
{
	return given ? given : own ? own : usual;
}

pgs_maintain_options pgs__thresholds_resolve(const pgs_maintain_options *given, const pgs_maintain_options *own)
{
	static const pgs_maintain_options nothing = PGS_MAINTAIN_OPTIONS_INIT;
	const pgs_maintain_options *g = given ? given : &nothing;
	pgs_maintain_options out = *g;
	out.retention_ms = first_of(g->retention_ms, own->retention_ms, PGS__RETENTION_DEFAULT_MS);
	out.quota_percent = (uint32_t)first_of(g->quota_percent, own->quota_percent, QUOTA_PERCENT_DEFAULT);
	out.flush_pages = (uint32_t)first_of(g->flush_pages, own->flush_pages, FLUSH_PAGES_DEFAULT);
	out.flush_bytes = first_of(g->flush_bytes, own->flush_bytes, FLUSH_BYTES_DEFAULT);
	out.level0_files = (uint32_t)first_of(g->level0_files, own->level0_files, LEVEL0_FILES_DEFAULT);
	out.level_fanout = (uint32_t)first_of(g->level_fanout, own->level_fanout, LEVEL_FANOUT_DEFAULT);
	out.file_bytes = first_of(g->file_bytes, own->file_bytes, PGS__FILE_BYTES_MAX);
	out.memory_bytes = first_of(g->memory_bytes, own->memory_bytes, MEMORY_DEFAULT);
	out.scrub = g->scrub || own->scrub;
	return out;
}
