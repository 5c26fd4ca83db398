/* examples/sqlite: random SQL, the same on a database in a pagestore and on a native one; and random transactions of
 * several connections, which must be as if one came after the other.
 *
 *     test_sqlite_random [FIRST [COUNT [STEPS]]]
 *
 * hunts: COUNT (1) other seeds from FIRST on, each for STEPS (10,000) steps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite/sql.h"

static uint64_t seed;
static unsigned first_variant;
static unsigned long hunt_count, hunt_steps; /* 0: as always */

static unsigned below(unsigned n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)(seed >> 11) % n;
}

static unsigned long rounds(unsigned long usual)
{
	if (hunt_steps)
		return hunt_steps;
	return getenv("PGS_TEST_LONG") ? usual * 20 : usual;
}

/* --- one connection against a native one ---------------------------------------------------------------- */

static const char *const pads[] = {"''", "'short'", "printf('%.200c', 'x')", "printf('%.3000c', 'y')", "zeroblob(9000)",
	"zeroblob(60000)"};

/* What a statement is made of. */
typedef struct draw {
	unsigned id, other; /* below 400 */
	const char *pad;
} draw;

static void change_rows(char *sql, size_t size, unsigned die, draw d)
{
	if (die < 4)
		snprintf(sql, size, "insert into t(id, n, pad) values (%u, %u, %s)", d.id, d.other, d.pad);
	else if (die < 5)
		snprintf(sql, size, "insert or replace into t(id, n, pad) select id + %u, n, %s from t where id < %u",
			 1 + d.id % 40, d.pad, d.other % 100);
	else if (die < 7)
		snprintf(sql, size, "update t set pad = %s, n = n + 1 where id between %u and %u", d.pad, d.id,
			 d.id + d.other % 20);
	else if (die < 8) /* unique: fails halfway */
		snprintf(sql, size, "update t set u = id / %u where id > %u", 1 + d.other % 3, d.id);
	else
		snprintf(sql, size, "delete from t where id between %u and %u", d.id, d.id + d.other % 40);
}

static void bound_transaction(char *sql, size_t size, unsigned die, draw d)
{
	static const char *const bounds[] = {"begin", "begin", "commit", "commit", "rollback"};
	static const char *const points[] = {"savepoint", "savepoint", "rollback to", "rollback to", "release"};
	if (die < 5)
		snprintf(sql, size, "%s", bounds[die]);
	else
		snprintf(sql, size, "%s s%u", points[die - 5], d.id % 3);
}

static void change_schema(char *sql, size_t size, unsigned die, draw d)
{
	switch (die) {
	case 0:
		snprintf(sql, size, "create table if not exists v%u(a, b); insert into v%u select id, pad from t limit %u",
			 d.id % 4, d.id % 4, d.other % 50);
		return;
	case 1:
		snprintf(sql, size, "drop table if exists v%u", d.id % 4);
		return;
	case 2:
		snprintf(sql, size, "%s", d.id % 2 ? "vacuum" : "pragma incremental_vacuum(7)");
		return;
	case 3: /* pages of another size are put together from parts */
		snprintf(sql, size, "pragma page_size = %u; pragma auto_vacuum = %u; vacuum", 512u << d.id % 8, d.other % 3);
		return;
	case 4:
		snprintf(sql, size, "%s", d.id % 2 ? "create index v_index on t(length(pad), u)"
						   : "drop index if exists v_index");
		return;
	case 5:
		snprintf(sql, size, "alter table t add column c%u default %u", d.id % 5, d.other);
		return;
	default:
		snprintf(sql, size, "pragma user_version = %u; reindex; analyze", d.id);
	}
}

/* Two databases in one transaction, if there is one. */
static void change_other_database(char *sql, size_t size, unsigned die, draw d)
{
	if (die == 0)
		snprintf(sql, size, "insert or replace into other.o select id, pad from t where id between %u and %u", d.id,
			 d.id + d.other % 30);
	else if (die == 1)
		snprintf(sql, size, "delete from other.o where a between %u and %u", d.id, d.id + d.other % 90);
	else
		snprintf(sql, size, "update t set n = n + (select count(*) from other.o) where id between %u and %u", d.id,
			 d.id + 9);
}

/* A statement, some of which fail: halfway, or because of where they stand. */
static void make_statement(char *sql, size_t size)
{
	draw d = {.id = below(400)};
	d.other = below(400);
	d.pad = pads[below(6)];
	unsigned die = below(31);
	if (die < 10)
		change_rows(sql, size, die, d);
	else if (die < 20)
		bound_transaction(sql, size, die - 10, d);
	else if (die < 27)
		change_schema(sql, size, die - 20, d);
	else if (die < 30)
		change_other_database(sql, size, die - 27, d);
	else
		snprintf(sql, size, "update t set n = (select count(*) from t) where n %% 7 = %u", d.id % 7);
}

static const char digest[] = "select count(*), sum(id), sum(n), sum(length(pad)), sum(u) from t;"
			     "select name from sqlite_master order by 1;"
			     "select count(*), total(a), total(length(b)) from other.o";

