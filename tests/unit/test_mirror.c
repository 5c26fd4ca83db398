/* lib/local_cache/mirror*.c: what the mirror of a database answers, and when it says that it does not know. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codec/pointer.h"
#include "local_cache/database.h"
#include "support/disk_cache.h"
#include "support/planted.h"
#include "support/scratch.h"
#include "support/testing.h"
#include "util/clock.h"

#define SIZE (8u << 20)

static disk d;

static uint64_t soon(void)
{
	return pgs__now_ms() + 5000;
}

static int set_up(void **state)
{
	int failed = scratch_set_up(state);
	if (!failed)
		disk_open(&d, scratch_path("cache"), SIZE, 1);
	return failed;
}

static int tear_down(void **state)
{
	disk_close(&d);
	return scratch_tear_down(state);
}

static pgs__mirror_state state_of(disk *of)
{
	pgs__mirror_state s;
	assert_int_equal(pgs__mirror_state_get(of->db, &s, NULL), PGS_OK);
	return s;
}

static void reopen(void)
{
	disk_close(&d);
	disk_open(&d, scratch_path("cache"), SIZE, 1);
}

/* --- M1 -------------------------------------------------------------------------------------- */

static void test_mirror__knows_nothing_before_it_is_loaded(void **state)
{
	(void)state;
	assert_int_equal(state_of(&d).sequence, 0);
	assert_true(disk_page(&d, 1, 0) == DISK_UNKNOWN);
	assert_int_equal(disk_apply(&d, 0, 5, 1, 1), PGS_EOLDREV);
	assert_int_equal(pgs__mirror_load_begin(d.db, 10, soon(), NULL), PGS_OK);
	assert_true(disk_page(&d, 1, 0) == DISK_UNKNOWN);
	assert_int_equal(disk_apply(&d, 10, 11, 1, 1), PGS_EOLDREV);
}

static void test_mirror__loaded_answers_present_and_absent(void **state)
{
	(void)state;
	disk_load(&d, 3000, 10);
	assert_int_equal(state_of(&d).sequence, 10);
	assert_int_equal(state_of(&d).keys, 3000);
	assert_int_equal(pgs__mirror_sequence(d.db), 10);
	for (uint64_t i = 0; i < 3000; i++)
		assert_true(disk_page(&d, i, 10) == i);
	assert_true(disk_page(&d, 3000, 10) == DISK_ABSENT);
	assert_true(disk_page(&d, 1, 11) == DISK_UNKNOWN); /* M3 */
	assert_true(disk_page(&d, 1, 9) == DISK_UNKNOWN);  /* below the horizon */
}

static void test_mirror__apply_moves_the_sequence_forward_only(void **state)
{
	(void)state;
	disk_load(&d, 10, 10);
	assert_int_equal(disk_apply(&d, 10, 12, 3, 100), PGS_OK);
	assert_int_equal(pgs__mirror_sequence(d.db), 12);
	assert_true(disk_page(&d, 3, 0) == 100);
	assert_int_equal(disk_apply(&d, 8, 11, 3, 200), PGS_OK); /* older: another process was faster */
	assert_int_equal(state_of(&d).sequence, 12);
	assert_true(disk_page(&d, 3, 0) == 100);
	assert_int_equal(disk_apply(&d, 13, 14, 3, 200), PGS_EOLDREV); /* what happened at 13? */
	assert_int_equal(state_of(&d).sequence, 12);
	assert_int_equal(disk_apply(&d, 9, 14, 3, 200), PGS_OK); /* overlapping */
	assert_true(disk_page(&d, 3, 0) == 200);
}

static void test_mirror__changes_at_or_below_the_sequence_are_left_alone(void **state)
{
	(void)state;
	disk_pair old, new;
	disk_load(&d, 10, 10);
	assert_int_equal(disk_apply(&d, 10, 20, 3, 100), PGS_OK);
	disk_pair_make(&old, 3, 50, 15);
	disk_pair_make(&new, 4, 60, 25);
	const pgs__mirror_change changes[] = {{.pair = old.pair}, {.pair = new.pair}};
	assert_int_equal(pgs__mirror_apply(d.db, 10, 30, 0, changes, 2, soon(), NULL, NULL), PGS_OK);
	assert_true(disk_page(&d, 3, 0) == 100);
	assert_true(disk_page(&d, 4, 0) == 60);
}

