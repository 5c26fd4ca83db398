/* A folder for a test's files, removed at its end: as group set-up and tear-down. */
#ifndef TEST_SCRATCH_H
#define TEST_SCRATCH_H

#include <stddef.h>

int scratch_set_up(void **state);
int scratch_tear_down(void **state);

/* The folder, while it is there. */
const char *scratch_root(void);

/* "<folder>/<name>", in one of a few buffers of the thread, which serve in turn. */
const char *scratch_path(const char *name);

void scratch_write(const char *path, const void *data, size_t size);

/* Mount a tmpfs of a size ("8m") on a folder, to be unmounted by the caller. Where that is not allowed the running test is
 * skipped, or, with CI=true, fails. */
void scratch_mount(const char *folder, const char *size);

#endif
