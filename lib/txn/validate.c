/* What a commit compares, so that it is serializable.
 *
 * By keys: a single page is compared with the mod revision seen (0: absent), a run of neighbours with "nothing in
 * this range is younger than my snapshot". Deletions do not show in ranges; they rewrite `z`, which every commit
 * compares.
 *
 * By log: the commits since the snapshot are read from the changelog and intersected here, then the commit compares
 * that `t` has not moved since. Any read set gets exact page conflicts this way, however large.
 *
 * A key that only moved because a pack was folded into it (its pointer is as old as before), or is gone because the
 * fold met a range the snapshot knew, is no conflict: the commit is sent again with the revisions seen now. What
 * commits do to keys without leaving a pointer there, deleting them or putting a pack, moves z.
 *
 * Pages that the caller relies on (pgs_commit_options.relied) are asked for one by one where they are so few that keys
 * will do; else they are a predicate that the log is held against.
 */
#include "txn/commit.h"

#include <stdlib.h>

#include "txn/changes.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define RANGE_KEYS_MAX 1000 /* under one range compare: a KV scans them while all others wait */
#define RANGES_KEYS_MAX 4000 /* under all of them */
#define KEYS_MAX 1024       /* compares at most, where the backend sets no limit, */
#define KEYS_CHEAP 16       /* and as many as cost less than one round lost to another's commit */
#define FIXED_COMPARES 9
#define SEEN_UNKNOWN UINT64_MAX /* seen_revision of a relied page: compared as a range, with its bound */

/* --- what to check -------------------------------------------------------------- */

static int by_page(const void *a, const void *b)
{
	const pgs__page_check *x = a, *y = b;
	return (x->page_no > y->page_no) - (x->page_no < y->page_no);
}

/* The lowest relied page >= from, PGS_NO_PAGE if there is none. */
static uint64_t next_relied(const pgs__commit *c, uint64_t from)
{
	return c->relied ? c->relied(c->options->relied_ctx, from) : PGS_NO_PAGE;
}

/* How many pages are relied on; past `most`, most + 1. */
static size_t count_relied(const pgs__commit *c, size_t most)
{
	size_t count = 0;
	for (uint64_t page = next_relied(c, 0); page != PGS_NO_PAGE && count <= most; page = next_relied(c, page + 1))
		count++;
	return count;
}

static size_t collect_checks(pgs__commit *c, pgs__page_check *out, size_t relied)
{
	const pgs_txn *t = c->t;
	size_t count = 0, cursor = 0;
	for (const pgs__map_slot *slot; (slot = pgs__map_next(&t->reads, &cursor));)
		out[count++] = (pgs__page_check){slot->key, slot->value, NULL};
	for (uint64_t page = 0; relied > 0; relied--, page++) {
		page = next_relied(c, page);
		if (!pgs__map_get(&t->reads, page))
			out[count++] = (pgs__page_check){page, SEEN_UNKNOWN, NULL};
	}
	for (size_t i = 0; i < c->write_count; i++) {
		pgs__write *w = c->writes[i];
		bool wanted = (w->depends && !PGS__BUG(DELTA_PAGE_UNCHECKED)) || t->isolation == PGS_SNAPSHOT;
		if (!wanted || pgs__map_get(&t->reads, w->page_no) || next_relied(c, w->page_no) == w->page_no)
			continue;
		/* Under snapshot isolation a written page is checked for its own sake, a new one too. */
		out[count++] = (pgs__page_check){w->page_no, w->seen_revision,
						 t->isolation == PGS_SNAPSHOT ? NULL : w};
	}
	if (count > 1)
		qsort(out, count, sizeof *out, by_page);
	return count;
}

static size_t make_runs(const pgs__commit *c, pgs__check_run *out)
{
	size_t count = 0;
	for (size_t i = 0; i < c->check_count; i++) {
		pgs__check_run *last = count ? &out[count - 1] : NULL;
		if (last && c->checks[i].page_no == c->checks[i - 1].page_no + 1 && i - last->first < RANGE_KEYS_MAX)
			last->end = i + 1;
		else
			out[count++] = (pgs__check_run){i, i + 1, c->t->snapshot.kv_revision};
	}
	return count;
}

