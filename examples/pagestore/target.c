/* The file an export writes. */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "format.h"
#include "report.h"

static int cannot(const target *t, const char *verb)
{
	const char *hint = NULL;
	int why = errno;
	if (why == ENOENT || why == ENOTDIR)
		hint = "Make the directory first, or name another file.";
	else if (why == EACCES || why == EPERM || why == EROFS)
		hint = "Name a file in a directory that you may write to, or - for stdout.";
	else if (why == ENOSPC || why == EDQUOT)
		hint = "Free some space, or name a file on another disk.";
	return cli_fail(hint, "cannot %s %s: %s", verb, strcmp(t->path, "-") ? cli_quote(t->path).text : "stdout",
		strerror(why));
}

static mode_t new_file_mode(void)
{
	mode_t mask = umask(0);
	umask(mask);
	return 0666 & ~mask;
}

/* "DIR/FILE" -> a new file "DIR/FILE.XXXXXX", open. */
static int open_temporary(target *t)
{
	size_t room = strlen(t->final) + sizeof(".XXXXXX");
	t->temporary = malloc(room);
	if (!t->temporary) {
		errno = ENOMEM;
		return cannot(t, "write");
	}
	snprintf(t->temporary, room, "%s.XXXXXX", t->final);
	t->fd = mkstemp(t->temporary);
	if (t->fd >= 0)
		return CLI_OK;
	free(t->temporary);
	t->temporary = NULL;
	return cannot(t, "make a temporary file beside");
}

int target_open(target *t, const char *path)
{
	struct stat st;
	memset(t, 0, sizeof(*t));
	t->path = path;
	t->fd = -1;
	if (strcmp(path, "-") == 0) {
		t->fd = STDOUT_FILENO;
		return CLI_OK;
	}
	if (stat(path, &st) != 0) {
		t->mode = new_file_mode();
		t->final = strdup(path);
	} else if (S_ISREG(st.st_mode)) {
		t->mode = st.st_mode & 0777;
		t->final = realpath(path, NULL); /* of a symbolic link, the file it names is replaced */
	} else if (S_ISDIR(st.st_mode)) {
		return cli_fail("Name a file in it.", "cannot export to %s: it is a directory", cli_quote(path).text);
	} else {
		t->fd = open(path, O_WRONLY | O_CLOEXEC);
		return t->fd >= 0 ? CLI_OK : cannot(t, "open");
	}
	return t->final ? open_temporary(t) : cannot(t, "write");
}

int target_write(target *t, const void *bytes, size_t size)
{
	const char *at = bytes;
	while (size) {
		ssize_t put = write(t->fd, at, size);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return cannot(t, "write");
		at += put;
		size -= (size_t)put;
	}
	return CLI_OK;
}

/* A rename is durable once its directory is. */
static void sync_directory(const char *file)
{
	char *copy = strdup(file);
	int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	free(copy);
}

int target_finish(target *t)
{
	if (!t->final)
		return CLI_OK;
	if (fchmod(t->fd, t->mode) != 0 || fsync(t->fd) != 0)
		return cannot(t, "write");
	int fd = t->fd;
	t->fd = -1;
	if (close(fd) != 0 || rename(t->temporary, t->final) != 0)
		return cannot(t, "write");
	free(t->temporary);
	t->temporary = NULL;
	sync_directory(t->final);
	return CLI_OK;
}

void target_discard(target *t)
{
	if (t->fd >= 0 && t->fd != STDOUT_FILENO)
		close(t->fd);
	if (t->temporary)
		unlink(t->temporary);
	free(t->temporary);
	free(t->final);
	memset(t, 0, sizeof(*t));
	t->fd = -1;
}
