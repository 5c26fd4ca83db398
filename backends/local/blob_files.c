/* The cache of open files.
 *
 * A blob never changes, so an open file stays right; but it may be removed, by
 * another process too, and then a read must not find it, nor its disk space be
 * held for long: every hit asks the kernel if the file still has a name, and
 * the least recently used is asked whenever another is opened. */
#include "blob_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void pgs__blob_files_init(pgs__blob_files *cache)
{
	pthread_mutex_init(&cache->lock, NULL);
	for (size_t i = 0; i < PGS__BLOB_FILES_MAX; i++)
		cache->files[i].fd = -1;
}

void pgs__blob_files_close(pgs__blob_files *cache)
{
	for (size_t i = 0; i < PGS__BLOB_FILES_MAX; i++)
		if (cache->files[i].fd >= 0)
			close(cache->files[i].fd);
	pthread_mutex_destroy(&cache->lock);
}

static void drop(pgs__blob_file *file)
{
	file->name[0] = '\0';
	if (file->users == 0 && file->fd >= 0) {
		close(file->fd);
		file->fd = -1;
	}
}

static bool is_removed(const pgs__blob_file *file)
{
	struct stat st;
	return fstat(file->fd, &st) || st.st_nlink == 0;
}

static pgs__blob_file *find(pgs__blob_files *cache, const char *name)
{
	for (size_t i = 0; i < PGS__BLOB_FILES_MAX; i++) {
		pgs__blob_file *file = &cache->files[i];
		if (file->fd < 0 || strcmp(file->name, name))
			continue;
		if (!is_removed(file))
			return file;
		drop(file);
	}
	return NULL;
}

static void drop_removed(pgs__blob_files *cache)
{
	for (size_t i = 0; i < PGS__BLOB_FILES_MAX; i++)
		if (cache->files[i].fd >= 0 && is_removed(&cache->files[i]))
			drop(&cache->files[i]);
}

/* A free place, or that of the least recently used file without users; NULL when all are in use. */
static pgs__blob_file *make_place(pgs__blob_files *cache)
{
	pgs__blob_file *oldest = NULL;
	for (size_t i = 0; i < PGS__BLOB_FILES_MAX; i++) {
		pgs__blob_file *file = &cache->files[i];
		if (file->fd < 0)
			return file;
		if (file->users == 0 && (!oldest || file->used < oldest->used))
			oldest = file;
	}
	if (oldest)
		drop(oldest);
	return oldest;
}

int pgs__blob_files_open(pgs__blob_files *cache, int root_fd, const char *name, int *fd, pgs__blob_file **slot)
{
	pthread_mutex_lock(&cache->lock);
	pgs__blob_file *file = find(cache, name);
	if (file) {
		file->users++;
		file->used = ++cache->clock;
		*fd = file->fd;
	}
	pthread_mutex_unlock(&cache->lock);
	*slot = file;
	if (file)
		return 0;

	char path[PGS__BLOB_PATH_MAX];
	pgs__blob_path(path, name);
	*fd = openat(root_fd, path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0)
		return errno;
	pthread_mutex_lock(&cache->lock);
	drop_removed(cache);
	file = make_place(cache);
	if (file) {
		strcpy(file->name, name);
		file->fd = *fd;
		file->users = 1;
		file->used = ++cache->clock;
	}
	pthread_mutex_unlock(&cache->lock);
	*slot = file;
	return 0;
}

void pgs__blob_files_release(pgs__blob_files *cache, int fd, pgs__blob_file *slot)
{
	if (!slot) {
		close(fd);
		return;
	}
	pthread_mutex_lock(&cache->lock);
	if (--slot->users == 0 && slot->name[0] == '\0')
		drop(slot);
	pthread_mutex_unlock(&cache->lock);
}

void pgs__blob_files_forget(pgs__blob_files *cache, const char *name)
{
	pthread_mutex_lock(&cache->lock);
	for (size_t i = 0; i < PGS__BLOB_FILES_MAX; i++)
		if (cache->files[i].fd >= 0 && !strcmp(cache->files[i].name, name))
			drop(&cache->files[i]);
	pthread_mutex_unlock(&cache->lock);
}
