/* Metadata, identity, floor, number, lock, claim, pin, samples, by the first byte; what follows is sealed here. */
#include "codec/meta.h"
#include "fuzz.h"

/* Fields it does not know are skipped, so the same bytes need not come back; the same metadata must. */
static void check_meta(pgs_slice bytes)
{
	pgs__meta meta, second;
	pgs__buffer again = {0};
	int result = pgs__meta_decode(bytes, &meta);
	check_result(result);
	if (result != PGS_OK)
		return;
	CHECK(pgs__page_size_ok(meta.page_size) && meta.hash_kind == 1 && meta.order <= 1);
	pgs__meta_encode(&meta, &again);
	CHECK(pgs__meta_decode(pgs__buffer_slice(&again), &second) == PGS_OK);
	CHECK(second.format_version == meta.format_version && second.order == meta.order);
	CHECK(second.page_size == meta.page_size && second.created_ms == meta.created_ms);
	CHECK(memcmp(second.secret, meta.secret, sizeof meta.secret) == 0);
	CHECK(pgs__slice_equal(second.parent, meta.parent));
	pgs__buffer_free(&again);
}

static void check_identity(pgs_slice bytes)
{
	pgs__identity identity;
	pgs__buffer again = {0};
	int result = pgs__identity_decode(bytes, &identity);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__identity_encode(&identity, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

static void check_floor(pgs_slice bytes)
{
	pgs__floor floor;
	pgs__buffer again = {0};
	if (pgs__floor_decode(bytes, &floor) != PGS_OK)
		return;
	CHECK(floor.previous <= floor.floor);
	pgs__floor_encode(&floor, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

static void check_number(pgs_slice bytes)
{
	uint64_t number;
	uint8_t again[PGS__NUMBER_SIZE];
	if (pgs__number_decode(bytes, &number) != PGS_OK)
		return;
	pgs__number_encode(number, again);
	CHECK(pgs__slice_equal((pgs_slice){again, sizeof again}, bytes));
}

static void check_lock(pgs_slice bytes)
{
	pgs__lock lock;
	pgs__buffer again = {0};
	int result = pgs__lock_decode(bytes, &lock);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__lock_encode(&lock, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

static void check_claim(pgs_slice bytes)
{
	pgs__claim_value value;
	pgs__buffer again = {0};
	int result = pgs__claim_decode(bytes, &value);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__claim_encode(&value, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

static void check_pin(pgs_slice bytes)
{
	pgs__pin_value value;
	pgs__buffer again = {0};
	int result = pgs__pin_decode(bytes, &value);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__pin_encode(&value, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

static void check_samples(pgs_slice bytes)
{
	pgs__samples value;
	pgs__buffer again = {0};
	int result = pgs__samples_decode(bytes, &value);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__samples_encode(&value, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const checks[])(pgs_slice) = {check_meta, check_identity, check_floor, check_number,
						     check_lock, check_claim, check_pin, check_samples};
	pgs_slice bytes = {data, size};
	unsigned choice = choose(&bytes, sizeof checks / sizeof *checks);
	checks[choice](bytes);
	pgs__buffer b = sealed(bytes);
	checks[choice](pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	return 0;
}
