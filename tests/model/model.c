/* The model: for every database, the state after each commit, in plain arrays; and every transaction that was sent.
 *
 * It learns of a commit from the observer, at the moment it takes effect. There it is held against what the
 * transaction had read: the states are those of a serial order, that of the revisions.
 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

/* --- contents ------------------------------------------------------------------------------ */

/* Contents by number: numbers compare as contents do, because equal bytes get one number. */
static uint8_t (*contents)[SIM_PAGE_SIZE];
static size_t content_count, content_capacity;
#define BUCKETS 4096
static sim_content buckets[BUCKETS]; /* by hash; 0 = empty */
static sim_content *chain;

void contents_reset(void)
{
	memset(buckets, 0, sizeof buckets);
	content_count = 0;
	uint8_t zeros[SIM_PAGE_SIZE] = {0};
	if (!contents) {
		content_capacity = 1024;
		contents = malloc(content_capacity * sizeof *contents);
		chain = malloc(content_capacity * sizeof *chain);
	}
	memcpy(contents[content_count++], zeros, sizeof zeros);
}

const uint8_t *content_bytes(sim_content content)
{
	return contents[content];
}

static uint64_t hash_bytes(const uint8_t *bytes)
{
	uint64_t hash = 0, word;
	for (size_t i = 0; i < SIM_PAGE_SIZE; i += 8) {
		memcpy(&word, bytes + i, 8);
		hash = (hash ^ word) * 0x9e3779b97f4a7c15;
		hash ^= hash >> 29;
	}
	return hash;
}

static sim_content intern(const uint8_t *bytes)
{
	size_t bucket = hash_bytes(bytes) % BUCKETS;
	if (memcmp(bytes, contents[0], SIM_PAGE_SIZE) == 0)
		return 0;
	for (sim_content c = buckets[bucket]; c; c = chain[c])
		if (memcmp(bytes, contents[c], SIM_PAGE_SIZE) == 0)
			return c;
	if (content_count == content_capacity) {
		content_capacity *= 2;
		contents = realloc(contents, content_capacity * sizeof *contents);
		chain = realloc(chain, content_capacity * sizeof *chain);
	}
	memcpy(contents[content_count], bytes, SIM_PAGE_SIZE);
	chain[content_count] = buckets[bucket];
	return buckets[bucket] = (sim_content)content_count++;
}

static void fill_noise(sim_rng *rng, uint8_t *out, size_t size)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t n = rng_next(rng);
		memcpy(out + i, &n, size - i < 8 ? size - i : 8);
	}
}

/* One of a few contents of the page's group. */
static sim_content from_palette(sim_rng *rng, int page)
{
	uint8_t bytes[SIM_PAGE_SIZE];
	sim_rng paint = rng_stream((uint64_t)page / SIM_GROUP_PAGES, 77 + rng_below(rng, world.config.palette));
	fill_noise(&paint, bytes, sizeof bytes);
	return intern(bytes);
}

sim_content content_fat(sim_rng *rng, sim_content old)
{
	uint8_t bytes[SIM_PAGE_SIZE];
	memcpy(bytes, contents[old], sizeof bytes);
	fill_noise(rng, bytes + rng_below(rng, 200), 200);
	return intern(bytes);
}

/* A full content, a delta, one seen before, zeros, or a thin page that fits into a pointer. */
sim_content content_new(sim_rng *rng, int page, sim_content old)
{
	uint8_t bytes[SIM_PAGE_SIZE];
	uint64_t kind = rng_below(rng, 20);
	if (world.config.palette && kind >= 11)
		return from_palette(rng, page);
	if (kind == 0)
		return 0;
	if (kind == 1)
		return old;
	if (kind <= 5 && !world.config.deltas)
		return (sim_content)rng_below(rng, content_count);
	if (world.config.deltas)
		kind = kind < 12 ? 6 : 19;
	memcpy(bytes, contents[old], sizeof bytes);
	if (kind <= 12) {
		uint8_t *at = bytes + rng_below(rng, 30) * 16;
		fill_noise(rng, at, 1 + rng_below(rng, 16));
	} else if (kind <= 14) {
		memset(bytes, 0, sizeof bytes);
		fill_noise(rng, bytes, 1 + rng_below(rng, 24));
	} else if (kind == 15) {
		fill_noise(rng, bytes, 180);
	} else {
		fill_noise(rng, bytes, sizeof bytes);
	}
	return intern(bytes);
}

