/* Metadata, identity, floor, numbers, locks. */
#include "test_codec.h"

#include "codec/meta.h"

#define META_SIZE (4 + 2 + 1 + 1 + 4 + 8 + PGS__SECRET_SIZE) /* without fields and seal */

static pgs__meta sample_meta(void)
{
	pgs__meta meta = {.format_version = 1, .hash_kind = 1, .page_size = 4096, .created_ms = 1700000000000};
	fill_pattern(meta.secret, sizeof meta.secret, 7);
	return meta;
}

static int decode_meta(pgs_slice bytes)
{
	pgs__meta meta;
	return pgs__meta_decode(bytes, &meta);
}

static int reencode_meta(const pgs__meta *meta)
{
	pgs__buffer b = {0};
	pgs__meta_encode(meta, &b);
	int result = decode_exact(decode_meta, b.data, b.size);
	pgs__buffer_free(&b);
	return result;
}

static void test_meta__round_trips(void **state)
{
	(void)state;
	pgs__meta meta = sample_meta(), out;
	meta.order = 1;
	meta.created_ms = -1;
	for (int with_parent = 0; with_parent < 2; with_parent++) {
		pgs__buffer b = {0};
		meta.parent = with_parent ? text("some parent") : (pgs_slice){0};
		pgs__meta_encode(&meta, &b);
		assert_int_equal(pgs__meta_decode(pgs__buffer_slice(&b), &out), PGS_OK);
		assert_int_equal(out.format_version, 1);
		assert_int_equal(out.hash_kind, 1);
		assert_int_equal(out.order, 1);
		assert_int_equal(out.page_size, 4096);
		assert_int_equal(out.created_ms, -1);
		assert_memory_equal(out.secret, meta.secret, sizeof meta.secret);
		assert_slice_equal(out.parent, meta.parent.data, meta.parent.size);
		assert_damage_is_found(decode_meta, pgs__buffer_slice(&b));
		pgs__buffer_free(&b);
	}
}

static void test_meta__page_sizes(void **state)
{
	(void)state;
	static const uint32_t bad[] = {0, 1, 256, 511, 4095, 65535, 131072, UINT32_MAX};
	pgs__meta meta = sample_meta();
	for (meta.page_size = 512; meta.page_size <= 65536; meta.page_size *= 2)
		assert_int_equal(reencode_meta(&meta), PGS_OK);
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		meta.page_size = bad[i];
		assert_int_equal(reencode_meta(&meta), PGS_ECORRUPT);
	}
}

static void test_meta__newer_ones_are_refused(void **state)
{
	(void)state;
	pgs__meta meta = sample_meta();
	meta.format_version = 2;
	assert_int_equal(reencode_meta(&meta), PGS_EVERSION);
	meta.format_version = 0;
	assert_int_equal(reencode_meta(&meta), PGS_ECORRUPT);
	meta = sample_meta();
	meta.hash_kind = 2;
	assert_int_equal(reencode_meta(&meta), PGS_EVERSION);
	meta.hash_kind = 0;
	assert_int_equal(reencode_meta(&meta), PGS_ECORRUPT);
	meta = sample_meta();
	meta.order = 2;
	assert_int_equal(reencode_meta(&meta), PGS_EVERSION);
}

/* Decode the sample with these fields behind its fixed part. */
static int with_fields(const char *fields, size_t size, pgs__meta *out)
{
	pgs__meta meta = sample_meta();
	pgs__buffer b = {0};
	pgs__meta_encode(&meta, &b);
	assert_int_equal(b.size, META_SIZE + PGS__SEAL_SIZE);
	b.size = META_SIZE;
	pgs__put_bytes(&b, fields, size);
	pgs__seal(&b, 0);
	int result = pgs__meta_decode(pgs__buffer_slice(&b), out);
	out->parent.data = NULL; /* borrowed from what is freed now */
	pgs__buffer_free(&b);
	return result;
}

static void test_meta__fields(void **state)
{
	(void)state;
	pgs__meta out;
	assert_int_equal(with_fields("\x01\1x\x7f\2yz\x81\1p", 10, &out), PGS_OK); /* unknown ones are skipped */
	assert_int_equal(out.parent.size, 1);
	assert_int_equal(with_fields("\x80\1x", 3, &out), PGS_EVERSION); /* those it must know are not */
	assert_int_equal(with_fields("\x82\1x", 3, &out), PGS_EVERSION);
	assert_int_equal(with_fields("\xff\1x", 3, &out), PGS_EVERSION);
	assert_int_equal(with_fields("\0\1x", 3, &out), PGS_ECORRUPT);          /* tags begin at 1 */
	assert_int_equal(with_fields("\1\1x\1\1x", 6, &out), PGS_ECORRUPT);     /* twice */
	assert_int_equal(with_fields("\2\1x\1\1x", 6, &out), PGS_ECORRUPT);     /* falling */
	assert_int_equal(with_fields("\x81\0", 2, &out), PGS_ECORRUPT);         /* empty */
	assert_int_equal(with_fields("\1\2x", 3, &out), PGS_ECORRUPT);          /* cut */
	assert_int_equal(with_fields("\1", 1, &out), PGS_ECORRUPT);
	assert_int_equal(with_fields("\1\x81", 2, &out), PGS_ECORRUPT);
	assert_int_equal(with_fields("\1\x81\0x", 4, &out), PGS_ECORRUPT);      /* overlong size */
	assert_int_equal(with_fields("\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\1x", 12, &out), PGS_ECORRUPT);
}