static void test_mirror__outlives_its_process_s_handle(void **state)
{
	(void)state;
	disk_load(&d, 10, 10);
	assert_int_equal(disk_apply(&d, 10, 20, 3, 100), PGS_OK);
	pgs__mirror_require(d.db, 30);
	pgs__mirror_confirm(d.db, 40);
	reopen();
	assert_int_equal(d.warnings, 0);
	assert_int_equal(state_of(&d).sequence, 20);
	assert_true(disk_page(&d, 3, 0) == 100);
	assert_true(disk_page(&d, 4, 0) == 4);
	assert_int_equal(pgs__mirror_required(d.db), 0);
	assert_int_equal(pgs__mirror_confirmed(d.db), 0);
}

/* --- M2 ----------------------------------------------------------------------------------------- */

static void test_mirror__what_changed_after_a_reader_began_is_unknown_to_it(void **state)
{
	(void)state;
	disk_load(&d, 10, 10);
	assert_int_equal(disk_apply(&d, 10, 20, 3, 100), PGS_OK);
	assert_true(disk_page(&d, 3, 10) == DISK_UNKNOWN);
	assert_true(disk_page(&d, 3, 19) == DISK_UNKNOWN);
	assert_true(disk_page(&d, 3, 20) == 100);
	assert_true(disk_page(&d, 4, 10) == 4);
}

static void test_mirror__a_deleted_key_is_unknown_before_and_absent_after(void **state)
{
	(void)state;
	disk_load(&d, 10, 10);
	assert_int_equal(disk_apply(&d, 10, 20, 3, DISK_ABSENT), PGS_OK);
	assert_true(disk_page(&d, 3, 19) == DISK_UNKNOWN);
	assert_true(disk_page(&d, 3, 20) == DISK_ABSENT);
	assert_int_equal(state_of(&d).keys, 9);
	assert_int_equal(disk_apply(&d, 20, 25, 3, 7), PGS_OK); /* and put again */
	assert_true(disk_page(&d, 3, 24) == DISK_UNKNOWN);
	assert_true(disk_page(&d, 3, 25) == 7);
	assert_int_equal(state_of(&d).keys, 10);
}

static void test_mirror__a_key_put_and_deleted_in_one_apply_leaves_a_tombstone(void **state)
{
	(void)state;
	disk_pair put, gone;
	disk_load(&d, 5, 10);
	disk_pair_make(&put, 7, 70, 15);
	disk_pair_make(&gone, 7, 70, 18);
	const pgs__mirror_change changes[] = {{.pair = put.pair}, {.pair = gone.pair, .deleted = true}};
	assert_int_equal(pgs__mirror_apply(d.db, 10, 20, 0, changes, 2, soon(), NULL, NULL), PGS_OK);
	assert_true(disk_page(&d, 7, 16) == DISK_UNKNOWN);
	assert_true(disk_page(&d, 7, 18) == DISK_ABSENT);
}

static void test_mirror__tombstones_go_when_the_horizon_passes_them(void **state)
{
	(void)state;
	disk_load(&d, 10, 10);
	assert_int_equal(disk_apply(&d, 10, 20, 3, DISK_ABSENT), PGS_OK);
	assert_int_equal(disk_apply(&d, 20, 30, 4, DISK_ABSENT), PGS_OK);
	assert_int_equal(pgs__mirror_apply(d.db, 30, 40, 25, NULL, 0, soon(), NULL, NULL), PGS_OK);
	assert_int_equal(state_of(&d).horizon, 25);
	assert_true(disk_page(&d, 3, 25) == DISK_ABSENT);
	assert_true(disk_page(&d, 3, 15) == DISK_UNKNOWN);
	assert_true(disk_page(&d, 5, 24) == DISK_UNKNOWN); /* below the horizon: nothing at all */
	assert_true(disk_page(&d, 5, 25) == 5);
	assert_true(disk_page(&d, 4, 25) == DISK_UNKNOWN);
	assert_true(disk_page(&d, 4, 30) == DISK_ABSENT);
	reopen(); /* the digest knows which of them are left */
	assert_int_equal(state_of(&d).sequence, 40);
}

