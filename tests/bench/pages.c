/* Real database pages: those of a SQLite database of plausible rows, with indexes. */
#include "fixtures.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- words ------------------------------------------------------------------------- */

#define WORDS_MAX 40000
static const char *words[WORDS_MAX];
static size_t word_count;

static void add_words(char *line)
{
	for (char *word = strtok(line, " ;\t\r\n,()<>"); word && word_count < WORDS_MAX; word = strtok(NULL, " ;\t\r\n,()<>"))
		if (strlen(word) > 1 && strlen(word) < 24)
			words[word_count++] = strdup(word);
}

static void load_words(void)
{
	char line[1024];
	FILE *names = fopen("/usr/share/unicode/NamesList.txt", "r");
	while (names && word_count < WORDS_MAX && fgets(line, sizeof line, names))
		if (line[0] != '@' && line[0] != ';')
			add_words(line);
	if (names)
		fclose(names);
	bench_random random = {1};
	for (size_t i = word_count; i < 5000; i++) { /* none there: make some up */
		static const char *const parts[] = {"ka", "ro", "lin", "te", "mu", "sa", "nor", "de", "vi", "pel"};
		snprintf(line, sizeof line, "%s%s%s", parts[bench_random_next(&random) % 10],
			 parts[bench_random_next(&random) % 10], parts[bench_random_next(&random) % 10]);
		words[word_count++] = strdup(line);
	}
}

/* Some words are much more common than others, as in any text. */
const char *bench_word(bench_random *random)
{
	if (word_count == 0)
		load_words();
	size_t limit = bench_random_next(random) % word_count + 1;
	return words[bench_random_next(random) % limit];
}

/* --- the database ---------------------------------------------------------------------- */

static void sql(sqlite3 *db, const char *statement)
{
	char *message = NULL;
	if (sqlite3_exec(db, statement, NULL, NULL, &message) != SQLITE_OK)
		bench_die("sqlite: %s: %s", statement, message ? message : "");
}

static int64_t page_count(sqlite3 *db)
{
	sqlite3_stmt *s;
	sqlite3_prepare_v2(db, "PRAGMA page_count", -1, &s, NULL);
	bench_check(sqlite3_step(s) == SQLITE_ROW, "sqlite: page_count");
	int64_t count = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	return count;
}

static void insert_row(sqlite3_stmt *s, bench_random *random, int64_t number)
{
	char name[128], note[512] = "", code[32];
	snprintf(name, sizeof name, "%s %s", bench_word(random), bench_word(random));
	snprintf(code, sizeof code, "%04llX-%06lld", (unsigned long long)(bench_random_next(random) & 0xffff),
		 (long long)number);
	size_t used = 0, count = 4 + bench_random_next(random) % 16;
	for (size_t i = 0; i < count && used < 400; i++)
		used += (size_t)snprintf(note + used, sizeof note - used, "%s ", bench_word(random));
	sqlite3_bind_text(s, 1, code, -1, SQLITE_TRANSIENT);
	sqlite3_bind_text(s, 2, name, -1, SQLITE_TRANSIENT);
	sqlite3_bind_text(s, 3, note, -1, SQLITE_TRANSIENT);
	sqlite3_bind_int64(s, 4, (int64_t)(bench_random_next(random) % 100000));
	sqlite3_bind_int64(s, 5, 1700000000 + number * 3);
	bench_check(sqlite3_step(s) == SQLITE_DONE, "sqlite: insert");
	sqlite3_reset(s);
}

static void make_database(const char *path, uint64_t bytes)
{
	sqlite3 *db;
	sqlite3_stmt *s;
	bench_random random = {42};
	bench_check(sqlite3_open(path, &db) == SQLITE_OK, "sqlite: open");
	sql(db, "PRAGMA page_size=4096; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-600000;"
		"CREATE TABLE item(id INTEGER PRIMARY KEY, code TEXT, name TEXT, note TEXT, price INTEGER, at INTEGER);"
		"CREATE INDEX item_code ON item(code); CREATE INDEX item_name ON item(name, price); BEGIN");
	sqlite3_prepare_v2(db, "INSERT INTO item(code, name, note, price, at) VALUES(?,?,?,?,?)", -1, &s, NULL);
	for (int64_t number = 0; (uint64_t)page_count(db) * 4096 < bytes;)
		for (int i = 0; i < 1000; i++)
			insert_row(s, &random, number++);
	sqlite3_finalize(s);
	sql(db, "COMMIT");
	sqlite3_close(db);
}

const bench_pages *bench_real_pages(const bench_env *env, uint64_t bytes)
{
	static bench_pages pages;
	char path[BENCH_PATH_MAX];
	if (pages.data)
		return &pages;
	bench_path(env, "pages.sqlite", path);
	make_database(path, bytes);
	pages = (bench_pages){bench_alloc(bytes), 4096, (uint32_t)(bytes / 4096)};
	FILE *file = fopen(path, "rb");
	bench_check(file && fread(pages.data, 4096, pages.count, file) == pages.count, "reading the SQLite database");
	fclose(file);
	unlink(path);
	return &pages;
}
