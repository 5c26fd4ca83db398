/* Pointers. A decoded one is read for every page a snapshot touches: one pass, nothing allocated. */
#include "codec/pointer.h"

#include <assert.h>

#include <pagestore/error.h>
#include <pagestore/store.h>

#include "codec/seal.h"

#define KIND_MASK 0x07
#define HAS_BASE 0x08
#define FOLDED 0x10

#define VARINT_MAX 10
#define SPENT_MAX 5 /* bytes of a varint below 2^32 */
#define GROUP_SIZE (PGS__ID_SIZE - PGS__ID_HASH_SIZE)

size_t pgs__pointer_size_max(uint32_t page_size)
{
	return (size_t)1 + VARINT_MAX + SPENT_MAX + (size_t)2 * PGS__ID_HASH_SIZE + page_size + PGS__SEAL_SIZE;
}

static void put_hash(pgs__buffer *out, const pgs__page_id *id)
{
	pgs__put_bytes(out, id->bytes + GROUP_SIZE, PGS__ID_HASH_SIZE);
}

void pgs__pointer_encode(const pgs__pointer *p, pgs__buffer *out)
{
	assert(p->kind >= PGS__POINTER_ZERO && p->kind <= PGS__POINTER_DELTA);
	assert(!p->has_base || p->kind == PGS__POINTER_DELTA);
	assert((p->kind == PGS__POINTER_DELTA) == (p->delta.size > 0));
	size_t from = out->size;
	bool folded = p->folded_revision != 0;
	pgs__put_u8(out, (uint8_t)(p->kind | (p->has_base ? HAS_BASE : 0) | (folded ? FOLDED : 0)));
	if (folded)
		pgs__put_varint(out, p->folded_revision);
	if (p->kind != PGS__POINTER_ZERO)
		put_hash(out, &p->id);
	if (p->has_base) {
		put_hash(out, &p->base);
		pgs__put_varint(out, p->spent);
	}
	if (p->kind == PGS__POINTER_DELTA)
		pgs__put_bytes(out, p->delta.data, p->delta.size);
	if (folded)
		pgs__seal(out, from);
}

static void read_id(pgs__reader *r, uint32_t group, pgs__page_id *id)
{
	pgs__store_u32be(id->bytes, group);
	pgs__read_bytes(r, id->bytes + GROUP_SIZE, PGS__ID_HASH_SIZE);
}

/* What follows the flags; the seal of a folded one is already off. */
static bool read_parts(pgs__reader *r, uint32_t group, bool folded, pgs__pointer *out)
{
	if (folded) {
		out->folded_revision = pgs__read_varint(r);
		if (out->folded_revision == 0)
			return false;
	}
	if (out->kind != PGS__POINTER_ZERO)
		read_id(r, group, &out->id);
	if (out->has_base) {
		read_id(r, group, &out->base);
		uint64_t spent = pgs__read_varint(r);
		if (spent > UINT32_MAX)
			return false;
		out->spent = (uint32_t)spent;
	}
	if (out->kind == PGS__POINTER_DELTA) {
		out->delta = pgs__read_slice(r, pgs__reader_left(r));
		if (out->delta.size == 0 || out->delta.size > PGS_PAGE_SIZE_MAX)
			return false;
	}
	return pgs__reader_done(r);
}

int pgs__pointer_decode(pgs_slice bytes, uint32_t group, pgs__pointer *out)
{
	*out = (pgs__pointer){0};
	if (bytes.size == 0)
		return PGS_ECORRUPT;
	uint8_t flags = *(const uint8_t *)bytes.data;
	unsigned kind = flags & KIND_MASK;
	if (flags & ~(KIND_MASK | HAS_BASE | FOLDED) || kind < PGS__POINTER_ZERO || kind > PGS__POINTER_DELTA)
		return PGS_ECORRUPT;
	if (flags & HAS_BASE && kind != PGS__POINTER_DELTA)
		return PGS_ECORRUPT;
	if (flags & FOLDED && !pgs__unseal(&bytes))
		return PGS_ECORRUPT;
	out->kind = (pgs__pointer_kind)kind;
	out->has_base = flags & HAS_BASE;
	pgs__reader r = pgs__reader_of(bytes);
	pgs__read_u8(&r);
	return read_parts(&r, group, flags & FOLDED, out) ? PGS_OK : PGS_ECORRUPT;
}
