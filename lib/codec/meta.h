/* The small values: metadata, identity, floor, numbers, attributes, locks. All sealed (codec/seal.h). z is not
 * here: only its mod revision counts.
 *
 * m, metadata:
 *     4 "PGSM"   u16 format version   u8 hash kind (1)   u8 order (0 revision, 1 counter)
 *     u32 page size   u64 created, Unix ms   192 secret
 *     then fields: u8 tag (1 … 255, rising), varint size (> 0), bytes. A reader skips tags < 0x80 it does not
 *     know and refuses those >= 0x80 with PGS_EVERSION. Tag 0x81: parent of a branch.   seal
 * i, identity:  4 "PGSI"   u16 format version   16 random   seal
 * g, floor:     u64be floor   u64be previous floor   seal          (compared in the KV: "g < floor + 1")
 * t, e:         u64be number   seal                                 (compared in the KV: "e < number")
 * a/:           bytes   seal
 * k/, lock:     u8 1   16 owner   16 boot id   varint pid   varint process start   varint lease ms   seal
 */
#ifndef PGS_CODEC_META_H
#define PGS_CODEC_META_H

#include "codec/page_id.h"
#include "util/cursor.h"

#include <pagestore/error.h>

typedef struct pgs__meta {
	uint16_t format_version;
	uint8_t hash_kind;
	uint8_t order;
	uint32_t page_size;
	int64_t created_ms;
	uint8_t secret[PGS__SECRET_SIZE];
	pgs_slice parent; /* borrowed; empty = not a branch */
} pgs__meta;

void pgs__meta_encode(const pgs__meta *meta, pgs__buffer *out);

/* PGS_OK, PGS_ECORRUPT (seal, sizes, values out of range), PGS_EVERSION (newer format, hash kind, order or field). */
int pgs__meta_decode(pgs_slice bytes, pgs__meta *out);

typedef struct pgs__identity {
	uint16_t format_version;
	uint8_t random[16];
} pgs__identity;

void pgs__identity_encode(const pgs__identity *identity, pgs__buffer *out);
int pgs__identity_decode(pgs_slice bytes, pgs__identity *out); /* as pgs__meta_decode */

typedef struct pgs__floor {
	uint64_t floor;
	uint64_t previous;
} pgs__floor;

void pgs__floor_encode(const pgs__floor *floor, pgs__buffer *out);
int pgs__floor_decode(pgs_slice bytes, pgs__floor *out); /* PGS_OK or PGS_ECORRUPT (also: previous above floor) */

#define PGS__NUMBER_SIZE 12
void pgs__number_encode(uint64_t number, uint8_t out[PGS__NUMBER_SIZE]);
int pgs__number_decode(pgs_slice bytes, uint64_t *out); /* PGS_OK or PGS_ECORRUPT */

typedef struct pgs__lock {
	uint8_t owner[16];   /* random, one per holder */
	uint8_t boot_id[16]; /* of the holder's machine */
	uint64_t pid;
	uint64_t process_start; /* clock ticks since boot, as in /proc/<pid>/stat */
	uint64_t lease_ms;   /* an observer may break it after seeing it unchanged for so long */
} pgs__lock;

void pgs__lock_encode(const pgs__lock *lock, pgs__buffer *out);
int pgs__lock_decode(pgs_slice bytes, pgs__lock *out); /* PGS_OK, PGS_ECORRUPT or PGS_EVERSION (first byte) */

#endif
