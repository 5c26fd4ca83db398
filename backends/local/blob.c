/* Blobs as files below a directory.
 *
 * A put writes +tmp/<random>, syncs it, renames it to its place and syncs the
 * directories: the whole blob is there, durably, or nothing is (B1).
 *
 * The writer holds an flock() on its temporary file. The kernel drops it when
 * the process dies, in whatever container or on whatever machine it ran: so a
 * temporary file whose lock is free is garbage, and opening removes it. A writer
 * that loses the race between making the file and locking it takes another.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <pagestore/backends.h>

#include "blob_files.h"
#include "blob_list.h"
#include "blob_path.h"
#include "dir.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/metered.h"
#include "util/random.h"

#define CHUNK_BYTES ((size_t)1 << 20)

/* Losing a race that often is not a race. */
#define RACES_MAX 100

typedef struct local_blob {
	pgs__metered_blob base;
	char *path;
	int root_fd;
	pgs_sync sync;
	bool read_only;
	pgs__blob_files files;
} local_blob;

static int failed(const local_blob *b, int cause, const char *what, const char *name, pgs_error *err)
{
	return pgs__error(err, pgs__error_from_errno(cause), "cannot %s blob '%s' in '%s': %s%s", what, name, b->path,
		strerror(cause), pgs__error_from_errno(cause) == PGS_ENOSPC ? ": free disk space" : "");
}

static int late(const local_blob *b, const char *name, pgs_error *err)
{
	return pgs__error(err, PGS_ETIMEOUT, "the deadline passed at blob '%s' in '%s'", name, b->path);
}

static int check_write(const local_blob *b, const char *name, pgs_error *err)
{
	int status = pgs__blob_check_name(name, err);
	if (!status && b->read_only)
		return pgs__error(err, PGS_EREADONLY, "a write to '%s', which is open read-only", b->path);
	return status;
}

/* --- put ------------------------------------------------------------------- */

typedef struct temp {
	char path[sizeof PGS__BLOB_TEMP_DIRECTORY + 33];
	int fd;
} temp;

