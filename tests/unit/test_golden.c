/* The golden files: what was stored is read as it was meant, and refused where it was damaged. */
#include "test_codec.h"

#include <dirent.h>
#include <stdio.h>

#include <zstd.h>

#include "codec/changelog.h"
#include "codec/keys.h"
#include "codec/meta.h"
#include "codec/pack.h"
#include "codec/pointer.h"
#include "codec/snapshot_record.h"
#include "codec/sorted_file.h"
#include "golden/golden.h"

#define FILES 115         /* in v1/ */
#define FILTERED_FILES 14 /* in filter/ */
#define PAGE 512
#define FILE_MAX 65536

/* ---- files ---- */

static uint8_t loaded[FILE_MAX];

/* The bytes of a committed file; good until the next is loaded. */
static pgs_slice load_from(const char *folder, const char *name)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s/%s", GOLDEN_DIR, folder, name);
	FILE *f = fopen(path, "rb");
	if (!f)
		fail_msg("no %s", path);
	size_t size = fread(loaded, 1, sizeof loaded, f);
	fclose(f);
	assert_true(size < sizeof loaded);
	return (pgs_slice){loaded, size};
}

static pgs_slice load(const char *name)
{
	return load_from("v1", name);
}

/* ---- whole decoders ---- */

static uint8_t secret[PGS__SECRET_SIZE];

static int fill_secret(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof secret; i++)
		secret[i] = (uint8_t)(i * 151 + 17);
	return 0;
}

/* A stored content: raw, or a zstd frame of exactly a page. */
static int decode_content(pgs_slice bytes, uint8_t page[PAGE])
{
	if (bytes.size == PAGE) {
		memcpy(page, bytes.data, PAGE);
		return PGS_OK;
	}
	return ZSTD_decompress(page, PAGE, bytes.data, bytes.size) == PAGE ? PGS_OK : PGS_ECORRUPT;
}

static int decode_pointer(pgs_slice bytes)
{
	pgs__pointer p;
	return pgs__pointer_decode(bytes, 0, &p);
}

static int decode_meta(pgs_slice bytes)
{
	pgs__meta meta;
	return pgs__meta_decode(bytes, &meta);
}

static int decode_identity(pgs_slice bytes)
{
	pgs__identity identity;
	return pgs__identity_decode(bytes, &identity);
}

static int decode_floor(pgs_slice bytes)
{
	pgs__floor floor;
	return pgs__floor_decode(bytes, &floor);
}

static int decode_number(pgs_slice bytes)
{
	uint64_t number;
	return pgs__number_decode(bytes, &number);
}

static int decode_attr(pgs_slice bytes)
{
	return pgs__unseal(&bytes) ? PGS_OK : PGS_ECORRUPT;
}

static int decode_lock(pgs_slice bytes)
{
	pgs__lock lock;
	return pgs__lock_decode(bytes, &lock);
}

static int decode_claim(pgs_slice bytes)
{
	pgs__claim_value claim;
	return pgs__claim_decode(bytes, &claim);
}

static int decode_pin(pgs_slice bytes)
{
	pgs__pin_value pin;
	return pgs__pin_decode(bytes, &pin);
}

static int decode_samples(pgs_slice bytes)
{
	pgs__samples samples;
	return pgs__samples_decode(bytes, &samples);
}

static int decode_change(pgs_slice bytes)
{
	pgs__change change;
	return pgs__change_decode(bytes, &change);
}

static int decode_runs(pgs_slice bytes)
{
	pgs_slice runs;
	return pgs__runs_file_decode(bytes, &runs);
}

static int decode_level_key(pgs_slice bytes)
{
	pgs__level_key key;
	return pgs__key_parse_level(bytes, &key) ? PGS_OK : PGS_ECORRUPT;
}

static int decode_level(pgs_slice bytes)
{
	pgs__level_value value;
	return pgs__level_value_decode(bytes, &value);
}

