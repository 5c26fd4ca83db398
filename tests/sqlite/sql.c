/* Short ways to say SQL. */
#include "sqlite/sql.h"

#include <stdio.h>
#include <string.h>

static void before_call(void *ctx, uint64_t call, const char *operation)
{
	sql_store *s = ctx;
	(void)operation;
	if (s->last_call && call > s->last_call)
		pgs_fault_at(s->fault, 1, PGS_FAULT_STOP);
}

int sql_store_try_offer(sql_store *s)
{
	pgs_kv *kv, *faulty_kv;
	pgs_blob *blob, *faulty_blob;
	assert_int_equal(pgs_kv_memory_share(&kv, s->kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob, s->blob, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_kv(&faulty_kv, s->fault, kv, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_blob(&faulty_blob, s->fault, blob, NULL), PGS_OK);
	return pagestore_sqlite_offer(s->name, faulty_kv, faulty_blob);
}

void sql_store_offer(sql_store *s)
{
	assert_int_equal(sql_store_try_offer(s), SQLITE_OK);
}

void sql_store_start(sql_store *s)
{
	static int number;
	pgs_fault_options options = PGS_FAULT_OPTIONS_INIT;
	options.before = before_call;
	options.before_ctx = s;
	assert_int_equal(pagestore_sqlite_register(), SQLITE_OK);
	*s = (sql_store){0};
	snprintf(s->name, sizeof s->name, "test%d", ++number);
	assert_int_equal(pgs_fault_new(&s->fault, &options, NULL), PGS_OK);
	assert_int_equal(pgs_kv_memory_new(&s->kv, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_new(&s->blob, NULL), PGS_OK);
	sql_store_offer(s);
}

void sql_store_stop(sql_store *s)
{
	s->kv->vtable->close(s->kv);
	s->blob->vtable->close(s->blob);
	pgs_fault_free(s->fault);
}

sqlite3 *sql_open_uri(const char *uri)
{
	sqlite3 *db;
	int result = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, NULL);
	if (result != SQLITE_OK)
		fail_msg("open %s: %s", uri, sqlite3_errmsg(db));
	sqlite3_extended_result_codes(db, 1);
	return db;
}

sqlite3 *sql_open(const sql_store *s, const char *parameters)
{
	char uri[256];
	snprintf(uri, sizeof uri, "file:app?vfs=pagestore&store=%s%s", s->name, parameters);
	return sql_open_uri(uri);
}

sqlite3 *sql_native(void)
{
	return sql_open_uri(":memory:");
}

void sql_close(sqlite3 *db)
{
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

int sql_try(sqlite3 *db, const char *sql)
{
	int result = sqlite3_exec(db, sql, NULL, NULL, NULL);
	return result == SQLITE_OK ? result : sqlite3_extended_errcode(db);
}

void sql_expect(sqlite3 *db, int code, const char *sql)
{
	int result = sql_try(db, sql);
	if (result != code)
		fail_msg("%s: %d (%s), not %d", sql, result, sqlite3_errmsg(db), code);
}

void sql_do(sqlite3 *db, const char *sql)
{
	sql_expect(db, SQLITE_OK, sql);
}

int64_t sql_number(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *s;
	if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db));
	int64_t number = sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
	if (sqlite3_finalize(s) != SQLITE_OK)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db));
	return number;
}

static int add_row(void *ctx, int count, char **values, char **names)
{
	sqlite3_str *text = ctx;
	(void)names;
	if (sqlite3_str_length(text))
		sqlite3_str_appendall(text, "\n");
	for (int i = 0; i < count; i++)
		sqlite3_str_appendf(text, i ? "|%s" : "%s", values[i] ? values[i] : "NULL");
	return 0;
}

char *sql_text(sqlite3 *db, const char *sql)
{
	sqlite3_str *text = sqlite3_str_new(NULL);
	int result = sqlite3_exec(db, sql, add_row, text, NULL);
	char *out = sqlite3_str_finish(text);
	if (result == SQLITE_OK)
		return out ? out : sqlite3_mprintf("");
	sqlite3_free(out);
	return NULL;
}

void sql_expect_text(sqlite3 *db, const char *expected, const char *sql)
{
	char *text = sql_text(db, sql);
	if (!text)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db));
	if (strcmp(text, expected) != 0)
		fail_msg("%s: %s, not %s", sql, text, expected);
	sqlite3_free(text);
}

sqlite3_stmt *sql_begin_select(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *s;
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	return s;
}

void sql_check(sqlite3 *db)
{
	sql_expect_text(db, "ok", "pragma integrity_check");
}
