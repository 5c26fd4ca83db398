/* What maintenance workers do; pins and named snapshots; and the end of it all, when everything is dropped. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER(n) ((unsigned long long)(n))

/* --- maintenance ------------------------------------------------------------------------- */

static int keep_going(void *ctx, const pgs_maintain_progress *progress)
{
	(void)progress;
	return ((sim_client *)ctx)->dead ? 1 : 0;
}

static void pick_options(sim_client *c, pgs_maintain_options *o)
{
	*o = world.config.maintain;
	o->all = rng_below(&c->work, 1000) < world.config.maintain_all;
	o->scrub = rng_below(&c->work, 8) == 0;
	o->dry_run = rng_below(&c->work, 30) == 0;
	if (rng_below(&c->work, 6) == 0)
		o->budget_ms = 1 + rng_below(&c->work, 100);
	if (rng_below(&c->work, 6) == 0)
		o->budget_bytes = 1 + rng_below(&c->work, 20000);
	if (rng_below(&c->work, 3) == 0)
		o->memory_bytes = 1;
	if (rng_below(&c->work, 4) == 0)
		o->progress = keep_going;
	o->progress_ctx = c;
}

static void check_report(sim_client *c, const pgs_maintain_report *report)
{
	trace_note(report->flushed_pages, report->merges, report->dropped_contents);
	trace("floor %llu; flushed %llu, %llu merges, dropped %llu contents, folded %llu packs, pruned %llu changes, "
	      "removed %llu blobs%s%s", NUMBER(report->floor_revision), NUMBER(report->flushed_pages),
		NUMBER(report->merges), NUMBER(report->dropped_contents), NUMBER(report->folded_packs),
		NUMBER(report->pruned_changes), NUMBER(report->removed_blobs), report->more ? ", more" : "",
		report->busy ? ", busy" : "");
	if (report->damaged_contents)
		sim_fail("maintenance meets %llu damaged contents", NUMBER(report->damaged_contents));
	if (report->lost_pins)
		sim_fail("maintenance says that pins were lost");
	(void)c;
}

void op_maintain(sim_client *c)
{
	pgs_maintain_options o;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t faults = c->faults;
	pick_options(c, &o);
	uint64_t floors = world.floors;
	bool whole_store = rng_below(&c->work, 12) == 0;
	int result = whole_store ? pgs_maintain_store(c->store, &o, &report, &err)
				 : pgs_maintain(c->db, &o, &report, &err);
	if (c->dead)
		return;
	check_report(c, &report);
	bool dropped = report.dropped_contents + report.removed_blobs + report.folded_packs;
	if (dropped && rng_below(&c->work, 1000) < world.config.inspect * 4)
		inspect();
	if (result == PGS_EOLDREV && world.floors > floors)
		return; /* overtaken by another worker */
	if (result != PGS_OK && !(whole_store && result == PGS_ENOTFOUND))
		client_expect_error(c, "maintenance", result, &err, faults);
}

static int see_file(void *ctx, const pgs_file_info *info)
{
	uint64_t *count = ctx;
	*count += info->content_count;
	return 0;
}

void op_levels(sim_client *c)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t count = 0, faults = c->faults;
	int result = pgs_levels(c->db, rng_below(&c->work, 2), see_file, &count, &err);
	if (result != PGS_OK)
		client_expect_error(c, "levels", result, &err, faults);
}

/* --- pins --------------------------------------------------------------------------------- */

#define LEASE_MS 20000
#define FASTEST_CLOCK 1500 /* per mille, of an observer's */

static void take_pin(sim_client *c)
{
	pgs_error err = PGS_ERROR_INIT;
	const sim_state *last = model_last(c->model);
	uint64_t faults = c->faults, floor = c->model->floor, start = world.now_us;
	uint64_t wanted = rng_below(&c->work, 2) ? 0 : last->revision;
	if (rng_below(&c->work, 3) == 0 && c->model->count > 3)
		wanted = c->model->states[c->model->count - 1 - rng_below(&c->work, 3)].revision;
	int result = pgs_pin_revision(&c->pin, c->db, wanted, LEASE_MS, &c->pinned, &err);
	if (result == PGS_EOLDREV && wanted && model_may_refuse(c->model, wanted, floor))
		return;
	if (result != PGS_OK) {
		client_expect_error(c, "pinning a revision", result, &err, faults);
		return;
	}
	c->pin_renewed_us = start;
	trace("pins revision %llu", NUMBER(c->pinned));
	if (wanted && c->pinned != wanted)
		sim_fail("revision %llu was to be pinned, and %llu was", NUMBER(wanted), NUMBER(c->pinned));
}

/* Whether nobody can have seen the lease run out. */
static bool pin_holds(const sim_client *c)
{
	return (world.now_us - c->pin_renewed_us) / 1000 * FASTEST_CLOCK / 1000 < LEASE_MS;
}