static int decode_pack(pgs_slice bytes)
{
	pgs__pack pack;
	return pgs__pack_decode(bytes, &pack);
}

static int decode_snapshot(pgs_slice bytes)
{
	pgs__snapshot_record record;
	return pgs__snapshot_decode(bytes, &record);
}

static int decode_attrs(pgs_slice bytes)
{
	pgs_slice attrs;
	return pgs__attrs_file_decode(bytes, &attrs);
}

static int decode_any_content(pgs_slice bytes)
{
	uint8_t page[PAGE];
	return decode_content(bytes, page);
}

static int decode_sorted_file(pgs_slice file)
{
	pgs__sorted_header h;
	pgs__sorted_entry entry;
	uint8_t page[PAGE];
	const uint8_t *bytes = file.data;
	int result = file.size < PGS__SORTED_HEADER_SIZE ? PGS_ECORRUPT : pgs__sorted_header_decode(bytes, &h);
	if (result != PGS_OK || h.file_size != file.size)
		return result != PGS_OK ? result : PGS_ECORRUPT;
	pgs_slice table = {bytes + PGS__SORTED_HEADER_SIZE, (size_t)h.count * PGS__SORTED_ENTRY_SIZE};
	result = pgs__sorted_table_check(table, &h);
	pgs_slice filter = {(const uint8_t *)table.data + table.size, (size_t)h.filter_size + PGS__FILTER_CHECK_SIZE};
	if (result == PGS_OK && h.filter_size && !pgs__sorted_filter_check(filter))
		result = PGS_ECORRUPT;
	for (size_t i = 0; result == PGS_OK && i < h.count; i++) {
		pgs__sorted_entry_decode((const uint8_t *)table.data + i * PGS__SORTED_ENTRY_SIZE, &entry);
		if (entry.offset > PGS__SORTED_FILE_MAX)
			continue;
		result = decode_content((pgs_slice){bytes + entry.offset, entry.length}, page);
		uint64_t first_page = pgs__page_id_group(&entry.id) * pgs__pages_per_group(PAGE);
		pgs__page_id id = pgs__page_id_of(secret, first_page, page, PAGE);
		if (!pgs__page_id_equal(&id, &entry.id))
			return PGS_ECORRUPT;
	}
	return result;
}

static int decode_index_file(pgs_slice file)
{
	pgs__index_header h;
	pgs__index_block block;
	const uint8_t *bytes = file.data;
	int result = file.size < PGS__INDEX_HEADER_SIZE ? PGS_ECORRUPT : pgs__index_header_decode(bytes, &h);
	if (result != PGS_OK || h.file_size != file.size)
		return result != PGS_OK ? result : PGS_ECORRUPT;
	pgs_slice table = {bytes + PGS__INDEX_HEADER_SIZE, (size_t)h.blocks_offset - PGS__INDEX_HEADER_SIZE};
	result = pgs__index_table_check(table, &h);
	for (size_t i = 0; result == PGS_OK && i < h.block_count; i++) {
		pgs__index_block_decode(table, i, &block);
		result = pgs__index_block_check((pgs_slice){bytes + block.offset, block.length}, &block);
	}
	return result;
}

static const struct {
	const char *kind;
	decoder decode;
} decoders[] = {
	{"pointer", decode_pointer},
	{"meta", decode_meta},
	{"identity", decode_identity},
	{"floor", decode_floor},
	{"number", decode_number},
	{"attr", decode_attr},
	{"lock", decode_lock},
	{"claim", decode_claim},
	{"pin", decode_pin},
	{"samples", decode_samples},
	{"change", decode_change},
	{"runs", decode_runs},
	{"level_key", decode_level_key},
	{"level", decode_level},
	{"sorted_file", decode_sorted_file},
	{"pack", decode_pack},
	{"index_file", decode_index_file},
	{"snapshot", decode_snapshot},
	{"attrs", decode_attrs},
	{"content", decode_any_content},
};

