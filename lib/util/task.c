/* Threads that do one thing. */
#include "util/task.h"

#include <signal.h>

bool pgs__task_start(pgs__task *task, void *(*work)(void *ctx), void *ctx)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	task->running = pthread_create(&task->thread, NULL, work, ctx) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return task->running;
}

void pgs__task_join(pgs__task *task)
{
	if (task->running)
		pthread_join(task->thread, NULL);
	task->running = false;
}