static size_t most_keys(const pgs__commit *c)
{
	size_t limit = c->most_compares > KEYS_MAX ? KEYS_MAX : c->most_compares;
	return limit > FIXED_COMPARES ? limit - FIXED_COMPARES : 0;
}

/* Make the checks anew: with the relied pages among them if they are at most `most`. */
static int make_checks(pgs__commit *c, size_t most)
{
	size_t relied = count_relied(c, most), adopted = relied <= most ? relied : 0;
	size_t room = c->t->reads.count + c->write_count + adopted + 1;
	pgs__free(c->checks);
	pgs__free(c->runs);
	c->checks = pgs__calloc(room, sizeof *c->checks);
	c->runs = pgs__calloc(room, sizeof *c->runs);
	if (!c->checks || !c->runs)
		return pgs__error_nomem(c->err, "commit");
	c->check_count = collect_checks(c, c->checks, adopted);
	c->run_count = make_runs(c, c->runs);
	if (relied <= most)
		c->relied = NULL;
	return PGS_OK;
}

/* Whether so many compares will do, with few keys under all of them together. */
static bool fits_keys(const pgs__commit *c, size_t most)
{
	return !c->relied && c->run_count + c->t->attr_read_count <= most && c->check_count <= RANGES_KEYS_MAX;
}

int pgs__validate_prepare(pgs__commit *c)
{
	const pgs_txn *t = c->t;
	bool limited = pgs__max_ops(pgs__db_backend(t->db)) != SIZE_MAX;
	size_t cheap = limited ? most_keys(c) : KEYS_CHEAP;
	int result = make_checks(c, cheap);
	if (result != PGS_OK)
		return result;
	c->validated = t->snapshot.commit_revision;
	c->epoch = t->snapshot.epoch;
	c->mode = fits_keys(c, cheap) ? PGS__CHECK_KEYS : PGS__CHECK_LOG;
	return PGS_OK;
}

/* --- by keys ------------------------------------------------------------------------ */

size_t pgs__validate_count(const pgs__commit *c)
{
	return c->mode == PGS__CHECK_KEYS ? c->run_count + c->t->attr_read_count : 0;
}

static bool is_range(const pgs__commit *c, const pgs__check_run *run)
{
	return run->end - run->first > 1 || c->checks[run->first].seen_revision == SEEN_UNKNOWN;
}

static int copy_key(pgs__commit *c, pgs__arena *arena, pgs__key key, pgs_slice *out)
{
	return pgs__arena_copy(arena, pgs__key_slice(&key), out) == PGS_OK ? PGS_OK
									   : pgs__error_nomem(c->err, "commit");
}

static int fill_run(pgs__commit *c, pgs__arena *arena, const pgs__check_run *run, pgs_kv_compare *compare,
		    pgs_kv_op *read)
{
	const uint8_t *prefix = pgs__db_prefix(c->t->db);
	const pgs__page_check *first = &c->checks[run->first];
	pgs_slice key, end = {0};
	int result = copy_key(c, arena, pgs__key_page(prefix, first->page_no), &key);
	if (result == PGS_OK && is_range(c, run))
		result = copy_key(c, arena, pgs__key_page(prefix, c->checks[run->end - 1].page_no + 1), &end);
	if (end.size) {
		*compare = pgs__if_mod(key, PGS_KV_LESS, run->bound + 1);
		compare->range_end = end;
	} else {
		*compare = pgs__if_mod(key, PGS_KV_EQUAL, first->seen_revision);
	}
	if (read) {
		*read = pgs__op_range(key, end, 0);
		read->min_mod_revision = end.size ? run->bound + 1 : 0;
	}
	return result;
}

int pgs__validate_fill(pgs__commit *c, pgs__arena *arena, pgs_kv_compare *compares, pgs_kv_op *reads)
{
	size_t n = 0;
	if (c->mode != PGS__CHECK_KEYS)
		return PGS_OK;
	for (size_t i = 0; i < c->run_count; i++, n++) {
		int result = fill_run(c, arena, &c->runs[i], &compares[n], reads ? &reads[n] : NULL);
		if (result != PGS_OK)
			return result;
	}
	for (size_t i = 0; i < c->t->attr_read_count; i++, n++) {
		const pgs__attr_read *a = &c->t->attr_reads[i];
		pgs_slice key;
		int result = copy_key(c, arena, pgs__key_attr(pgs__db_prefix(c->t->db), a->name.data, a->name.size),
				      &key);
		if (result != PGS_OK)
			return result;
		compares[n] = pgs__if_mod(key, PGS_KV_EQUAL, a->seen_revision);
		if (reads)
			reads[n] = pgs__op_get(key, 0);
	}
	return PGS_OK;
}