static decoder decoder_of(const char *name)
{
	size_t kind_size = strcspn(name, ".");
	for (size_t i = 0; i < COUNT_OF(decoders); i++) {
		if (strlen(decoders[i].kind) == kind_size && memcmp(decoders[i].kind, name, kind_size) == 0)
			return decoders[i].decode;
	}
	fail_msg("%s: unknown kind", name);
	return NULL;
}

/* What was newer than version 1 became known, and these are no good examples of it. */
static bool was_newer(const char *name)
{
	return strcmp(name, "sorted_file.version-2.newer") == 0 || strcmp(name, "level.kind-3.newer") == 0;
}

static int result_of(const char *name)
{
	const char *ending = strrchr(name, '.');
	assert_non_null(ending);
	if (strcmp(ending, ".good") == 0)
		return PGS_OK;
	return strcmp(ending, ".newer") == 0 && !was_newer(name) ? PGS_EVERSION : PGS_ECORRUPT;
}

static void expect_results(const char *folder, size_t count)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", GOLDEN_DIR, folder);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	size_t seen = 0;
	for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
		if (e->d_name[0] == '.')
			continue;
		pgs_slice bytes = load_from(folder, e->d_name);
		int result = decode_exact(decoder_of(e->d_name), bytes.data, bytes.size);
		if (result != result_of(e->d_name))
			fail_msg("%s: %s", e->d_name, pgs_error_name(result));
		seen++;
	}
	closedir(dir);
	assert_int_equal(seen, count);
}

static void test_golden__each_gives_its_result(void **state)
{
	(void)state;
	expect_results("v1", FILES);
	expect_results("filter", FILTERED_FILES);
}

typedef struct comparison {
	const char *folder;
	size_t count;
} comparison;

static void compare_file(void *ctx, const char *name, pgs_slice bytes)
{
	comparison *c = ctx;
	pgs_slice committed = load_from(c->folder, name);
	c->count++;
	if (!pgs__slice_equal(bytes, committed))
		fail_msg("%s: what is written now differs", name);
}

static void test_golden__writers_still_write_the_same(void **state)
{
	(void)state;
	comparison first = {"v1", 0}, filtered = {"filter", 0};
	golden_make(compare_file, &first);
	assert_int_equal(first.count, FILES);
	golden_make_filtered(compare_file, &filtered);
	assert_int_equal(filtered.count, FILTERED_FILES);
}

/* ---- facts ---- */

static const uint8_t noise_id[16] = {0x00, 0x00, 0x00, 0x00, 0x7c, 0x25, 0x3f, 0x8c,
	0x78, 0x6c, 0xba, 0x80, 0x9a, 0xd3, 0x41, 0x56};
static const uint8_t text_id[16] = {0x00, 0x00, 0x00, 0x01, 0x02, 0x6d, 0x69, 0x00,
	0xbf, 0x71, 0x2a, 0x43, 0xbf, 0xa5, 0x38, 0xf0};
static const uint8_t changed_id[16] = {0x00, 0x00, 0x00, 0x00, 0x13, 0xa0, 0x0c, 0x4d,
	0xb4, 0xd9, 0xa6, 0xb0, 0xe2, 0xf7, 0x62, 0x9a};
static const uint8_t tiny_id[16] = {0x00, 0x00, 0x00, 0x00, 0x1a, 0xfd, 0xa1, 0x57,
	0xb2, 0x79, 0x3c, 0x8b, 0x55, 0x6a, 0xd9, 0xea};

static void noise_page(uint8_t page[PAGE])
{
	fill_pattern(page, PAGE, 1);
}

/* What the id of a page that was read must be. */
static void assert_id(uint64_t page_no, const uint8_t page[PAGE], const uint8_t expected[16])
{
	pgs__page_id id = pgs__page_id_of(secret, page_no, page, PAGE);
	assert_memory_equal(id.bytes, expected, 16);
}

