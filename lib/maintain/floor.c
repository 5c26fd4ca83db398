/* The floor: which history is given up.
 *
 *     look at everything as of P ─→ note a sample ─→ choose F ─→ claim ─→ publish: one transaction that compares all
 *                                                                         that F was chosen by
 *
 * Collection is safe by these rules alone (invariant 7); samples and clocks only say how long history is kept.
 *
 *   F >= the mod revision of g     so that every commit after F saw the floor before it: that becomes F0, the previous
 *                                  floor, and what was born at or before F0 and is not live at F is garbage
 *   F <= every live pin, and P     P being the revision at which pins were read
 *   g is unchanged, and nothing was put in r/ and s/ since P, when (F, F0) is put
 *
 * When someone else compacted the KV to C above the floor, history below C is gone anyway: (C, F0) is published with
 * the same F0. That is safe without the first rule, since the commits after C are among those after the old floor.
 *
 * When it is worth it. Garbage goes when its birth is <= F0, so it takes two publications after the last change
 * until all can go; from then on publishing changes nothing, and a store at rest is not written to. So: only if
 * something in the database is younger than F0, or other databases moved the KV by IDLE_REVISIONS since (a floor that
 * stands still keeps the whole KV from being compacted), or options.all: blobs that were never registered leave no
 * key behind. With options.all and no retention, one call publishes twice.
 */
#include "maintain/jobs.h"

#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define IDLE_REVISIONS 10000
#define SAMPLES_PER_RETENTION 16
#define SAMPLE_SPACING_MIN_MS 1000
#define QUOTA_PERCENT_MORE 20 /* past the percentage, no history is kept at all */
#define TRIES 3
#define KEYS_PAGE 1000

/* A pin as it stands in the KV. */
typedef struct standing_pin {
	pgs__lease lease; /* first: judged through pointers to it */
	uint64_t revision;
} standing_pin;

/* What is known as of `revision`. */
typedef struct look {
	pgs__worker *w;
	uint64_t revision;       /* P */
	uint64_t created;        /* revision at which the database came to be */
	uint64_t written;        /* of the last commit, truncation, pack or folding */
	bool changed;            /* something in the database is younger than F0 */
	pgs__samples samples;
	uint64_t samples_revision; /* mod revision of v; 0 = absent */
	bool samples_newer;      /* of a version we do not know: left alone */
	standing_pin *pins;
	size_t pin_count, pin_capacity;
	pgs_kv_stat stat;
} look;

/* --- retention ------------------------------------------------------------------------ */

static uint64_t retention_wanted(const pgs__worker *w)
{
	return w->options.retention_ms == PGS_RETENTION_NONE ? 0 : w->options.retention_ms;
}

/* Cut short when the KV fills up. */
static uint64_t retention_now(const look *l)
{
	uint64_t wanted = retention_wanted(l->w), percent = l->w->options.quota_percent;
	uint64_t part = l->stat.quota_bytes / 100, filled = pgs__room_filled(l->w->db->store, &l->stat);
	if (l->stat.quota_bytes == 0 || percent == 0 || filled < part * percent)
		return wanted;
	return filled < part * (percent + QUOTA_PERCENT_MORE) ? wanted / 4 : 0;
}

static int64_t spacing(const pgs__worker *w)
{
	uint64_t ms = retention_wanted(w) / SAMPLES_PER_RETENTION;
	return ms < SAMPLE_SPACING_MIN_MS ? SAMPLE_SPACING_MIN_MS : ms < INT64_MAX / 4 ? (int64_t)ms : INT64_MAX / 4;
}

/* The index of the newest sample at or before now - retention, or SIZE_MAX. */
static size_t sample_before(const pgs__samples *samples, int64_t now, uint64_t retention)
{
	size_t i = samples->count;
	while (i > 0) {
		int64_t time = samples->list[--i].time_ms;
		if (time <= now && (uint64_t)now - (uint64_t)time >= retention)
			return i;
	}
	return SIZE_MAX;
}

static void drop_oldest(pgs__samples *samples, size_t count)
{
	samples->count -= count;
	memmove(samples->list, samples->list + count, samples->count * sizeof *samples->list);
}

/* Add a sample if one is due. A clock that went back leaves samples in the future: they are forgotten, past the little
 * by which clocks of several machines may differ. One that went ahead and stays there shortens history, once. */