static int page_conflict(pgs__commit *c, uint64_t page_no)
{
	return pgs__error_page(c->err, PGS_ECONFLICT, page_no,
			       "page %llu of database %s was changed by another transaction since revision %llu",
			       (unsigned long long)page_no, c->t->db->name,
			       (unsigned long long)c->t->snapshot.commit_revision);
}

/* A checked page was changed. If only its delta's base was at stake, it is written full instead. */
static int page_changed(pgs__commit *c, pgs__page_check *check)
{
	if (!check->blind)
		return page_conflict(c, check->page_no);
	if (check->blind->depends) {
		int result = pgs__write_make_full(c->t, check->blind, c->deadline_ms, c->err);
		if (result != PGS_OK)
			return result;
		c->stale = true;
	}
	return PGS_OK;
}

/* Is the pointer in this pair no younger than the snapshot, though its key may be? */
static bool only_folded(const pgs__commit *c, const pgs_kv_pair *pair)
{
	pgs__pointer pointer;
	if (pair->mod_revision <= c->t->snapshot.kv_revision)
		return true; /* what we took for its revision was out of date */
	return pgs__pointer_decode(pair->value, 0, &pointer) == PGS_OK && pointer.folded_revision != 0 &&
	       pointer.folded_revision <= c->t->snapshot.commit_revision;
}

static int judge_single(pgs__commit *c, pgs__page_check *check, const pgs_kv_pair *pair)
{
	uint64_t now = pair ? pair->mod_revision : 0;
	if (now == check->seen_revision)
		return PGS_OK;
	/* Gone: if a commit truncated it away, z moved with it, and judge_moves() finds that commit in the changelog.
	 * Else a range was folded that the snapshot had in a pack: the key under it was not what the page held. */
	if (pair && !only_folded(c, pair))
		return page_changed(c, check);
	check->seen_revision = now;
	return PGS_OK;
}

static int judge_range(pgs__commit *c, pgs__check_run *run, const pgs_kv_result *result, uint64_t revision)
{
	size_t index = run->first;
	for (size_t i = 0; i < result->count; i++) {
		uint64_t page_no;
		if (only_folded(c, &result->pairs[i]) || !pgs__key_parse_page(result->pairs[i].key, &page_no))
			continue;
		while (index < run->end && c->checks[index].page_no < page_no)
			index++;
		if (index == run->end || c->checks[index].page_no != page_no)
			continue;
		int status = page_changed(c, &c->checks[index]);
		if (status != PGS_OK)
			return status;
	}
	run->bound = revision; /* all that is there now was looked at */
	return PGS_OK;
}

/* Checks of pages now written full are not needed any more. */
static void drop_done_checks(pgs__commit *c)
{
	size_t kept = 0;
	for (size_t i = 0; i < c->check_count; i++)
		if (!c->checks[i].blind || c->checks[i].blind->depends)
			c->checks[kept++] = c->checks[i];
	if (kept == c->check_count)
		return;
	uint64_t bound = c->run_count ? c->runs[0].bound : 0;
	for (size_t i = 0; i < c->run_count; i++) /* the lowest is right for every run */
		bound = c->runs[i].bound < bound ? c->runs[i].bound : bound;
	c->check_count = kept;
	c->run_count = make_runs(c, c->runs);
	for (size_t i = 0; i < c->run_count; i++)
		c->runs[i].bound = bound;
}

int pgs__validate_judge(pgs__commit *c, const pgs_kv_result *results, uint64_t revision)
{
	if (c->mode != PGS__CHECK_KEYS)
		return PGS_OK;
	for (size_t i = 0; i < c->run_count; i++) {
		pgs__check_run *run = &c->runs[i];
		const pgs_kv_result *r = &results[i];
		int result = is_range(c, run)
				     ? judge_range(c, run, r, revision)
				     : judge_single(c, &c->checks[run->first], r->count ? &r->pairs[0] : NULL);
		if (result != PGS_OK)
			return result;
	}
	for (size_t i = 0; i < c->t->attr_read_count; i++) {
		const pgs_kv_result *r = &results[c->run_count + i];
		char name[2 * PGS_ATTR_NAME_MAX];
		if ((r->count ? r->pairs[0].mod_revision : 0) != c->t->attr_reads[i].seen_revision)
			return pgs__error(c->err, PGS_ECONFLICT,
					  "attribute %s of database %s was changed by another transaction",
					  pgs__printable(name, sizeof name, c->t->attr_reads[i].name.data,
							 c->t->attr_reads[i].name.size),
					  c->t->db->name);
	}
	drop_done_checks(c);
	return PGS_OK;
}