static void test_meta__cut_under_a_good_seal(void **state)
{
	(void)state;
	pgs__meta meta = sample_meta();
	pgs__buffer b = {0};
	pgs__meta_encode(&meta, &b);
	assert_length_is_exact(decode_meta, pgs__buffer_slice(&b));
	b.data[0] = 'X';
	assert_int_equal(decode_sealed(decode_meta, b.data, META_SIZE), PGS_ECORRUPT);
	pgs__buffer_free(&b);
}

static int decode_identity(pgs_slice bytes)
{
	pgs__identity identity;
	return pgs__identity_decode(bytes, &identity);
}

static void test_identity__round_trips_and_refuses(void **state)
{
	(void)state;
	pgs__identity identity = {.format_version = 1, .random = "0123456789abcde"}, out;
	pgs__buffer b = {0};
	pgs__identity_encode(&identity, &b);
	assert_int_equal(b.size, 26);
	assert_int_equal(pgs__identity_decode(pgs__buffer_slice(&b), &out), PGS_OK);
	assert_int_equal(out.format_version, 1);
	assert_memory_equal(out.random, identity.random, 16);
	assert_damage_is_found(decode_identity, pgs__buffer_slice(&b));
	assert_length_is_exact(decode_identity, pgs__buffer_slice(&b));
	b.data[4] = 2;
	assert_int_equal(decode_sealed(decode_identity, b.data, 22), PGS_EVERSION);
	b.data[4] = 0;
	assert_int_equal(decode_sealed(decode_identity, b.data, 22), PGS_ECORRUPT);
	b.data[3] = 'M'; /* metadata is not an identity */
	assert_int_equal(decode_sealed(decode_identity, b.data, 22), PGS_ECORRUPT);
	pgs__buffer_free(&b);
}

static int decode_floor(pgs_slice bytes)
{
	pgs__floor floor;
	return pgs__floor_decode(bytes, &floor);
}

static void test_floor__round_trips_and_refuses(void **state)
{
	(void)state;
	static const pgs__floor good[] = {{0, 0}, {5, 5}, {300, 7}, {UINT64_MAX, UINT64_MAX}};
	for (size_t i = 0; i < COUNT_OF(good); i++) {
		pgs__floor out;
		pgs__buffer b = {0};
		pgs__floor_encode(&good[i], &b);
		assert_int_equal(b.size, 20);
		assert_int_equal(pgs__floor_decode(pgs__buffer_slice(&b), &out), PGS_OK);
		assert_true(out.floor == good[i].floor && out.previous == good[i].previous);
		assert_damage_is_found(decode_floor, pgs__buffer_slice(&b));
		assert_length_is_exact(decode_floor, pgs__buffer_slice(&b));
		pgs__buffer_free(&b);
	}
	pgs__buffer b = {0};
	pgs__floor_encode(&(pgs__floor){4, 5}, &b); /* a floor never falls */
	assert_int_equal(decode_floor(pgs__buffer_slice(&b)), PGS_ECORRUPT);
	pgs__buffer_free(&b);
}

/* The compares of the KV are of bytes: "g < floor + 1" holds for this floor and below, whatever the rest is. */
static void test_floor__compares_in_the_kv(void **state)
{
	(void)state;
	static const uint64_t floors[] = {0, 1, 255, 256, 65535, 65536, UINT32_MAX, (uint64_t)UINT32_MAX + 1};
	for (size_t i = 0; i < COUNT_OF(floors); i++) {
		for (size_t j = 0; j < COUNT_OF(floors); j++) {
			uint8_t bound[8];
			pgs__buffer b = {0};
			pgs__floor_encode(&(pgs__floor){floors[i], floors[i]}, &b);
			pgs__store_u64be(bound, floors[j] + 1);
			bool holds = pgs__slice_compare(pgs__buffer_slice(&b), (pgs_slice){bound, 8}) < 0;
			assert_int_equal(holds, floors[i] <= floors[j]);
			pgs__buffer_free(&b);
		}
	}
}

