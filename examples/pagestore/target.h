/* target.h: the file an export writes
 *
 * A regular file is written beside its final name and renamed over it once all
 * of it is on disk: whoever reads it sees the old file or the new one, and a
 * failure leaves the old one. stdout ("-"), pipes and devices are written to.
 */
#ifndef TARGET_H
#define TARGET_H

#include <stddef.h>
#include <stdint.h>

typedef struct target {
	const char *path; /* as the user gave it */
	char *final;      /* what is renamed to; NULL = written directly */
	char *temporary;
	unsigned mode; /* permissions of the finished file */
	int fd;
} target;

/* All: CLI_OK, or CLI_FAILED having said why. `path` is borrowed. Once it has been
 * opened, successfully or not, end with target_discard(). */
int target_open(target *t, const char *path);
int target_write(target *t, const void *bytes, size_t size);
int target_finish(target *t);

/* Remove what target_finish() has not made final; free everything. */
void target_discard(target *t);

#endif
