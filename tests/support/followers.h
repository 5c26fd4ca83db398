/* Processes that follow a database with one cache file between them, while others write to it; some are killed (-9). */
#ifndef PGS_TESTS_FOLLOWERS_H
#define PGS_TESTS_FOLLOWERS_H

#include <stdbool.h>
#include <stdint.h>

/* `url` of a new store; `cached_url` the same with cache=; `dir` a folder for files; `folder` where the helper is. Fails
 * the running test where something is not as it should be. */
void followers_run(const char *url, const char *cached_url, const char *dir, const char *folder, uint32_t run_ms,
	bool servers);

#endif
