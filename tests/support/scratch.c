/* A folder for a test's files. */
#include "support/scratch.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "support/testing.h"

static char root[64];

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

int scratch_set_up(void **state)
{
	(void)state;
	strcpy(root, "/tmp/pagestore-test-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

int scratch_tear_down(void **state)
{
	(void)state;
	return nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *scratch_root(void)
{
	return root;
}

const char *scratch_path(const char *name)
{
	static _Thread_local char paths[4][300];
	static _Thread_local unsigned next;
	char *path = paths[next++ % 4];
	snprintf(path, sizeof paths[0], "%s/%s", root, name);
	return path;
}

void scratch_write(const char *path, const void *data, size_t size)
{
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, size, file), size);
	assert_int_equal(fclose(file), 0);
}

void scratch_mount(const char *folder, const char *size)
{
	char option[40];
	const char *ci = getenv("CI");
	snprintf(option, sizeof option, "size=%s", size);
	if (mount("tmpfs", folder, "tmpfs", 0, option) == 0)
		return;
	fprintf(stderr, "# skipped: mounting a tmpfs of %s takes root\n", size);
	if (ci && strcmp(ci, "true") == 0)
		fail_msg("skipped in CI: mounting a tmpfs");
	skip();
}