static int decode_number(pgs_slice bytes)
{
	uint64_t number;
	return pgs__number_decode(bytes, &number);
}

static void test_number__round_trips_and_compares(void **state)
{
	(void)state;
	static const uint64_t numbers[] = {0, 1, 255, 256, UINT32_MAX, UINT64_MAX - 1, UINT64_MAX};
	for (size_t i = 0; i < COUNT_OF(numbers); i++) {
		uint8_t bytes[PGS__NUMBER_SIZE], bound[8];
		uint64_t out;
		pgs__number_encode(numbers[i], bytes);
		assert_int_equal(pgs__number_decode((pgs_slice){bytes, sizeof bytes}, &out), PGS_OK);
		assert_true(out == numbers[i]);
		assert_damage_is_found(decode_number, (pgs_slice){bytes, sizeof bytes});
		assert_length_is_exact(decode_number, (pgs_slice){bytes, sizeof bytes});
		for (size_t j = 0; j < COUNT_OF(numbers); j++) {
			pgs__store_u64be(bound, numbers[j]);
			bool holds = pgs__slice_compare((pgs_slice){bytes, sizeof bytes}, (pgs_slice){bound, 8}) < 0;
			assert_int_equal(holds, numbers[i] < numbers[j]);
		}
	}
}

/* Kind 0 is damage, `next` a newer version's. */
static void assert_kinds(decoder decode, const pgs__buffer *good, uint8_t next)
{
	uint8_t kind = good->data[0];
	good->data[0] = next;
	assert_int_equal(decode_sealed(decode, good->data, good->size - 4), PGS_EVERSION);
	good->data[0] = 0;
	assert_int_equal(decode_sealed(decode, good->data, good->size - 4), PGS_ECORRUPT);
	good->data[0] = kind;
}

static int decode_lock(pgs_slice bytes)
{
	pgs__lock lock;
	return pgs__lock_decode(bytes, &lock);
}

static void test_lock__round_trips_and_refuses(void **state)
{
	(void)state;
	pgs__lock lock = {"owner-owner-own", "boot-boot-boot-", 4194304, UINT64_MAX, 0}, out;
	pgs__buffer b = {0};
	pgs__lock_encode(&lock, &b);
	assert_int_equal(pgs__lock_decode(pgs__buffer_slice(&b), &out), PGS_OK);
	assert_memory_equal(out.owner, lock.owner, 16);
	assert_memory_equal(out.boot_id, lock.boot_id, 16);
	assert_true(out.pid == lock.pid && out.process_start == lock.process_start && out.lease_ms == 0);
	assert_damage_is_found(decode_lock, pgs__buffer_slice(&b));
	assert_length_is_exact(decode_lock, pgs__buffer_slice(&b));
	assert_kinds(decode_lock, &b, 2);
	pgs__buffer_free(&b);
}

static int decode_claim(pgs_slice bytes)
{
	pgs__claim_value claim;
	return pgs__claim_decode(bytes, &claim);
}

static const pgs__lock holder = {"owner-owner-own", "boot-boot-boot-", 4194304, UINT64_MAX, 30000};

static void test_claim__round_trips_and_refuses(void **state)
{
	(void)state;
	pgs__claim_value claim = {holder, 8, 1, 2, {"0123456789abcde"}, {"0123456789abcdf"}}, out;
	pgs__buffer b = {0};
	pgs__claim_encode(&claim, &b);
	assert_int_equal(pgs__claim_decode(pgs__buffer_slice(&b), &out), PGS_OK);
	assert_memory_equal(&out.holder, &holder, sizeof holder);
	assert_true(out.jobs == 8 && out.level_first == 1 && out.level_last == 2);
	assert_true(pgs__page_id_equal(&out.first, &claim.first) && pgs__page_id_equal(&out.last, &claim.last));
	assert_damage_is_found(decode_claim, pgs__buffer_slice(&b));
	assert_length_is_exact(decode_claim, pgs__buffer_slice(&b));
	assert_kinds(decode_claim, &b, 3);
	b.data[0] = 1; /* a lock's */
	assert_int_equal(decode_sealed(decode_claim, b.data, b.size - 4), PGS_ECORRUPT);
	pgs__buffer_free(&b);
}

static void test_claim__scopes_that_cannot_be(void **state)
{
	(void)state;
	const pgs__claim_value bad[] = {
		{holder, 0, 0, 0, {{0}}, {{0}}},       /* no job */
		{holder, 8, 2, 1, {{0}}, {{0}}},       /* levels, */
		{holder, 8, 0, 0, {{0, 1}}, {{0, 0}}}, /* and ids backwards */
	};
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		pgs__buffer b = {0};
		pgs__claim_encode(&bad[i], &b);
		assert_int_equal(decode_claim(pgs__buffer_slice(&b)), PGS_ECORRUPT);
		pgs__buffer_free(&b);
	}
}

