/* Pointers: which content a page has at a revision.
 *
 *     byte 0     bits 0-2 kind (1 zero, 2 full, 3 delta), bit 3 has base, bit 4 folded, bits 5-7 zero
 *     varint     w, if folded: mod revision of the pack it came from
 *     12 bytes   hash of the page's id, if full or delta (the group is the page number's)
 *     12 bytes   hash of the base's id, if it has a base (delta only; without, the base is the zero page)
 *     varint     spent, if it has a base: bytes of the deltas this page had against this base before
 *     rest       delta only: a zstd frame without its 4-byte magic number, of page XOR base
 *     seal       if folded (codec/seal.h)
 *
 * A delta's base is full (invariant 3). Ids and delta are proved by hashing the page they give; nothing proves w
 * but the seal.
 */
#ifndef PGS_CODEC_POINTER_H
#define PGS_CODEC_POINTER_H

#include "codec/page_id.h"
#include "util/cursor.h"

typedef enum pgs__pointer_kind {
	PGS__POINTER_ABSENT = 0, /* never stored: the page reads as zeros */
	PGS__POINTER_ZERO = 1,
	PGS__POINTER_FULL = 2,
	PGS__POINTER_DELTA = 3
} pgs__pointer_kind;

typedef struct pgs__pointer {
	pgs__pointer_kind kind;
	bool has_base;
	uint64_t folded_revision; /* w; 0 = not folded */
	pgs__page_id id;          /* FULL, DELTA */
	pgs__page_id base;        /* has_base */
	uint32_t spent;           /* has_base: sizes of the earlier deltas against it, summed */
	pgs_slice delta;          /* DELTA; borrowed */
} pgs__pointer;

/* The longest encoding for a page size (a delta is at most a page). */
size_t pgs__pointer_size_max(uint32_t page_size);

/* Append the encoding; kind is not ABSENT. */
void pgs__pointer_encode(const pgs__pointer *pointer, pgs__buffer *out);

/* Decode the pointer of a page of `group`; out->delta borrows from `bytes`. PGS_OK or PGS_ECORRUPT. */
int pgs__pointer_decode(pgs_slice bytes, uint32_t group, pgs__pointer *out);

#endif
