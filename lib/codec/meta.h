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
 * k/, lock:     u8 1   holder   seal
 * k/, claim:    u8 2   holder   varint jobs   u8 first level   u8 last level   16 first id   16 last id   seal
 * r/, pin:      u8 1   holder   varint revision   seal
 * v, samples:   u8 1   count × (u64 Unix ms, u64 revision)   seal
 * where holder is:  16 owner   16 boot id   varint pid   varint process start   varint lease ms
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

/* What a maintenance worker is at: some kinds of work, and, for merges, which levels and ids. */
typedef struct pgs__claim_value {
	pgs__lock holder;
	uint32_t jobs; /* bits; never 0 */
	uint8_t level_first, level_last;
	pgs__page_id first, last;
} pgs__claim_value;

void pgs__claim_encode(const pgs__claim_value *claim, pgs__buffer *out);
int pgs__claim_decode(pgs_slice bytes, pgs__claim_value *out); /* as pgs__lock_decode */

/* Keeps a revision readable while its holder lives. */
typedef struct pgs__pin_value {
	pgs__lock holder;
	uint64_t revision; /* never 0 */
} pgs__pin_value;

void pgs__pin_encode(const pgs__pin_value *pin, pgs__buffer *out);
int pgs__pin_decode(pgs_slice bytes, pgs__pin_value *out); /* as pgs__lock_decode */

/* Which revision the KV had when: times and revisions both rise strictly. */
#define PGS__SAMPLES_MAX 64
typedef struct pgs__samples {
	size_t count;
	struct {
		int64_t time_ms;
		uint64_t revision;
	} list[PGS__SAMPLES_MAX];
} pgs__samples;

void pgs__samples_encode(const pgs__samples *samples, pgs__buffer *out);
int pgs__samples_decode(pgs_slice bytes, pgs__samples *out); /* as pgs__lock_decode */

#endif
