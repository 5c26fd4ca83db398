/* cache.h: the numbers of the machine's cache file */
#ifndef CACHE_H
#define CACHE_H

#include <pagestore.h>

#include "format.h"
#include "json.h"

/* Lines of text about it; one, where there is none. */
void cli_print_cache(const pgs_cache_stat *s);

/* The same as an object "cache", or null. */
void cli_json_cache(json *j, const pgs_cache_stat *s);

/* "12 ms", "3.4 s"; "never" for UINT64_MAX. */
cli_short cli_age(uint64_t ms);

#endif