static void test_mirror__a_folded_pointer_counts_with_its_own_age(void **state)
{
	(void)state;
	pgs__pointer pointer = {.kind = PGS__POINTER_FULL, .id = disk_id(77), .folded_revision = 9};
	pgs__buffer value = {0};
	pgs__key key = pgs__key_page(disk_prefix, 3);
	disk_load(&d, 10, 10);
	pgs__pointer_encode(&pointer, &value);
	pgs__mirror_change change = {.pair = {.key = pgs__key_slice(&key), .value = pgs__buffer_slice(&value),
				      .create_revision = 10, .mod_revision = 20, .version = 2}};
	assert_int_equal(pgs__mirror_apply(d.db, 10, 20, 0, &change, 1, soon(), NULL, NULL), PGS_OK);
	assert_true(disk_page(&d, 3, 15) == 77); /* a pack of revision 9 said so then */
	pgs__buffer_free(&value);
	value = (pgs__buffer){0};
	pointer.folded_revision = 17;
	pgs__pointer_encode(&pointer, &value);
	change.pair.value = pgs__buffer_slice(&value);
	change.pair.mod_revision = 30;
	assert_int_equal(pgs__mirror_apply(d.db, 20, 30, 0, &change, 1, soon(), NULL, NULL), PGS_OK);
	assert_true(disk_page(&d, 3, 15) == DISK_UNKNOWN);
	assert_true(disk_page(&d, 3, 17) == 77);
	pgs__buffer_free(&value);
}

/* --- pairs and ranges ------------------------------------------------------------------------------ */

static void keep_pair(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	pgs_kv_pair *out = ctx;
	assert_int_equal(index, 0);
	assert_int_equal(answer, PGS__MIRROR_PRESENT);
	assert_int_equal(pair->value.size, 5);
	assert_memory_equal(pair->value.data, "bytes", 5);
	*out = *pair;
}

static void test_mirror__pairs_come_back_word_for_word(void **state)
{
	(void)state;
	pgs_kv_pair got = {0};
	pgs__key key = pgs__key_single(disk_prefix, 't');
	pgs_slice slice = pgs__key_slice(&key);
	pgs__mirror_change change = {.pair = {.key = slice, .value = {"bytes", 5}, .create_revision = 3, .mod_revision = 20,
				      .version = 1234567}};
	uint64_t sequence = 0;
	disk_load(&d, 1, 10);
	assert_int_equal(pgs__mirror_apply(d.db, 10, 20, 0, &change, 1, soon(), &sequence, NULL), PGS_OK);
	assert_int_equal(sequence, 20);
	assert_int_equal(pgs__mirror_get(d.db, 0, &slice, 1, keep_pair, &got, &sequence, NULL), PGS_OK);
	assert_int_equal(sequence, 20);
	assert_int_equal(got.create_revision, 3);
	assert_int_equal(got.mod_revision, 20);
	assert_int_equal(got.version, 1234567);
}

static void test_mirror__a_large_value_comes_back(void **state)
{
	(void)state;
	const size_t size = 700000;
	uint8_t *bytes = malloc(size);
	pgs__key key = pgs__key_uuid(disk_prefix, 'o', disk_id(1).bytes);
	pgs__mirror_change change = {.pair = {.key = pgs__key_slice(&key), .value = {bytes, size}, .create_revision = 20,
				      .mod_revision = 20, .version = 1}};
	memset(bytes, 0x5a, size);
	disk_load(&d, 1, 10);
	assert_int_equal(pgs__mirror_apply(d.db, 10, 20, 0, &change, 1, soon(), NULL, NULL), PGS_OK);
	assert_int_equal(state_of(&d).keys, 2);
	reopen();
	assert_int_equal(state_of(&d).keys, 2);
	free(bytes);
}

typedef struct seen {
	uint64_t count, last;
} seen;

static void see_page(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	seen *s = ctx;
	assert_int_equal(index, s->count++);
	assert_int_equal(answer, PGS__MIRROR_PRESENT);
	assert_true(pgs__key_parse_page(pair->key, &s->last));
}

