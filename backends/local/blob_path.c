/* Names to paths, and the directories in between. */
#include "blob_path.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

static bool good_char(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
	       c == '-';
}

static bool good_part(const char *part, size_t size)
{
	if (size == 0 || (size == 1 && part[0] == '.') || (size == 2 && part[0] == '.' && part[1] == '.'))
		return false;
	for (size_t i = 0; i < size; i++)
		if (!good_char(part[i]))
			return false;
	return true;
}

int pgs__blob_check_name(const char *name, pgs_error *err)
{
	size_t size = name ? strnlen(name, PGS_BLOB_NAME_MAX + 1) : 0;
	bool good = size > 0 && size <= PGS_BLOB_NAME_MAX;
	for (const char *part = name; good && part;) {
		const char *slash = strchr(part, '/');
		good = good_part(part, slash ? (size_t)(slash - part) : strlen(part));
		part = slash ? slash + 1 : NULL;
	}
	if (good)
		return PGS_OK;
	char text[96];
	return pgs__error(err, PGS_EINVAL, "'%s' is no blob name: 1 to %d of A-Z a-z 0-9 . _ - and / between parts",
		pgs__printable(text, sizeof text, name, size), PGS_BLOB_NAME_MAX);
}

void pgs__blob_path(char out[PGS__BLOB_PATH_MAX], const char *name)
{
	for (; *name; name++) {
		if (*name == '/')
			*out++ = '+';
		*out++ = *name;
	}
	*out = '\0';
}

int pgs__blob_make_parents(int root_fd, const char *path)
{
	char part[PGS__BLOB_PATH_MAX];
	for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		memcpy(part, path, (size_t)(slash - path));
		part[slash - path] = '\0';
		if (mkdirat(root_fd, part, 0777) && errno != EEXIST)
			return errno;
	}
	return 0;
}

static int sync_one(int root_fd, const char *path)
{
	int fd = openat(root_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	/* Some file systems cannot sync directories and say EINVAL: then there is nothing to be done. */
	int cause = fsync(fd) && errno != EINVAL ? errno : 0;
	close(fd);
	return cause;
}

/* All of them, made by this put or not: who made one may not have come to its fsync yet. */
int pgs__blob_sync_parents(int root_fd, const char *path)
{
	char part[PGS__BLOB_PATH_MAX];
	strcpy(part, path);
	for (char *slash; (slash = strrchr(part, '/'));) {
		*slash = '\0';
		int cause = sync_one(root_fd, part);
		if (cause)
			return cause;
	}
	return sync_one(root_fd, ".");
}

/* A put that has just made one of them finds it gone and makes it again. */
void pgs__blob_prune_parents(int root_fd, const char *path)
{
	char part[PGS__BLOB_PATH_MAX];
	strcpy(part, path);
	for (char *slash; (slash = strrchr(part, '/'));) {
		*slash = '\0';
		if (unlinkat(root_fd, part, AT_REMOVEDIR))
			return;
	}
}