static void renew_pin(sim_client *c)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t faults = c->faults, start = world.now_us;
	int result = pgs_pin_renew(c->pin, &err);
	bool held = pin_holds(c);
	if (result == PGS_OK) {
		c->pin_renewed_us = start;
		trace("renews its pin of %llu", NUMBER(c->pinned));
		return;
	}
	if (result == PGS_EOLDREV && held && !c->dead && !c->model->dropped)
		sim_fail("the pin of revision %llu was broken within its lease", NUMBER(c->pinned));
	if (result != PGS_EOLDREV)
		client_expect_error(c, "renewing a pin", result, &err, faults);
	else
		client_drop_pin(c);
}

static void read_pinned(sim_client *c)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t faults = c->faults;
	pgs_txn *t;
	o.at_revision = c->pinned;
	int result = pgs_begin(&t, c->db, &o, &err);
	if (result == PGS_EOLDREV && pin_holds(c) && !c->model->dropped)
		sim_fail("revision %llu is pinned, and cannot be read: %s", NUMBER(c->pinned), err.message);
	if (result == PGS_EOLDREV)
		return;
	if (result != PGS_OK) {
		client_expect_error(c, "begin at a pinned revision", result, &err, faults);
		return;
	}
	client_check_pages(c, t, model_at(c->model, c->pinned), c->pinned, faults);
	pgs_abort(t);
}

void op_pin(sim_client *c)
{
	if (!c->pin)
		take_pin(c);
	else if (rng_below(&c->work, 3))
		read_pinned(c);
	else if (rng_below(&c->work, 2))
		renew_pin(c);
	else
		client_drop_pin(c);
}

void client_drop_pin(sim_client *c)
{
	if (c->pin)
		trace("lets go of its pin of %llu", NUMBER(c->pinned));
	pgs_unpin_revision(c->pin);
	c->pin = NULL;
}

/* --- named snapshots ------------------------------------------------------------------------- */

static sim_snapshot *pick_name(sim_client *c)
{
	return &c->model->snapshots[rng_below(&c->work, SIM_SNAPSHOTS)];
}

void op_snapshot_create(sim_client *c)
{
	pgs_snapshot_options o = PGS_SNAPSHOT_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	sim_snapshot *s = pick_name(c);
	uint64_t faults = c->faults, puts = s->puts, floor = c->model->floor;
	bool was_there = s->revision != 0;
	if (rng_below(&c->work, 2))
		o.at_revision = c->model->states[c->model->count - 1 - rng_below(&c->work,
			c->model->count < 6 ? c->model->count : 6)].revision;
	int result = pgs_snapshot_create(c->db, s->name, strlen(s->name), &o, &err);
	if (c->dead || c->model->dropped)
		return;
	if (result == PGS_OK && s->puts == puts)
		sim_fail("snapshot %s was created, and is not there", s->name);
	if (result == PGS_EEXIST && !was_there && s->puts == puts)
		sim_fail("snapshot %s is said to exist", s->name);
	if (result == PGS_OK || result == PGS_EEXIST)
		return;
	if (result == PGS_EOLDREV && o.at_revision && model_may_refuse(c->model, o.at_revision, floor))
		return;
	if (result == PGS_EOLDREV && !o.at_revision) /* the floor may overtake it while it is made */
		return;
	client_expect_error(c, "creating a snapshot", result, &err, faults);
}

void op_snapshot_read(sim_client *c)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	sim_snapshot *s = pick_name(c), before = *s;
	uint64_t faults = c->faults;
	pgs_txn *t;
	o.at_snapshot = s->name;
	o.at_snapshot_size = strlen(s->name);
	int result = pgs_begin(&t, c->db, &o, &err);
	bool steady = before.puts == s->puts && before.drops == s->drops && !c->model->dropped && !c->dead;
	if (result == PGS_ENOTFOUND && (!steady || !before.revision))
		return;
	if (result != PGS_OK) {
		client_expect_error(c, "begin at a named snapshot", result, &err, faults);
		return;
	}
	uint64_t revision = pgs_txn_revision(t);
	const sim_state *state = model_at(c->model, revision);
	trace("reads snapshot %s: revision %llu", s->name, NUMBER(revision));
	if (steady && (!before.revision || state != model_at(c->model, before.revision)))
		sim_fail("snapshot %s shows revision %llu, not %llu", s->name, NUMBER(revision),
			NUMBER(before.revision));
	before = *s;
	s->readers++;
	client_check_snapshot(c, t, state, s, before.drops, faults);
	s->readers--;
	pgs_abort(t);
}

void op_snapshot_drop(sim_client *c)
{
	pgs_error err = PGS_ERROR_INIT;
	sim_snapshot *s = pick_name(c);
	uint64_t faults = c->faults, drops = s->drops;
	bool was_there = s->revision != 0;
	int result = pgs_snapshot_drop(c->db, s->name, strlen(s->name), &err);
	if (c->dead || c->model->dropped)
		return;
	if (result == PGS_OK && s->drops == drops)
		sim_fail("snapshot %s was dropped, and is still there", s->name);
	if (result == PGS_ENOTFOUND && was_there && s->drops == drops)
		sim_fail("snapshot %s is there, and is said not to be", s->name);
	if (result != PGS_OK && result != PGS_ENOTFOUND)
		client_expect_error(c, "dropping a snapshot", result, &err, faults);
}

