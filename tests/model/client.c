/* What clients do: transactions, reads of history, questions about outcomes; and what they check at once. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "txn/txn.h"

#define NUMBER(n) ((unsigned long long)(n))

static void count_errors(sim_client *c, const char *what, int result)
{
	trace_note(1000 + (uint64_t)c->index, (uint64_t)(int64_t)result, 0);
	trace("%s -> %s", what, result == PGS_OK ? "ok" : pgs_error_name(result));
}

void client_expect_error(sim_client *c, const char *what, int result, const pgs_error *err, uint64_t faults_before)
{
	count_errors(c, what, result);
	if (c->dead || result == PGS_ETIMEOUT || result == PGS_EBUSY)
		return;
	if ((result == PGS_EIO || result == PGS_EUNKNOWN) && c->faults > faults_before)
		return;
	if (result == PGS_ENOTFOUND && c->model && c->model->dropped)
		return;
	sim_fail("%s: %s, for which there was no reason: %s", what, pgs_error_name(result), err->message);
}

/* May a read of this revision say that it is gone? */
static bool may_be_gone(const sim_db *db, uint64_t revision)
{
	return db->floor > revision || (db->dropped && world.compacted > revision);
}

/* --- connecting --------------------------------------------------------------------------- */

static void set_db_options(pgs_db_options *o)
{
	*o = (pgs_db_options)PGS_DB_OPTIONS_INIT;
	o->page_size_bytes = SIM_PAGE_SIZE;
	o->order = world.config.order;
	o->cache_bytes = world.config.cache_bytes;
	o->write_buffer_bytes = world.config.write_buffer_bytes;
	o->delta_max_divisor = world.config.delta_divisor;
	o->maintain = &world.config.maintain;
}

bool client_open_db(sim_client *c, int database)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_options o;
	char name[8];
	uint64_t faults = c->faults;
	set_db_options(&o);
	snprintf(name, sizeof name, "db%d", database);
	c->doing = "open";
	c->model = NULL;
	int result = pgs_db_open(&c->db, c->store, name, strlen(name), &o, &err);
	if (result == PGS_ENOTFOUND && !c->dead)
		result = pgs_db_create(&c->db, c->store, name, strlen(name), &o, &err);
	if (result != PGS_OK && result != PGS_EEXIST && result != PGS_ENOTFOUND) {
		client_expect_error(c, "opening a database", result, &err, faults);
		return false;
	}
	if (result != PGS_OK)
		return false; /* another was at it, too */
	c->model = model_db(pgs__db_prefix(c->db));
	if (!c->model)
		sim_fail("a database is open that was never created");
	c->database = database;
	return true;
}

void client_close_db(sim_client *c)
{
	client_drop_pin(c);
	pgs_db_close(c->db);
	c->acked = 0; /* the handle knew it */
	c->db = NULL;
	c->model = NULL;
}

bool client_connect_store(sim_client *c)
{
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_blob *blob;
	uint64_t faults = c->faults;
	o.timeout_ms = c->quiet ? 600000 : world.config.timeout_ms;
	o.maintenance = c->atomic ? PGS_MAINTENANCE_MANUAL : world.config.by_writers;
	o.kv_history = world.config.kv_history;
	c->doing = "connect";
	if (world.config.cache && !c->atomic && rng_chance(&c->work, world.config.cache, 1000))
		o.cache_path = machine_of(c)->path;
	o.cache_size_bytes = o.cache_path ? SIM_CACHE_BYTES : 0;
	c->link = link_new(c, &kv, &blob);
	int result = pgs_open_with(&c->store, kv, blob, &o, &err);
	if (result != PGS_OK)
		client_expect_error(c, "opening the store", result, &err, faults);
	else
		machine_join(c);
	return result == PGS_OK;
}

bool client_connect(sim_client *c)
{
	if (!c->store && !client_connect_store(c))
		return false;
	return c->db || client_open_db(c, (int)rng_below(&c->work, world.config.databases));
}

/* Open a database if it is there. */
bool client_find_db(sim_client *c, int database)
{
	pgs_db_options o;
	char name[16];
	set_db_options(&o);
	snprintf(name, sizeof name, "db%d", database);
	if (pgs_db_open(&c->db, c->store, name, strlen(name), &o, NULL) != PGS_OK)
		return false;
	c->model = model_db(pgs__db_prefix(c->db));
	c->database = database;
	return true;
}

void client_disconnect(sim_client *c)
{
	client_close_db(c);
	machine_leave(c);
	pgs_close(c->store);
	c->store = NULL;
	c->link = NULL;
}

/* --- reading and checking -------------------------------------------------------------------- */