static void compare(sqlite3 *ours, sqlite3 *native, unsigned long step, const char *sql)
{
	char *expected = sql_text(native, digest), *actual = sql_text(ours, digest);
	if (!expected || !actual || strcmp(expected, actual) != 0)
		fail_msg("step %lu, %s:\n%s\nnot\n%s (%s)", step, sql, actual ? actual : "nothing", expected,
			 sqlite3_errmsg(ours));
	sqlite3_free(expected);
	sqlite3_free(actual);
}

static void attach(sqlite3 *db, const char *uri)
{
	char sql[200];
	snprintf(sql, sizeof sql, "attach '%s' as other", uri);
	sql_do(db, sql);
}

static void set_up(sqlite3 *db, const char *uri, unsigned variant)
{
	char sql[300];
	attach(db, uri);
	sql_do(db, "create table other.o(a integer primary key, b)");
	snprintf(sql, sizeof sql, "pragma page_size = %u; pragma auto_vacuum = %u; pragma cache_size = %d;"
		 "pragma secure_delete = %u;"
		 "create table t(id integer primary key, n integer, pad, u unique); create index tn on t(n)",
		 512u << variant % 8, variant % 3, variant % 2 ? 10 : 500, variant / 2 % 2);
	sql_do(db, sql);
}

static const char *const journals[] = {"delete", "truncate", "persist", "memory"};

static void run_against_native(unsigned variant, unsigned long steps)
{
	sql_store store;
	char sql[400], uri[64];
	sql_store_start(&store);
	sqlite3 *ours = sql_open(&store, ""), *native = sql_native();
	seed = 0x9e3779b97f4a7c15u * (variant + 1);
	snprintf(uri, sizeof uri, "file:other?store=%s", store.name);
	set_up(ours, uri, variant);
	set_up(native, ":memory:", variant);
	snprintf(sql, sizeof sql, "pragma journal_mode = %s; pragma mmap_size = %d", journals[variant % 4],
		 variant % 5 ? 1000000 : 0);
	sql_do(ours, sql);
	for (unsigned long i = 0; i < steps; i++) {
		make_statement(sql, sizeof sql);
		int expected = sql_try(native, sql), actual = sql_try(ours, sql);
		if (expected != actual || sqlite3_get_autocommit(ours) != sqlite3_get_autocommit(native))
			fail_msg("variant %u, step %lu, %s: %d (%s), not %d", variant, i, sql, actual,
				 sqlite3_errmsg(ours), expected);
		if (below(8) == 0)
			compare(ours, native, i, sql);
		if (sqlite3_get_autocommit(ours) && below(40) == 0) {
			sql_check(ours); /* of both databases */
			sql_close(ours); /* what is there is what is in the store */
			sql_store_offer(&store);
			ours = sql_open(&store, "");
			attach(ours, uri);
			sql_do(ours, variant % 2 ? "pragma cache_size = 10" : "pragma cache_size = 500");
			compare(ours, native, i, "opened again");
		}
	}
	sql_try(ours, "rollback");
	sql_try(native, "rollback");
	compare(ours, native, steps, "rollback");
	sql_check(ours);
	sql_close(ours);
	sql_close(native);
	sql_store_stop(&store);
}

static void test_sqlite_random__as_native(void **state)
{
	(void)state;
	for (unsigned variant = first_variant; variant < first_variant + (hunt_count ? hunt_count : 24); variant++)
		run_against_native(variant, rounds(400));
}

/* --- several connections ------------------------------------------------------------------------------------- */

enum { CONNECTIONS = 4, TABLES = 3 };

/* What a transaction did, for the model: a native database, to which those that commit are applied in their order. */
typedef struct client {
	sqlite3 *db;
	char done[4000]; /* its statements */
	char seen[400];  /* the sums it read */
	bool open;
} client;

static const char sums[] = "select (select count(*) || ',' || total(n) || ',' || total(length(pad)) from t0),"
			   "(select count(*) || ',' || total(n) || ',' || total(length(pad)) from t1),"
			   "(select count(*) || ',' || total(n) from t2)";

static void make_change(char *sql, size_t size)
{
	unsigned id = below(300), table = below(TABLES);
	switch (below(6)) {
	case 0:
	case 1:
		snprintf(sql, size, "insert or replace into t%u values (%u, %u, %s);", table, id, below(100), pads[below(5)]);
		return;
	case 2:
		snprintf(sql, size, "delete from t%u where id between %u and %u;", table, id, id + below(60));
		return;
	case 3: /* depends on what it reads in another table */
		snprintf(sql, size, "update t%u set n = (select total(n) from t%u where id between %u and %u) where id = %u;",
			 table, (table + 1) % TABLES, id, id + 20, below(300));
		return;
	default:
		snprintf(sql, size, "update t%u set n = n + 1, pad = %s where id between %u and %u;", table, pads[below(3)], id,
			 id + 3);
	}
}