static bool add_sample(const look *l, pgs__samples *samples, int64_t now)
{
	int64_t gap = spacing(l->w);
	while (samples->count && samples->list[samples->count - 1].time_ms > now &&
	       samples->list[samples->count - 1].time_ms - now > gap)
		samples->count--;
	if (samples->count) {
		int64_t newest = samples->list[samples->count - 1].time_ms;
		if (now - newest < gap || samples->list[samples->count - 1].revision >= l->revision)
			return false;
	}
	size_t needed = sample_before(samples, now, retention_wanted(l->w));
	if (needed != SIZE_MAX)
		drop_oldest(samples, needed);
	if (samples->count == PGS__SAMPLES_MAX)
		drop_oldest(samples, 1);
	samples->list[samples->count].time_ms = now;
	samples->list[samples->count++].revision = l->revision;
	return true;
}

/* --- looking ---------------------------------------------------------------------------- */

static int missing(const pgs__worker *w, const pgs_kv_txn *txn, int m, int g, int t, int z)
{
	if (!pgs__got(txn, m))
		return pgs__error(w->err, PGS_ENOTFOUND, "database %s was dropped", w->db->name);
	if (pgs__got(txn, g) && pgs__got(txn, t) && pgs__got(txn, z))
		return PGS_OK;
	return pgs__error(w->err, PGS_ECORRUPT, "database %s lacks a key it must have (%s)", w->db->name,
			  !pgs__got(txn, g)   ? "g, floor"
			  : !pgs__got(txn, t) ? "t, last write"
					      : "z, structure epoch");
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static int take_numbers(look *l, const pgs_kv_txn *txn)
{
	enum { GET_M, GET_G, GET_T, GET_Z, GET_V, GET_E };
	pgs__worker *w = l->w;
	uint64_t page_count;
	int result = missing(w, txn, GET_M, GET_G, GET_T, GET_Z);
	if (result != PGS_OK)
		return result;
	const pgs_kv_pair *g = pgs__got(txn, GET_G), *v = pgs__got(txn, GET_V);
	if (pgs__floor_decode(g->value, &w->floor) != PGS_OK)
		return pgs__error(w->err, PGS_ECORRUPT, "database %s: the value of key g, floor, is damaged",
				  w->db->name);
	w->floor_revision = g->mod_revision;
	l->revision = txn->revision;
	l->created = pgs__got(txn, GET_M)->create_revision;
	l->written = later(pgs__got(txn, GET_T)->mod_revision, pgs__got(txn, GET_Z)->mod_revision);
	if (pgs__got(txn, GET_E) && pgs__number_decode(pgs__got(txn, GET_E)->value, &page_count) == PGS_OK)
		pgs__db_note_space(w->db, page_count, pgs__got(txn, GET_T)->version);
	if (!v)
		return PGS_OK;
	l->samples_revision = v->mod_revision;
	result = pgs__samples_decode(v->value, &l->samples);
	l->samples_newer = result == PGS_EVERSION;
	if (result == PGS_ECORRUPT) /* costs no more than some history kept longer */
		pgs__log(w->db->store, PGS_LOG_WARN, "database %s: the samples of time (key v) are damaged; begun anew",
			 w->db->name);
	return PGS_OK;
}

static int read_numbers(look *l)
{
	const pgs__backend *backend = pgs__db_backend(l->w->db);
	static const char which[] = {'m', 'g', 't', 'z', 'v', 'e'};
	pgs__key keys[sizeof which];
	pgs_kv_op gets[sizeof which];
	for (size_t i = 0; i < sizeof which; i++) {
		keys[i] = pgs__key_single(pgs__db_prefix(l->w->db), which[i]);
		gets[i] = pgs__op_get(pgs__key_slice(&keys[i]), 0);
	}
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend, &txn, gets, sizeof which, pgs__worker_deadline(l->w), l->w->err);
	if (result == PGS_OK)
		result = take_numbers(l, &txn);
	pgs__kv_release(backend, &txn, 1);
	return result;
}

static int look_at_age(void *ctx, const pgs_kv_pair *pair)
{
	look *l = ctx;
	l->changed |= pair->mod_revision > l->w->floor.previous;
	return PGS_OK;
}

/* Contents put ahead of a commit, files, and what waits to be removed: is any younger than F0? Births are not: they
 * are as old as the c/ key or the l/ key that brought them. This reads the keys of a database in which nothing goes on;
 * asking for young ones only would have the KV look through all of them at once. */
