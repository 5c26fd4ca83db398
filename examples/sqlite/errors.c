/* Why something failed.
 *
 * SQLite's errors are numbers, its texts belong to the numbers, and what a VFS knows beside that has nowhere to go. So
 * the reason is told to SQLite's log, and kept for the thread, which may ask with SELECT pagestore_error(). */
#include "file.h"

#include <stdarg.h>

static _Thread_local char last[PGS_ERROR_MESSAGE_SIZE + 64];

void sq_tell(int code, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(last, sizeof last, format, arguments);
	va_end(arguments);
	sqlite3_log(code, "pagestore: %s", last);
}

const char *sq_last_error(void)
{
	return last;
}

static void tell_last(sqlite3_context *out, int count, sqlite3_value **values)
{
	(void)count, (void)values;
	if (last[0])
		sqlite3_result_text(out, last, -1, SQLITE_TRANSIENT);
}

int sq_error_function_create(sqlite3 *db)
{
	return sqlite3_create_function(db, "pagestore_error", 0, SQLITE_UTF8, NULL, tell_last, NULL, NULL);
}
