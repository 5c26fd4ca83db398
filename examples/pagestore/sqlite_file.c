/* What the tool knows of SQLite's files. */
#include "sqlite_file.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <pagestore.h>

uint32_t sqlite_page_size(const unsigned char header[SQLITE_HEADER_SIZE])
{
	if (memcmp(header, "SQLite format 3", 16) != 0)
		return 0;
	uint32_t size = (uint32_t)header[16] << 8 | header[17];
	if (size == 1) /* what does not fit in two bytes */
		size = 65536;
	bool valid = size >= PGS_PAGE_SIZE_MIN && (size & (size - 1)) == 0;
	return valid ? size : 0;
}

bool sqlite_has_companion(const char *path, const char *suffix)
{
	char name[PATH_MAX];
	struct stat st;
	int size = snprintf(name, sizeof(name), "%s%s", path, suffix);
	return size > 0 && (size_t)size < sizeof(name) && stat(name, &st) == 0 && st.st_size > 0;
}
