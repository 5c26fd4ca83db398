/* The changelog, replayed against what workers wrote down. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "soak.h"
#include "util/clock.h"

#define PIN_LEASE_MS 600000

/* A commit of the changelog. */
typedef struct entry {
	uint64_t revision, number;
	uint32_t worker, life;
} entry;

/* All transactions of one life of a worker, and what it was told of each that it sent. */
typedef struct journal {
	soak_txn *txns;
	size_t count;
	struct {
		soak_told told;
		uint64_t revision;
		bool logged;
	} *outcomes; /* by number */
	uint64_t sent;
} journal;

typedef struct state {
	uint64_t revision, extent;
	uint64_t pages[SIM_PAGES], attrs[SIM_ATTRS];
} state;

struct soak_audit {
	const soak_options *o;
	pgs_store *store;
	pgs_db *db;
	pgs_revision_pin *pin;
	uint64_t seen; /* the changelog is known up to this revision */
	entry *entries; /* in their order */
	size_t count, capacity;
	state *states; /* [i + 1]: after entries[i] */
	size_t replayed;
	journal **journals;
	const uint32_t *lives;
	uint64_t transactions, views, commits, conflicts, unknown, snapshots;
};

/* --- following the changelog ------------------------------------------------------------- */

static int see_entry(void *ctx, const pgs_log_entry *e)
{
	soak_audit *a = ctx;
	char note[64] = "";
	entry seen = {.revision = e->revision};
	if (e->note_size >= sizeof note)
		soak_fail("the commit of revision %" PRIu64 " is nobody's", e->revision);
	memcpy(note, e->note, e->note_size);
	if (sscanf(note, "%u.%u-%" SCNu64, &seen.worker, &seen.life, &seen.number) != 3)
		soak_fail("the commit of revision %" PRIu64 " is nobody's: '%s'", e->revision, note);
	if (a->count == a->capacity) {
		a->capacity = a->capacity ? 2 * a->capacity : 1024;
		a->entries = realloc(a->entries, a->capacity * sizeof *a->entries);
	}
	a->entries[a->count++] = seen;
	return 0;
}

static int compare_entries(const void *x, const void *y)
{
	const entry *a = x, *b = y;
	return (a->revision > b->revision) - (a->revision < b->revision);
}

/* The new pin holds before the old one goes: no entry after the old one's revision can be pruned before it is seen. */
void soak_audit_follow(soak_audit *a)
{
	pgs_log_options options = PGS_LOG_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_revision_pin *pin;
	uint64_t latest;
	size_t before = a->count;
	int result = pgs_pin_revision(&pin, a->db, 0, PIN_LEASE_MS, &latest, &err);
	if (result == PGS_OK && latest > a->seen) {
		options.from_revision = a->seen + 1;
		options.to_revision = latest;
		result = pgs_log(a->db, &options, see_entry, a, &err);
	}
	if (result != PGS_OK) {
		a->count = before;
		pgs_unpin_revision(pin);
		if (result != PGS_EUNKNOWN && !soak_passes(a->o, result))
			soak_fail("following the changelog: %s", err.message);
		return;
	}
	if (a->count > before)
		qsort(&a->entries[before], a->count - before, sizeof *a->entries, compare_entries);
	pgs_unpin_revision(a->pin);
	a->pin = pin;
	a->seen = latest;
}

soak_audit *soak_audit_start(const soak_options *o)
{
	soak_audit *a = calloc(1, sizeof *a);
	pgs_error err = PGS_ERROR_INIT;
	a->o = o;
	if (!soak_open(o, true, &a->store, &a->db))
		exit(1);
	if (pgs_pin_revision(&a->pin, a->db, 0, PIN_LEASE_MS, &a->seen, &err) != PGS_OK)
		soak_fail("pinning the first revision: %s", err.message);
	return a;
}

/* --- what workers wrote down ---------------------------------------------------------------- */

static void read_record(journal *j, const soak_record *r)
{
	if (r->is_outcome) {
		j->outcomes[r->outcome.number].told = r->outcome.told;
		j->outcomes[r->outcome.number].revision = r->outcome.revision;
		return;
	}
	j->txns[j->count++] = r->txn;
	if (r->txn.number)
		j->sent = r->txn.number;
}

