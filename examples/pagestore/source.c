/* The file an import reads. */
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "format.h"
#include "interrupt.h"
#include "report.h"
#include "sqlite_file.h"

static const char advise_copy[] = "Stop what writes to it, or import a copy: sqlite3 FILE \"VACUUM INTO 'copy.db'\" "
				  "makes one of a live database.";

static bool is_stdin(const source *s)
{
	return strcmp(s->path, "-") == 0;
}

static int cannot(const source *s, const char *verb, const char *hint)
{
	return cli_fail(
		hint, "cannot %s %s: %s", verb, is_stdin(s) ? "stdin" : cli_quote(s->path).text, strerror(errno));
}

static void warn_of_companions(const source *s)
{
	if (is_stdin(s) || !s->sqlite_page_size)
		return;
	if (sqlite_has_companion(s->path, "-wal"))
		cli_warn("the write-ahead log beside %s is not empty; what is in it is not imported.\n"
			 "  Run `sqlite3 FILE 'PRAGMA wal_checkpoint(TRUNCATE)'` first to have it in the file.",
			cli_quote(s->path).text);
	if (sqlite_has_companion(s->path, "-journal"))
		cli_warn("the rollback journal beside %s is not empty: a transaction is running, or was cut short.\n"
			 "  Open the database with sqlite3 once to roll it back, then import again.",
			cli_quote(s->path).text);
}

/* Wait for input without missing a signal: read() is restarted after one, poll() is not. */
static ssize_t read_some(int fd, void *buffer, size_t size)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	while (!cli_interrupted()) {
		if (poll(&wait, 1, -1) < 0 && errno != EINTR)
			return -1;
		if (cli_interrupted())
			break;
		ssize_t got = read(fd, buffer, size);
		if (got >= 0 || (errno != EINTR && errno != EAGAIN))
			return got;
	}
	errno = EINTR;
	return -1;
}

static int write_all(int fd, const char *bytes, size_t size)
{
	while (size) {
		ssize_t put = write(fd, bytes, size);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -1;
		bytes += put;
		size -= (size_t)put;
	}
	return 0;
}

/* A temporary file that goes away with its descriptor. */
static int open_scratch(void)
{
	char name[PATH_MAX];
	const char *directory = getenv("TMPDIR");
	int size = snprintf(name, sizeof(name), "%s/pagestore-XXXXXX", directory && directory[0] ? directory : "/tmp");
	if (size < 0 || (size_t)size >= sizeof(name)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	int fd = mkstemp(name);
	if (fd >= 0)
		unlink(name);
	return fd;
}

/* Replace s->fd by a copy of all that comes from it. */
static int copy_stream(source *s)
{
	static char buffer[1 << 16];
	ssize_t got;
	int scratch = open_scratch();
	if (scratch < 0)
		return cannot(s, "make a temporary copy of", "TMPDIR names the directory for it.");
	while ((got = read_some(s->fd, buffer, sizeof(buffer))) > 0) {
		if (write_all(scratch, buffer, (size_t)got) != 0) {
			int status = cannot(s, "make a temporary copy of", "TMPDIR names a directory with more room.");
			close(scratch);
			return status;
		}
	}
	if (got < 0) {
		int status = cli_interrupted() ? cli_fail(NULL, "interrupted; nothing was changed")
					       : cannot(s, "read", NULL);
		close(scratch);
		return status;
	}
	if (!is_stdin(s))
		close(s->fd);
	s->fd = scratch;
	s->copied = true;
	return CLI_OK;
}

static int open_file(source *s)
{
	s->fd = is_stdin(s) ? STDIN_FILENO : open(s->path, O_RDONLY | O_CLOEXEC);
	if (s->fd < 0)
		return cannot(s, "open",
			errno == ENOENT ? "Look at the path; the file to import comes after the database's name."
					: NULL);
	if (fstat(s->fd, &s->before) != 0)
		return cannot(s, "look at", NULL);
	if (S_ISDIR(s->before.st_mode))
		return cli_fail("Name the file in it.", "cannot import %s: it is a directory", cli_quote(s->path).text);
	/* stdin may be a file that something else has read the start of. */
	if (!S_ISREG(s->before.st_mode) || (is_stdin(s) && lseek(s->fd, 0, SEEK_CUR) != 0))
		return copy_stream(s);
	return CLI_OK;
}

int source_open(source *s, const char *path)
{
	unsigned char header[SQLITE_HEADER_SIZE];
	memset(s, 0, sizeof(*s));
	s->path = path;
	s->fd = -1;
	int status = open_file(s);
	if (status != CLI_OK)
		return status;
	if (fstat(s->fd, &s->before) != 0)
		return cannot(s, "look at", NULL);
	s->size_bytes = (uint64_t)s->before.st_size;
	if (s->size_bytes >= sizeof(header)) {
		if (source_read(s, header, sizeof(header), 0) != CLI_OK)
			return CLI_FAILED;
		s->sqlite_page_size = sqlite_page_size(header);
	}
	warn_of_companions(s);
	return CLI_OK;
}

static int changed(const source *s)
{
	return cli_fail(advise_copy, "cannot import %s: it changed while it was being read; nothing was changed",
		is_stdin(s) ? "stdin" : cli_quote(s->path).text);
}

int source_read(source *s, void *buffer, size_t size, uint64_t offset)
{
	char *at = buffer;
	while (size) {
		ssize_t got = pread(s->fd, at, size, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return cannot(s, "read", NULL);
		if (got == 0)
			return changed(s);
		at += got;
		size -= (size_t)got;
		offset += (uint64_t)got;
	}
	return CLI_OK;
}

int source_check(source *s)
{
	struct stat now;
	if (fstat(s->fd, &now) != 0)
		return cannot(s, "look at", NULL);
	if (now.st_size != s->before.st_size || now.st_mtim.tv_sec != s->before.st_mtim.tv_sec ||
		now.st_mtim.tv_nsec != s->before.st_mtim.tv_nsec)
		return changed(s);
	return CLI_OK;
}

void source_close(source *s)
{
	if (s->fd >= 0 && s->fd != STDIN_FILENO)
		close(s->fd);
	s->fd = -1;
}
