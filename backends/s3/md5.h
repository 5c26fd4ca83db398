/* MD5 (RFC 1321): what S3 gives as the ETag of an object that was put in one piece. Against damage on the way, not
 * against people. */
#ifndef PGS_S3_MD5_H
#define PGS_S3_MD5_H

#include <stddef.h>
#include <stdint.h>

typedef struct pgs__md5 {
	uint32_t state[4];
	uint64_t size; /* bytes so far */
	uint8_t block[64];
} pgs__md5;

void pgs__md5_init(pgs__md5 *md5);
void pgs__md5_update(pgs__md5 *md5, const void *data, size_t size);
void pgs__md5_final(pgs__md5 *md5, uint8_t out[16]);

#endif
