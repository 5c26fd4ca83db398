/* What the library takes from the system beside memory and backends: time, random bytes, and which process this is.
 *
 * The simulator (tests/model/) installs its own, so that a seed decides them. Everybody else leaves pgs__hooks NULL:
 * it costs them one branch that is always predicted.
 */
#ifndef PGS_UTIL_HOOKS_H
#define PGS_UTIL_HOOKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pgs__process;

/* All are set, but for step(). */
typedef struct pgs__system {
	uint64_t (*now_ms)(void);         /* monotonic */
	int64_t (*unix_ms)(void);
	void (*sleep_ms)(uint32_t ms);    /* already cut to the deadline */
	void (*random_bytes)(void *out, size_t size);
	void (*process_self)(struct pgs__process *out);
	bool (*process_is_gone)(const struct pgs__process *process);
	void (*step)(void);               /* see pgs__switch_point() */
} pgs__system;

/* NULL: the system's own. Set before any other call of the library, and not while another thread is in one. */
extern const pgs__system *pgs__hooks;

/* Between two steps of a call on what processes share (lib/local_cache/): in the simulator, others may run here, and this
 * process may be killed: what it had open is then as in a child after fork(). */
static inline void pgs__switch_point(void)
{
	if (pgs__hooks && pgs__hooks->step)
		pgs__hooks->step();
}

#endif
