/* Random bytes and time-ordered identifiers. */
#ifndef PGS_UTIL_RANDOM_H
#define PGS_UTIL_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Fill `out` from the kernel's generator. PGS_OK or PGS_EIO. */
int pgs__random_bytes(void *out, size_t size);

/* A UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then random. PGS_OK or PGS_EIO. */
int pgs__uuid7(uint8_t out[16]);

/* Its time. */
int64_t pgs__uuid7_ms(const uint8_t uuid[16]);

/* 2 * size lower-case hex digits and a NUL. */
void pgs__hex(char *out, const uint8_t *data, size_t size);

#endif