/* --- databases ------------------------------------------------------------------------------ */

sim_db *model_db(const uint8_t *prefix)
{
	for (sim_db *db = world.databases; db; db = db->next)
		if (memcmp(db->prefix, prefix, sizeof db->prefix) == 0)
			return db;
	return NULL;
}

static sim_state *add_state(sim_db *db)
{
	if (db->count == db->capacity) {
		db->capacity = db->capacity ? db->capacity * 2 : 64;
		db->states = realloc(db->states, db->capacity * sizeof *db->states);
	}
	sim_state *state = &db->states[db->count++];
	*state = db->count > 1 ? state[-1] : (sim_state){0};
	return state;
}

sim_db *model_created(const uint8_t *prefix, uint64_t revision)
{
	if (model_db(prefix))
		sim_fail("a database is created a second time under its prefix");
	sim_db *db = calloc(1, sizeof *db);
	memcpy(db->prefix, prefix, sizeof db->prefix);
	db->next = world.databases;
	world.databases = db;
	add_state(db)->revision = revision;
	for (int i = 0; i < SIM_SNAPSHOTS; i++)
		db->snapshots[i].name[0] = 's', db->snapshots[i].name[1] = (char)('0' + i);
	return db;
}

sim_state *model_last(sim_db *db)
{
	return &db->states[db->count - 1];
}

sim_state *model_at(sim_db *db, uint64_t revision)
{
	size_t low = 0, high = db->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (db->states[middle].revision <= revision)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &db->states[low - 1] : NULL;
}

bool model_may_refuse(sim_db *db, uint64_t revision, uint64_t floor)
{
	if (db->floor <= revision)
		return false;
	return db->floor != floor || db->dropped || model_at(db, db->floor) != model_at(db, revision);
}

void model_free(void)
{
	while (world.databases) {
		sim_db *db = world.databases;
		world.databases = db->next;
		free(db->states);
		free(db);
	}
	free(world.txns);
	world.txns = NULL;
}

/* --- commits --------------------------------------------------------------------------------- */

sim_txn *model_txn_new(void)
{
	if (!world.txns)
		world.txns = malloc(SIM_TXNS_MAX * sizeof *world.txns);
	if (world.txn_count == SIM_TXNS_MAX)
		sim_fail("the simulator has room for %d transactions", SIM_TXNS_MAX);
	sim_txn *txn = &world.txns[world.txn_count++];
	*txn = (sim_txn){.truncated_to = UINT64_MAX, .client = world.current->index, .began_step = world.step};
	return txn;
}

sim_txn *model_find_txn(const uint8_t *uuid)
{
	for (size_t i = world.txn_count; i-- > 0;)
		if (world.txns[i].sent && memcmp(world.txns[i].token.uuid, uuid, 16) == 0)
			return &world.txns[i];
	return NULL;
}

#define NUMBER(n) ((unsigned long long)(n))

