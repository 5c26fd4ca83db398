/* The end: nothing fails any more, nobody else is there, and everything is looked at. */
#include "sim.h"

#include <stdio.h>
#include <string.h>

#define NUMBER(n) ((unsigned long long)(n))
#define REVISIONS_MAX 60 /* that are read back whole */

static void settle_outcomes(sim_client *c)
{
	static const uint8_t none[16];
	for (size_t i = 0; i < world.txn_count; i++) {
		sim_txn *txn = &world.txns[i];
		bool open = txn->returned && txn->result == PGS_EUNKNOWN;
		if (txn->sent && open && txn->db == c->model && memcmp(txn->token.uuid, none, sizeof none) != 0)
			client_ask_status(c, txn);
	}
}

static void read_revision(sim_client *c, uint64_t revision)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	o.at_revision = revision;
	int result = pgs_begin(&t, c->db, &o, &err);
	if (result != PGS_OK)
		sim_fail("retained revision %llu cannot be read at the end: %s", NUMBER(revision), err.message);
	client_check_pages(c, t, model_at(c->model, revision), revision, c->faults);
	pgs_abort(t);
}

static void read_everything(sim_client *c)
{
	sim_db *db = c->model;
	uint64_t oldest = db->floor > world.compacted ? db->floor : world.compacted;
	size_t first = 0;
	while (first + 1 < db->count && db->states[first + 1].revision <= oldest)
		first++;
	size_t stride = (db->count - first) / REVISIONS_MAX + 1;
	for (size_t i = first; i < db->count; i += stride)
		read_revision(c, db->states[i].revision > oldest ? db->states[i].revision : oldest);
	read_revision(c, model_last(db)->revision > oldest ? model_last(db)->revision : oldest);
}

static int report_finding(void *ctx, const pgs_verify_finding *found)
{
	sim_client *c = ctx;
	sim_fail("verify --deep%s: %s", c->atomic ? "" : " at the end", found->message);
}

static void verify_deep(sim_client *c)
{
	pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.finding = report_finding;
	o.ctx = c;
	o.deep = true;
	int result = pgs_verify(c->db, &o, &report, &err);
	if (result != PGS_OK)
		sim_fail("verify --deep%s: %s: %s", c->atomic ? "" : " at the end", pgs_error_name(result), err.message);
}

/* By a client that nobody sees: no time passes, nothing fails. */
void inspect(void)
{
	static sim_client inspector;
	sim_client *before = world.current, *c = &inspector;
	bool tracing = trace_on;
	*c = (sim_client){.name = "inspect", .rate = 1000, .quiet = true, .atomic = true, .mono_offset_ms = 1};
	c->random = rng_stream(world.config.seed, world.step);
	c->process.pid = 1;
	trace("everything is verified");
	world.current = c;
	trace_on = false;
	if (!client_connect_store(c))
		sim_fail("the inspector cannot open the store");
	for (int i = 0; i < (int)world.config.databases; i++) {
		if (!client_find_db(c, i))
			continue;
		verify_deep(c);
		client_close_db(c);
	}
	sim_link *link = c->link;
	client_disconnect(c);
	link_free(link);
	trace_on = tracing;
	world.current = before;
}

void audit_database(sim_client *c)
{
	settle_outcomes(c);
	client_check_log(c);
	read_everything(c);
	verify_deep(c);
}

void auditor_main(void *client)
{
	sim_client *c = client;
	while (world.links && !c->store) {
		for (sim_link *l = world.links; l; l = link_next(l))
			link_deliver(l);
		if (!client_connect(c))
			sim_fail("the store cannot be opened at the end");
	}
	for (int i = 0; i < (int)world.config.databases; i++) {
		client_close_db(c);
		if (!client_open_db(c, i))
			sim_fail("database %d cannot be opened at the end", i);
		c->doing = "audit";
		audit_database(c);
	}
	audit_collection(c);
	client_disconnect(c);
}
