/* Which process this is, and whether another still lives: for locks whose holder may have died. */
#ifndef PGS_UTIL_PROCESS_H
#define PGS_UTIL_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct pgs__process {
	uint8_t boot_id[16]; /* of the machine since it started, and the PID namespace; zeros when unknown */
	uint64_t pid;
	uint64_t start; /* clock ticks since boot: tells a reused pid */
} pgs__process;

/* Of the machine since it started, whatever the PID namespace; zeros, and false, when unknown. */
bool pgs__process_boot_id(uint8_t out[16]);

/* This process. */
pgs__process pgs__process_self(void);

/* True only if the process was one of this machine since it booted, and is certainly gone. */
bool pgs__process_is_gone(const pgs__process *process);

#endif
