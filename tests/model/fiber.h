/* Fibers: several stacks in one thread, switched by hand. What runs when is then up to the simulator alone. */
#ifndef PGS_SIM_FIBER_H
#define PGS_SIM_FIBER_H

#include <stdbool.h>

typedef struct fiber fiber;

/* A fiber that will run body(ctx); its stack is reused from a pool. NULL: out of memory. */
fiber *fiber_new(void (*body)(void *ctx), void *ctx);

/* From the main stack: run the fiber until it yields or ends. False when it has ended. */
bool fiber_resume(fiber *f);

/* From a fiber: back to the main stack, until resumed. */
void fiber_yield(void);

/* Give its stack back. A fiber in the middle may be given up: whatever it held is lost. */
void fiber_free(fiber *f);

#endif