static int range(uint64_t at, uint64_t from, uint64_t to, size_t limit, seen *s)
{
	pgs__key first = pgs__key_page(disk_prefix, from), end = pgs__key_page(disk_prefix, to);
	*s = (seen){0};
	return pgs__mirror_range(d.db, at, pgs__key_slice(&first), pgs__key_slice(&end), limit, see_page, s, NULL, NULL);
}

static void test_mirror__ranges_are_complete_or_refused(void **state)
{
	(void)state;
	seen s;
	assert_int_equal(range(0, 0, 10, 0, &s), PGS_EOLDREV);
	disk_load(&d, 100, 10);
	assert_int_equal(range(10, 5, 15, 0, &s), PGS_OK);
	assert_int_equal(s.count, 10);
	assert_int_equal(s.last, 14);
	assert_int_equal(range(10, 5, 15, 3, &s), PGS_OK);
	assert_int_equal(s.last, 7);
	assert_int_equal(disk_apply(&d, 10, 20, 8, DISK_ABSENT), PGS_OK);
	assert_int_equal(range(20, 5, 15, 0, &s), PGS_OK);
	assert_int_equal(s.count, 9);
	assert_int_equal(range(15, 5, 15, 0, &s), PGS_EOLDREV);
	assert_int_equal(range(15, 9, 15, 0, &s), PGS_OK);
	assert_int_equal(range(21, 9, 15, 0, &s), PGS_EOLDREV);
}

/* --- loading anew ------------------------------------------------------------------------------------ */

static void test_mirror__loading_anew_removes_what_is_gone(void **state)
{
	(void)state;
	disk_load(&d, 3000, 10);
	assert_int_equal(disk_apply(&d, 10, 20, 2500, DISK_ABSENT), PGS_OK);
	assert_int_equal(disk_apply(&d, 20, 21, 1, 100), PGS_OK);
	disk_load(&d, 2000, 30);
	pgs__mirror_state s = state_of(&d);
	assert_int_equal(s.sequence, 30);
	assert_int_equal(s.horizon, 30);
	assert_int_equal(s.keys, 2000);
	assert_true(disk_page(&d, 1, 30) == 1);
	assert_true(disk_page(&d, 2500, 30) == DISK_ABSENT);
	assert_true(disk_page(&d, 2, 29) == DISK_UNKNOWN);
	reopen();
	assert_int_equal(state_of(&d).sequence, 30);
	disk_load(&d, 0, 40);
	assert_int_equal(state_of(&d).keys, 0);
	assert_true(disk_page(&d, 1, 40) == DISK_ABSENT);
}

static void test_mirror__a_load_that_was_overtaken_is_refused(void **state)
{
	(void)state;
	pgs__key first = pgs__key_kind(disk_prefix, 'p'), end = pgs__key_kind_end(disk_prefix, 'p');
	disk_load(&d, 10, 10);
	assert_int_equal(pgs__mirror_load_begin(d.db, 20, soon(), NULL), PGS_OK);
	assert_int_equal(pgs__mirror_load_begin(d.db, 21, soon(), NULL), PGS_OK);
	assert_int_equal(pgs__mirror_load_range(d.db, 20, pgs__key_slice(&first), pgs__key_slice(&end), NULL, 0, soon(),
						NULL), PGS_EOLDREV);
	assert_int_equal(pgs__mirror_load_end(d.db, 20, soon(), NULL), PGS_EOLDREV);
	assert_int_equal(state_of(&d).loading, 21);
	assert_int_equal(pgs__mirror_load_end(d.db, 21, soon(), NULL), PGS_OK);
	assert_int_equal(state_of(&d).keys, 10);
}

static void test_mirror__reset_forgets(void **state)
{
	(void)state;
	disk_load(&d, 10, 110);
	assert_int_equal(pgs__mirror_reset(d.db, soon(), NULL), PGS_OK);
	assert_int_equal(state_of(&d).sequence, 0);
	assert_int_equal(pgs__mirror_sequence(d.db), 0);
	assert_true(disk_page(&d, 1, 0) == DISK_UNKNOWN);
	disk_load(&d, 5, 6); /* and what was mirrored before is not met again */
	assert_int_equal(state_of(&d).keys, 5);
	assert_true(disk_page(&d, 7, 6) == DISK_ABSENT);
}

