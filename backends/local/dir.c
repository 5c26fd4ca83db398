/* Making directories that are still there after a crash. */
#include "dir.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/error.h"

#define MAP_MIN ((uint64_t)1 << 20)
#define MAP_MAX ((uint64_t)1 << 46)

int pgs__local_options(pgs_local_options *out, const pgs_local_options *options, const char *path, pgs_error *err)
{
	*out = (pgs_local_options)PGS_LOCAL_OPTIONS_INIT;
	if (!path || !*path)
		return pgs__error(err, PGS_EINVAL, "the path of a local store is empty");
	if (options) {
		if (options->struct_size < sizeof(uint32_t) + sizeof(pgs_sync))
			return pgs__error(err, PGS_EINVAL,
				"pgs_local_options.struct_size is %u: use PGS_LOCAL_OPTIONS_INIT",
				options->struct_size);
		memcpy(out, options, options->struct_size < sizeof *out ? options->struct_size : sizeof *out);
	}
	if ((unsigned)out->sync > PGS_SYNC_OFF)
		return pgs__error(
			err, PGS_EINVAL, "opening '%s': sync is %d, not a PGS_SYNC_ value", path, (int)out->sync);
	if (out->map_bytes == 0)
		out->map_bytes = PGS__LOCAL_MAP_DEFAULT;
	if (out->map_bytes < MAP_MIN || out->map_bytes > MAP_MAX)
		return pgs__error(err, PGS_EINVAL,
			"opening '%s': a map of %llu bytes: from 1 MiB to 64 TiB are possible", path,
			(unsigned long long)out->map_bytes);
	return PGS_OK;
}

char *pgs__path_join(const char *a, const char *b)
{
	size_t a_size = strlen(a), b_size = strlen(b);
	char *path = pgs__malloc(a_size + b_size + 2);
	if (!path)
		return NULL;
	memcpy(path, a, a_size);
	path[a_size] = '/';
	memcpy(path + a_size + 1, b, b_size + 1);
	return path;
}

int pgs__sync_directory(const char *path, pgs_error *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* Some file systems cannot sync directories and say EINVAL: then there is nothing to be done. */
	bool failed = fd < 0 || (fsync(fd) && errno != EINVAL);
	int cause = errno;
	if (fd >= 0)
		close(fd);
	if (!failed)
		return PGS_OK;
	return pgs__error(err, PGS_EIO, "cannot sync directory '%s': %s", path, strerror(cause));
}

/* The directory that holds `path`, to be freed; "a/" is held by ".". */
static char *parent_of(const char *path)
{
	size_t size = strlen(path);
	while (size > 1 && path[size - 1] == '/')
		size--;
	while (size > 0 && path[size - 1] != '/')
		size--;
	while (size > 1 && path[size - 1] == '/')
		size--;
	return size ? pgs__strndup(path, size) : pgs__strndup(".", 1);
}

int pgs__sync_parent(const char *path, pgs_error *err)
{
	char *parent = parent_of(path);
	if (!parent)
		return pgs__error_nomem(err, "a path");
	int status = pgs__sync_directory(parent, err);
	pgs__free(parent);
	return status;
}

static int make_failed(const char *path, int cause, pgs_error *err)
{
	if (cause != ENOENT && cause != ENOTDIR)
		return pgs__error(
			err, pgs__error_from_errno(cause), "cannot make directory '%s': %s", path, strerror(cause));
	char *parent = parent_of(path);
	if (!parent)
		return pgs__error_nomem(err, "a path");
	pgs__error(err, PGS_ENOTFOUND, "cannot make '%s': directory '%s' does not exist: make it first", path, parent);
	pgs__free(parent);
	return PGS_ENOTFOUND;
}

int pgs__local_directory(const char *path, const pgs_local_options *options, pgs_error *err)
{
	struct stat st;
	if (stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return PGS_OK;
		return pgs__error(err, PGS_EINVAL, "'%s' is not a directory", path);
	}
	if (errno != ENOENT && errno != ENOTDIR)
		return pgs__error(err, pgs__error_from_errno(errno), "cannot look at '%s': %s", path, strerror(errno));
	if (options->read_only || options->must_exist)
		return pgs__error(err, PGS_ENOTFOUND, "no pagestore store at '%s'", path);
	if (mkdir(path, 0777) && errno != EEXIST)
		return make_failed(path, errno, err);
	return options->sync == PGS_SYNC_OFF ? PGS_OK : pgs__sync_parent(path, err);
}
