/* Tables that ask the store, on connections whose main database is in one:
 *
 *     select * from pagestore_log                     the commits still in the log, newest first
 *     select page from pagestore_changes(1200, 1300)  pages that differ between two revisions
 *
 * Each takes the name of a schema as its last argument, "main" unless given. What a query finds is collected when it
 * begins: a commit in the log takes some hundred bytes, a page eight.
 */
#include "file.h"

#include <string.h>

enum { NUMBERS = 7, ARGUMENTS_MAX = 3 };

typedef struct row {
	int64_t numbers[NUMBERS];
	void *note; /* numbers[NUMBERS - 1] bytes */
} row;

typedef struct cursor cursor;

/* One of the two. Its hidden columns are its arguments, the last of them the schema. */
typedef struct kind {
	const char *declaration;
	int columns, arguments;
	int (*collect)(cursor *c, pgs_db *db, const int64_t *arguments, pgs_error *err);
	void (*column)(const row *r, int column, sqlite3_context *out);
} kind;

typedef struct table {
	sqlite3_vtab base;
	const kind *kind;
	sqlite3 *db;
} table;

struct cursor {
	sqlite3_vtab_cursor base;
	row *rows;
	size_t count, capacity, at;
};

static row *add_row(cursor *c)
{
	if (c->count == c->capacity) {
		size_t capacity = c->capacity ? c->capacity * 2 : 32;
		row *rows = sqlite3_realloc64(c->rows, capacity * sizeof *rows);
		if (!rows)
			return NULL;
		c->rows = rows;
		c->capacity = capacity;
	}
	c->rows[c->count] = (row){{0}, NULL};
	return &c->rows[c->count++];
}

static void clear(cursor *c)
{
	for (size_t i = 0; i < c->count; i++)
		sqlite3_free(c->rows[i].note);
	sqlite3_free(c->rows);
	c->rows = NULL;
	c->count = c->capacity = c->at = 0;
}

/* --- pagestore_log ---------------------------------------------------------------------------------------- */

static int add_commit(void *ctx, const pgs_log_entry *e)
{
	row *r = add_row(ctx);
	if (!r)
		return PGS_ENOMEM;
	const int64_t numbers[NUMBERS] = {(int64_t)e->revision, e->time_ms, (int64_t)e->pages_written,
		(int64_t)e->kv_bytes, (int64_t)e->blob_bytes, 0, (int64_t)e->note_size};
	memcpy(r->numbers, numbers, sizeof numbers);
	if (!e->note)
		return 0;
	r->note = sqlite3_malloc64(e->note_size + 1);
	if (!r->note)
		return PGS_ENOMEM;
	memcpy(r->note, e->note, e->note_size);
	return 0;
}

static int collect_log(cursor *c, pgs_db *db, const int64_t *arguments, pgs_error *err)
{
	(void)arguments;
	return pgs_log(db, NULL, add_commit, c, err);
}

static void log_column(const row *r, int column, sqlite3_context *out)
{
	if (column < 5)
		sqlite3_result_int64(out, r->numbers[column]);
	else if (r->note)
		sqlite3_result_blob64(out, r->note, (sqlite3_uint64)r->numbers[NUMBERS - 1], SQLITE_TRANSIENT);
}

static const kind log_kind = {
	"create table x(revision integer, time_ms integer, pages integer, kv_bytes integer, blob_bytes integer, note blob,"
	" schema text hidden)",
	6, 1, collect_log, log_column};

/* --- pagestore_changes -------------------------------------------------------------------------------------- */

static int add_page(void *ctx, uint64_t page)
{
	row *r = page ? add_row(ctx) : NULL; /* page 0 is what is kept of page 1 */
	if (r)
		r->numbers[0] = (int64_t)page;
	return r || !page ? 0 : PGS_ENOMEM;
}

static int collect_changes(cursor *c, pgs_db *db, const int64_t *arguments, pgs_error *err)
{
	return pgs_diff(db, (uint64_t)arguments[0], (uint64_t)arguments[1], add_page, c, err);
}

static void changes_column(const row *r, int column, sqlite3_context *out)
{
	if (column == 0)
		sqlite3_result_int64(out, r->numbers[0]);
}

static const kind changes_kind = {
	"create table x(page integer, from_revision integer hidden, to_revision integer hidden, schema text hidden)", 1, 3,
	collect_changes, changes_column};

/* --- what SQLite calls ------------------------------------------------------------------------------------------ */

static int table_connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out, char **message)
{
	const kind *k = aux;
	(void)argc, (void)argv, (void)message;
	table *t = sqlite3_malloc(sizeof *t);
	if (!t)
		return SQLITE_NOMEM;
	*t = (table){.kind = k, .db = db};
	*out = &t->base;
	return sqlite3_declare_vtab(db, k->declaration);
}