/* Ranges that are read at later revisions, as what was loaded is brought there. */
static void test_mirror__a_load_moves_on(void **state)
{
	(void)state;
	disk_pair loaded[4], put, early, later[2];
	pgs_kv_pair pairs[4];
	pgs__key first = pgs__key_page(disk_prefix, 0), middle = pgs__key_page(disk_prefix, 4),
		 end = pgs__key_kind_end(disk_prefix, 'p');
	for (uint64_t i = 0; i < 4; i++) {
		disk_pair_make(&loaded[i], i, i, 5);
		pairs[i] = loaded[i].pair;
	}
	assert_int_equal(pgs__mirror_load_begin(d.db, 10, soon(), NULL), PGS_OK);
	assert_int_equal(pgs__mirror_load_range(d.db, 10, pgs__key_slice(&first), pgs__key_slice(&middle), pairs, 4, soon(),
						NULL), PGS_OK);
	disk_pair_make(&put, 1, 100, 12);
	disk_pair_make(&early, 5, 500, 12); /* of what is not loaded yet, and deleted again by 20 */
	const pgs__mirror_change changes[] = {
		{.pair = put.pair},
		{.pair = {.key = pgs__key_slice(&loaded[2].key), .mod_revision = 13}, .deleted = true},
		{.pair = early.pair}};
	assert_int_equal(pgs__mirror_load_apply(d.db, 9, 20, changes, 3, soon(), NULL), PGS_EOLDREV);
	assert_int_equal(pgs__mirror_load_apply(d.db, 10, 20, changes, 3, soon(), NULL), PGS_OK);
	assert_int_equal(pgs__mirror_sequence(d.db), 0);
	assert_true(disk_page(&d, 1, 0) == DISK_UNKNOWN);
	disk_pair_make(&later[0], 4, 4, 15);
	disk_pair_make(&later[1], 6, 6, 16);
	pairs[0] = later[0].pair;
	pairs[1] = later[1].pair;
	assert_int_equal(pgs__mirror_load_range(d.db, 10, pgs__key_slice(&middle), pgs__key_slice(&end), pairs, 2, soon(),
						NULL), PGS_EOLDREV);
	assert_int_equal(pgs__mirror_load_range(d.db, 20, pgs__key_slice(&middle), pgs__key_slice(&end), pairs, 2, soon(),
						NULL), PGS_OK);
	assert_int_equal(pgs__mirror_load_end(d.db, 10, soon(), NULL), PGS_EOLDREV);
	assert_int_equal(pgs__mirror_load_end(d.db, 20, soon(), NULL), PGS_OK);
	const uint64_t expected[] = {0, 100, DISK_ABSENT, 3, 4, DISK_ABSENT, 6};
	for (uint64_t i = 0; i < sizeof expected / sizeof *expected; i++)
		assert_int_equal(disk_page(&d, i, 20), expected[i]);
	assert_int_equal(disk_apply(&d, 20, 21, 0, 1000), PGS_OK);
	reopen(); /* and the digest is that of all this */
	assert_int_equal(state_of(&d).sequence, 21);
	assert_int_equal(disk_page(&d, 1, 0), 100);
}

/* --- whose history it is --------------------------------------------------------------------------------- */

static pgs__mirror_change commit_of(pgs__key *key, char kind, const uint8_t uuid[16], uint64_t revision)
{
	*key = kind == 'x' ? pgs__key_uuid(disk_prefix, 'x', uuid) : pgs__key_single(disk_prefix, kind);
	return (pgs__mirror_change){.pair = {.key = pgs__key_slice(key), .create_revision = revision,
					     .mod_revision = revision, .version = 1}};
}