/* Give the delta's frame its magic number back, decompress, and XOR onto `page`. */
static void apply_delta(pgs_slice delta, uint8_t page[PAGE])
{
	uint8_t frame[PAGE] = {0x28, 0xb5, 0x2f, 0xfd}, difference[PAGE];
	memcpy(frame + 4, delta.data, delta.size);
	assert_int_equal(ZSTD_decompress(difference, PAGE, frame, 4 + delta.size), PAGE);
	for (size_t i = 0; i < PAGE; i++)
		page[i] ^= difference[i];
}

static void test_golden__pointers(void **state)
{
	(void)state;
	pgs__pointer p;
	uint8_t page[PAGE];
	assert_int_equal(pgs__pointer_decode(load("pointer.zero.good"), 0, &p), PGS_OK);
	assert_int_equal(p.kind, PGS__POINTER_ZERO);
	assert_int_equal(pgs__pointer_decode(load("pointer.full.good"), 0, &p), PGS_OK);
	assert_int_equal(p.kind, PGS__POINTER_FULL);
	assert_memory_equal(p.id.bytes, noise_id, 16);
	assert_int_equal(p.folded_revision, 0);
	assert_int_equal(pgs__pointer_decode(load("pointer.folded.good"), 0, &p), PGS_OK);
	assert_int_equal(p.kind, PGS__POINTER_FULL);
	assert_memory_equal(p.id.bytes, noise_id, 16);
	assert_int_equal(p.folded_revision, 777);
	assert_int_equal(pgs__pointer_decode(load("pointer.delta.good"), 0, &p), PGS_OK);
	assert_int_equal(p.kind, PGS__POINTER_DELTA);
	assert_true(p.has_base);
	assert_memory_equal(p.base.bytes, noise_id, 16);
	assert_int_equal(p.spent, 300);
	assert_memory_equal(p.id.bytes, changed_id, 16);
	noise_page(page);
	apply_delta(p.delta, page);
	assert_id(5, page, changed_id);
	assert_int_equal(pgs__pointer_decode(load("pointer.delta-of-zeros.good"), 0, &p), PGS_OK);
	assert_false(p.has_base);
	memset(page, 0, PAGE);
	apply_delta(p.delta, page);
	assert_memory_equal(page, "tiny\0\0", 6);
	assert_memory_equal(p.id.bytes, tiny_id, 16);
	assert_id(5, page, tiny_id);
}

static void test_golden__metadata(void **state)
{
	(void)state;
	static const char *const names[] = {"meta.plain.good", "meta.unknown-field.good", "meta.counter-branch.good"};
	for (size_t i = 0; i < COUNT_OF(names); i++) {
		pgs__meta meta;
		assert_int_equal(pgs__meta_decode(load(names[i]), &meta), PGS_OK);
		assert_int_equal(meta.format_version, 1);
		assert_int_equal(meta.hash_kind, 1);
		assert_int_equal(meta.order, i == 2);
		assert_int_equal(meta.page_size, 512);
		assert_int_equal(meta.created_ms, 1700000000123);
		assert_memory_equal(meta.secret, secret, sizeof secret);
		assert_slice_equal(meta.parent, "the parent", i == 2 ? 10 : 0);
	}
}