static int read_changed(look *l)
{
	static const char kinds[] = {'c', 'l', 'd'};
	const pgs__key_space space = pgs__db_space(l->w->db);
	int result = PGS_OK;
	l->changed = l->written > l->w->floor.previous;
	for (size_t i = 0; result == PGS_OK && !l->changed && i < sizeof kinds; i++) {
		pgs__walk walk;
		pgs__walk_kind(&walk, pgs__db_prefix(l->w->db), kinds[i], &space, KEYS_PAGE);
		walk.keys_only = true;
		while (result == PGS_OK && !l->changed && pgs__walk_more(&walk))
			result = pgs__walk_pairs(&walk, pgs__db_backend(l->w->db), false, look_at_age, l,
						 pgs__worker_deadline(l->w), l->w->err);
	}
	return result;
}

static int collect_pin(void *ctx, const pgs_kv_pair *pair)
{
	look *l = ctx;
	pgs__pin_value value;
	char text[128];
	int result = pair->key.size <= PGS__KEY_MAX ? pgs__pin_decode(pair->value, &value) : PGS_ECORRUPT;
	if (result != PGS_OK) /* what it keeps is not known, so nothing can go */
		return pgs__error(l->w->err, result, "database %s: the value of pin %s is %s; the floor stays",
				  l->w->db->name, pgs__printable(text, sizeof text, pair->key.data, pair->key.size),
				  result == PGS_EVERSION ? "of a newer version" : "damaged");
	if (pgs__grow(&l->pins, &l->pin_capacity, l->pin_count + 1, sizeof *l->pins) != PGS_OK)
		return pgs__error_nomem(l->w->err, "pins");
	standing_pin *p = &l->pins[l->pin_count++];
	*p = (standing_pin){.revision = value.revision,
			    .lease = {.create_revision = pair->create_revision,
				      .mod_revision = pair->mod_revision,
				      .holder = value.holder,
				      .key.size = (uint16_t)pair->key.size}};
	memcpy(p->lease.key.bytes, pair->key.data, pair->key.size);
	return PGS_OK;
}

static int judge_pins(look *l, uint64_t asked_ms)
{
	pgs__lease **leases = pgs__calloc(l->pin_count + 1, sizeof *leases);
	if (!leases)
		return pgs__error_nomem(l->w->err, "pins");
	for (size_t i = 0; i < l->pin_count; i++)
		leases[i] = &l->pins[i].lease;
	pgs__observed_judge(&l->w->db->seen->pins, leases, l->pin_count, asked_ms);
	pgs__free(leases);
	return PGS_OK;
}

/* Delete dead pins, a few at a time, if they are as they were. They do not hold the floor either way: a holder that
 * wakes compares it. So nothing is lost if this fails. */
static void delete_dead(look *l)
{
	enum { AT_ONCE = 64 };
	const pgs__backend *backend = pgs__db_backend(l->w->db);
	size_t room = pgs__step_room(l->w) < AT_ONCE ? pgs__step_room(l->w) : AT_ONCE;
	for (size_t at = 0; at < l->pin_count;) {
		pgs_kv_compare compares[AT_ONCE];
		pgs_kv_op ops[AT_ONCE];
		size_t count = 0;
		for (; at < l->pin_count && count < room; at++) {
			const pgs__lease *lease = &l->pins[at].lease;
			if (!lease->dead)
				continue;
			compares[count] = pgs__if_mod(pgs__key_slice(&lease->key), PGS_KV_EQUAL, lease->mod_revision);
			ops[count++] = pgs__op_delete(pgs__key_slice(&lease->key), (pgs_slice){0});
		}
		if (count == 0)
			return;
		pgs_kv_txn txn = {
			.compares = compares, .compare_count = count, .success = ops, .success_count = count};
		backend->kv->vtable->txn(backend->kv, &txn, 1, pgs__worker_deadline(l->w), NULL);
		backend->kv->vtable->release(backend->kv, &txn, 1);
		pgs__log(l->w->db->store, PGS_LOG_INFO, "database %s: removed %zu pins of dead holders",
			 l->w->db->name, count);
	}
}

static int look_around(look *l)
{
	const pgs__backend *backend = pgs__db_backend(l->w->db);
	const uint8_t *prefix = pgs__db_prefix(l->w->db);
	pgs__key from = pgs__key_kind(prefix, 'r'), end = pgs__key_kind_end(prefix, 'r');
	uint64_t asked = pgs__now_ms();
	int result = read_numbers(l);
	if (result == PGS_OK)
		result = read_changed(l);
	if (result == PGS_OK)
		result = pgs__kv_read_range(backend, &from, &end, &l->revision, collect_pin, l,
					    pgs__worker_deadline(l->w), l->w->err);
	if (result == PGS_OK)
		result = judge_pins(l, asked);
	if (result == PGS_OK)
		result = backend->kv->vtable->stat(backend->kv, &l->stat, pgs__worker_deadline(l->w), l->w->err);
	return result;
}

