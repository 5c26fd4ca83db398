/* The entry point of the loadable extension. */
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1

#include "file.h"
#include "pagestore_sqlite.h"

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int sqlite3_pagestoresqlite_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);

/* Found by SQLite under this name for a file called pagestore_sqlite. It stays after the connection that loaded it. */
int sqlite3_pagestoresqlite_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
	(void)message;
	SQLITE_EXTENSION_INIT2(api);
	int result = pagestore_sqlite_register();
	if (result == SQLITE_OK)
		result = sq_error_function_create(db);
	return result == SQLITE_OK ? SQLITE_OK_LOAD_PERMANENTLY : result;
}