static void test_mirror__knows_the_last_commit_s_entry(void **state)
{
	(void)state;
	const uint8_t one[16] = {1}, two[16] = {2}, aborted[16] = {3};
	pgs__key keys[5];
	disk_load(&d, 1, 10);
	assert_int_equal(state_of(&d).last.revision, 0);
	const pgs__mirror_change changes[] = {
		commit_of(&keys[0], 't', NULL, 11), commit_of(&keys[1], 'x', one, 11), commit_of(&keys[2], 't', NULL, 12),
		commit_of(&keys[3], 'x', two, 12), commit_of(&keys[4], 'x', aborted, 13)};
	assert_int_equal(pgs__mirror_apply(d.db, 10, 13, 0, changes, 5, soon(), NULL, NULL), PGS_OK);
	assert_int_equal(state_of(&d).last.revision, 12);
	assert_memory_equal(state_of(&d).last.uuid, two, 16);
	assert_int_equal(disk_apply(&d, 13, 14, 1, 1), PGS_OK); /* the step of a fold */
	assert_int_equal(state_of(&d).last.revision, 12);
	const pgs__mirror_change unnamed = commit_of(&keys[0], 't', NULL, 15);
	assert_int_equal(pgs__mirror_apply(d.db, 14, 15, 0, &unnamed, 1, soon(), NULL, NULL), PGS_OK);
	assert_int_equal(state_of(&d).last.revision, 0);
}

/* What was there when the file was opened is nobody's until it was held against the KV. */
static void test_mirror__found_is_not_believed(void **state)
{
	(void)state;
	disk_pair p;
	disk_pair_make(&p, 1, 100, 11);
	const pgs__mirror_change change = {.pair = p.pair};
	disk_load(&d, 10, 10);
	pgs__disk_db_detach(d.db);
	pgs__disk_cache_close(d.cache);
	pgs__disk_cache_options o = {.path = scratch_path("cache"), .size_bytes = SIZE};
	memset(o.identity, 1, sizeof o.identity);
	assert_int_equal(pgs__disk_cache_open(&d.cache, &o, NULL), PGS_OK);
	assert_int_equal(pgs__disk_db_attach(&d.db, d.cache, disk_prefix, DISK_PAGE, NULL), PGS_OK);
	assert_int_equal(state_of(&d).sequence, 10);
	assert_int_equal(pgs__mirror_sequence(d.db), 0);
	assert_int_equal(pgs__mirror_apply(d.db, 10, 11, 0, &change, 1, soon(), NULL, NULL), PGS_EOLDREV);
	assert_int_equal(pgs__mirror_believe(d.db, NULL), PGS_OK);
	assert_int_equal(pgs__mirror_sequence(d.db), 10);
	assert_int_equal(pgs__mirror_apply(d.db, 10, 11, 0, &change, 1, soon(), NULL, NULL), PGS_OK);
}

/* --- contents nobody refers to ------------------------------------------------------------------------ */

static void test_mirror__contents_of_replaced_pointers_go_first(void **state)
{
	(void)state;
	disk_load(&d, 10, 10);
	for (uint64_t i = 0; i < 10; i++)
		disk_put(&d, i, 1000);
	disk_flush(&d);
	for (int i = 0; i < 3; i++)
		assert_true(disk_has(&d, 3, NULL)); /* hot: that does not help */
	assert_int_equal(disk_apply(&d, 10, 20, 3, 500), PGS_OK);
	assert_true(disk_has(&d, 3, NULL));
	uint64_t n = 1000;
	while (disk_stat(&d).evictions == 0) {
		disk_put(&d, n++, 1000);
		disk_flush(&d);
	}
	assert_false(disk_has(&d, 3, NULL));
	assert_true(disk_has(&d, 2, NULL) || disk_stat(&d).evictions > 1);
}

/* Fill until so many contents have gone. */
static void evict(disk *by, uint64_t count)
{
	for (uint64_t n = 100000; disk_stat(by).evictions < count; n++) {
		disk_put(by, n, 1000);
		disk_flush(by);
	}
}

static void test_mirror__contents_of_deleted_pointers_go_first(void **state)
{
	(void)state;
	pgs__mirror_change changes[5];
	disk_pair gone[5];
	disk_load(&d, 10, 10);
	for (uint64_t i = 0; i < 10; i++)
		disk_put(&d, i, 1000);
	disk_flush(&d);
	for (uint64_t i = 0; i < 5; i++) { /* a truncation */
		disk_pair_make(&gone[i], 5 + i, 0, 20);
		changes[i] = (pgs__mirror_change){.pair = gone[i].pair, .deleted = true};
	}
	assert_int_equal(pgs__mirror_apply(d.db, 10, 20, 0, changes, 5, soon(), NULL, NULL), PGS_OK);
	evict(&d, 5);
	for (uint64_t i = 5; i < 10; i++)
		assert_false(disk_has(&d, i, NULL));
}

