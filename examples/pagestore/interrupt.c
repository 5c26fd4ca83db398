/* Ending long work cleanly on SIGINT, SIGTERM and SIGHUP. */
#include "interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>

static volatile sig_atomic_t caught;

static void note_signal(int signal_no)
{
	caught = signal_no;
}

void cli_interrupt_catch(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action, old;
	memset(&action, 0, sizeof(action));
	action.sa_handler = note_signal;
	action.sa_flags = SA_RESTART | (int)SA_RESETHAND;
	sigemptyset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		/* What the parent ignores (nohup) stays ignored. */
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(signals[i], &action, NULL);
	}
}

bool cli_interrupted(void)
{
	return caught != 0;
}

void cli_interrupt_raise(void)
{
	if (caught == 0)
		return;
	signal((int)caught, SIG_DFL);
	raise((int)caught);
}