/* Which states had these bytes on the page? */
static const char *explain_page(const sim_db *db, int page, const uint8_t *bytes)
{
	static char text[200];
	size_t used = 0;
	text[0] = '\0';
	for (size_t i = 0; i < db->count && used < 150; i++)
		if ((i == 0 || db->states[i].pages[page] != db->states[i - 1].pages[page]) &&
			memcmp(content_bytes(db->states[i].pages[page]), bytes, SIM_PAGE_SIZE) == 0)
			used += (size_t)snprintf(text + used, sizeof text - used, " %llu",
				NUMBER(db->states[i].revision));
	return used ? text : " none";
}

static void check_page(const sim_db *db, int page, const uint8_t *bytes, sim_content expected, uint64_t revision)
{
	if (memcmp(bytes, content_bytes(expected), SIM_PAGE_SIZE) == 0)
		return;
	sim_fail("page %llu at revision %llu is not what was written (content %u); commits that left it as it was read:%s",
		NUMBER(page_number(page)), NUMBER(revision), expected, explain_page(db, page, bytes));
}

/* A failed call on a transaction at `kv_revision`. */
static void expect_read_error(sim_client *c, const char *what, int result, const pgs_error *err, uint64_t kv_revision,
	uint64_t faults)
{
	if (result == PGS_EOLDREV && may_be_gone(c->model, kv_revision))
		count_errors(c, what, result);
	else
		client_expect_error(c, what, result, err, faults);
}

static int read_pages(sim_client *c, pgs_txn *t, const int *pages, size_t count, uint8_t (*out)[SIM_PAGE_SIZE])
{
	uint64_t numbers[SIM_PAGES];
	void *dst[SIM_PAGES];
	for (size_t i = 0; i < count; i++) {
		numbers[i] = page_number(pages[i]);
		dst[i] = out[i];
	}
	if (count > 1 || rng_below(&c->work, 4))
		return count == 1 ? pgs_read(t, numbers[0], dst[0]) : pgs_read_many(t, numbers, count, dst);
	const void *pinned;
	int result = pgs_pin(t, numbers[0], &pinned);
	if (result != PGS_OK)
		return result;
	memcpy(out[0], pinned, SIM_PAGE_SIZE);
	pgs_unpin(t, pinned);
	return PGS_OK;
}

static size_t pick_pages(sim_client *c, int *out, size_t most)
{
	size_t count = 1 + rng_below(&c->work, most);
	int first = (int)rng_below(&c->work, SIM_PAGES);
	bool run = rng_below(&c->work, 2);
	for (size_t i = 0; i < count; i++)
		out[i] = run ? (first + (int)i) % SIM_PAGES : (int)rng_below(&c->work, world.config.hot);
	return count;
}

static int read_attr(pgs_txn *t, int attr, uint32_t expected, uint64_t revision)
{
	uint8_t value[64], wanted[64];
	size_t size = 0, wanted_size = 0;
	int result = pgs_attr_get(t, attr_name(attr), strlen(attr_name(attr)), value, sizeof value, &size);
	if (result != PGS_OK && (result != PGS_ENOTFOUND || pgs_txn_error(t)->code != PGS_ENOTFOUND))
		return result;
	if (result == PGS_ENOTFOUND && world.current->model->dropped)
		return result; /* the attribute, or the database? */
	attr_value(expected, wanted, &wanted_size);
	bool same = expected == 0 ? result == PGS_ENOTFOUND
				  : result == PGS_OK && size == wanted_size && memcmp(value, wanted, size) == 0;
	if (!same)
		sim_fail("attribute %s at revision %llu is not what was set (%u, %s)", attr_name(attr), NUMBER(revision),
			expected, result == PGS_OK ? "another value was read" : "none was read");
	return PGS_OK;
}

/* Everything a read-only transaction shows, or a part, against a state of the model. */
static int check_pages(sim_client *c, pgs_txn *t, const sim_state *given)
{
	uint8_t bytes[SIM_PAGES][SIM_PAGE_SIZE];
	int pages[SIM_PAGES];
	sim_state state = *given; /* states move */
	size_t count = SIM_PAGES;
	uint64_t extent;
	for (int i = 0; i < SIM_PAGES; i++)
		pages[i] = i;
	if (!c->quiet && rng_below(&c->work, 3))
		count = pick_pages(c, pages, 6);
	int result = read_pages(c, t, pages, count, bytes);
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		check_page(c->model, pages[i], bytes[i], state.pages[pages[i]], state.revision);
	int attr = (int)rng_below(&c->work, SIM_ATTRS);
	if (result == PGS_OK)
		result = read_attr(t, attr, state.attrs[attr], state.revision);
	if (result != PGS_OK)
		return result;
	pgs_page_count(t, &extent);
	if (extent != state.extent)
		sim_fail("the page count at revision %llu is %llu, not %llu", NUMBER(state.revision), NUMBER(extent),
			NUMBER(state.extent));
	return PGS_OK;
}

