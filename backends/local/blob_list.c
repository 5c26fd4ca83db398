/* Listing blobs in memcmp order of their names.
 *
 * A directory is walked as if it were called by what it puts into names: "a/",
 * not "a" or "a+". Then sorting each directory's entries sorts all names:
 *
 *      a    a-b    a.b    a/c    a/d    ab            ('-' < '.' < '/' < 'b')
 *      file file   file   └ directory ┘ file
 */
#include "blob_list.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blob_path.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

typedef struct walk {
	const char *prefix;
	pgs_blob_lister lister;
	void *ctx;
	uint64_t deadline_ms;
	pgs_error *err;
	char name[PGS__BLOB_PATH_MAX]; /* of the directory being walked, with its '/' */
} walk;

typedef struct entries {
	char **names; /* "file" or "directory/" */
	size_t count;
	size_t capacity;
} entries;

static int failed(walk *w, const char *what)
{
	int cause = errno;
	return pgs__error(
		w->err, pgs__error_from_errno(cause), "cannot list blobs: %s '%s': %s", what, w->name, strerror(cause));
}

static void entries_free(entries *e)
{
	for (size_t i = 0; i < e->count; i++)
		pgs__free(e->names[i]);
	pgs__free(e->names);
}

/* Do names below `part` (or `part` itself) begin with the prefix, as far as both go? */
static bool wanted(const walk *w, const char *part)
{
	size_t before = strlen(w->name), size = strlen(part), prefix_size = strlen(w->prefix);
	if (prefix_size <= before)
		return true;
	size_t left = prefix_size - before;
	if (part[size - 1] != '/' && size < left)
		return false;
	return !strncmp(part, w->prefix + before, size < left ? size : left);
}

static int add(walk *w, entries *e, const char *file)
{
	size_t size = strlen(file);
	bool directory = size > 1 && file[size - 1] == '+';
	/* Neither ours nor a name: +tmp, "." and "..", what others left here. */
	if (!directory && (strchr(file, '+') || pgs__blob_check_name(file, NULL)))
		return PGS_OK;
	if (strlen(w->name) + size > PGS_BLOB_NAME_MAX)
		return PGS_OK;
	if (pgs__grow(&e->names, &e->capacity, e->count + 1, sizeof *e->names))
		return pgs__error_nomem(w->err, "listing blobs");
	char *name = pgs__strndup(file, size);
	if (!name)
		return pgs__error_nomem(w->err, "listing blobs");
	if (directory)
		name[size - 1] = '/';
	if (wanted(w, name))
		e->names[e->count++] = name;
	else
		pgs__free(name);
	return PGS_OK;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Takes `fd`. */
static int read_entries(walk *w, int fd, entries *e)
{
	DIR *dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return failed(w, "directory");
	}
	int status = PGS_OK;
	struct dirent *entry;
	while (!status && (errno = 0, entry = readdir(dir)))
		status = add(w, e, entry->d_name);
	if (!status && errno)
		status = failed(w, "directory");
	closedir(dir);
	if (e->count > 1)
		qsort(e->names, e->count, sizeof *e->names, by_name);
	return status;
}

static int walk_directory(walk *w, int fd);

/* Whatever is gone meanwhile is not listed. */
static int visit_directory(walk *w, int parent, const char *part)
{
	char file[PGS__BLOB_PATH_MAX];
	size_t before = strlen(w->name), size = strlen(part);
	memcpy(file, part, size + 1);
	file[size - 1] = '+';
	int fd = openat(parent, file, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? PGS_OK : failed(w, "directory in");
	memcpy(w->name + before, part, size + 1);
	int status = walk_directory(w, fd);
	w->name[before] = '\0';
	return status;
}

static int visit_file(walk *w, int parent, const char *part)
{
	struct stat st;
	size_t before = strlen(w->name);
	if (fstatat(parent, part, &st, 0))
		return errno == ENOENT ? PGS_OK : failed(w, "file in");
	if (!S_ISREG(st.st_mode))
		return PGS_OK;
	memcpy(w->name + before, part, strlen(part) + 1);
	int status = w->lister(w->ctx, w->name, (uint64_t)st.st_size);
	w->name[before] = '\0';
	return status;
}

/* Takes `fd`. */
static int walk_directory(walk *w, int fd)
{
	entries e = {0};
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int status = copy < 0 ? failed(w, "directory") : read_entries(w, copy, &e);
	for (size_t i = 0; i < e.count && !status; i++) {
		bool directory = e.names[i][strlen(e.names[i]) - 1] == '/';
		if (pgs__deadline_passed(w->deadline_ms))
			status = pgs__error(w->err, PGS_ETIMEOUT, "the deadline passed while listing blobs");
		else if (directory)
			status = visit_directory(w, fd, e.names[i]);
		else
			status = visit_file(w, fd, e.names[i]);
	}
	entries_free(&e);
	close(fd);
	return status;
}

int pgs__blob_list(
	int root_fd, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	walk w = {.prefix = prefix, .lister = lister, .ctx = ctx, .deadline_ms = deadline_ms, .err = err};
	/* Opened afresh: a shared directory descriptor has one position for all readers. */
	int fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? failed(&w, "directory") : walk_directory(&w, fd);
}
