/* Deadlines and the log of a store. */
#include "txn/db.h"

#include <stdarg.h>
#include <stdio.h>

#include "util/clock.h"

#define TIMEOUT_DEFAULT_MS 30000

uint32_t pgs__db_timeout(const pgs_db *db, uint32_t timeout_ms)
{
	if (timeout_ms)
		return timeout_ms;
	return db->store->timeout_ms ? db->store->timeout_ms : TIMEOUT_DEFAULT_MS;
}

uint64_t pgs__db_deadline(const pgs_db *db, uint32_t timeout_ms)
{
	return pgs__now_ms() + pgs__db_timeout(db, timeout_ms);
}

void pgs__log(const pgs_store *store, int level, const char *format, ...)
{
	char line[512];
	if (!store->logger)
		return;
	va_list args;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	store->logger(store->logger_ctx, level, line);
}
