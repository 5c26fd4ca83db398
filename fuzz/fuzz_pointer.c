/* Pointers: there is one encoding of each. */
#include "codec/pointer.h"
#include "fuzz.h"

static void check(pgs_slice bytes)
{
	pgs__pointer p;
	pgs__buffer again = {0};
	int result = pgs__pointer_decode(bytes, 7, &p);
	CHECK(result == PGS_OK || result == PGS_ECORRUPT);
	if (result != PGS_OK)
		return;
	CHECK(p.kind != PGS__POINTER_ABSENT);
	CHECK(p.kind == PGS__POINTER_ZERO || pgs__page_id_group(&p.id) == 7);
	CHECK(bytes.size <= pgs__pointer_size_max(PGS_PAGE_SIZE_MAX));
	pgs__pointer_encode(&p, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	pgs_slice bytes = {data, size};
	check(bytes);
	pgs__buffer b = sealed(bytes); /* as a folded one */
	check(pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	return 0;
}
