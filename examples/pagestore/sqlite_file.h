/* sqlite_file.h: what the tool knows of SQLite's files */
#ifndef SQLITE_FILE_H
#define SQLITE_FILE_H

#include <stdbool.h>
#include <stdint.h>

/* The bytes at the start of a file that sqlite_page_size() looks at. */
#define SQLITE_HEADER_SIZE 18

/* The page size of the SQLite database that begins with `header`; 0 when it is none. */
uint32_t sqlite_page_size(const unsigned char header[SQLITE_HEADER_SIZE]);

/* Whether the file that SQLite keeps beside the database `path` under this
 * suffix ("-wal", "-journal") is there and holds something. */
bool sqlite_has_companion(const char *path, const char *suffix);

#endif