/* Is what it read, right before it, what it was at its snapshot? */
static void check_serializable(const sim_db *db, const sim_txn *txn, uint64_t revision)
{
	const sim_state *base = &db->states[txn->base_index], *now = &db->states[db->count - 1];
	bool strict = txn->isolation == PGS_SERIALIZABLE;
	for (int i = 0; i < SIM_PAGES; i++) {
		/* Zeros where it truncated are no write of their own. */
		bool wrote = txn->page_written[i] && (txn->view.pages[i] || page_number(i) < txn->truncated_to);
		bool counts = strict ? txn->page_read[i] : wrote;
		if (counts && base->pages[i] != now->pages[i])
			sim_fail("not serializable: the commit of revision %llu (client %d) %s page %llu at revision %llu, "
				 "which another commit changed before it", NUMBER(revision), txn->client,
				strict ? "read" : "wrote, under snapshot isolation,", NUMBER(page_number(i)),
				NUMBER(base->revision));
	}
	for (int i = 0; i < SIM_ATTRS; i++) {
		bool counts = strict ? txn->attr_read[i] : txn->attr_written[i];
		if (counts && base->attrs[i] != now->attrs[i])
			sim_fail("not serializable: the commit of revision %llu (client %d) used attribute %s at revision "
				 "%llu, which another commit changed before it", NUMBER(revision), txn->client,
				attr_name(i), NUMBER(base->revision));
	}
	if ((txn->extent_set || (strict && txn->extent_read)) && base->extent != now->extent)
		sim_fail("not serializable: the commit of revision %llu (client %d) used the page count %llu of revision "
			 "%llu, which another commit changed to %llu before it", NUMBER(revision), txn->client,
			NUMBER(base->extent), NUMBER(base->revision), NUMBER(now->extent));
}

static void apply(sim_db *db, const sim_txn *txn, uint64_t revision)
{
	sim_state *state = add_state(db);
	uint64_t needed = 0;
	state->revision = revision;
	state->at_us = world.now_us;
	memcpy(state->uuid, txn->token.uuid, sizeof state->uuid);
	for (int i = 0; i < SIM_PAGES; i++) {
		if (page_number(i) >= txn->truncated_to) {
			state->pages[i] = 0;
			db->page_touched[i] = revision;
		}
		if (!txn->page_written[i])
			continue;
		state->pages[i] = txn->view.pages[i];
		db->page_touched[i] = revision;
		needed = page_number(i) + 1;
	}
	if (txn->extent_set)
		state->extent = txn->view.extent;
	else if (needed > state->extent)
		state->extent = needed;
	for (int i = 0; i < SIM_ATTRS; i++)
		if (txn->attr_written[i])
			state->attrs[i] = txn->view.attrs[i];
}

void model_committed(sim_db *db, const uint8_t *uuid, uint64_t revision)
{
	sim_txn *txn = model_find_txn(uuid);
	if (!txn)
		sim_fail("a commit takes effect at revision %llu that nobody sent", NUMBER(revision));
	if (txn->committed)
		sim_fail("the commit of revision %llu takes effect a second time, at %llu", NUMBER(txn->committed),
			NUMBER(revision));
	if (txn->never)
		sim_fail("a commit of client %d that was refused (%s), or said never to happen, takes effect at revision "
			 "%llu", txn->client, pgs_error_name(txn->result), NUMBER(revision));
	if (txn->db != db || db->dropped)
		sim_fail("a commit takes effect in %s database", db->dropped ? "a dropped" : "another");
	if (txn->token.base_revision < db->floor) /* invariant 7 */
		sim_fail("a commit that relies on revision %llu takes effect above the floor, %llu",
			NUMBER(txn->token.base_revision), NUMBER(db->floor));
	check_serializable(db, txn, revision);
	if (txn->with && !model_changes(txn->with)) /* what it read in the other database counts, too */
		check_serializable(txn->with->db, txn->with, revision);
	txn->committed = revision;
	apply(db, txn, revision);
	world.last_commit = revision;
	world.commits++;
	trace("* commit of client %d takes effect: revision %llu", txn->client, NUMBER(revision));
}

/* Of several databases: all of them, or none. */
void model_committed_together(uint64_t revision)
{
	for (size_t i = world.txn_count; i-- > 0;) {
		const sim_txn *txn = &world.txns[i];
		if (txn->committed == revision && txn->with && txn->with->committed != revision && model_changes(txn->with))
			sim_fail("the commit of client %d takes effect at revision %llu in one of its databases, and not in the "
				 "other", txn->client, NUMBER(revision));
	}
}