static int temp_create(const local_blob *b, temp *t)
{
	uint8_t random[16];
	struct stat st;
	for (int race = 0; race < RACES_MAX; race++) {
		if (pgs__random_bytes(random, sizeof random))
			return EIO;
		strcpy(t->path, PGS__BLOB_TEMP_DIRECTORY "/");
		pgs__hex(t->path + strlen(t->path), random, sizeof random);
		t->fd = openat(b->root_fd, t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (t->fd < 0 && errno == ENOENT && mkdirat(b->root_fd, PGS__BLOB_TEMP_DIRECTORY, 0777) == 0)
			continue;
		if (t->fd < 0 && errno != EEXIST)
			return errno;
		/* A file system without flock() has nobody who cleans by it either. */
		bool taken = t->fd >= 0 && flock(t->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
		if (t->fd >= 0 && !taken && !fstat(t->fd, &st) && st.st_nlink)
			return 0;
		if (t->fd >= 0)
			close(t->fd);
	}
	return EIO;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t wrote = write(fd, data, size);
		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return errno;
		data += wrote;
		size -= (size_t)wrote;
	}
	return 0;
}

static int fill(const local_blob *b, int fd, const char *name, uint64_t size, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	size_t room = size < CHUNK_BYTES ? (size_t)size : CHUNK_BYTES;
	char *chunk = pgs__malloc(room);
	if (!chunk)
		return pgs__error_nomem(err, "writing a blob");
	int status = PGS_OK;
	for (uint64_t offset = 0; offset < size && !status; offset += room) {
		if (room > size - offset)
			room = (size_t)(size - offset);
		if (pgs__deadline_passed(deadline_ms)) {
			status = late(b, name, err);
			break;
		}
		status = source(ctx, offset, chunk, room);
		if (status) {
			pgs__error(err, status, "the source of blob '%s' failed at %llu of %llu bytes", name,
				(unsigned long long)offset, (unsigned long long)size);
			break;
		}
		int cause = write_all(fd, chunk, room);
		if (cause)
			status = failed(b, cause, "write", name, err);
	}
	pgs__free(chunk);
	return status;
}

/* Move the file to its place, whose directory a concurrent remove may take away again. */
static int place(const local_blob *b, const temp *t, const char *path)
{
	int cause = ENOENT;
	for (int race = 0; race < RACES_MAX && cause == ENOENT; race++) {
		cause = race ? pgs__blob_make_parents(b->root_fd, path) : 0;
		if (!cause && renameat(b->root_fd, t->path, b->root_fd, path))
			cause = errno;
	}
	return cause;
}

static int put_file(const local_blob *b, const temp *t, const char *name, pgs_error *err)
{
	char path[PGS__BLOB_PATH_MAX];
	pgs__blob_path(path, name);
	int cause = b->sync != PGS_SYNC_OFF && fsync(t->fd) ? errno : 0;
	if (!cause)
		cause = place(b, t, path);
	if (cause) {
		pgs__blob_prune_parents(b->root_fd, path);
		return failed(b, cause, "put", name, err);
	}
	if (b->sync != PGS_SYNC_OFF)
		cause = pgs__blob_sync_parents(b->root_fd, path);
	return cause ? failed(b, cause, "sync", name, err) : PGS_OK;
}

static int local_put(pgs_blob *base, const char *name, uint64_t size, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	local_blob *b = (local_blob *)base;
	temp t;
	int status = check_write(b, name, err);
	if (!status && pgs__deadline_passed(deadline_ms))
		status = late(b, name, err);
	if (status)
		return status;
	int cause = temp_create(b, &t);
	if (cause)
		return failed(b, cause, "make a temporary file for", name, err);
	status = fill(b, t.fd, name, size, source, ctx, deadline_ms, err);
	if (!status)
		status = put_file(b, &t, name, err);
	/* After the rename there is nothing to unlink, and never anyone else's: the name is random. */
	if (status)
		unlinkat(b->root_fd, t.path, 0);
	close(t.fd);
	return status;
}

/* --- get ------------------------------------------------------------------- */

static int read_range(const local_blob *b, int fd, const pgs_blob_range *range, pgs_error *err)
{
	char *at = range->buffer;
	size_t left = range->size;
	uint64_t offset = range->offset;
	if (offset > INT64_MAX || left > INT64_MAX - offset)
		left = 0, at = NULL;
	while (left) {
		ssize_t got = pread(fd, at, left, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return failed(b, errno, "read", range->name, err);
		if (got == 0)
			break;
		at += got;
		offset += (uint64_t)got;
		left -= (size_t)got;
	}
	if (left == 0 && (at || range->size == 0))
		return PGS_OK;
	return pgs__error(err, PGS_ECORRUPT, "blob '%s' in '%s' ends before byte %llu + %zu", range->name, b->path,
		(unsigned long long)range->offset, range->size);
}

static int get_range(local_blob *b, const pgs_blob_range *range, uint64_t deadline_ms, pgs_error *err)
{
	int fd;
	pgs__blob_file *slot;
	int status = pgs__blob_check_name(range->name, err);
	if (!status && pgs__deadline_passed(deadline_ms))
		status = late(b, range->name, err);
	if (status)
		return status;
	int cause = pgs__blob_files_open(&b->files, b->root_fd, range->name, &fd, &slot);
	if (cause)
		return failed(b, cause, "open", range->name, err);
	status = read_range(b, fd, range, err);
	pgs__blob_files_release(&b->files, fd, slot);
	return status;
}

static int local_get(pgs_blob *base, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	local_blob *b = (local_blob *)base;
	int first = PGS_OK;
	for (size_t i = 0; i < count; i++) {
		ranges[i].status = get_range(b, &ranges[i], deadline_ms, first ? NULL : err);
		first = first ? first : ranges[i].status;
	}
	return first;
}

/* --- the rest ---------------------------------------------------------------- */

static int local_stat(pgs_blob *base, const char *name, uint64_t *size_bytes, uint64_t deadline_ms, pgs_error *err)
{
	local_blob *b = (local_blob *)base;
	char path[PGS__BLOB_PATH_MAX];
	struct stat st;
	(void)deadline_ms;
	*size_bytes = 0;
	int status = pgs__blob_check_name(name, err);
	if (status)
		return status;
	pgs__blob_path(path, name);
	if (fstatat(b->root_fd, path, &st, 0))
		return failed(b, errno, "find", name, err);
	*size_bytes = (uint64_t)st.st_size;
	return PGS_OK;
}

static int local_list(
	pgs_blob *base, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	return pgs__blob_list(((local_blob *)base)->root_fd, prefix, lister, ctx, deadline_ms, err);
}

/* Not synced: a blob that comes back after a crash is garbage that is collected again. */
static int local_remove(pgs_blob *base, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	local_blob *b = (local_blob *)base;
	char path[PGS__BLOB_PATH_MAX];
	(void)deadline_ms;
	int status = check_write(b, name, err);
	if (status)
		return status;
	pgs__blob_path(path, name);
	int cause = unlinkat(b->root_fd, path, 0) ? errno : 0;
	if (cause && cause != ENOENT)
		return failed(b, cause, "remove", name, err);
	pgs__blob_files_forget(&b->files, name);
	pgs__blob_prune_parents(b->root_fd, path);
	return PGS_OK;
}

static void local_close(pgs_blob *base)
{
	local_blob *b = (local_blob *)base;
	pgs__blob_files_close(&b->files);
	if (b->root_fd >= 0)
		close(b->root_fd);
	pgs__free(b->path);
	pgs__free(b);
}

/* --- opening ------------------------------------------------------------------- */

static void clean_one(int fd, const char *name)
{
	int file = openat(fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (file < 0)
		return;
	if (flock(file, LOCK_EX | LOCK_NB) == 0)
		unlinkat(fd, name, 0);
	close(file);
}

/* Temporary files that no living process has locked. Failing to is no failure. */
static void clean_temps(const local_blob *b)
{
	int fd = openat(b->root_fd, PGS__BLOB_TEMP_DIRECTORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *entry; (entry = readdir(dir));)
		if (entry->d_name[0] != '.')
			clean_one(fd, entry->d_name);
	closedir(dir);
}

static int open_root(local_blob *b, const pgs_local_options *options, pgs_error *err)
{
	if (!b->path)
		return pgs__error_nomem(err, "a path");
	int status = pgs__local_directory(b->path, options, err);
	if (status)
		return status;
	b->root_fd = open(b->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (b->root_fd < 0)
		return pgs__error(err, pgs__error_from_errno(errno), "cannot open '%s': %s", b->path, strerror(errno));
	if (!b->read_only)
		clean_temps(b);
	return PGS_OK;
}

static const pgs_blob_vtable vtable = {
	.version = PGS_BLOB_VERSION,
	.struct_size = sizeof vtable,
	.put = local_put,
	.get = local_get,
	.stat = local_stat,
	.list = local_list,
	.remove = local_remove,
	.close = local_close,
};

int pgs_blob_local_open(pgs_blob **out, const char *path, const pgs_local_options *options, pgs_error *err)
{
	pgs_local_options o;
	*out = NULL;
	int status = pgs__local_options(&o, options, path, err);
	if (status)
		return status;
	local_blob *b = pgs__calloc(1, sizeof *b);
	if (!b)
		return pgs__error_nomem(err, "a blob store");
	pgs__metered_blob_init(&b->base, "local", &vtable);
	b->root_fd = -1;
	b->sync = o.sync;
	b->read_only = o.read_only;
	b->path = pgs__strndup(path, strlen(path));
	pgs__blob_files_init(&b->files);
	status = open_root(b, &o, err);
	if (status) {
		local_close(&b->base.base);
		return status;
	}
	*out = &b->base.base;
	return PGS_OK;
}
