/* A function run beside its caller, on a thread of its own, and waited for by whoever started it. */
#ifndef PGS_UTIL_TASK_H
#define PGS_UTIL_TASK_H

#include <pthread.h>
#include <stdbool.h>

/* A zeroed task is not running. */
typedef struct pgs__task {
	pthread_t thread;
	bool running;
} pgs__task;

/* Run `work` on a thread that gets no signals: those are the program's. False when there can be no thread; then nothing
 * runs. */
bool pgs__task_start(pgs__task *task, void *(*work)(void *ctx), void *ctx);

/* Wait until it has returned. Nothing when it is not running. */
void pgs__task_join(pgs__task *task);

#endif