void client_check_pages(sim_client *c, pgs_txn *t, const sim_state *given, uint64_t kv_revision, uint64_t faults)
{
	int result = check_pages(c, t, given);
	if (result != PGS_OK)
		expect_read_error(c, "reading", result, pgs_txn_error(t), kv_revision, faults);
}

void client_check_snapshot(sim_client *c, pgs_txn *t, const sim_state *given, const sim_snapshot *s, uint64_t drops,
	uint64_t faults)
{
	int result = check_pages(c, t, given);
	if ((result == PGS_EOLDREV || result == PGS_ENOTFOUND) && s->drops != drops)
		return;
	if (result != PGS_OK)
		client_expect_error(c, "reading a named snapshot", result, pgs_txn_error(t), faults);
}

/* --- transactions that write -------------------------------------------------------------------- */

typedef struct running {
	sim_client *c;
	pgs_txn *t;
	sim_txn *m;
	uint64_t faults;
	bool fat;
} running;

static bool begin(sim_client *c, running *r)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t floor = c->model->floor;
	sim_promise promise;
	bool turn = world.config.turns && rng_chance(&c->work, world.config.turns, 1000);
	promise_draw(c, &promise, turn ? 0 : world.config.fresh);
	pgs_txn_options o = promise.options;
	*r = (running){.c = c, .faults = c->faults};
	o.write = true;
	o.isolation = rng_below(&c->work, 4) ? PGS_SERIALIZABLE : PGS_SNAPSHOT;
	if (turn)
		o.lock = rng_below(&c->work, 2) ? PGS_LOCK_WAIT : PGS_LOCK_TRY;
	int result = pgs_begin(&r->t, c->db, &o, &err);
	if (result == PGS_EOLDREV && c->model->floor > floor)
		return false; /* overtaken within the call */
	if (result != PGS_OK) {
		client_expect_error(c, "begin", result, &err, r->faults);
		return false;
	}
	uint64_t revision = pgs_txn_revision(r->t);
	sim_state *base = model_at(c->model, revision);
	if (!base || base->revision != revision)
		sim_fail("a transaction begins at revision %llu, where no commit is", NUMBER(revision));
	if (c->dead) {
		pgs_abort(r->t);
		return false;
	}
	bool misled = o.lock && c->model->turn != c->link; /* its lock was broken, which its clock does not tell */
	if (!misled)
		promise_check(&promise, revision);
	r->m = model_txn_new();
	r->m->db = c->model;
	r->m->kv_revision = r->t->snapshot.kv_revision;
	r->m->base_index = (size_t)(base - c->model->states);
	r->m->isolation = o.isolation;
	r->m->has_turn = o.lock && c->model->turn == c->link;
	r->m->turns_broken = c->model->turns_broken;
	r->m->view = *base;
	trace("begins at revision %llu, %s", NUMBER(revision),
		o.isolation == PGS_SERIALIZABLE ? "serializable" : "snapshot isolation");
	return true;
}

/* False: the transaction cannot go on. */
static bool went_well(running *r, const char *what, int result)
{
	if (result == PGS_OK)
		return !r->c->dead;
	expect_read_error(r->c, what, result, pgs_txn_error(r->t), r->m->kv_revision, r->faults);
	return false;
}

static bool step_read(running *r, size_t most)
{
	uint8_t bytes[SIM_PAGES][SIM_PAGE_SIZE];
	int pages[SIM_PAGES];
	size_t count = pick_pages(r->c, pages, most);
	int result = read_pages(r->c, r->t, pages, count, bytes);
	for (size_t i = 0; result == PGS_OK && i < count; i++) {
		int page = pages[i];
		check_page(r->c->model, page, bytes[i], r->m->view.pages[page], pgs_txn_revision(r->t));
		if (!r->m->page_written[page] && page_number(page) < r->m->truncated_to)
			r->m->page_read[page] = true;
	}
	if (result == PGS_OK)
		trace("reads %zu pages from %llu on", count, NUMBER(page_number(pages[0])));
	return went_well(r, "read", result);
}

static bool write_page(running *r, int page)
{
	sim_txn *m = r->m;
	bool fat = r->fat && rng_below(&r->c->work, 10);
	sim_content old = m->view.pages[page];
	sim_content content = fat ? content_fat(&r->c->work, old) : content_new(&r->c->work, page, old);
	uint8_t bytes[SIM_PAGE_SIZE];
	memcpy(bytes, content_bytes(content), sizeof bytes); /* the table moves */
	if (!went_well(r, "write", pgs_write(r->t, page_number(page), bytes)))
		return false;
	m->page_written[page] = true;
	m->view.pages[page] = content;
	if (page_number(page) >= m->view.extent)
		m->view.extent = page_number(page) + 1;
	trace("writes page %llu: content %u", NUMBER(page_number(page)), content);
	return true;
}

static bool step_write(running *r, size_t most)
{
	int pages[SIM_PAGES];
	size_t count = pick_pages(r->c, pages, most);
	for (size_t i = 0; i < count; i++)
		if (!write_page(r, pages[i]))
			return false;
	return true;
}