/* --- by log ------------------------------------------------------------------------------ */

/* The first check at or after a page. */
static size_t first_check(const pgs__commit *c, uint64_t page_no)
{
	size_t low = 0, high = c->check_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (c->checks[middle].page_no < page_no)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int intersect(pgs__commit *c, uint64_t first, uint64_t count)
{
	uint64_t relied = next_relied(c, first);
	if (relied != PGS_NO_PAGE && relied - first < count)
		return page_conflict(c, relied);
	for (size_t i = first_check(c, first); i < c->check_count && c->checks[i].page_no - first < count; i++) {
		int result = page_changed(c, &c->checks[i]);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

/* Another truncated. What we read there has changed; and what we wrote blindly, believing it inside the extent, now
 * raises the extent: not to what the snapshot had, but to what our own pages need. */
static int intersect_truncation(pgs__commit *c, uint64_t truncated_to)
{
	int result = intersect(c, truncated_to, UINT64_MAX - truncated_to);
	uint64_t needed = c->write_count ? c->writes[c->write_count - 1]->page_no + 1 : 0;
	/* Who knows the page count has e compared, and is refused there. */
	if (result != PGS_OK || c->t->extent_checked || needed <= truncated_to)
		return result;
	c->stale |= c->t->page_count != needed; /* the changelog entry names it */
	c->t->page_count = needed;
	c->put_extent = true;
	return PGS_OK;
}

static int intersect_attrs(pgs__commit *c, const pgs__change *change)
{
	pgs_slice rest = change->attr_bytes, name;
	while (!PGS__BUG(LOG_MISSES_ATTRS) && pgs__change_next_attr(&rest, &name))
		for (size_t i = 0; i < c->t->attr_read_count; i++)
			if (pgs__slice_equal(name, c->t->attr_reads[i].name))
				return pgs__error(c->err, PGS_ECONFLICT,
						  "an attribute of database %s was changed by another transaction",
						  c->t->db->name);
	return PGS_OK;
}

static int check_change(void *ctx, uint64_t revision, const pgs__change *change, pgs_slice runs)
{
	pgs__commit *c = ctx;
	pgs__runs_reader reader;
	pgs__page_run run;
	(void)revision;
	int result = intersect_attrs(c, change);
	if (result == PGS_OK && change->truncated)
		result = intersect_truncation(c, change->truncated_to);
	if (result == PGS_OK && pgs__runs_open(runs, &reader) != PGS_OK)
		result = pgs__error(c->err, PGS_ECORRUPT, "a changelog entry of database %s is damaged", c->t->db->name);
	while (result == PGS_OK && pgs__runs_next(&reader, &run))
		result = intersect(c, run.first, run.count);
	return result;
}

int pgs__validate_log(pgs__commit *c, uint64_t through)
{
	/* Between the commit a snapshot shows and where it was read nobody committed, and the KV may have forgotten it. */
	uint64_t read_at = c->t->snapshot.kv_revision, after = c->validated > read_at ? c->validated : read_at;
	int result = pgs__changes_read(c->t->db, after, through, c->deadline_ms, check_change, c, c->err);
	if (result == PGS_EOLDREV)
		return pgs__explain_old(&c->t->snapshot, c->deadline_ms, c->err);
	if (result != PGS_OK)
		return result;
	c->validated = through > c->validated ? through : c->validated;
	drop_done_checks(c);
	/* Others commit all the time: if the keys can be compared after all, their commits need not matter. */
	if (c->mode == PGS__CHECK_LOG && c->relied)
		result = make_checks(c, most_keys(c));
	if (c->mode == PGS__CHECK_LOG && fits_keys(c, most_keys(c)))
		c->mode = PGS__CHECK_KEYS;
	return result;
}
