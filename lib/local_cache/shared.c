#include "local_cache/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/error.h"
#include "util/hooks.h"
#include "util/process.h"
#include "util/random.h"

#define WORDS_SIZE 4096
#define HITS_MIN ((uint64_t)1 << 12)
#define HITS_MAX ((uint64_t)1 << 25)
#define HITS_PER 512 /* bytes of the data file: a few for each content, so that they seldom share one */
#define HIT_SIZE sizeof(uint16_t)
#define WAIT_FIRST_MS 1
#define WAIT_MAX_MS 16

_Static_assert(sizeof(pgs__shared_words) <= WORDS_SIZE, "the words fit their part of the file");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint16_t) == HIT_SIZE, "shared words are plain ones");

static const uint8_t magic[8] = {'P', 'G', 'S', 'L', 'C', 'S', '0', '1'};

static const char *advice(int code)
{
	switch (code) {
	case ENOENT:
	case ENOTDIR:
		return ": make its directory, or name another file with cache=";
	case EACCES:
	case EPERM:
	case EROFS:
		return ": this process has to read and write it, and to make files beside it; or name another with cache=";
	case ENAMETOOLONG:
		return ": name a shorter one with cache=";
	default:
		return "";
	}
}

int pgs__shared_open(pgs__shared *state, const char *path, pgs_error *err)
{
	struct stat st;
	*state = (pgs__shared){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, PGS__CACHE_MODE)};
	if (state->fd >= 0 && fstat(state->fd, &st) == 0) {
		state->device = st.st_dev;
		state->inode = st.st_ino;
		return PGS_OK;
	}
	int code = errno;
	pgs__shared_close(state);
	return pgs__error(err, code == EISDIR ? PGS_EINVAL : pgs__error_from_errno(code),
			  "cannot open the cache's state '%s': %s%s", path, strerror(code), advice(code));
}

static bool map(pgs__shared *state, size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, state->fd, 0);
	if (at == MAP_FAILED)
		return false;
	state->words = at;
	state->hits = (void *)((uint8_t *)at + WORDS_SIZE);
	state->mapped = size;
	return true;
}

static void unmap(pgs__shared *state)
{
	if (state->words)
		munmap(state->words, state->mapped);
	state->words = NULL;
	state->hits = NULL;
}

bool pgs__shared_map(pgs__shared *state, bool *empty)
{
	struct stat st;
	if (fstat(state->fd, &st) != 0)
		st.st_size = 0;
	*empty = st.st_size == 0;
	if (st.st_size < WORDS_SIZE || !map(state, (size_t)st.st_size))
		return false;
	const pgs__shared_words *w = state->words;
	if (memcmp(w->magic, magic, sizeof magic) == 0 && w->hit_count >= HITS_MIN && w->hit_count <= HITS_MAX &&
	    (w->hit_count & (w->hit_count - 1)) == 0 && (uint64_t)st.st_size == WORDS_SIZE + HIT_SIZE * w->hit_count)
		return true;
	unmap(state);
	return false;
}

static uint64_t hit_count_for(uint64_t size_bytes)
{
	uint64_t count = HITS_MIN;
	while (count < HITS_MAX && count * HITS_PER < size_bytes)
		count *= 2;
	return count;
}

/* All of it is allocated before it is mapped: a full disk is an error here, where it would be a signal there. */
int pgs__shared_init(pgs__shared *state, uint64_t size_bytes, pgs_error *err)
{
	uint64_t hits = hit_count_for(size_bytes), size = WORDS_SIZE + HIT_SIZE * hits;
	unmap(state);
	int code = ftruncate(state->fd, 0) ? errno : posix_fallocate(state->fd, 0, (off_t)size);
	if (!code && !map(state, (size_t)size))
		code = errno;
	if (code || !state->words)
		return pgs__error(err, pgs__error_from_errno(code), "cannot make the cache's state of %llu bytes: %s",
				  (unsigned long long)size, strerror(code));
	pgs__shared_words *w = state->words;
	if (pgs__random_bytes(w->file_id, sizeof w->file_id) != PGS_OK)
		return pgs__error(err, PGS_EIO, "the system gives no random bytes");
	w->size_bytes = size_bytes;
	w->hit_count = hits;
	atomic_store(&w->condition, PGS__SHARED_DIRTY);
	pgs__shared_boot(w->boot);
	memcpy(w->magic, magic, sizeof magic);
	return PGS_OK;
}

int pgs__shared_sync(pgs__shared *state)
{
	return msync(state->words, WORDS_SIZE, MS_SYNC) == 0 && fdatasync(state->fd) == 0 ? PGS_OK : PGS_EIO;
}

void pgs__shared_close(pgs__shared *state)
{
	unmap(state);
	if (state->fd >= 0)
		close(state->fd);
	state->fd = -1;
}

/* The simulator's processes are one: each has its descriptor, to which locks belong there. */
static bool try_lock(pgs__shared *state, off_t byte, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
	int result;
	do
		result = fcntl(state->fd, pgs__hooks ? F_OFD_SETLK : F_SETLK, &lock);
	while (result != 0 && errno == EINTR);
	return result == 0;
}

bool pgs__shared_lock(pgs__shared *state, off_t byte, bool exclusive, uint64_t deadline_ms)
{
	uint32_t wait = WAIT_FIRST_MS;
	while (!try_lock(state, byte, exclusive ? F_WRLCK : F_RDLCK)) {
		if (deadline_ms == 0 || pgs__deadline_passed(deadline_ms))
			return false;
		pgs__sleep_ms(wait, deadline_ms);
		wait = wait < WAIT_MAX_MS ? 2 * wait : WAIT_MAX_MS;
	}
	return true;
}

void pgs__shared_unlock(pgs__shared *state, off_t byte)
{
	try_lock(state, byte, F_UNLCK);
}

pid_t pgs__shared_holder(pgs__shared *state, off_t byte)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
	if (fcntl(state->fd, pgs__hooks ? F_OFD_GETLK : F_GETLK, &lock) != 0)
		return -1;
	return lock.l_type == F_UNLCK ? 0 : lock.l_pid > 0 ? lock.l_pid : -1;
}

bool pgs__shared_others(pgs__shared *state, off_t byte)
{
	return pgs__shared_holder(state, byte) != 0;
}

/* Without the PID namespace: a file is as good after a container was started again as before. */
void pgs__shared_boot(uint8_t out[16])
{
	pgs__process_boot_id(out);
}
