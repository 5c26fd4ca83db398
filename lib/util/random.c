/* Random bytes and UUIDs. The kernel is asked for a block at a time, kept per thread: a commit needs ten bytes. */
#include "util/random.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include <pagestore/error.h>

#include "util/clock.h"
#include "util/hooks.h"

#define POOL_SIZE 256

static _Thread_local struct {
	uint8_t bytes[POOL_SIZE];
	size_t left;
	unsigned forks; /* value of `forks` when filled */
} pool;

/* A child must not hand out its parent's bytes. */
static volatile unsigned forks;

static void count_fork(void)
{
	forks++;
}

static void register_fork(void)
{
	pthread_atfork(NULL, NULL, count_fork);
}

static int kernel_bytes(uint8_t *out, size_t size)
{
	while (size > 0) {
		ssize_t got = getrandom(out, size, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return PGS_EIO;
		out += got;
		size -= (size_t)got;
	}
	return PGS_OK;
}

int pgs__random_bytes(void *out, size_t size)
{
	if (pgs__hooks) {
		pgs__hooks->random_bytes(out, size);
		return PGS_OK;
	}
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, register_fork);
	if (size > POOL_SIZE)
		return kernel_bytes(out, size);
	if (pool.left < size || pool.forks != forks) {
		int result = kernel_bytes(pool.bytes, POOL_SIZE);
		if (result != PGS_OK)
			return result;
		pool.left = POOL_SIZE;
		pool.forks = forks;
	}
	pool.left -= size;
	memcpy(out, pool.bytes + pool.left, size);
	memset(pool.bytes + pool.left, 0, size);
	return PGS_OK;
}

int pgs__uuid7(uint8_t out[16])
{
	int result = pgs__random_bytes(out + 6, 10);
	if (result != PGS_OK)
		return result;
	uint64_t ms = (uint64_t)pgs__unix_ms();
	for (int i = 0; i < 6; i++)
		out[i] = (uint8_t)(ms >> (40 - 8 * i));
	out[6] = (uint8_t)(0x70 | (out[6] & 0x0f));
	out[8] = (uint8_t)(0x80 | (out[8] & 0x3f));
	return PGS_OK;
}

int64_t pgs__uuid7_ms(const uint8_t uuid[16])
{
	uint64_t ms = 0;
	for (int i = 0; i < 6; i++)
		ms = ms << 8 | uuid[i];
	return (int64_t)ms;
}

void pgs__hex(char *out, const uint8_t *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < size; i++) {
		out[2 * i] = digits[data[i] >> 4];
		out[2 * i + 1] = digits[data[i] & 15];
	}
	out[2 * size] = '\0';
}