/* The last record of a life that was killed may be cut. */
static void read_journal(const soak_audit *a, journal *j, uint32_t worker, uint32_t life)
{
	char path[512];
	soak_record r;
	soak_journal_path(path, a->o, worker, life);
	FILE *file = fopen(path, "rb");
	if (!file)
		return; /* killed before it began */
	fseek(file, 0, SEEK_END);
	size_t most = (size_t)ftell(file) / sizeof r;
	rewind(file);
	j->txns = calloc(most + 1, sizeof *j->txns);
	j->outcomes = calloc(most + 1, sizeof *j->outcomes);
	while (fread(&r, sizeof r, 1, file) == 1)
		read_record(j, &r);
	fclose(file);
}

static void read_journals(soak_audit *a)
{
	a->journals = calloc(a->o->workers, sizeof *a->journals);
	for (uint32_t i = 0; i < a->o->workers; i++) {
		a->journals[i] = calloc(a->lives[i], sizeof(journal));
		for (uint32_t life = 0; life < a->lives[i]; life++)
			read_journal(a, &a->journals[i][life], i, life);
	}
}

static const soak_txn *find_txn(const journal *j, uint64_t number)
{
	for (size_t i = 0; i < j->count; i++)
		if (j->txns[i].number == number)
			return &j->txns[i];
	return NULL;
}

/* --- replaying ---------------------------------------------------------------------------------- */

/* The last commit at or before a revision. */
static const state *state_at(const soak_audit *a, uint64_t revision)
{
	size_t low = 0, high = a->replayed + 1;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (a->states[middle].revision <= revision)
			low = middle;
		else
			high = middle;
	}
	return &a->states[low];
}

/* What it read is what its snapshot holds. */
static void check_view(const soak_audit *a, const soak_txn *t)
{
	const state *base = state_at(a, t->base);
	if (base->revision != t->base && base != a->states)
		soak_fail("a snapshot shows the commit of revision %" PRIu64 ", where none is", t->base);
	for (int i = 0; i < SIM_PAGES; i++)
		if (t->page_read & 1u << i && t->read[i] != base->pages[i])
			soak_fail("page %" PRIu64 " at revision %" PRIu64 " was not read as it was", page_number(i), t->base);
	for (int i = 0; i < SIM_ATTRS; i++)
		if (t->attr_read & 1u << i && t->attr_seen[i] != base->attrs[i])
			soak_fail("attribute %s at revision %" PRIu64 " was not read as it was", attr_name(i), t->base);
	if (t->extent_read && t->extent_seen != base->extent)
		soak_fail("the page count at revision %" PRIu64 " was read as %" PRIu64 ", not %" PRIu64, t->base,
			t->extent_seen, base->extent);
}

/* What counts for conflicts was, right before the commit, what it was at its snapshot. */
static void check_serial(const soak_audit *a, const soak_txn *t, const state *now, uint64_t revision)
{
	const state *base = state_at(a, t->base);
	for (int i = 0; i < SIM_PAGES; i++) {
		bool wrote = t->page_written & 1u << i && (t->written[i] || page_number(i) < t->truncated_to);
		bool counts = t->serializable ? t->page_read & 1u << i : wrote;
		if (counts && base->pages[i] != now->pages[i])
			soak_fail("not serializable: the commit of revision %" PRIu64 " used page %" PRIu64
				  " as of revision %" PRIu64 ", which another changed before it",
				revision, page_number(i), t->base);
	}
	for (int i = 0; i < SIM_ATTRS; i++)
		if ((t->serializable ? t->attr_read : t->attr_written) & 1u << i && base->attrs[i] != now->attrs[i])
			soak_fail("not serializable: the commit of revision %" PRIu64 " used attribute %s as of revision %" PRIu64
				  ", which another changed before it",
				revision, attr_name(i), t->base);
	if ((t->extent_set || (t->serializable && t->extent_read)) && base->extent != now->extent)
		soak_fail("not serializable: the commit of revision %" PRIu64 " used the page count of revision %" PRIu64
			  ", which another changed before it",
			revision, t->base);
}