/* --- choosing ------------------------------------------------------------------------------ */

/* Someone compacted the KV to a revision above the floor at which there was something of ours. */
static bool compacted_above(const look *l)
{
	return l->stat.compacted_revision > l->w->floor.floor && l->stat.compacted_revision > l->created &&
	       l->stat.compacted_revision <= l->revision;
}

static bool worth_it(const look *l)
{
	return l->changed || l->w->options.all || compacted_above(l) ||
	       l->revision - l->w->floor.floor > IDLE_REVISIONS;
}

/* What retention asks for; 0 = nothing yet. */
static uint64_t candidate(const look *l)
{
	uint64_t retention = retention_now(l);
	if (retention == 0)
		return l->revision;
	size_t i = sample_before(&l->samples, pgs__unix_ms(), retention);
	uint64_t revision = i == SIZE_MAX ? 0 : l->samples.list[i].revision;
	return revision < l->revision ? revision : l->revision;
}

/* Pins below `lost` are so for ever, and hold nothing. */
static uint64_t lowest_pin(const look *l, uint64_t lost)
{
	uint64_t lowest = UINT64_MAX;
	for (size_t i = 0; !PGS__BUG(PIN_IGNORED) && i < l->pin_count; i++)
		if (!l->pins[i].lease.dead && l->pins[i].revision >= lost && l->pins[i].revision < lowest)
			lowest = l->pins[i].revision;
	return lowest;
}

/* A pin holds the floor back. */
static void note_pins(const look *l, uint64_t floor)
{
	for (size_t i = 0; i < l->pin_count; i++)
		if (!l->pins[i].lease.dead && l->pins[i].revision < floor)
			pgs__worker_hindered(l->w, &l->pins[i].lease);
}

/* False: the floor stays. */
static bool choose(const look *l, pgs__floor *out)
{
	const pgs__floor now = l->w->floor;
	uint64_t least = compacted_above(l) ? l->stat.compacted_revision : now.floor, pin = lowest_pin(l, least);
	uint64_t floor = candidate(l);
	note_pins(l, floor);
	floor = later(floor < pin ? floor : pin, least);
	if (floor <= now.floor)
		return false;
	if (floor >= l->w->floor_revision || PGS__BUG(FLOOR_BELOW_PUBLISH))
		*out = (pgs__floor){floor, now.floor};
	else
		*out = (pgs__floor){least, now.previous};
	return out->floor > now.floor;
}

static uint64_t count_lost(const look *l, const pgs__floor *next)
{
	uint64_t count = 0;
	for (size_t i = 0; i < l->pin_count; i++)
		count += !l->pins[i].lease.dead && l->pins[i].revision >= l->w->floor.floor &&
			 l->pins[i].revision < next->floor;
	return count;
}

/* --- writing -------------------------------------------------------------------------------- */

/* Two workers may add one at the same time: one of them is enough. */
static int put_samples(look *l, const pgs__samples *samples)
{
	const pgs__backend *backend = pgs__db_backend(l->w->db);
	const uint8_t *prefix = pgs__db_prefix(l->w->db);
	pgs__key v = pgs__key_single(prefix, 'v'), m = pgs__key_single(prefix, 'm');
	pgs__buffer value = {0};
	pgs__samples_encode(samples, &value);
	const pgs_kv_compare compares[] = {
		pgs__if_mod(pgs__key_slice(&v), PGS_KV_EQUAL, l->samples_revision),
		pgs__if_exists(pgs__key_slice(&m)),
	};
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&v), pgs__buffer_slice(&value));
	pgs_kv_txn txn = {.compares = compares, .compare_count = 2, .success = &put, .success_count = 1};
	int result = value.failed ? pgs__error_nomem(l->w->err, "samples") : PGS_OK;
	if (result == PGS_OK) {
		result = backend->kv->vtable->txn(backend->kv, &txn, 1, pgs__worker_deadline(l->w), l->w->err);
		backend->kv->vtable->release(backend->kv, &txn, 1);
	}
	pgs__buffer_free(&value);
	return result == PGS_EUNKNOWN ? PGS_OK : result; /* the next run sees whether it is there */
}

