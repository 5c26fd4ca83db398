/* Time: a monotonic clock for deadlines, the wall clock for the changelog. */
#ifndef PGS_UTIL_CLOCK_H
#define PGS_UTIL_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

uint64_t pgs__now_ms(void); /* CLOCK_MONOTONIC */
uint64_t pgs__now_us(void); /* the same, for measuring */
int64_t pgs__unix_ms(void); /* CLOCK_REALTIME */

/* A deadline of 0 never passes. */
static inline bool pgs__deadline_passed(uint64_t deadline_ms)
{
	return deadline_ms != 0 && pgs__now_ms() >= deadline_ms;
}

/* Sleep, but not past the deadline. */
void pgs__sleep_ms(uint32_t ms, uint64_t deadline_ms);

#endif