static bool step_truncate(running *r)
{
	sim_txn *m = r->m;
	uint64_t count = page_number((int)rng_below(&r->c->work, SIM_PAGES));
	count += rng_below(&r->c->work, 2);
	if (!went_well(r, "truncate", pgs_truncate(r->t, count)))
		return false;
	for (int i = 0; i < SIM_PAGES; i++) {
		if (page_number(i) < count)
			continue;
		m->view.pages[i] = 0;
		m->page_written[i] = false;
	}
	if (count < r->c->model->states[m->base_index].extent && count < m->truncated_to)
		m->truncated_to = count;
	m->extent_set = true;
	m->view.extent = count;
	trace("truncates to %llu pages", NUMBER(count));
	return true;
}

static bool step_attr(running *r)
{
	sim_txn *m = r->m;
	int attr = (int)rng_below(&r->c->work, SIM_ATTRS);
	const char *name = attr_name(attr);
	if (rng_below(&r->c->work, 2)) {
		int result = read_attr(r->t, attr, m->view.attrs[attr], pgs_txn_revision(r->t));
		m->attr_read[attr] |= result == PGS_OK && !m->attr_written[attr];
		trace("reads attribute %s: %u", name, m->view.attrs[attr]);
		return went_well(r, "reading an attribute", result);
	}
	uint32_t value = rng_below(&r->c->work, 4) ? 1 + (uint32_t)rng_below(&r->c->work, 1u << 30) : 0;
	uint8_t bytes[64];
	size_t size;
	attr_value(value, bytes, &size);
	if (!went_well(r, "attribute", pgs_attr_set(r->t, name, strlen(name), value ? bytes : NULL, size)))
		return false;
	m->attr_written[attr] = true;
	m->view.attrs[attr] = value;
	trace("sets attribute %s: %u", name, value);
	return true;
}

static bool step_extent(running *r)
{
	uint64_t extent;
	pgs_page_count(r->t, &extent);
	r->m->extent_read |= !r->m->extent_set;
	if (extent != r->m->view.extent)
		sim_fail("the page count is %llu, not %llu", NUMBER(extent), NUMBER(r->m->view.extent));
	return true;
}

static bool pause_txn(running *r)
{
	sim_sleep_us(rng_below(&r->c->work, world.config.freeze_ms) * 1000);
	return !r->c->dead;
}

static bool step(running *r)
{
	uint64_t die = rng_below(&r->c->work, 100);
	if (rng_chance(&r->c->work, world.config.pause, 1000))
		return pause_txn(r);
	if (die < (world.config.blind ? 15 : 40))
		return step_read(r, world.config.touch);
	if (die < 80)
		return step_write(r, 1 + world.config.touch / 2);
	if (die < 90)
		return step_attr(r);
	if (die < 93)
		return step_truncate(r);
	if (die < 95)
		return step_extent(r);
	return step_read(r, die < 97 ? world.config.touch : SIM_PAGES);
}

static void commit(running *r)
{
	pgs_commit_options o = PGS_COMMIT_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision = 0, faults = r->c->faults;
	o.token = &r->m->token;
	if (rng_below(&r->c->work, 8) == 0) {
		o.note = "a note";
		o.note_size = 6;
	}
	r->m->sent = true;
	r->c->doing = "commit";
	int result = pgs_commit(r->t, &o, &revision, &err);
	trace_note(2000, (uint64_t)(int64_t)result, revision);
	if (r->c->dead) {
		r->m->returned = true;
		r->m->result = PGS_EUNKNOWN;
		return;
	}
	if (result == PGS_OK && r->m->committed)
		machine_note_ack(r->c, revision);
	trace("commit -> %s, revision %llu%s%s", result == PGS_OK ? "ok" : pgs_error_name(result), NUMBER(revision),
		result == PGS_OK ? "" : ": ", err.message);
	if (result == PGS_OK && r->m->committed && revision > r->c->acked)
		r->c->acked = revision;
	model_returned(r->m, result, revision, err.page, r->c->faults - faults);
	if (result == PGS_ECONFLICT && r->m->has_turn && r->m->turns_broken == r->m->db->turns_broken && !r->m->never)
		sim_fail("a transaction with the writer lock is refused: %s", err.message);
}

static void txn(sim_client *c)
{
	running r;
	if (!begin(c, &r))
		return;
	uint64_t steps = 1 + rng_below(&c->work, 8);
	bool good = true;
	for (uint64_t i = 0; good && i < steps; i++)
		good = step(&r);
	if (good && rng_below(&c->work, 12))
		commit(&r);
	else
		pgs_abort(r.t);
}

/* Those that take turns come in rows. */
static void op_txn(sim_client *c)
{
	do
		txn(c);
	while (world.config.turns && rng_below(&c->work, 4) && !c->dead && !c->model->dropped);
}