static void apply(state *s, const soak_txn *t)
{
	uint64_t needed = 0;
	for (int i = 0; i < SIM_PAGES; i++) {
		if (page_number(i) >= t->truncated_to)
			s->pages[i] = 0;
		if (t->page_written & 1u << i) {
			s->pages[i] = t->written[i];
			needed = page_number(i) + 1;
		}
	}
	if (t->extent_set)
		s->extent = t->extent;
	else if (needed > s->extent)
		s->extent = needed;
	for (int i = 0; i < SIM_ATTRS; i++)
		if (t->attr_written & 1u << i)
			s->attrs[i] = t->attr_set[i];
}

static void replay_entry(soak_audit *a, size_t i)
{
	const entry *e = &a->entries[i];
	if (i && e->revision <= e[-1].revision)
		soak_fail("revision %" PRIu64 " is in the changelog twice", e->revision);
	if (e->worker >= a->o->workers || e->life >= a->lives[e->worker])
		soak_fail("the commit of revision %" PRIu64 " is nobody's", e->revision);
	journal *j = &a->journals[e->worker][e->life];
	const soak_txn *t = find_txn(j, e->number);
	if (!t)
		soak_fail("the commit of revision %" PRIu64 " was never sent", e->revision);
	if (j->outcomes[e->number].logged)
		soak_fail("the commit of revision %" PRIu64 " is in the changelog twice", e->revision);
	j->outcomes[e->number].logged = true;
	if (j->outcomes[e->number].told == SOAK_REFUSED)
		soak_fail("the commit of revision %" PRIu64 " was said not to have happened", e->revision);
	if (j->outcomes[e->number].told == SOAK_COMMITTED && j->outcomes[e->number].revision != e->revision)
		soak_fail("the commit of revision %" PRIu64 " was said to be at %" PRIu64, e->revision,
			j->outcomes[e->number].revision);
	check_serial(a, t, &a->states[i], e->revision);
	a->states[i + 1] = a->states[i];
	a->states[i + 1].revision = e->revision;
	apply(&a->states[i + 1], t);
	a->replayed++;
}

/* It was said to be committed, and is not in the changelog: then it changed nothing. */
static void check_nothing(const soak_audit *a, const soak_txn *t, uint64_t revision)
{
	const state *base = state_at(a, t->base);
	state after = *base;
	apply(&after, t);
	after.revision = base->revision;
	if (memcmp(&after, base, sizeof after) != 0)
		soak_fail("a commit on revision %" PRIu64 " was said to be at %" PRIu64 ", and is lost", t->base, revision);
}

static void check_journal(soak_audit *a, const journal *j)
{
	for (size_t i = 0; i < j->count; i++) {
		const soak_txn *t = &j->txns[i];
		a->transactions += t->number != 0;
		a->views += t->number == 0;
		check_view(a, t);
		if (!t->number)
			continue;
		soak_told told = j->outcomes[t->number].told;
		a->conflicts += told == SOAK_REFUSED;
		a->unknown += told == SOAK_UNKNOWN || told == SOAK_NOTHING;
		if (told == SOAK_COMMITTED && !j->outcomes[t->number].logged)
			check_nothing(a, t, j->outcomes[t->number].revision);
	}
}

static void replay(soak_audit *a)
{
	a->states = calloc(a->count + 1, sizeof *a->states);
	for (size_t i = 0; i < a->count; i++)
		replay_entry(a, i);
	for (uint32_t i = 0; i < a->o->workers; i++)
		for (uint32_t life = 0; life < a->lives[i]; life++)
			check_journal(a, &a->journals[i][life]);
}

/* --- what is there ------------------------------------------------------------------------------------- */

