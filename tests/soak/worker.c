/* What a worker does: random transactions, reads of the past, named snapshots, maintenance. */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "model/rng.h"
#include "soak.h"
#include "util/clock.h"

#define PAST 64
#define STEPS_MAX 8

typedef struct worker {
	const soak_options *o;
	uint32_t number, life;
	sim_rng rng;
	int journal;
	pgs_store *store;
	pgs_db *db;
	uint64_t sent, snapshots;
	uint64_t past[PAST]; /* revisions that were the latest */
	size_t past_count;
	uint64_t committed;  /* the last revision it was told of */
} worker;

/* A transaction under way. */
typedef struct running {
	worker *w;
	pgs_txn *txn;
	soak_txn t;
	uint32_t known; /* pages whose bytes are there */
	uint8_t bytes[SIM_PAGES][SIM_PAGE_SIZE];
} running;

static void put_record(const worker *w, const soak_record *r)
{
	if (write(w->journal, r, sizeof *r) != (ssize_t)sizeof *r)
		soak_fail("a worker cannot write to its journal");
}

static void check_result(const worker *w, const char *what, int result, const pgs_error *err)
{
	if (result != PGS_OK && !soak_passes(w->o, result))
		soak_fail("%s: %s: %s", what, pgs_error_name(result), err->message);
}

/* --- reading ---------------------------------------------------------------------------- */

/* Of a transaction that may begin on what is known here. */
static void choose_freshness(worker *w, pgs_txn_options *o)
{
	if (!w->o->follow || o->at_revision || o->at_snapshot)
		return;
	o->freshness = (uint32_t)rng_below(&w->rng, PGS_LOCAL + 1);
	if (o->freshness == PGS_BOUNDED)
		o->bound_ms = 1 + (uint32_t)rng_below(&w->rng, 500);
	if (o->freshness == PGS_AT_LEAST)
		o->least_revision = w->committed;
}

static bool begin(worker *w, running *r, const pgs_txn_options *options)
{
	pgs_txn_options o = *options;
	pgs_error err = PGS_ERROR_INIT;
	*r = (running){.w = w, .t = {.truncated_to = UINT64_MAX}};
	choose_freshness(w, &o);
	int result = pgs_begin(&r->txn, w->db, &o, &err);
	check_result(w, "pgs_begin", result, &err);
	if (result != PGS_OK)
		return false;
	r->t.base = pgs_txn_revision(r->txn);
	if (r->t.base < w->committed && !o.at_revision && !o.at_snapshot)
		soak_fail("a snapshot of revision %" PRIu64 " does not show the process's own commit of %" PRIu64, r->t.base,
			w->committed);
	r->t.serializable = options->isolation == PGS_SERIALIZABLE;
	return true;
}

/* Its own writes it reads as they are; else what it read before, or what the audit will look at. */
static void note_page(running *r, int page, const uint8_t *bytes)
{
	uint32_t bit = 1u << page;
	uint64_t hash = soak_hash(bytes, SIM_PAGE_SIZE);
	bool own = (r->t.page_written & bit) || page_number(page) >= r->t.truncated_to;
	uint64_t before = r->t.page_written & bit ? r->t.written[page] : own ? 0 : r->t.read[page];
	if ((own || (r->t.page_read & bit)) && hash != before)
		soak_fail("page %" PRIu64 " at revision %" PRIu64 " is not what the same transaction %s",
			page_number(page), r->t.base, own ? "wrote" : "read before");
	if (!own) {
		r->t.page_read |= bit;
		r->t.read[page] = hash;
	}
	memcpy(r->bytes[page], bytes, SIM_PAGE_SIZE);
	r->known |= bit;
}

static bool went_well(running *r, const char *what, int result)
{
	check_result(r->w, what, result, pgs_txn_error(r->txn));
	return result == PGS_OK;
}

static bool read_pages(running *r, int first, int count)
{
	static uint8_t bytes[SIM_PAGES][SIM_PAGE_SIZE];
	uint64_t numbers[SIM_PAGES];
	void *dst[SIM_PAGES];
	for (int i = 0; i < count; i++) {
		numbers[i] = page_number((first + i) % SIM_PAGES);
		dst[i] = bytes[i];
	}
	if (!went_well(r, "reading pages", pgs_read_many(r->txn, numbers, (size_t)count, dst)))
		return false;
	for (int i = 0; i < count; i++)
		note_page(r, (first + i) % SIM_PAGES, bytes[i]);
	return true;
}

static bool read_extent(running *r)
{
	uint64_t extent;
	if (!went_well(r, "pgs_page_count", pgs_page_count(r->txn, &extent)))
		return false;
	if (!r->t.extent_read && !r->t.extent_set && !r->t.page_written) {
		r->t.extent_read = true;
		r->t.extent_seen = extent;
	}
	return true;
}