/* More than a limited KV takes in one go: a pack, or files. */
static void op_bulk(sim_client *c)
{
	running r;
	if (!begin(c, &r))
		return;
	r.fat = world.config.fat && rng_below(&c->work, 4);
	int first = r.fat ? 0 : (int)rng_below(&c->work, SIM_PAGES / 2);
	int count = r.fat ? SIM_PAGES : (int)rng_below(&c->work, SIM_PAGES);
	bool good = rng_below(&c->work, 4) || step_truncate(&r);
	for (int i = first; good && i < first + count && i < SIM_PAGES; i++)
		good = write_page(&r, i);
	if (good && rng_below(&c->work, 3) == 0)
		good = step_read(&r, SIM_PAGES);
	if (good)
		commit(&r);
	else
		pgs_abort(r.t);
}

/* A read set larger than what fits into compares, attributes too; and one small write. */
static void op_scan(sim_client *c)
{
	uint8_t bytes[SIM_PAGES][SIM_PAGE_SIZE];
	int pages[SIM_PAGES];
	running r;
	if (!begin(c, &r))
		return;
	for (int i = 0; i < SIM_PAGES; i++)
		pages[i] = i;
	int result = read_pages(c, r.t, pages, SIM_PAGES, bytes);
	for (int i = 0; result == PGS_OK && i < SIM_PAGES; i++) {
		check_page(c->model, i, bytes[i], r.m->view.pages[i], pgs_txn_revision(r.t));
		r.m->page_read[i] = true;
	}
	trace("reads all pages");
	bool good = went_well(&r, "read", result) && step_attr(&r) && (rng_below(&c->work, 2) || step_attr(&r)) &&
		    step_write(&r, 1);
	if (good)
		commit(&r);
	else
		pgs_abort(r.t);
}

/* Attributes and nothing else. */
static void op_attrs(sim_client *c)
{
	running r;
	if (!begin(c, &r))
		return;
	bool good = step_attr(&r) && step_attr(&r);
	if (good)
		commit(&r);
	else
		pgs_abort(r.t);
}

/* --- of several databases --------------------------------------------------------------------------- */

/* Two databases that a client has open, of which it is at one at a time. */
typedef struct side {
	pgs_db *db;
	sim_db *model;
	int database;
	uint64_t acked;
} side;

static side take_side(sim_client *c)
{
	return (side){c->db, c->model, c->database, c->acked};
}

static void go_to(sim_client *c, const side *s)
{
	c->db = s->db;
	c->model = s->model;
	c->database = s->database;
	c->acked = s->acked;
}

static void commit_both(sim_client *c, running *r)
{
	pgs_commit_options o[2] = {PGS_COMMIT_OPTIONS_INIT, PGS_COMMIT_OPTIONS_INIT};
	const pgs_commit_options *options[2] = {&o[0], &o[1]};
	pgs_txn *txns[2] = {r[0].t, r[1].t};
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision = 0, faults = c->faults;
	size_t which = 2;
	for (int i = 0; i < 2; i++) {
		o[i].token = &r[i].m->token;
		r[i].m->sent = true;
		r[i].m->with = r[!i].m;
	}
	c->doing = "commit both";
	int result = pgs_commit_many(txns, options, 2, &which, &revision, &err);
	trace_note(2000, (uint64_t)(int64_t)result, revision);
	for (int i = 0; i < 2 && c->dead; i++) {
		r[i].m->returned = true;
		r[i].m->result = PGS_EUNKNOWN;
	}
	if (c->dead)
		return;
	trace("commit of two databases -> %s, revision %llu%s%s", result == PGS_OK ? "ok" : pgs_error_name(result),
		NUMBER(revision), result == PGS_OK ? "" : ": ", err.message);
	for (size_t i = 0; i < 2; i++)
		model_returned(r[i].m, result, revision, i == which ? err.page : PGS_NO_PAGE, c->faults - faults);
}

/* One writes, the other reads or writes; in either order. */
static void work_on_both(sim_client *c, const side *sides)
{
	running r[2];
	bool good = begin(c, &r[0]);
	go_to(c, &sides[1]);
	bool began = good && begin(c, &r[1]);
	if (good && !began)
		pgs_abort(r[0].t);
	if (!began)
		return;
	uint64_t steps = 2 + rng_below(&c->work, 6);
	bool reads_only = rng_below(&c->work, 3) == 0;
	for (uint64_t i = 0; good && i < steps; i++) {
		uint64_t at = rng_below(&c->work, 2);
		go_to(c, &sides[at]);
		good = at == 1 && reads_only ? step_read(&r[at], world.config.touch) : step(&r[at]);
	}
	if (good && rng_below(&c->work, 12)) {
		commit_both(c, r);
		for (int i = 0; i < 2 && !c->dead; i++) {
			go_to(c, &sides[i]);
			if (r[i].m->result == PGS_OK && r[i].m->committed)
				machine_note_ack(c, r[i].m->committed);
		}
	} else {
		pgs_abort(r[0].t);
		pgs_abort(r[1].t);
	}
}

