/* lib/util: cursor, buffer, arena, errors, identifiers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pagestore.h>

#include "util/alloc.h"
#include "util/arena.h"
#include "util/cursor.h"
#include "util/error.h"
#include "util/random.h"

static void test_cursor__round_trips(void **state)
{
	(void)state;
	static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX - 1, UINT64_MAX};
	pgs__buffer b = {0};
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		pgs__put_varint(&b, values[i]);
		pgs__put_u64(&b, values[i]);
		pgs__put_u64be(&b, values[i]);
		pgs__put_u32(&b, (uint32_t)values[i]);
		pgs__put_u32be(&b, (uint32_t)values[i]);
		pgs__put_u16(&b, (uint16_t)values[i]);
		pgs__put_u8(&b, (uint8_t)values[i]);
	}
	pgs__reader r = pgs__reader_of(pgs__buffer_slice(&b));
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		assert_true(pgs__read_varint(&r) == values[i]);
		assert_true(pgs__read_u64(&r) == values[i]);
		assert_true(pgs__read_u64be(&r) == values[i]);
		assert_true(pgs__read_u32(&r) == (uint32_t)values[i]);
		assert_true(pgs__read_u32be(&r) == (uint32_t)values[i]);
		assert_true(pgs__read_u16(&r) == (uint16_t)values[i]);
		assert_true(pgs__read_u8(&r) == (uint8_t)values[i]);
	}
	assert_true(pgs__reader_done(&r));
	pgs__buffer_free(&b);
}

static void test_cursor__past_the_end_fails_for_good(void **state)
{
	(void)state;
	pgs__reader r = pgs__reader_of((pgs_slice){"abc", 3});
	assert_int_equal(pgs__read_u32(&r), 0);
	assert_true(r.failed);
	assert_int_equal(pgs__read_u8(&r), 0);
	assert_int_equal(pgs__reader_left(&r), 0);
	assert_false(pgs__reader_done(&r));
	uint8_t bytes[2] = {1, 1};
	pgs__read_bytes(&r, bytes, 2);
	assert_int_equal(bytes[0] | bytes[1], 0);
}

static void test_cursor__malformed_varints_fail(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t size;
	} bad[] = {
		{"\x80", 1},                                         /* cut */
		{"\x80\x00", 2},                                     /* overlong */
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10},    /* 65 bits */
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11} /* eleven bytes */
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		pgs__reader r = pgs__reader_of((pgs_slice){bad[i].bytes, bad[i].size});
		pgs__read_varint(&r);
		assert_true(r.failed);
	}
}

static void test_arena__gives_aligned_separate_memory(void **state)
{
	(void)state;
	pgs__arena arena = {0};
	char *seen[300];
	for (size_t i = 0; i < 300; i++) {
		seen[i] = pgs__arena_alloc(&arena, i * 37);
		assert_non_null(seen[i]);
		assert_int_equal((uintptr_t)seen[i] % _Alignof(max_align_t), 0);
		memset(seen[i], (int)i, i * 37);
	}
	for (size_t i = 1; i < 300; i++)
		assert_int_equal((unsigned char)seen[i][i * 37 - 1], (unsigned char)i);
	assert_null(pgs__arena_calloc(&arena, SIZE_MAX / 2, 4));
	pgs__arena_free(&arena);
	pgs__arena_free(&arena);
}

static void test_grow__refuses_overflow(void **state)
{
	(void)state;
	uint64_t *array = NULL;
	size_t capacity = 0;
	assert_int_equal(pgs__grow(&array, &capacity, SIZE_MAX / 4, sizeof *array), PGS_ENOMEM);
	assert_int_equal(pgs__grow(&array, &capacity, 100, sizeof *array), PGS_OK);
	assert_true(capacity >= 100);
	pgs__free(array);
}

static void test_error__codes_have_names_and_classes(void **state)
{
	(void)state;
	for (int code = PGS_ENOSPC; code <= PGS_OK; code++) {
		assert_string_not_equal(pgs_error_name(code), "PGS_?");
		assert_int_equal(pgs_error_class(code) == PGS_CLASS_OK, code == PGS_OK);
	}
	assert_string_equal(pgs_error_name(PGS_ENOSPC - 1), "PGS_?");
	assert_string_equal(pgs_error_name(1), "PGS_?");
	assert_int_equal(pgs_error_class(-99), PGS_CLASS_BACKEND);
}

static void test_error__messages_are_cut_not_overrun(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	char text[1000];
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	assert_int_equal(pgs__error(&err, PGS_EIO, "%s", text), PGS_EIO);
	assert_int_equal(strlen(err.message), sizeof err.message - 1);
	assert_int_equal(pgs__error_prefix(&err, PGS_EIO, "%s", text), PGS_EIO);
	assert_int_equal(pgs__error(NULL, PGS_EIO, "nobody listens"), PGS_EIO);
	pgs__error(&err, PGS_EIO, "inner");
	pgs__error_prefix(&err, PGS_ECORRUPT, "outer %d", 7);
	assert_string_equal(err.message, "outer 7: inner");
	assert_int_equal(err.code, PGS_ECORRUPT);
}

static void test_printable__escapes_and_cuts(void **state)
{
	(void)state;
	char out[32];
	assert_string_equal(pgs__printable(out, sizeof out, "a\0b\n", 4), "a\\x00b\\x0a");
	char long_name[300];
	memset(long_name, 0xff, sizeof long_name);
	assert_true(strlen(pgs__printable(out, sizeof out, long_name, sizeof long_name)) < sizeof out);
	assert_non_null(strstr(out, "..."));
}

static void test_uuid7__is_ordered_by_time_and_unique(void **state)
{
	(void)state;
	uint8_t a[16], b[16];
	assert_int_equal(pgs__uuid7(a), PGS_OK);
	assert_int_equal(pgs__uuid7(b), PGS_OK);
	assert_memory_not_equal(a, b, 16);
	assert_int_equal(a[6] >> 4, 7);
	assert_int_equal(a[8] >> 6, 2);
	assert_true(pgs__uuid7_ms(a) <= pgs__uuid7_ms(b));
	assert_true(pgs__uuid7_ms(a) > 1700000000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cursor__round_trips),
		cmocka_unit_test(test_cursor__past_the_end_fails_for_good),
		cmocka_unit_test(test_cursor__malformed_varints_fail),
		cmocka_unit_test(test_arena__gives_aligned_separate_memory),
		cmocka_unit_test(test_grow__refuses_overflow),
		cmocka_unit_test(test_error__codes_have_names_and_classes),
		cmocka_unit_test(test_error__messages_are_cut_not_overrun),
		cmocka_unit_test(test_printable__escapes_and_cuts),
		cmocka_unit_test(test_uuid7__is_ordered_by_time_and_unique),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