static int decode_pin(pgs_slice bytes)
{
	pgs__pin_value pin;
	return pgs__pin_decode(bytes, &pin);
}

static void test_pin__round_trips_and_refuses(void **state)
{
	(void)state;
	static const uint64_t revisions[] = {1, 127, 128, UINT64_MAX};
	for (size_t i = 0; i < COUNT_OF(revisions); i++) {
		pgs__pin_value pin = {holder, revisions[i]}, out;
		pgs__buffer b = {0};
		pgs__pin_encode(&pin, &b);
		assert_int_equal(pgs__pin_decode(pgs__buffer_slice(&b), &out), PGS_OK);
		assert_memory_equal(&out.holder, &holder, sizeof holder);
		assert_true(out.revision == revisions[i]);
		assert_damage_is_found(decode_pin, pgs__buffer_slice(&b));
		assert_length_is_exact(decode_pin, pgs__buffer_slice(&b));
		assert_kinds(decode_pin, &b, 2);
		pgs__buffer_free(&b);
	}
	pgs__buffer b = {0};
	pgs__pin_encode(&(pgs__pin_value){holder, 0}, &b);
	assert_int_equal(decode_pin(pgs__buffer_slice(&b)), PGS_ECORRUPT);
	pgs__buffer_free(&b);
}

static int decode_samples(pgs_slice bytes)
{
	pgs__samples samples;
	return pgs__samples_decode(bytes, &samples);
}

static void test_samples__round_trip_and_refuse(void **state)
{
	(void)state;
	static const size_t counts[] = {1, 2, PGS__SAMPLES_MAX};
	pgs__samples samples, out;
	for (size_t i = 0; i < PGS__SAMPLES_MAX; i++) {
		samples.list[i].time_ms = (int64_t)i * 1000 - 5000; /* before 1970, too */
		samples.list[i].revision = i * i + 1;
	}
	for (size_t i = 0; i < COUNT_OF(counts); i++) {
		pgs__buffer b = {0};
		samples.count = counts[i];
		pgs__samples_encode(&samples, &b);
		assert_int_equal(pgs__samples_decode(pgs__buffer_slice(&b), &out), PGS_OK);
		assert_int_equal(out.count, counts[i]);
		assert_memory_equal(out.list, samples.list, counts[i] * sizeof *samples.list);
		assert_damage_is_found(decode_samples, pgs__buffer_slice(&b));
		assert_int_equal(decode_sealed(decode_samples, b.data, b.size - 5), PGS_ECORRUPT);
		assert_kinds(decode_samples, &b, 2);
		pgs__buffer_free(&b);
	}
}

static void test_samples__must_rise_and_be_few(void **state)
{
	(void)state;
	const pgs__samples same_time = {2, {{5, 1}, {5, 2}}}, same_revision = {2, {{5, 2}, {6, 2}}}, none = {0};
	const pgs__samples *all[] = {&same_time, &same_revision, &none};
	for (size_t i = 0; i < COUNT_OF(all); i++) {
		pgs__buffer b = {0};
		pgs__samples_encode(all[i], &b);
		assert_int_equal(decode_samples(pgs__buffer_slice(&b)), all[i] == &none ? PGS_OK : PGS_ECORRUPT);
		pgs__buffer_free(&b);
	}
	uint8_t many[1 + 16 * (PGS__SAMPLES_MAX + 1)] = {1};
	for (size_t i = 0; i <= PGS__SAMPLES_MAX; i++)
		many[1 + 16 * i] = many[9 + 16 * i] = (uint8_t)(i + 1);
	assert_int_equal(decode_sealed(decode_samples, many, sizeof many - 16), PGS_OK);
	assert_int_equal(decode_sealed(decode_samples, many, sizeof many), PGS_ECORRUPT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_meta__round_trips),
		cmocka_unit_test(test_meta__page_sizes),
		cmocka_unit_test(test_meta__newer_ones_are_refused),
		cmocka_unit_test(test_meta__fields),
		cmocka_unit_test(test_meta__cut_under_a_good_seal),
		cmocka_unit_test(test_identity__round_trips_and_refuses),
		cmocka_unit_test(test_floor__round_trips_and_refuses),
		cmocka_unit_test(test_floor__compares_in_the_kv),
		cmocka_unit_test(test_number__round_trips_and_compares),
		cmocka_unit_test(test_lock__round_trips_and_refuses),
		cmocka_unit_test(test_claim__round_trips_and_refuses),
		cmocka_unit_test(test_claim__scopes_that_cannot_be),
		cmocka_unit_test(test_pin__round_trips_and_refuses),
		cmocka_unit_test(test_samples__round_trip_and_refuse),
		cmocka_unit_test(test_samples__must_rise_and_be_few),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