/* --- the end: collect, drop, and nothing is left ------------------------------------------------- */

static void collect_all(sim_client *c, uint64_t retention_ms)
{
	for (int round = 0; round < 60; round++) {
		pgs_maintain_options o = world.config.maintain;
		pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
		pgs_error err = PGS_ERROR_INIT;
		o.all = true;
		o.retention_ms = retention_ms;
		int result = pgs_maintain_store(c->store, &o, &report, &err);
		if (result != PGS_OK)
			sim_fail("maintenance at the end: %s: %s", pgs_error_name(result), err.message);
		check_report(c, &report);
		if (!report.more && !report.busy)
			return;
		sim_sleep_us(report.busy ? 40000000 : 1000000);
	}
	sim_fail("maintenance at the end does not come to an end");
}

static int count_blob(void *ctx, const char *name, uint64_t size)
{
	(void)size;
	if (strcmp(name, "identity") == 0)
		return 0;
	snprintf(ctx, 100, "%s", name);
	return 1;
}

static void expect_empty(void)
{
	pgs_kv_op all = {.kind = PGS_KV_RANGE, .key = {"\0", 1}, .range_end = PGS_KV_TO_END};
	pgs_kv_txn txn = {.success = &all, .success_count = 1};
	char left[100] = "";
	if (world.kv->vtable->txn(world.kv, &txn, 1, 0, NULL) != PGS_OK)
		sim_fail("the KV cannot be read at the end");
	for (size_t i = 0; i < txn.results[0].count; i++)
		if (txn.results[0].pairs[i].key.size != 1)
			sim_fail("everything is dropped and collected, but a key is left: %s",
				trace_key(txn.results[0].pairs[i].key));
	world.kv->vtable->release(world.kv, &txn, 1);
	world.blob->vtable->list(world.blob, "", count_blob, left, 0, NULL);
	if (left[0])
		sim_fail("everything is dropped and collected, but a blob is left: %s", left);
}

static void drop_snapshots(sim_client *c)
{
	for (int i = 0; i < SIM_SNAPSHOTS; i++) {
		const sim_snapshot *s = &c->model->snapshots[i];
		if (s->revision && pgs_snapshot_drop(c->db, s->name, strlen(s->name), NULL) != PGS_OK)
			sim_fail("snapshot %s cannot be dropped at the end", s->name);
	}
}

static void check_snapshots(sim_client *c)
{
	for (int i = 0; i < SIM_SNAPSHOTS; i++) {
		sim_snapshot *s = &c->model->snapshots[i];
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_error err = PGS_ERROR_INIT;
		pgs_txn *t;
		if (!s->revision)
			continue;
		o.at_snapshot = s->name;
		o.at_snapshot_size = strlen(s->name);
		int result = pgs_begin(&t, c->db, &o, &err);
		if (result != PGS_OK)
			sim_fail("snapshot %s cannot be read at the end: %s", s->name, err.message);
		client_check_snapshot(c, t, model_at(c->model, s->revision), s, s->drops, c->faults);
		pgs_abort(t);
	}
}

/* Leases are seen to run out by who has the database open all that time. */
static void hold_databases(sim_client *c, pgs_db **held)
{
	for (int i = 0; i < (int)world.config.databases; i++) {
		char name[16];
		snprintf(name, sizeof name, "db%d", i);
		if (pgs_db_open(&held[i], c->store, name, strlen(name), NULL, NULL) != PGS_OK)
			sim_fail("database %d cannot be opened at the end", i);
	}
}

static void for_each_database(sim_client *c, void (*visit)(sim_client *))
{
	for (int i = 0; i < (int)world.config.databases; i++) {
		client_close_db(c);
		if (!client_open_db(c, i))
			sim_fail("database %d cannot be opened at the end", i);
		c->doing = "audit";
		visit(c);
	}
}

static void drop_database(sim_client *c)
{
	char name[16];
	pgs_error err = PGS_ERROR_INIT;
	snprintf(name, sizeof name, "db%d", c->database);
	client_close_db(c);
	if (pgs_db_drop(c->store, name, strlen(name), &err) != PGS_OK)
		sim_fail("a database cannot be dropped at the end: %s", err.message);
}

void audit_collection(sim_client *c)
{
	if (!(world.config.troubles & SIM_MAINTENANCE))
		return;
	pgs_db *held[SIM_DATABASES] = {NULL};
	hold_databases(c, held);
	for_each_database(c, check_snapshots);
	collect_all(c, world.config.maintain.retention_ms);
	for_each_database(c, check_snapshots);
	for_each_database(c, audit_database);
	for_each_database(c, drop_snapshots);
	collect_all(c, PGS_RETENTION_NONE);
	for_each_database(c, audit_database);
	for_each_database(c, drop_database);
	for (int i = 0; i < SIM_DATABASES; i++)
		pgs_db_close(held[i]);
	collect_all(c, PGS_RETENTION_NONE);
	expect_empty();
}