static void test_golden__leases(void **state)
{
	(void)state;
	pgs__claim_value claim;
	pgs__pin_value pin;
	pgs__samples samples;
	assert_int_equal(pgs__claim_decode(load("claim.plain.good"), &claim), PGS_OK);
	assert_memory_equal(claim.holder.owner, "owner 16 bytes..", 16);
	assert_int_equal(claim.holder.lease_ms, 30000);
	assert_true(claim.jobs == 8 && claim.level_first == 1 && claim.level_last == 2);
	assert_memory_equal(claim.first.bytes, "first id 16 byt", 16);
	assert_memory_equal(claim.last.bytes, "last id, 16 byt", 16);
	assert_int_equal(pgs__pin_decode(load("pin.plain.good"), &pin), PGS_OK);
	assert_int_equal(pin.holder.pid, 4321);
	assert_int_equal(pin.revision, 300);
	assert_int_equal(pgs__samples_decode(load("samples.plain.good"), &samples), PGS_OK);
	assert_int_equal(samples.count, 3);
	assert_true(samples.list[0].time_ms == -1000 && samples.list[0].revision == 7);
	assert_true(samples.list[2].time_ms == 1700000225000 && samples.list[2].revision == 70000);
}

static void test_golden__small_values(void **state)
{
	(void)state;
	pgs__identity identity;
	pgs__floor floor;
	pgs__lock lock;
	uint64_t number;
	assert_int_equal(pgs__identity_decode(load("identity.plain.good"), &identity), PGS_OK);
	assert_memory_equal(identity.random, "identity 16 byt", 16);
	assert_int_equal(pgs__floor_decode(load("floor.plain.good"), &floor), PGS_OK);
	assert_int_equal(floor.floor, 1000);
	assert_int_equal(floor.previous, 900);
	assert_int_equal(pgs__number_decode(load("number.plain.good"), &number), PGS_OK);
	assert_true(number == 0x0102030405060708);
	assert_int_equal(pgs__lock_decode(load("lock.plain.good"), &lock), PGS_OK);
	assert_memory_equal(lock.owner, "owner 16 bytes..", 16);
	assert_memory_equal(lock.boot_id, "boot id 16 bytes", 16);
	assert_int_equal(lock.pid, 4321);
	assert_int_equal(lock.process_start, 987654321);
	assert_int_equal(lock.lease_ms, 15000);
	pgs_slice attr = load("attr.plain.good");
	assert_true(pgs__unseal(&attr));
	assert_slice_equal(attr, "an attribute", 12);
}

static void assert_runs(pgs_slice runs)
{
	static const pgs__page_run expected[] = {{0, 1}, {3, 2}, {1000, 4000}};
	pgs__runs_reader r;
	pgs__page_run run;
	assert_int_equal(pgs__runs_open(runs, &r), PGS_OK);
	for (size_t i = 0; i < COUNT_OF(expected); i++) {
		assert_true(pgs__runs_next(&r, &run));
		assert_true(run.first == expected[i].first && run.count == expected[i].count);
	}
	assert_false(pgs__runs_next(&r, &run));
}

static void test_golden__changelog(void **state)
{
	(void)state;
	pgs__change change;
	pgs_slice rest, name, runs;
	assert_int_equal(pgs__change_decode(load("change.commit.good"), &change), PGS_OK);
	assert_int_equal(change.kind, PGS__CHANGE_COMMIT);
	assert_memory_equal(change.digest, "digest 16 bytes", 16);
	assert_int_equal(change.kv_bytes, 11111);
	assert_int_equal(change.blob_bytes, 2222222);
	assert_int_equal(change.base_revision, 300);
	assert_int_equal(change.page_count, 5000);
	assert_true(change.truncated);
	assert_int_equal(change.truncated_to, 2);
	assert_int_equal(change.pages_written, 4003);
	assert_int_equal(change.attr_count, 2);
	rest = change.attr_bytes;
	assert_true(pgs__change_next_attr(&rest, &name));
	assert_slice_equal(name, "root", 4);
	assert_true(pgs__change_next_attr(&rest, &name));
	assert_slice_equal(name, "size", 4);
	assert_slice_equal(change.note, "a note", 6);
	assert_runs(change.runs);
	assert_int_equal(pgs__change_decode(load("change.runs-in-blob.good"), &change), PGS_OK);
	assert_int_equal(change.kind, PGS__CHANGE_COMMIT_RUNS_IN_BLOB);
	assert_false(change.truncated);
	assert_false(change.has_note);
	assert_slice_equal(change.file_name, "x-000000000000012c-018bcfe5687b7abc8def0123456789ab", 51);
	assert_int_equal(change.file_size, 19);
	assert_int_equal(pgs__change_decode(load("change.aborted.good"), &change), PGS_OK);
	assert_int_equal(change.kind, PGS__CHANGE_ABORTED);
	assert_int_equal(pgs__runs_file_decode(load("runs.plain.good"), &runs), PGS_OK);
	assert_runs(runs);
}