/* What a load finds gone, or turned away from, too. */
static void test_mirror__contents_that_a_load_turns_away_go_first(void **state)
{
	(void)state;
	disk_load(&d, 10, 10);
	for (uint64_t i = 0; i < 10; i++)
		disk_put(&d, i, 1000);
	disk_flush(&d);
	disk_load(&d, 5, 30);
	evict(&d, 5);
	for (uint64_t i = 5; i < 10; i++)
		assert_false(disk_has(&d, i, NULL));
}

/* Before all others, and whoever has the file open. */
static void test_mirror__contents_of_dropped_databases_go_first(void **state)
{
	enum { COUNT = 200 };
	disk other;
	(void)state;
	disk_open(&other, scratch_path("cache"), SIZE, 2);
	disk_load(&other, 10, 10);
	for (uint64_t i = 0; i < COUNT; i++)
		disk_put(&other, i, 1000);
	disk_flush(&other);
	for (uint64_t i = 0; i < COUNT; i++)
		assert_true(disk_has(&other, i, NULL)); /* hot */
	disk_load(&d, 10, 10);
	disk_put(&d, 3, 1000);
	disk_flush(&d);
	assert_int_equal(disk_apply(&d, 10, 20, 3, 500), PGS_OK); /* superseded: goes after them */
	pgs__disk_db_dropped(other.cache, disk_prefix);
	assert_int_equal(pgs__mirror_sequence(other.db), 0);
	assert_int_equal(state_of(&other).keys, 0);
	evict(&d, COUNT);
	assert_true(disk_stat(&d).evictions > COUNT || disk_has(&d, 3, NULL));
	for (uint64_t i = 0; i < COUNT; i++)
		assert_false(disk_has(&other, i, NULL)); /* by the number that it had */
	disk_close(&other);
	assert_int_equal(state_of(&d).sequence, 20);
}

/* --- words ------------------------------------------------------------------------------------------------ */

static void test_mirror__required_and_confirmed_only_rise_and_are_shared(void **state)
{
	(void)state;
	disk other;
	disk_open(&other, scratch_path("cache"), SIZE, 1);
	pgs__mirror_require(d.db, 10);
	pgs__mirror_require(other.db, 7);
	assert_int_equal(pgs__mirror_required(other.db), 10);
	pgs__mirror_confirm(other.db, 99);
	pgs__mirror_confirm(d.db, 98);
	assert_int_equal(pgs__mirror_confirmed(d.db), 99);
	disk_close(&other);
}

static void test_mirror__one_handle_follows(void **state)
{
	(void)state;
	disk other;
	disk_open(&other, scratch_path("cache"), SIZE, 1);
	assert_true(pgs__mirror_follow_lock(d.db));
	assert_true(pgs__mirror_follow_lock(d.db));
	assert_false(pgs__mirror_follow_lock(other.db));
	pgs__mirror_follow_unlock(other.db); /* it is not his */
	assert_false(pgs__mirror_follow_lock(other.db));
	pgs__mirror_follow_unlock(d.db);
	assert_true(pgs__mirror_follow_lock(other.db));
	disk_close(&other); /* gives it up */
	assert_true(pgs__mirror_follow_lock(d.db));
}

