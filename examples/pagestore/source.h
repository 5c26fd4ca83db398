/* source.h: the file an import reads
 *
 * Regular files are read where they are; stdin, pipes and devices are first
 * copied to an unlinked temporary file (in TMPDIR or /tmp), so that the reading
 * can start again after a conflict. source_check() tells when a file was written
 * while it was being read.
 */
#ifndef SOURCE_H
#define SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

typedef struct source {
	const char *path; /* as the user gave it, "-" for stdin */
	int fd;
	bool copied;
	struct stat before;
	uint64_t size_bytes;
	uint32_t sqlite_page_size; /* of an SQLite database; 0 = it is none */
} source;

/* Open `path` (borrowed), warning of an SQLite WAL or journal beside it.
 * CLI_OK or CLI_FAILED having said why; close it either way. */
int source_open(source *s, const char *path);

/* Read `size` bytes at `offset`, all of which must be there. CLI_OK or CLI_FAILED, having said why. */
int source_read(source *s, void *buffer, size_t size, uint64_t offset);

/* CLI_OK when the file is still what it was when it was opened, else CLI_FAILED having said so. */
int source_check(source *s);

void source_close(source *s);

#endif