static bool read_attr(running *r, int attr)
{
	uint8_t value[64];
	size_t size = 0;
	const char *name = attr_name(attr);
	int result = pgs_attr_get(r->txn, name, strlen(name), value, sizeof value, &size);
	if (result != PGS_ENOTFOUND && !went_well(r, "pgs_attr_get", result))
		return false;
	uint64_t hash = result == PGS_OK ? soak_hash(value, size) : 0;
	if (r->t.attr_written & 1u << attr) {
		if (hash != r->t.attr_set[attr])
			soak_fail("attribute %s is not what the same transaction set", name);
	} else {
		r->t.attr_read |= 1u << attr;
		r->t.attr_seen[attr] = hash;
	}
	return true;
}

/* Everything, at some revision: only for the audit. */
static void view(worker *w, const pgs_txn_options *options)
{
	running r;
	if (!begin(w, &r, options))
		return;
	bool good = read_pages(&r, 0, SIM_PAGES) && read_extent(&r);
	for (int i = 0; i < SIM_ATTRS && good; i++)
		good = read_attr(&r, i);
	if (good)
		put_record(w, &(soak_record){.txn = r.t});
	pgs_abort(r.txn);
}

/* --- writing ---------------------------------------------------------------------------------- */

static void fill_noise(sim_rng *rng, uint8_t *out, size_t size)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t n = rng_next(rng);
		memcpy(out + i, &n, size - i < 8 ? size - i : 8);
	}
}

/* Zeros, a thin page, a small change, one of a few that come again and again, or all new. */
static void new_content(running *r, int page, uint8_t *out)
{
	sim_rng *rng = &r->w->rng;
	uint64_t kind = rng_below(rng, 10);
	bool change = r->known & 1u << page && kind >= 4;
	memset(out, 0, SIM_PAGE_SIZE);
	if (change) {
		memcpy(out, r->bytes[page], SIM_PAGE_SIZE);
		uint64_t at = 16 * rng_below(rng, 30);
		fill_noise(rng, out + at, 16);
	} else if (kind == 1) {
		fill_noise(rng, out, 24);
	} else if (kind == 2) {
		sim_rng paint = rng_stream((uint64_t)page / SIM_GROUP_PAGES, rng_below(rng, 4));
		fill_noise(&paint, out, SIM_PAGE_SIZE);
	} else if (kind) {
		fill_noise(rng, out, SIM_PAGE_SIZE);
	}
}

static bool write_page(running *r, int page)
{
	uint8_t bytes[SIM_PAGE_SIZE];
	new_content(r, page, bytes);
	if (!went_well(r, "pgs_write", pgs_write(r->txn, page_number(page), bytes)))
		return false;
	r->t.page_written |= 1u << page;
	r->t.written[page] = soak_hash(bytes, sizeof bytes);
	memcpy(r->bytes[page], bytes, sizeof bytes);
	r->known |= 1u << page;
	return true;
}

static bool truncate_pages(running *r)
{
	uint64_t count = page_number((int)rng_below(&r->w->rng, SIM_PAGES)) + rng_below(&r->w->rng, 2);
	if (!read_extent(r)) /* what it was: truncation depends on it */
		return false;
	if (!went_well(r, "pgs_truncate", pgs_truncate(r->txn, count)))
		return false;
	for (int i = 0; i < SIM_PAGES; i++)
		if (page_number(i) >= count) {
			r->t.page_written &= ~(1u << i);
			r->known &= ~(1u << i);
		}
	if (count < r->t.truncated_to)
		r->t.truncated_to = count;
	r->t.extent_set = true;
	return true;
}

static bool set_attr(running *r, int attr)
{
	uint8_t value[64];
	size_t size;
	uint32_t n = 1 + (uint32_t)rng_below(&r->w->rng, 1u << 30);
	const char *name = attr_name(attr);
	bool remove = rng_below(&r->w->rng, 5) == 0;
	attr_value(n, value, &size);
	if (!went_well(r, "pgs_attr_set", pgs_attr_set(r->txn, name, strlen(name), remove ? NULL : value, size)))
		return false;
	r->t.attr_written |= 1u << attr;
	r->t.attr_set[attr] = remove ? 0 : soak_hash(value, size);
	return true;
}

static bool step(running *r)
{
	sim_rng *rng = &r->w->rng;
	uint64_t die = rng_below(rng, 100);
	int first = (int)rng_below(rng, SIM_PAGES), attr = (int)rng_below(rng, SIM_ATTRS);
	if (die < 40)
		return read_pages(r, first, 1 + (int)rng_below(rng, 4));
	if (die < 80)
		return write_page(r, first);
	if (die < 85)
		return read_attr(r, attr);
	if (die < 90)
		return set_attr(r, attr);
	if (die < 93)
		return truncate_pages(r);
	if (die < 96)
		return read_extent(r);
	return read_pages(r, 0, SIM_PAGES);
}

/* --- committing ---------------------------------------------------------------------------------- */