bool model_changes(const sim_txn *txn)
{
	const sim_state *base = &txn->db->states[txn->base_index];
	bool changed = txn->view.extent != base->extent || txn->truncated_to != UINT64_MAX;
	for (int i = 0; i < SIM_PAGES; i++)
		changed |= txn->view.pages[i] != base->pages[i];
	for (int i = 0; i < SIM_ATTRS; i++)
		changed |= txn->attr_written[i];
	return changed;
}

/* One that changes nothing has no entry: nobody can be told by it what became of the other. */
void model_never(sim_txn *txn)
{
	txn->never = true;
	if (!txn->with || !model_changes(txn))
		return;
	if (txn->with->committed)
		sim_fail("the commit of revision %llu is said never to happen in another of its databases",
			NUMBER(txn->with->committed));
	txn->with->never = true;
}

/* It changed nothing, so nothing was sent, or only for the other database. */
static void check_nothing(const sim_txn *txn, uint64_t revision)
{
	uint64_t expected = txn->db->states[txn->base_index].revision;
	if (model_changes(txn))
		sim_fail("a commit that changes something returned PGS_OK with revision %llu, but nothing took effect",
			NUMBER(revision));
	if (txn->with && model_changes(txn->with))
		expected = txn->with->committed;
	else if (txn->with && txn->with->db->states[txn->with->base_index].revision > expected)
		expected = txn->with->db->states[txn->with->base_index].revision;
	if (revision != expected)
		sim_fail("a commit that changes nothing returned revision %llu, not its snapshot's, %llu", NUMBER(revision),
			NUMBER(expected));
}

static bool may_fail_with(const sim_txn *txn, int result, uint64_t faults)
{
	const sim_db *db = txn->db;
	switch (result) {
	case PGS_ECONFLICT:
	case PGS_EBUSY:
	case PGS_ETIMEOUT:
	case PGS_ELIMIT:
		return true;
	case PGS_EIO:
		return faults > 0;
	case PGS_EOLDREV:
		return db->floor > txn->kv_revision || (db->dropped && world.compacted > txn->kv_revision);
	case PGS_ENOTFOUND:
		return db->dropped != 0;
	default:
		return false;
	}
}

void model_returned(sim_txn *txn, int result, uint64_t revision, uint64_t conflict_page, uint64_t faults)
{
	txn->returned = true;
	txn->result = result;
	if (result == PGS_EUNKNOWN) {
		if (faults == 0)
			sim_fail("the outcome of a commit is unknown though nothing went wrong");
		return;
	}
	if (result == PGS_OK && txn->committed && txn->committed != revision)
		sim_fail("a commit returned revision %llu, but took effect at %llu", NUMBER(revision),
			NUMBER(txn->committed));
	if (result == PGS_OK && txn->committed)
		return;
	txn->never = true; /* the other one, if there is one, has returned the same */
	if (result == PGS_OK) {
		check_nothing(txn, revision);
		return;
	}
	if (result == PGS_ENOTFOUND && txn->db->dropped &&
		(!txn->with || txn->with->db->dropped || !model_changes(txn->with)))
		return; /* with all that it changed */
	if (txn->committed)
		sim_fail("a commit was refused (%s), but took effect at revision %llu", pgs_error_name(result),
			NUMBER(txn->committed));
	if (!may_fail_with(txn, result, faults) && !(txn->with && may_fail_with(txn->with, result, faults)))
		sim_fail("a commit failed with %s, for which there was no reason", pgs_error_name(result));
	int page = page_index(conflict_page);
	if (result == PGS_ECONFLICT && conflict_page != PGS_NO_PAGE &&
		(page < 0 || txn->db->page_touched[page] <= txn->db->states[txn->base_index].revision))
		sim_fail("a false conflict: nobody changed page %llu since revision %llu", NUMBER(conflict_page),
			NUMBER(txn->db->states[txn->base_index].revision));
}
