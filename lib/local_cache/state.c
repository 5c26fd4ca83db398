#include "local_cache/state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/error.h"
#include "util/process.h"
#include "util/random.h"

#define WORDS_SIZE 4096
#define HITS_MIN ((uint64_t)1 << 10)
#define HITS_MAX ((uint64_t)1 << 24)
#define CONTENT_SIZE 2048 /* about what one takes, for the number of counters */
#define WAIT_FIRST_MS 1
#define WAIT_MAX_MS 16

_Static_assert(sizeof(pgs__state_words) <= WORDS_SIZE, "the words fit their part of the file");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint8_t) == 1, "shared words are plain ones");

static const uint8_t magic[8] = {'P', 'G', 'S', 'L', 'C', 'S', '0', '1'};

int pgs__state_open(pgs__state *state, const char *path, pgs_error *err)
{
	struct stat st;
	*state = (pgs__state){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666)};
	if (state->fd >= 0 && fstat(state->fd, &st) == 0) {
		state->device = st.st_dev;
		state->inode = st.st_ino;
		return PGS_OK;
	}
	int code = errno;
	pgs__state_close(state);
	return pgs__error(err, code == EISDIR ? PGS_EINVAL : pgs__error_from_errno(code),
			  "cannot open the cache's state '%s': %s", path, strerror(code));
}

static bool map(pgs__state *state, size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, state->fd, 0);
	if (at == MAP_FAILED)
		return false;
	state->words = at;
	state->hits = (_Atomic uint8_t *)at + WORDS_SIZE;
	state->mapped = size;
	return true;
}

static void unmap(pgs__state *state)
{
	if (state->words)
		munmap(state->words, state->mapped);
	state->words = NULL;
	state->hits = NULL;
}

bool pgs__state_map(pgs__state *state, bool *empty)
{
	struct stat st;
	if (fstat(state->fd, &st) != 0)
		st.st_size = 0;
	*empty = st.st_size == 0;
	if (st.st_size < WORDS_SIZE || !map(state, (size_t)st.st_size))
		return false;
	const pgs__state_words *w = state->words;
	if (memcmp(w->magic, magic, sizeof magic) == 0 && w->hit_count >= HITS_MIN && w->hit_count <= HITS_MAX &&
	    (w->hit_count & (w->hit_count - 1)) == 0 && (uint64_t)st.st_size == WORDS_SIZE + w->hit_count)
		return true;
	unmap(state);
	return false;
}

static uint64_t hit_count_for(uint64_t size_bytes)
{
	uint64_t count = HITS_MIN;
	while (count < HITS_MAX && count * CONTENT_SIZE < size_bytes)
		count *= 2;
	return count;
}

/* All of it is allocated before it is mapped: a full disk is an error here, where it would be a signal there. */
int pgs__state_init(pgs__state *state, uint64_t size_bytes, pgs_error *err)
{
	uint64_t hits = hit_count_for(size_bytes);
	unmap(state);
	int code = ftruncate(state->fd, 0) ? errno : posix_fallocate(state->fd, 0, (off_t)(WORDS_SIZE + hits));
	if (!code && !map(state, (size_t)(WORDS_SIZE + hits)))
		code = errno;
	if (code)
		return pgs__error(err, pgs__error_from_errno(code), "cannot make the cache's state of %llu bytes: %s",
				  (unsigned long long)(WORDS_SIZE + hits), strerror(code));
	pgs__state_words *w = state->words;
	if (pgs__random_bytes(w->file_id, sizeof w->file_id) != PGS_OK)
		return pgs__error(err, PGS_EIO, "the system gives no random bytes");
	w->size_bytes = size_bytes;
	w->hit_count = hits;
	atomic_store(&w->condition, PGS__STATE_DIRTY);
	pgs__state_boot(w->boot);
	memcpy(w->magic, magic, sizeof magic);
	return PGS_OK;
}

int pgs__state_sync(pgs__state *state)
{
	return msync(state->words, WORDS_SIZE, MS_SYNC) == 0 && fdatasync(state->fd) == 0 ? PGS_OK : PGS_EIO;
}

void pgs__state_close(pgs__state *state)
{
	unmap(state);
	if (state->fd >= 0)
		close(state->fd);
	state->fd = -1;
}

static bool try_lock(pgs__state *state, off_t byte, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
	int result;
	do
		result = fcntl(state->fd, F_SETLK, &lock);
	while (result != 0 && errno == EINTR);
	return result == 0;
}

bool pgs__state_lock(pgs__state *state, off_t byte, bool exclusive, uint64_t deadline_ms)
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

void pgs__state_unlock(pgs__state *state, off_t byte)
{
	try_lock(state, byte, F_UNLCK);
}

bool pgs__state_others(pgs__state *state, off_t byte)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
	return fcntl(state->fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

/* Without the PID namespace: a file is as good after a container was started again as before. */
void pgs__state_boot(uint8_t out[16])
{
	pgs__process_boot_id(out);
}
