/* interrupt.h: ending long work cleanly on SIGINT, SIGTERM and SIGHUP
 *
 * After cli_interrupt_catch() the first such signal only sets a flag, which the
 * work looks at between steps; a second one kills at once.
 */
#ifndef INTERRUPT_H
#define INTERRUPT_H

#include <stdbool.h>

void cli_interrupt_catch(void);
bool cli_interrupted(void);

/* Die of the signal that came, so that the shell knows; returns when none did. */
void cli_interrupt_raise(void);

#endif