/* What became of it, if that can be told. */
static soak_told settle(const worker *w, const pgs_commit_token *token, uint64_t *revision)
{
	pgs_error err = PGS_ERROR_INIT;
	int status = 0;
	for (int tries = 0; tries < 100; tries++) {
		int result = pgs_commit_status(w->db, token, &status, revision, &err);
		if (result == PGS_OK)
			return status == PGS_COMMIT_HAPPENED ? SOAK_COMMITTED : SOAK_REFUSED;
		if (result == PGS_EUNKNOWN)
			return SOAK_UNKNOWN; /* the history that would tell is gone */
		check_result(w, "pgs_commit_status", result, &err);
	}
	return SOAK_UNKNOWN;
}

static void commit(running *r)
{
	worker *w = r->w;
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_commit_token token;
	uint64_t revision = 0;
	char note[64];
	r->t.number = ++w->sent;
	if (r->t.extent_set && pgs_page_count(r->txn, &r->t.extent) != PGS_OK)
		soak_fail("pgs_page_count after a truncation");
	snprintf(note, sizeof note, "%u.%u-%" PRIu64, w->number, w->life, r->t.number);
	options.note = note;
	options.note_size = strlen(note);
	options.token = &token;
	put_record(w, &(soak_record){.txn = r->t});
	int result = pgs_commit(r->txn, &options, &revision, &err);
	soak_told told = result == PGS_OK ? SOAK_COMMITTED : SOAK_REFUSED;
	if (result == PGS_EUNKNOWN)
		told = settle(w, &token, &revision);
	else
		check_result(w, "pgs_commit", result, &err);
	put_record(w, &(soak_record){.is_outcome = true, .outcome = {r->t.number, revision, told}});
	if (told == SOAK_COMMITTED)
		w->past[w->past_count++ % PAST] = revision;
	if (told == SOAK_COMMITTED && revision > w->committed)
		w->committed = revision;
}

static void op_txn(worker *w)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	running r;
	options.write = true;
	options.isolation = rng_below(&w->rng, 4) ? PGS_SERIALIZABLE : PGS_SNAPSHOT;
	if (!begin(w, &r, &options))
		return;
	uint64_t steps = 1 + rng_below(&w->rng, STEPS_MAX);
	bool good = true, bulk = rng_below(&w->rng, 12) == 0;
	for (int i = 0; bulk && good && i < SIM_PAGES; i++)
		good = write_page(&r, i);
	for (uint64_t i = 0; good && i < steps; i++)
		good = step(&r);
	if (good && rng_below(&w->rng, 12))
		commit(&r);
	else
		pgs_abort(r.txn);
}

/* --- the rest ---------------------------------------------------------------------------------------- */

static void op_past(worker *w)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	size_t known = w->past_count < PAST ? w->past_count : PAST;
	if (known && rng_below(&w->rng, 4))
		options.at_revision = w->past[rng_below(&w->rng, known)];
	view(w, &options);
}

/* Made, read, and mostly dropped again. */
static void op_snapshot(worker *w)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	char name[64];
	snprintf(name, sizeof name, "%u.%u-%" PRIu64, w->number, w->life, ++w->snapshots);
	int result = pgs_snapshot_create(w->db, name, strlen(name), NULL, &err);
	if (result != PGS_EUNKNOWN)
		check_result(w, "pgs_snapshot_create", result, &err);
	if (result != PGS_OK)
		return;
	options.at_snapshot = name;
	options.at_snapshot_size = strlen(name);
	view(w, &options);
	if (rng_below(&w->rng, 8) == 0)
		return;
	result = pgs_snapshot_drop(w->db, name, strlen(name), &err);
	if (result != PGS_EUNKNOWN)
		check_result(w, "pgs_snapshot_drop", result, &err);
}

static void op_maintain(worker *w)
{
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.budget_ms = 500;
	options.scrub = rng_below(&w->rng, 2);
	int result = pgs_maintain(w->db, &options, NULL, &err);
	if (result != PGS_EUNKNOWN)
		check_result(w, "pgs_maintain", result, &err);
}

static void op_verify(worker *w)
{
	pgs_verify_options options = PGS_VERIFY_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.deep = rng_below(&w->rng, 2);
	check_result(w, "pgs_verify", pgs_verify(w->db, &options, NULL, &err), &err);
}

int soak_work(const soak_options *o, uint32_t number, uint32_t life)
{
	worker w = {.o = o, .number = number, .life = life, .rng = rng_stream(o->seed, number * 1000 + life)};
	uint64_t end = pgs__now_ms() + o->seconds * 1000;
	char path[512];
	soak_journal_path(path, o, number, life);
	w.journal = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (w.journal < 0)
		soak_fail("cannot write to %s", path);
	if (!soak_open(o, false, &w.store, &w.db))
		return 1;
	if (o->follow && pgs_follow_start(w.db, NULL, NULL) != PGS_OK)
		soak_fail("cannot follow");
	while (pgs__now_ms() < end) {
		uint64_t die = rng_below(&w.rng, 100);
		if (die < 78)
			op_txn(&w);
		else if (die < 88)
			op_past(&w);
		else if (die < 92)
			op_snapshot(&w);
		else if (die < 99)
			op_maintain(&w);
		else
			op_verify(&w);
	}
	pgs_db_close(w.db);
	pgs_close(w.store);
	close(w.journal);
	return 0;
}