static void op_many(sim_client *c)
{
	side mine = take_side(c);
	c->db = NULL;
	c->acked = 0;
	if (client_open_db(c, (mine.database + 1) % (int)world.config.databases)) {
		side other = take_side(c);
		const side sides[2] = {mine, other}, turned[2] = {other, mine};
		bool turn = rng_below(&c->work, 2);
		go_to(c, turn ? &other : &mine);
		work_on_both(c, turn ? turned : sides);
		pgs_db_close(other.db);
	}
	go_to(c, &mine);
}

/* --- history ------------------------------------------------------------------------------------------ */

/* Some revision, more or less recent; from the floor on if there is a choice. */
static uint64_t pick_revision(sim_client *c)
{
	const sim_db *db = c->model;
	size_t back = rng_below(&c->work, rng_below(&c->work, 2) ? 8 : db->count);
	size_t index = back < db->count ? db->count - 1 - back : 0;
	uint64_t revision = db->states[index].revision;
	uint64_t next = index + 1 < db->count ? db->states[index + 1].revision : revision + 1;
	return rng_below(&c->work, 2) ? revision : revision + rng_below(&c->work, next - revision);
}

static void op_read_old(sim_client *c)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	uint64_t faults = c->faults, revision = pick_revision(c), floor = c->model->floor;
	o.at_revision = revision;
	int result = pgs_begin(&t, c->db, &o, &err);
	if (result == PGS_EOLDREV && model_may_refuse(c->model, revision, floor))
		return;
	if (result != PGS_OK) {
		client_expect_error(c, "begin at an old revision", result, &err, faults);
		return;
	}
	const sim_state *state = model_at(c->model, revision);
	trace("reads as of revision %llu", NUMBER(revision));
	if (pgs_txn_revision(t) != state->revision)
		sim_fail("revision %llu shows the commit %llu, not %llu", NUMBER(revision), NUMBER(pgs_txn_revision(t)),
			NUMBER(state->revision));
	uint64_t rounds = 1 + rng_below(&c->work, 3);
	for (uint64_t i = 0; i < rounds && !c->dead; i++)
		client_check_pages(c, t, model_at(c->model, revision), t->snapshot.kv_revision, faults);
	pgs_abort(t);
}

/* At some freshness. */
static void op_read_fresh(sim_client *c)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	uint64_t faults = c->faults, floor = c->model->floor;
	sim_promise promise;
	promise_draw(c, &promise, world.config.fresh);
	int result = pgs_begin(&t, c->db, &promise.options, &err);
	if (result == PGS_EOLDREV && c->model->floor > floor)
		return;
	if (result != PGS_OK) {
		client_expect_error(c, "begin", result, &err, faults);
		return;
	}
	uint64_t revision = pgs_txn_revision(t);
	const sim_state *state = model_at(c->model, revision);
	trace("reads as of revision %llu", NUMBER(revision));
	if (!state || state->revision != revision)
		sim_fail("a transaction begins at revision %llu, where no commit is", NUMBER(revision));
	promise_check(&promise, revision);
	uint64_t rounds = 1 + rng_below(&c->work, 3);
	for (uint64_t i = 0; i < rounds && !c->dead; i++)
		client_check_pages(c, t, model_at(c->model, revision), t->snapshot.kv_revision, faults);
	pgs_abort(t);
}

void client_ask_status(sim_client *c, sim_txn *txn)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision, faults = c->faults;
	int status;
	int result = pgs_commit_status(c->db, &txn->token, &status, &revision, &err);
	trace_note(3000, (uint64_t)(int64_t)result, (uint64_t)status);
	if (c->dead)
		return;
	if (result == PGS_EUNKNOWN && c->model->floor > txn->token.base_revision)
		return;
	if (result != PGS_OK) {
		client_expect_error(c, "asking for a commit's status", result, &err, faults);
		return;
	}
	trace("asks about a commit of client %d: %s", txn->client,
		status == PGS_COMMIT_HAPPENED ? "happened" : "not happened");
	if (status == PGS_COMMIT_HAPPENED && txn->committed != revision)
		sim_fail("the status of a commit is that it happened at revision %llu, which is not so (%llu)",
			NUMBER(revision), NUMBER(txn->committed));
	if (status == PGS_COMMIT_NOT_HAPPENED && txn->committed)
		sim_fail("the status of the commit of revision %llu is that it never happened", NUMBER(txn->committed));
	if (status == PGS_COMMIT_NOT_HAPPENED)
		model_never(txn);
}