/* Another process that follows is known by its number. */
static void test_mirror__who_follows_is_known(void **state)
{
	(void)state;
	int up[2], down[2], byte;
	assert_int_equal(pgs__mirror_follower(d.db), 0);
	assert_true(pgs__mirror_follow_lock(d.db));
	assert_int_equal(pgs__mirror_follower(d.db), getpid());
	pgs__mirror_follow_unlock(d.db);
	assert_int_equal(pipe(up) | pipe(down), 0);
	pid_t child = fork();
	if (child == 0) {
		pgs__shared shared; /* the locks are its own: the parent's were not handed on */
		bool locked = pgs__shared_open(&shared, scratch_path("cache-state"), NULL) == PGS_OK &&
			      pgs__shared_lock(&shared, PGS__LOCK_FOLLOW + (off_t)d.db->slot, true, 0);
		if (write(up[1], &locked, 1) == 1)
			_exit(read(down[0], &byte, 1) != 1);
		_exit(1);
	}
	bool locked = false;
	assert_int_equal(read(up[0], &locked, 1), 1);
	assert_true(locked);
	assert_int_equal(pgs__mirror_follower(d.db), child);
	assert_false(pgs__mirror_follow_lock(d.db));
	assert_int_equal(write(down[1], "", 1), 1);
	assert_int_equal(waitpid(child, &byte, 0), child);
	assert_int_equal(pgs__mirror_follower(d.db), 0);
	for (int i = 0; i < 2; i++) {
		close(up[i]);
		close(down[i]);
	}
}

/* --- D1 ------------------------------------------------------------------------------------------------------ */

/* Wherever in LMDB's leaves the gap is: what is not there is known not to be. */
static void test_mirror__absence_at_the_edges_of_leaves(void **state)
{
	(void)state;
	disk other;
	disk_load(&d, 1, 10);
	disk_open(&other, scratch_path("cache"), SIZE, 2);
	disk_load(&other, 100, 10); /* its records are behind those of the first */
	for (uint64_t count = 2; count < 200; count++) {
		disk_load(&d, count, 10 + count);
		assert_true(disk_page(&d, count - 1, 0) == count - 1);
		assert_true(disk_page(&d, count, 0) == DISK_ABSENT);
		assert_true(disk_page(&d, 1u << 30, 0) == DISK_ABSENT);
		assert_true(disk_page(&other, 100, 0) == DISK_ABSENT);
	}
	disk_close(&other);
}

static void test_mirror__stores_and_databases_do_not_meet(void **state)
{
	(void)state;
	disk other;
	disk_load(&d, 10, 10);
	disk_open(&other, scratch_path("cache"), SIZE, 2); /* the same prefix, in another store */
	assert_int_equal(state_of(&other).sequence, 0);
	assert_true(disk_page(&other, 1, 0) == DISK_UNKNOWN);
	disk_load(&other, 5, 7);
	assert_true(disk_page(&other, 7, 0) == DISK_ABSENT);
	assert_true(disk_page(&d, 7, 0) == 7);
	assert_int_equal(state_of(&d).sequence, 10);
	disk_close(&other);
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_setup_teardown(test_mirror__##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(knows_nothing_before_it_is_loaded),
		CASE(loaded_answers_present_and_absent),
		CASE(apply_moves_the_sequence_forward_only),
		CASE(changes_at_or_below_the_sequence_are_left_alone),
		CASE(outlives_its_process_s_handle),
		CASE(what_changed_after_a_reader_began_is_unknown_to_it),
		CASE(a_deleted_key_is_unknown_before_and_absent_after),
		CASE(a_key_put_and_deleted_in_one_apply_leaves_a_tombstone),
		CASE(tombstones_go_when_the_horizon_passes_them),
		CASE(a_folded_pointer_counts_with_its_own_age),
		CASE(pairs_come_back_word_for_word),
		CASE(a_large_value_comes_back),
		CASE(ranges_are_complete_or_refused),
		CASE(loading_anew_removes_what_is_gone),
		CASE(a_load_that_was_overtaken_is_refused),
		CASE(reset_forgets),
		CASE(a_load_moves_on),
		CASE(knows_the_last_commit_s_entry),
		CASE(found_is_not_believed),
		CASE(contents_of_replaced_pointers_go_first),
		CASE(contents_of_deleted_pointers_go_first),
		CASE(contents_that_a_load_turns_away_go_first),
		CASE(contents_of_dropped_databases_go_first),
		CASE(required_and_confirmed_only_rise_and_are_shared),
		CASE(one_handle_follows),
		CASE(who_follows_is_known),
		CASE(absence_at_the_edges_of_leaves),
		CASE(stores_and_databases_do_not_meet),
	};
	plant(argc, argv);
	return planted_result(cmocka_run_group_tests(tests, NULL, NULL));
}