static int table_disconnect(sqlite3_vtab *base)
{
	sqlite3_free(base);
	return SQLITE_OK;
}

/* Arguments are handed to filter in their order; idxNum says which there are. All but the schema are needed. */
static int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
	const kind *k = ((table *)base)->kind;
	int place[ARGUMENTS_MAX] = {-1, -1, -1}, count = 0;
	for (int i = 0; i < info->nConstraint; i++) {
		const struct sqlite3_index_constraint *at = &info->aConstraint[i];
		int argument = at->iColumn - k->columns;
		if (argument >= 0 && argument < k->arguments && at->usable && at->op == SQLITE_INDEX_CONSTRAINT_EQ)
			place[argument] = i;
	}
	for (int i = 0; i < k->arguments; i++) {
		if (i < k->arguments - 1 && place[i] < 0)
			return SQLITE_CONSTRAINT;
		if (place[i] < 0)
			continue;
		info->aConstraintUsage[place[i]].argvIndex = ++count;
		info->aConstraintUsage[place[i]].omit = 1;
		info->idxNum |= 1 << i;
	}
	info->estimatedCost = 10000;
	return SQLITE_OK;
}

static int cursor_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
	(void)base;
	cursor *c = sqlite3_malloc(sizeof *c);
	if (!c)
		return SQLITE_NOMEM;
	*c = (cursor){.rows = NULL};
	*out = &c->base;
	return SQLITE_OK;
}

static int cursor_close(sqlite3_vtab_cursor *base)
{
	clear((cursor *)base);
	sqlite3_free(base);
	return SQLITE_OK;
}

static int complain(table *t, const char *what)
{
	sqlite3_free(t->base.zErrMsg);
	t->base.zErrMsg = sqlite3_mprintf("pagestore: %s", what);
	return SQLITE_ERROR;
}

static int collect(table *t, cursor *c, const char *schema, const int64_t *arguments)
{
	sqlite3_file *file = NULL;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	sqlite3_file_control(t->db, schema, SQLITE_FCNTL_FILE_POINTER, &file);
	if (!file || file->pMethods != &sq_file_methods)
		return complain(t, "the schema is not one in a pagestore");
	if (sq_database_open(((sq_file *)file)->database, &db, &err) != PGS_OK)
		return complain(t, err.message);
	int result = db ? t->kind->collect(c, db, arguments, &err) : PGS_OK;
	if (result == PGS_ENOMEM)
		return SQLITE_NOMEM;
	return result == PGS_OK ? SQLITE_OK : complain(t, err.message);
}

static int cursor_filter(sqlite3_vtab_cursor *base, int which, const char *text, int count, sqlite3_value **values)
{
	cursor *c = (cursor *)base;
	table *t = (table *)base->pVtab;
	int64_t arguments[ARGUMENTS_MAX] = {0};
	const char *schema = "main";
	(void)text;
	clear(c);
	for (int i = 0, at = 0; i < t->kind->arguments && at < count; i++) {
		if (!(which >> i & 1))
			continue;
		if (i == t->kind->arguments - 1)
			schema = (const char *)sqlite3_value_text(values[at++]);
		else
			arguments[i] = sqlite3_value_int64(values[at++]);
	}
	return schema ? collect(t, c, schema, arguments) : SQLITE_OK;
}

static int cursor_next(sqlite3_vtab_cursor *base)
{
	((cursor *)base)->at++;
	return SQLITE_OK;
}

static int cursor_eof(sqlite3_vtab_cursor *base)
{
	const cursor *c = (cursor *)base;
	return c->at >= c->count;
}

static int cursor_column(sqlite3_vtab_cursor *base, sqlite3_context *out, int column)
{
	const cursor *c = (cursor *)base;
	((table *)base->pVtab)->kind->column(&c->rows[c->at], column, out);
	return SQLITE_OK;
}

static int cursor_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
	*rowid = (sqlite3_int64)((cursor *)base)->at;
	return SQLITE_OK;
}

/* Without xCreate a table is there by its module's name alone. */
static const sqlite3_module module = {
	.xConnect = table_connect,
	.xBestIndex = table_best_index,
	.xDisconnect = table_disconnect,
	.xOpen = cursor_open,
	.xClose = cursor_close,
	.xFilter = cursor_filter,
	.xNext = cursor_next,
	.xEof = cursor_eof,
	.xColumn = cursor_column,
	.xRowid = cursor_rowid,
};

int sq_tables_create(sqlite3 *db)
{
	int result = sqlite3_create_module(db, "pagestore_log", &module, (void *)&log_kind);
	if (result == SQLITE_OK)
		result = sqlite3_create_module(db, "pagestore_changes", &module, (void *)&changes_kind);
	return result;
}