static void op_status(sim_client *c)
{
	static const uint8_t none[16];
	for (int tries = 0; tries < 20 && world.txn_count; tries++) {
		sim_txn *txn = &world.txns[rng_below(&c->work, world.txn_count)];
		if (tries < 5) /* the newest are more interesting */
			txn = &world.txns[world.txn_count - 1 - rng_below(&c->work, world.txn_count < 5 ? world.txn_count : 5)];
		if (!txn->sent || txn->db != c->model || memcmp(txn->token.uuid, none, sizeof none) == 0)
			continue;
		bool open = !txn->returned || txn->result == PGS_EUNKNOWN;
		if (!open && rng_below(&c->work, 10))
			continue;
		if (!txn->returned && rng_below(&c->work, 4))
			continue;
		client_ask_status(c, txn);
		return;
	}
}

typedef struct log_seen {
	size_t count;
	uint64_t revisions[SIM_TXNS_MAX];
	uint8_t uuids[SIM_TXNS_MAX][16];
} log_seen;

static int see_entry(void *ctx, const pgs_log_entry *entry)
{
	log_seen *seen = ctx;
	if (seen->count == SIM_TXNS_MAX)
		return 0;
	seen->revisions[seen->count] = entry->revision;
	memcpy(seen->uuids[seen->count++], entry->uuid, 16);
	return 0;
}

/* Commits that are in the log, newest first. Above the floor none is left out; at or below it they go one by one. */
static void check_log(sim_db *db, const log_seen *seen, size_t count_before)
{
	uint64_t next = seen->count ? seen->revisions[0] : 0; /* newer ones may have come later */
	if (next < db->states[count_before - 1].revision)
		next = db->states[count_before - 1].revision;
	size_t at = (size_t)(model_at(db, next) - db->states); /* the newest not yet met; 0 is the creation */
	for (size_t i = 0; i <= seen->count; i++) {
		uint64_t revision = i < seen->count ? seen->revisions[i] : 0;
		while (at > 0 && db->states[at].revision > revision && db->states[at].revision <= db->floor)
			at--;
		if (at > 0 && db->states[at].revision > revision)
			sim_fail("the log lacks the commit of revision %llu, though the floor is %llu",
				NUMBER(db->states[at].revision), NUMBER(db->floor));
		if (i == seen->count)
			return;
		if (at == 0 || db->states[at].revision != revision ||
			memcmp(db->states[at].uuid, seen->uuids[i], 16) != 0)
			sim_fail("the log has revision %llu, which is no commit, or not of that identifier",
				NUMBER(revision));
		at--;
	}
}

void client_check_log(sim_client *c)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t faults = c->faults;
	size_t before = c->model->count;
	log_seen *mine = malloc(sizeof *mine); /* others may be at the same */
	mine->count = 0;
	int result = pgs_log(c->db, NULL, see_entry, mine, &err);
	if (result != PGS_OK)
		client_expect_error(c, "reading the log", result, &err, faults);
	else if (!c->dead && !c->model->dropped)
		check_log(c->model, mine, before);
	free(mine);
}

typedef struct diff_seen {
	bool pages[SIM_PAGES];
	uint64_t others;
} diff_seen;

static int see_diff(void *ctx, uint64_t page_no)
{
	diff_seen *seen = ctx;
	int page = page_index(page_no);
	if (page < 0)
		seen->others = page_no;
	else
		seen->pages[page] = true;
	return 0;
}

static void op_diff(sim_client *c)
{
	uint64_t a = pick_revision(c), b = pick_revision(c), faults = c->faults;
	pgs_error err = PGS_ERROR_INIT;
	diff_seen seen = {{0}, 0};
	int result = pgs_diff(c->db, a, b, see_diff, &seen, &err);
	if (result != PGS_OK) {
		expect_read_error(c, "diff", result, &err, a < b ? a : b, faults);
		return;
	}
	const sim_state *x = model_at(c->model, a), *y = model_at(c->model, b);
	for (int i = 0; i < SIM_PAGES; i++)
		if (seen.pages[i] != (x->pages[i] != y->pages[i]))
			sim_fail("diff of revisions %llu and %llu: page %llu is said to be %s", NUMBER(a), NUMBER(b),
				NUMBER(page_number(i)), seen.pages[i] ? "changed" : "the same");
	if (seen.others)
		sim_fail("diff names page %llu, which nobody wrote", NUMBER(seen.others));
}

static void op_stat(sim_client *c)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t faults = c->faults, newest = model_last(c->model)->revision;
	int result = pgs_stat(c->db, &stat, &err);
	if (result != PGS_OK) {
		client_expect_error(c, "stat", result, &err, faults);
		return;
	}
	if (c->model->dropped)
		return;
	const sim_state *state = model_at(c->model, stat.revision);
	if (!state || state->revision != stat.revision || stat.revision < newest || state->extent != stat.page_count)
		sim_fail("stat: revision %llu with %llu pages", NUMBER(stat.revision), NUMBER(stat.page_count));
}