static void test_golden__sorted_file(void **state)
{
	(void)state;
	pgs__sorted_header h;
	pgs__sorted_entry entry;
	pgs__page_id id;
	uint8_t page[PAGE], noise[PAGE];
	pgs_slice file = load("sorted_file.plain.good");
	const uint8_t *bytes = file.data;
	assert_int_equal(file.size, 727);
	assert_int_equal(pgs__sorted_header_decode(bytes, &h), PGS_OK);
	assert_int_equal(h.page_size, 512);
	assert_int_equal(h.count, 3);
	assert_int_equal(h.contents_offset, 172);
	assert_int_equal(h.file_size, 727);
	pgs_slice table = {bytes + 64, 108};
	memcpy(id.bytes, noise_id, 16);
	assert_int_equal(pgs__sorted_find(table, &id, 512, 172, 727, &entry), PGS_OK);
	assert_int_equal(entry.offset, 172);
	assert_int_equal(entry.length, 512);
	assert_int_equal(entry.birth, 0);
	noise_page(noise);
	assert_memory_equal(bytes + 172, noise, 512);
	assert_id(5, bytes + 172, noise_id);
	memcpy(id.bytes, text_id, 16);
	assert_int_equal(pgs__sorted_find(table, &id, 512, 172, 727, &entry), PGS_OK);
	assert_int_equal(entry.offset, 684);
	assert_int_equal(entry.length, 43);
	assert_int_equal(entry.birth, 300);
	assert_int_equal(decode_content((pgs_slice){bytes + 684, 43}, page), PGS_OK);
	assert_memory_equal(page, "a golden page of pagestore, a golden page", 41);
	assert_id(2048, page, text_id);
	memcpy(id.bytes, "\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16);
	assert_int_equal(pgs__sorted_find(table, &id, 512, 172, 727, &entry), PGS_OK);
	assert_true(entry.offset == PGS__TOMBSTONE);
	assert_int_equal(entry.birth, 250);
}

/* The filter is what format.md says, bit by bit. */
static void test_golden__filter(void **state)
{
	(void)state;
	pgs__sorted_header h;
	pgs_slice file = load_from("filter", "sorted_file.filter.good");
	const uint8_t *bytes = file.data, *const ids[] = {noise_id, text_id};
	uint8_t expected[64] = {0};
	assert_int_equal(file.size, 799);
	assert_int_equal(pgs__sorted_header_decode(bytes, &h), PGS_OK);
	assert_int_equal(h.filter_size, 64);
	assert_int_equal(h.contents_offset, 244);
	for (size_t i = 0; i < COUNT_OF(ids); i++) {
		uint64_t low = 0, group = 0, step = 0;
		for (size_t k = 0; k < 4; k++) {
			group = group << 8 | ids[i][k];
			step = step << 8 | ids[i][4 + k];
		}
		for (size_t k = 8; k < 16; k++)
			low = low << 8 | ids[i][k];
		uint32_t start = (uint32_t)((low + group * 0x9e3779b97f4a7c15u) >> 32);
		for (uint32_t k = 0; k < 8; k++) {
			uint32_t bit = (uint32_t)((uint64_t)(uint32_t)(start + k * ((uint32_t)step | 1)) * 512 >> 32);
			expected[bit / 8] |= (uint8_t)(1 << bit % 8);
		}
	}
	assert_memory_equal(bytes + 172, expected, 64);
	pgs__level_value value;
	assert_int_equal(pgs__level_value_decode(load_from("filter", "level.filter.good"), &value), PGS_OK);
	assert_false(value.has_table);
	assert_int_equal(value.filter_size, 320);
	assert_int_equal(value.contents_offset, 64 + 130 * 36 + 320 + 8);
	assert_int_equal(value.fences.size, 60);
}

static void test_golden__levels(void **state)
{
	(void)state;
	pgs__level_value value;
	pgs__level_key key;
	pgs__page_id id = {{0, 0, 0, 0, 0, 0, 0, 65}};
	assert_int_equal(pgs__level_value_decode(load("level.table.good"), &value), PGS_OK);
	assert_true(value.has_table);
	assert_int_equal(value.file_size, 727);
	assert_int_equal(value.count, 3);
	assert_memory_equal(value.table.data, noise_id, 16);
	assert_int_equal(pgs__level_value_decode(load("level.fences.good"), &value), PGS_OK);
	assert_false(value.has_table);
	assert_int_equal(value.file_size, 64 + 130 * 36 + 13000);
	assert_int_equal(value.count, 130);
	assert_int_equal(value.fences.size, 60);
	assert_int_equal(pgs__fence_find(value.fences, &id), 1);
	id.bytes[7] = 64;
	assert_int_equal(pgs__fence_find(value.fences, &id), 0);
	assert_true(pgs__key_parse_level(load("level_key.plain.good"), &key));
	assert_int_equal(key.level, 2);
	assert_memory_equal(key.first.bytes, "\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0", 16);
	assert_memory_equal(key.last.bytes, "\0\0\0\0\0\0\0\x82\0\0\0\0\0\0\0\0", 16);
	assert_string_equal(key.file_name, "s-000000000000012c-018bcfe5687b7abc8def0123456789ab");
}

static void test_golden__packs(void **state)
{
	(void)state;
	static const uint64_t pages[] = {5, 6, 5000};
	pgs__pack pack;
	pgs__page_range range;
	pgs__entries_reader r;
	uint64_t page_no;
	pgs_slice pointer, rest;
	assert_int_equal(pgs__pack_decode(load("pack.inline.good"), &pack), PGS_OK);
	assert_false(pack.in_file);
	assert_int_equal(pack.pointer_count, 3);
	rest = pack.range_bytes;
	assert_true(pgs__pack_next_range(&rest, &range));
	assert_true(range.first == 10 && range.end == 20);
	assert_true(pgs__pack_next_range(&rest, &range));
	assert_true(range.first == 4096 && range.end == UINT64_MAX);
	assert_false(pgs__pack_next_range(&rest, &range));
	assert_int_equal(pgs__entries_open(pack.entries, &r), PGS_OK);
	for (size_t i = 0; i < COUNT_OF(pages); i++) {
		assert_true(pgs__entries_next(&r, &page_no, &pointer));
		assert_int_equal(page_no, pages[i]);
		assert_int_equal(pointer.size, i == 0 ? 13 : 1);
	}
	assert_int_equal(pgs__pack_decode(load("pack.file.good"), &pack), PGS_OK);
	assert_true(pack.in_file);
	assert_slice_equal(pack.file_name, "i-000000000000012c-018bcfe5687b7abc8def0123456789ab", 51);
	assert_int_equal(pack.file_size, 5000);
	assert_int_equal(pack.pointer_count, 300);
	assert_int_equal(pack.range_count, 1);
}

static void test_golden__index_file(void **state)
{
	(void)state;
	pgs__index_header h;
	pgs__index_block block;
	pgs__pointer p;
	pgs_slice file = load("index_file.plain.good");
	const uint8_t *bytes = file.data;
	assert_int_equal(pgs__index_header_decode(bytes, &h), PGS_OK);
	assert_int_equal(h.page_size, 512);
	assert_int_equal(h.block_count, 2);
	assert_int_equal(h.pointer_count, 300);
	assert_int_equal(h.blocks_offset, 128);
	assert_int_equal(h.file_size, file.size);
	pgs__index_block_decode((pgs_slice){bytes + 64, 64}, 1, &block);
	assert_int_equal(block.first_page, 512);
	assert_int_equal(block.last_page, 598);
	/* The last pointer of the last block is the file's end. */
	assert_int_equal(block.offset + block.length, file.size);
	assert_int_equal(pgs__pointer_decode((pgs_slice){bytes + file.size - 13, 13}, 0, &p), PGS_OK);
	assert_int_equal(p.kind, PGS__POINTER_FULL);
	assert_memory_equal(p.id.bytes, noise_id, 16);
}

static void assert_attrs(pgs_slice attrs)
{
	pgs__attrs_reader r;
	pgs_slice name, value;
	assert_int_equal(pgs__attrs_open(attrs, &r), PGS_OK);
	assert_true(pgs__attrs_next(&r, &name, &value));
	assert_slice_equal(name, "root", 4);
	assert_slice_equal(value, "17", 2);
	assert_true(pgs__attrs_next(&r, &name, &value));
	assert_slice_equal(name, "size", 4);
	assert_int_equal(value.size, 0);
	assert_false(pgs__attrs_next(&r, &name, &value));
}

static void test_golden__snapshots(void **state)
{
	(void)state;
	pgs__snapshot_record record;
	pgs__snapshot_files_reader r;
	pgs__snapshot_file file;
	pgs_slice attrs;
	assert_int_equal(pgs__snapshot_decode(load("snapshot.inline.good"), &record), PGS_OK);
	assert_int_equal(record.revision, 300);
	assert_int_equal(record.commit_revision, 299);
	assert_int_equal(record.counter, 41);
	assert_int_equal(record.page_count, 5000);
	assert_int_equal(record.created_ms, 1700000000123);
	assert_int_equal(record.file_count, 2);
	r = pgs__snapshot_files_open(&record);
	assert_true(pgs__snapshot_next_file(&r, &file));
	assert_true(file.first == 0 && file.end == 700 && file.file_size == 9000 && file.pointer_count == 600);
	assert_slice_equal(file.name, "i-000000000000012c-018bcfe5687b7abc8def0123456789ab", 51);
	assert_true(pgs__snapshot_next_file(&r, &file));
	assert_true(file.first == 1000 && file.end == 1300 && file.file_size == 5000 && file.pointer_count == 300);
	assert_attrs(record.attrs);
	assert_int_equal(pgs__snapshot_decode(load("snapshot.attrs-in-blob.good"), &record), PGS_OK);
	assert_int_equal(record.file_count, 0);
	assert_slice_equal(record.attrs_name, "a-000000000000012c-018bcfe5687b7abc8def0123456789ad", 51);
	assert_int_equal(record.attrs_size, 70000);
	assert_int_equal(pgs__attrs_file_decode(load("attrs.plain.good"), &attrs), PGS_OK);
	assert_attrs(attrs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden__each_gives_its_result),
		cmocka_unit_test(test_golden__writers_still_write_the_same),
		cmocka_unit_test(test_golden__pointers),
		cmocka_unit_test(test_golden__metadata),
		cmocka_unit_test(test_golden__leases),
		cmocka_unit_test(test_golden__small_values),
		cmocka_unit_test(test_golden__changelog),
		cmocka_unit_test(test_golden__sorted_file),
		cmocka_unit_test(test_golden__filter),
		cmocka_unit_test(test_golden__levels),
		cmocka_unit_test(test_golden__packs),
		cmocka_unit_test(test_golden__index_file),
		cmocka_unit_test(test_golden__snapshots),
	};
	return cmocka_run_group_tests(tests, fill_secret, NULL);
}