/* No retention needs no samples. */
static int note_time(look *l)
{
	pgs__samples next = l->samples;
	if (retention_wanted(l->w) == 0 || l->samples_newer || !add_sample(l, &next, pgs__unix_ms()))
		return PGS_OK;
	return put_samples(l, &next);
}

static pgs_kv_compare none_put_since(const pgs__key *from, const pgs__key *end, uint64_t revision)
{
	return (pgs_kv_compare){.key = pgs__key_slice(from),
				.range_end = pgs__key_slice(end),
				.target = PGS_KV_MOD,
				.relation = PGS_KV_LESS,
				.number = revision + 1};
}

static int send_floor(look *l, const pgs__claim *claim, const pgs__floor *next, pgs__step *step)
{
	const uint8_t *prefix = pgs__db_prefix(l->w->db);
	pgs__key g = pgs__key_single(prefix, 'g');
	pgs__key r = pgs__key_kind(prefix, 'r'), r_end = pgs__key_kind_end(prefix, 'r');
	pgs__key s = pgs__key_kind(prefix, 's'), s_end = pgs__key_kind_end(prefix, 's');
	pgs__buffer value = {0};
	pgs__floor_encode(next, &value);
	const pgs_kv_compare compares[] = {
		pgs__if_mod(pgs__key_slice(&g), PGS_KV_EQUAL, l->w->floor_revision),
		none_put_since(&s, &s_end, l->revision),
		none_put_since(&r, &r_end, l->revision),
	};
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&g), pgs__buffer_slice(&value));
	*step = (pgs__step){compares, PGS__BUG(PIN_IGNORED) ? 2 : 3, &put, 1, .base_revision = l->revision};
	int result = value.failed ? pgs__error_nomem(l->w->err, "floor") : pgs__step_run(l->w, claim, step);
	pgs__buffer_free(&value);
	return result;
}

static void report_lost(look *l, uint64_t lost)
{
	l->w->report->lost_pins += lost;
	if (lost)
		pgs__log(l->w->db->store, PGS_LOG_WARN,
			 "database %s: someone else compacted the KV to revision %llu; %llu pins below it are lost",
			 l->w->db->name, (unsigned long long)l->stat.compacted_revision, (unsigned long long)lost);
}

/* *published: the floor is `next` now. PGS_OK without it: something moved, or another worker is at it. */
static int publish(look *l, const pgs__floor *next, bool *published)
{
	const pgs__scope scope = {.jobs = PGS__JOB_FLOOR};
	pgs__worker *w = l->w;
	uint64_t lost = count_lost(l, next);
	pgs__claim claim;
	pgs__step step;
	int result = pgs__claim_take(w, &scope, &claim);
	if (result != PGS_OK)
		return result;
	result = send_floor(l, &claim, next, &step);
	pgs__claim_release(w, &claim);
	if (result == PGS_OK && step.applied) {
		w->floor = *next;
		w->floor_revision = step.revision;
	} else if (result == PGS_OK) {
		result = pgs__worker_read_floor(w);
	}
	*published = result == PGS_OK && w->floor.floor == next->floor && w->floor.previous == next->previous;
	if (*published)
		report_lost(l, lost);
	return result;
}

/* One look, and what follows from it. *again: others moved what it was based on. */
static int attempt(look *l, bool *published, bool *again)
{
	pgs__floor next;
	int result = look_around(l);
	if (result == PGS_EOLDREV) { /* another worker's floor passed P, and the KV was compacted to it */
		*again = true;
		return PGS_OK;
	}
	if (result != PGS_OK || l->w->options.dry_run)
		return result;
	delete_dead(l);
	if (!worth_it(l))
		return PGS_OK;
	result = note_time(l);
	if (result != PGS_OK || !choose(l, &next))
		return result;
	result = publish(l, &next, published);
	*again = result == PGS_OK && !*published;
	return result;
}

static int raise_floor(pgs__worker *w, bool *published)
{
	bool again = true;
	int result = PGS_OK;
	*published = false;
	for (int i = 0; again && i < TRIES; i++) {
		look l = {.w = w};
		again = false;
		result = attempt(&l, published, &again);
		pgs__free(l.pins);
	}
	w->report->busy |= again || result == PGS_EBUSY;
	return result == PGS_EBUSY ? PGS_OK : result;
}

int pgs__job_floor(pgs__worker *w)
{
	bool twice = w->options.all && retention_wanted(w) == 0, published = false;
	int result = raise_floor(w, &published);
	if (result == PGS_OK && twice && published)
		result = raise_floor(w, &published);
	w->report->floor_revision = w->floor.floor;
	return result;
}