typedef struct finding {
	int code;
	char message[300];
} finding;

static int see_finding(void *ctx, const pgs_verify_finding *found)
{
	finding *f = ctx;
	if (f->code == PGS_ECORRUPT)
		return 0;
	f->code = found->code;
	snprintf(f->message, sizeof f->message, "%s", found->message);
	return 0;
}

static void op_verify(sim_client *c)
{
	pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	finding found = {0, ""};
	uint64_t faults = c->faults, floor = c->model->floor;
	o.finding = see_finding;
	o.ctx = &found;
	o.deep = rng_below(&c->work, 2);
	int result = pgs_verify(c->db, &o, &report, &err);
	bool moved = c->model->floor != floor || c->model->dropped;
	if (result == PGS_ECORRUPT && found.code == PGS_ECORRUPT && !c->model->dropped)
		sim_fail("verify finds damage: %s", found.message);
	if (result == PGS_OK || result == PGS_ECORRUPT || (result == PGS_EOLDREV && moved))
		count_errors(c, "verify", result);
	else
		client_expect_error(c, "verify", result, &err, faults);
}

static void op_drop(sim_client *c)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t faults = c->faults;
	char name[8];
	snprintf(name, sizeof name, "db%d", c->database);
	client_close_db(c);
	int result = pgs_db_drop(c->store, name, strlen(name), &err);
	count_errors(c, "drop", result);
	if (result != PGS_OK && result != PGS_ENOTFOUND)
		client_expect_error(c, "drop", result, &err, faults);
}

static void op_sleep(sim_client *c)
{
	if (c->db && world.config.turns) {
		sim_sleep_us(60000);
		pgs__turn_expire(c->db);
	}
	sim_sleep_us(rng_below(&c->work, 2000000));
}

/* --- a client's life ----------------------------------------------------------------------------------- */

static void run_op(sim_client *c)
{
	static const struct {
		const char *name;
		void (*run)(sim_client *c);
	} ops[SIM_OP_COUNT] = {
		[SIM_OP_TXN] = {"txn", op_txn},
		[SIM_OP_BULK] = {"bulk", op_bulk},
		[SIM_OP_SCAN] = {"scan", op_scan},
		[SIM_OP_ATTRS] = {"attrs", op_attrs},
		[SIM_OP_READ_OLD] = {"old", op_read_old},
		[SIM_OP_STATUS] = {"status", op_status},
		[SIM_OP_LOG] = {"log", client_check_log},
		[SIM_OP_DIFF] = {"diff", op_diff},
		[SIM_OP_STAT] = {"stat", op_stat},
		[SIM_OP_VERIFY] = {"verify", op_verify},
		[SIM_OP_DROP] = {"drop", op_drop},
		[SIM_OP_SLEEP] = {"sleep", op_sleep},
		[SIM_OP_MAINTAIN] = {"maintain", op_maintain},
		[SIM_OP_PIN] = {"pin", op_pin},
		[SIM_OP_SNAPSHOT_CREATE] = {"create", op_snapshot_create},
		[SIM_OP_SNAPSHOT_READ] = {"named", op_snapshot_read},
		[SIM_OP_SNAPSHOT_DROP] = {"forget", op_snapshot_drop},
		[SIM_OP_LEVELS] = {"levels", op_levels},
		[SIM_OP_MANY] = {"many", op_many},
		[SIM_OP_FOLLOW] = {"follow", op_follow},
		[SIM_OP_READ_FRESH] = {"fresh", op_read_fresh},
	};
	const uint32_t *weights = world.config.weights[c->index];
	uint64_t sum = 0;
	for (int i = 0; i < SIM_OP_COUNT; i++)
		sum += weights[i];
	uint64_t die = rng_below(&c->work, sum);
	int op = 0;
	while (die >= weights[op])
		die -= weights[op++];
	c->doing = ops[op].name;
	ops[op].run(c);
	c->doing = "";
}

/* The client died: nothing it does now is seen. Another takes its place. */
static void bury(sim_client *c)
{
	client_disconnect(c);
	trace("is dead");
	c->buried = true;
	sim_sleep_us(rng_below(&c->work, 1500000));
	client_reborn(c);
	trace("lives again");
}

void client_main(void *client)
{
	sim_client *c = client;
	while (!world.over) {
		if (client_connect(c) && !c->dead) {
			run_op(c);
			if (c->db)
				pgs__turn_expire(c->db); /* there are no threads here */
			if (c->db && c->model->dropped)
				client_close_db(c);
			else if (c->db && world.config.databases > 1 && rng_below(&c->work, 16) == 0)
				client_close_db(c);
		} else if (!c->dead) {
			sim_sleep_us(1000 + rng_below(&c->work, 100000));
		}
		if (c->dead)
			bury(c);
	}
	client_disconnect(c);
}