static void check_all_pages(soak_audit *a, const pgs_txn_options *options, const char *what)
{
	pgs_error err = PGS_ERROR_INIT;
	uint8_t bytes[SIM_PAGE_SIZE];
	pgs_txn *txn;
	if (pgs_begin(&txn, a->db, options, &err) != PGS_OK)
		soak_fail("%s: %s", what, err.message);
	soak_txn t = {.base = pgs_txn_revision(txn), .page_read = UINT32_MAX};
	for (int i = 0; i < SIM_PAGES; i++) {
		if (pgs_read(txn, page_number(i), bytes) != PGS_OK)
			soak_fail("%s: %s", what, pgs_txn_error(txn)->message);
		t.read[i] = soak_hash(bytes, sizeof bytes);
	}
	check_view(a, &t);
	pgs_abort(txn);
}

typedef struct names {
	char names[1024][64];
	size_t count;
} names;

static int see_snapshot(void *ctx, const pgs_snapshot_info *info)
{
	names *n = ctx;
	if (n->count < sizeof n->names / sizeof n->names[0])
		snprintf(n->names[n->count++], sizeof n->names[0], "%.*s", (int)info->name_size, (const char *)info->name);
	return 0;
}

/* Those that were left are what they were. */
static void check_snapshots(soak_audit *a)
{
	static names n;
	pgs_error err = PGS_ERROR_INIT;
	if (pgs_snapshot_list(a->db, see_snapshot, &n, &err) != PGS_OK)
		soak_fail("listing snapshots: %s", err.message);
	for (size_t i = 0; i < n.count; i++) {
		pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
		options.at_snapshot = n.names[i];
		options.at_snapshot_size = strlen(n.names[i]);
		check_all_pages(a, &options, "a named snapshot");
	}
	a->snapshots = n.count;
}

static void check_deep(soak_audit *a)
{
	pgs_verify_options options = PGS_VERIFY_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.deep = true;
	if (pgs_verify(a->db, &options, NULL, &err) != PGS_OK)
		soak_fail("pgs_verify: %s", err.message);
}

/* Everything that nobody needs any more is collected; what is left is what it was. */
static void collect(soak_audit *a)
{
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.all = true;
	options.retention_ms = PGS_RETENTION_NONE;
	options.budget_ms = 60000;
	if (pgs_maintain(a->db, &options, NULL, &err) != PGS_OK)
		soak_fail("pgs_maintain: %s", err.message);
}

static void free_audit(soak_audit *a)
{
	for (uint32_t i = 0; i < a->o->workers; i++) {
		for (uint32_t life = 0; life < a->lives[i]; life++) {
			free(a->journals[i][life].txns);
			free(a->journals[i][life].outcomes);
		}
		free(a->journals[i]);
	}
	free(a->journals);
	free(a->states);
	free(a->entries);
	free(a);
}

void soak_audit_end(soak_audit *a, const uint32_t *lives)
{
	pgs_txn_options latest = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	uint64_t end = pgs__now_ms() + 60000;
	a->lives = lives;
	if (pgs_stat(a->db, &stat, &err) != PGS_OK)
		soak_fail("pgs_stat: %s", err.message);
	while (a->seen < stat.revision && pgs__now_ms() < end)
		soak_audit_follow(a);
	if (a->seen != stat.revision || a->count != stat.commit_count)
		soak_fail("the changelog has %zu commits up to %" PRIu64 ", the database %" PRIu64 " up to %" PRIu64, a->count,
			a->seen, stat.commit_count, stat.revision);
	read_journals(a);
	replay(a);
	check_all_pages(a, &latest, "the latest revision");
	check_snapshots(a);
	check_deep(a);
	pgs_unpin_revision(a->pin);
	collect(a);
	check_deep(a);
	check_all_pages(a, &latest, "the latest revision, collected");
	check_snapshots(a);
	printf("%" PRIu64 " transactions sent: %zu commits, %" PRIu64 " refused, %" PRIu64 " that nobody was told of; %" PRIu64
	       " views, %" PRIu64 " snapshots left\n",
		a->transactions, a->count, a->conflicts, a->unknown, a->views, a->snapshots);
	pgs_db_close(a->db);
	if (pgs_db_drop(a->store, SOAK_DB, strlen(SOAK_DB), &err) != PGS_OK)
		soak_fail("pgs_db_drop: %s", err.message);
	pgs_close(a->store);
	free_audit(a);
}