static void begin_client(client *c, int number)
{
	sql_do(c->db, "begin");
	c->done[0] = c->seen[0] = '\0';
	c->open = true;
	if (below(4) == 0) { /* reads everything */
		char *text = sql_text(c->db, sums);
		assert_non_null(text);
		snprintf(c->seen, sizeof c->seen, "%s", text);
		sqlite3_free(text);
		/* A page of its own: who changes nothing has read an old state, and may. */
		snprintf(c->done, sizeof c->done, "update c%d set n = n + 1;", number);
		sql_do(c->db, c->done);
	}
}

static void change_client(client *c)
{
	char sql[300];
	make_change(sql, sizeof sql);
	if (strlen(c->done) + strlen(sql) >= sizeof c->done)
		return;
	sql_do(c->db, sql);
	strcat(c->done, sql);
}

/* Whether it committed. If so the model does the same now, and what was read must be what it has now. Who changed
 * nothing comes at his snapshot instead, wherever that was. */
static bool end_client(client *c, sqlite3 *model, sqlite3 *observer)
{
	int64_t before = sql_number(observer, "pragma pagestore_revision");
	c->open = false;
	if (below(8) == 0) {
		sql_do(c->db, "rollback");
		return false;
	}
	int result = sql_try(c->db, "commit");
	if (result == SQLITE_BUSY_SNAPSHOT)
		return false;
	if (result != SQLITE_OK)
		fail_msg("commit: %d %s", result, sqlite3_errmsg(c->db));
	if (sql_number(observer, "pragma pagestore_revision") == before)
		return true;
	if (c->seen[0])
		sql_expect_text(model, c->seen, sums);
	sql_do(model, c->done);
	return true;
}

static void run_clients(unsigned variant, unsigned long steps, unsigned *committed, unsigned *refused)
{
	static client clients[CONNECTIONS];
	sql_store store;
	sql_store_start(&store);
	sqlite3 *model = sql_native(), *observer = sql_open(&store, "");
	seed = 0xd1342543de82ef95u * (variant + 1);
	for (int i = 0; i < CONNECTIONS; i++) {
		char sql[100];
		clients[i] = (client){.db = sql_open(&store, "")};
		snprintf(sql, sizeof sql, "pragma cache_size = %d; pragma secure_delete = 0", variant % 2 ? 10 : 1000);
		sql_do(clients[i].db, sql);
		if (variant % 4 > 1 && i == 0)
			sql_do(clients[i].db, "pragma page_size = 1024; pragma auto_vacuum = 1");
	}
	for (unsigned i = 0; i < TABLES; i++) {
		char sql[200];
		snprintf(sql, sizeof sql, "create table t%u(id integer primary key, n, pad); create index i%u on t%u(n)", i, i,
			 i);
		sql_do(clients[0].db, sql);
		sql_do(model, sql);
	}
	for (int i = 0; i < CONNECTIONS; i++) {
		char sql[100];
		snprintf(sql, sizeof sql, "create table c%d(n); insert into c%d values (0)", i, i);
		sql_do(clients[0].db, sql);
		sql_do(model, sql);
	}
	for (unsigned long i = 0; i < steps; i++) {
		int number = (int)below(CONNECTIONS);
		client *c = &clients[number];
		if (!c->open && below(6) == 0) { /* in autocommit mode nothing conflicts */
			char sql[300];
			make_change(sql, sizeof sql);
			sql_do(c->db, sql);
			sql_do(model, sql);
		} else if (!c->open) {
			begin_client(c, number);
		} else if (below(3)) {
			change_client(c);
		} else {
			++*(end_client(c, model, observer) ? committed : refused);
		}
	}
	for (int i = 0; i < CONNECTIONS; i++)
		if (clients[i].open)
			sql_do(clients[i].db, "rollback");
	char *expected = sql_text(model, sums);
	sql_expect_text(clients[1].db, expected, sums);
	sqlite3_free(expected);
	sql_check(clients[0].db);
	for (int i = 0; i < CONNECTIONS; i++)
		sql_close(clients[i].db);
	sql_close(model);
	sql_close(observer);
	sql_store_stop(&store);
}

static void test_sqlite_random__clients_are_serializable(void **state)
{
	unsigned committed = 0, refused = 0;
	(void)state;
	for (unsigned variant = first_variant; variant < first_variant + (hunt_count ? hunt_count : 20); variant++)
		run_clients(variant, rounds(300), &committed, &refused);
	print_message("%u committed, %u rolled back or refused\n", committed, refused);
	assert_true(committed > 100 && refused > 20);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sqlite_random__as_native),
		cmocka_unit_test(test_sqlite_random__clients_are_serializable),
	};
	if (argc > 1) {
		first_variant = (unsigned)strtoul(argv[1], NULL, 10);
		hunt_count = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
		hunt_steps = argc > 3 ? strtoul(argv[3], NULL, 10) : 10000;
	}
	return cmocka_run_group_tests_name("sqlite_random", tests, NULL, NULL);
}
