/* Clocks. */
#include "util/clock.h"

#include <time.h>

#include "util/hooks.h"

static int64_t read_ms(clockid_t id)
{
	struct timespec now;
	clock_gettime(id, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint64_t pgs__now_ms(void)
{
	return pgs__hooks ? pgs__hooks->now_ms() : (uint64_t)read_ms(CLOCK_MONOTONIC);
}

uint64_t pgs__now_us(void)
{
	if (pgs__hooks)
		return pgs__hooks->now_ms() * 1000;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

int64_t pgs__unix_ms(void)
{
	return pgs__hooks ? pgs__hooks->unix_ms() : read_ms(CLOCK_REALTIME);
}

void pgs__sleep_ms(uint32_t ms, uint64_t deadline_ms)
{
	if (deadline_ms) {
		uint64_t now = pgs__now_ms();
		uint64_t left = deadline_ms > now ? deadline_ms - now : 0;
		if (ms > left)
			ms = (uint32_t)left;
	}
	if (pgs__hooks) {
		pgs__hooks->sleep_ms(ms);
		return;
	}
	struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
	nanosleep(&pause, NULL);
}
