/* Golden files: one of each kind of value and blob, good, damaged, and from a
 * newer version.
 *
 * Everything is fixed, zstd frames too: another release of zstd may compress
 * the same bytes otherwise, and old frames must be read all the same. Change
 * nothing here that changes a file in v1/; what came later is in folders of its own. */
#include "golden.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/changelog.h"
#include "codec/keys.h"
#include "codec/meta.h"
#include "codec/pack.h"
#include "codec/pointer.h"
#include "codec/seal.h"
#include "codec/snapshot_record.h"
#include "codec/sorted_file.h"

#define PAGE_SIZE 512
#define HEADER_CHECKED 56

typedef struct golden {
	golden_emit emit;
	void *ctx;
	uint8_t secret[PGS__SECRET_SIZE];
	uint8_t noise[PAGE_SIZE]; /* a page zstd cannot shorten */
	pgs__page_id noise_id;    /* as page 5 */
	pgs__page_id text_id;     /* as page 2048: group 1 */
} golden;

static const uint8_t prefix[PGS__PREFIX_SIZE] = {0x9f, 1, 2, 3, 4, 5, 6, 7};

/* "a golden page of pagestore, " over and over, 512 bytes */
static const uint8_t text_frame[43] = {0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x01, 0x0d, 0x01, 0x00, 0xb8, 0x61, 0x20,
	0x67, 0x6f, 0x6c, 0x64, 0x65, 0x6e, 0x20, 0x70, 0x61, 0x67, 0x65, 0x20, 0x6f, 0x66, 0x73, 0x74, 0x6f, 0x72,
	0x65, 0x2c, 0x20, 0x02, 0x00, 0xe1, 0x3f, 0x95, 0x31, 0xa1, 0x2c, 0x01};

/* zeros but for 1, 2, 4 at 100 and 0x80 at 511, without the magic number */
static const uint8_t xor_frame[22] = {0x60, 0x00, 0x01, 0x85, 0x00, 0x00, 0x38, 0x00, 0x00, 0x01, 0x02, 0x04, 0x00,
	0x80, 0x02, 0x00, 0x94, 0x40, 0x25, 0x3f, 0x01, 0x2c};

/* "tiny" and zeros, without the magic number */
static const uint8_t tiny_frame[18] = {0x60, 0x00, 0x01, 0x65, 0x00, 0x00, 0x28, 0x74, 0x69, 0x6e, 0x79, 0x00, 0x01,
	0x00, 0xf8, 0x2a, 0xd0, 0x02};

static void fill(golden *g)
{
	uint8_t text[PAGE_SIZE];
	static const char words[] = "a golden page of pagestore, ";
	uint32_t seed = 1;
	for (size_t i = 0; i < PGS__SECRET_SIZE; i++)
		g->secret[i] = (uint8_t)(i * 151 + 17);
	for (size_t i = 0; i < PAGE_SIZE; i++) {
		seed = seed * 1664525u + 1013904223u;
		g->noise[i] = (uint8_t)(seed >> 24);
		text[i] = (uint8_t)words[i % (sizeof words - 1)];
	}
	g->noise_id = pgs__page_id_of(g->secret, 5, g->noise, PAGE_SIZE);
	g->text_id = pgs__page_id_of(g->secret, 2048, text, PAGE_SIZE);
}

/* ---- emitting ---- */

static void emit(golden *g, const char *kind, const char *variant, const char *result, pgs_slice bytes)
{
	char name[100];
	snprintf(name, sizeof name, "%s.%s.%s", kind, variant, result);
	g->emit(g->ctx, name, bytes);
}

static void emit_good(golden *g, const char *kind, const char *variant, const pgs__buffer *b)
{
	assert(!b->failed);
	emit(g, kind, variant, "good", pgs__buffer_slice(b));
}

/* The value without its last byte, and with one bit flipped in its middle. */
static void emit_damaged(golden *g, const char *kind, const pgs__buffer *b)
{
	emit(g, kind, "cut", "corrupt", (pgs_slice){b->data, b->size - 1});
	b->data[b->size / 2] ^= 0x10;
	emit(g, kind, "flipped", "corrupt", pgs__buffer_slice(b));
	b->data[b->size / 2] ^= 0x10;
}

/* The sealed value with the byte at `at` changed, and a good seal. */
static void emit_changed(golden *g, const char *kind, const char *variant, const char *result, const pgs__buffer *b,
	size_t at, uint8_t value)
{
	pgs__buffer copy = {0};
	pgs__put_bytes(&copy, b->data, b->size - PGS__SEAL_SIZE);
	copy.data[at] = value;
	pgs__seal(&copy, 0);
	emit(g, kind, variant, result, pgs__buffer_slice(&copy));
	pgs__buffer_free(&copy);
}

/* The file with a byte of its header changed, and a good check of the header. */
static void emit_header(golden *g, const char *kind, const char *variant, const char *result, const pgs__buffer *b,
	size_t at, uint8_t value)
{
	pgs__buffer copy = {0};
	pgs__put_bytes(&copy, b->data, b->size);
	copy.data[at] = value;
	uint64_t check = pgs__check64(copy.data, HEADER_CHECKED);
	for (int i = 0; i < 8; i++)
		copy.data[HEADER_CHECKED + i] = (uint8_t)(check >> (8 * i));
	emit(g, kind, variant, result, pgs__buffer_slice(&copy));
	pgs__buffer_free(&copy);
}

/* These bytes under a good seal. */
static void emit_sealed(golden *g, const char *kind, const char *variant, const char *result, const char *bytes,
	size_t size)
{
	pgs__buffer b = {0};
	pgs__put_bytes(&b, bytes, size);
	pgs__seal(&b, 0);
	emit(g, kind, variant, result, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

/* ---- pointers ---- */

static pgs__buffer encoded(const pgs__pointer *p)
{
	pgs__buffer b = {0};
	pgs__pointer_encode(p, &b);
	assert(!b.failed);
	return b;
}

static void make_pointer(golden *g, const char *variant, const pgs__pointer *p)
{
	pgs__buffer b = encoded(p);
	emit_good(g, "pointer", variant, &b);
	if (p->folded_revision != 0)
		emit_damaged(g, "pointer", &b);
	pgs__buffer_free(&b);
}

static void make_pointers(golden *g)
{
	pgs__pointer zero = {.kind = PGS__POINTER_ZERO};
	pgs__pointer full = {.kind = PGS__POINTER_FULL, .id = g->noise_id};
	pgs__pointer delta = {.kind = PGS__POINTER_DELTA, .has_base = true, .base = g->noise_id, .spent = 300,
		.delta = {xor_frame, sizeof xor_frame}};
	pgs__pointer tiny = {.kind = PGS__POINTER_DELTA, .delta = {tiny_frame, sizeof tiny_frame}};
	uint8_t page[PAGE_SIZE] = "tiny";
	tiny.id = pgs__page_id_of(g->secret, 5, page, PAGE_SIZE);
	memcpy(page, g->noise, PAGE_SIZE);
	page[100] ^= 1;
	page[101] ^= 2;
	page[102] ^= 4;
	page[511] ^= 0x80;
	delta.id = pgs__page_id_of(g->secret, 5, page, PAGE_SIZE);
	make_pointer(g, "zero", &zero);
	make_pointer(g, "full", &full);
	make_pointer(g, "delta", &delta);
	make_pointer(g, "delta-of-zeros", &tiny);
	full.folded_revision = 777;
	make_pointer(g, "folded", &full);
	emit(g, "pointer", "empty", "corrupt", (pgs_slice){"", 0});
	emit(g, "pointer", "absent", "corrupt", (pgs_slice){"\0", 1});
	emit(g, "pointer", "short-hash", "corrupt", (pgs_slice){"\2hash", 5});
	emit(g, "pointer", "full-with-base", "corrupt", (pgs_slice){"\x0aidididididid" "basebasebase", 25});
	emit(g, "pointer", "no-delta", "corrupt", (pgs_slice){"\3idididididid", 13});
	emit(g, "pointer", "unknown-flag", "corrupt", (pgs_slice){"\x21", 1});
	emit_sealed(g, "pointer", "folded-at-zero", "corrupt", "\x11\0", 2);
}

/* ---- small values ---- */

static void make_meta(golden *g)
{
	pgs__meta meta = {.format_version = 1, .hash_kind = 1, .page_size = PAGE_SIZE, .created_ms = 1700000000123};
	pgs__buffer plain = {0}, branch = {0}, fields = {0};
	memcpy(meta.secret, g->secret, PGS__SECRET_SIZE);
	pgs__meta_encode(&meta, &plain);
	emit_good(g, "meta", "plain", &plain);
	emit_damaged(g, "meta", &plain);
	emit_changed(g, "meta", "page-size-513", "corrupt", &plain, 8, 1);
	emit_changed(g, "meta", "magic", "corrupt", &plain, 0, 'p');
	emit_changed(g, "meta", "version-2", "newer", &plain, 4, 2);
	emit_changed(g, "meta", "hash-2", "newer", &plain, 6, 2);
	emit_changed(g, "meta", "order-2", "newer", &plain, 7, 2);
	meta.order = 1;
	meta.parent = (pgs_slice){"the parent", 10};
	pgs__meta_encode(&meta, &branch);
	emit_good(g, "meta", "counter-branch", &branch);
	pgs__put_bytes(&fields, plain.data, plain.size - PGS__SEAL_SIZE);
	pgs__put_bytes(&fields, "\x7f\3new", 5);
	pgs__seal(&fields, 0);
	emit_good(g, "meta", "unknown-field", &fields);
	emit_changed(g, "meta", "critical-field", "newer", &fields, plain.size - PGS__SEAL_SIZE, 0xff);
	pgs__buffer_free(&plain);
	pgs__buffer_free(&branch);
	pgs__buffer_free(&fields);
}

static void make_identity_and_lock(golden *g)
{
	pgs__identity identity = {.format_version = 1, .random = "identity 16 byt"};
	pgs__lock lock = {"owner 16 bytes..", "boot id 16 bytes", 4321, 987654321, 15000};
	pgs__buffer b = {0};
	pgs__identity_encode(&identity, &b);
	emit_good(g, "identity", "plain", &b);
	emit_damaged(g, "identity", &b);
	emit_changed(g, "identity", "version-2", "newer", &b, 4, 2);
	pgs__buffer_free(&b);
	pgs__lock_encode(&lock, &b);
	emit_good(g, "lock", "plain", &b);
	emit_damaged(g, "lock", &b);
	emit_changed(g, "lock", "version-2", "newer", &b, 0, 2);
	pgs__buffer_free(&b);
}

static void make_leases(golden *g)
{
	const pgs__lock holder = {"owner 16 bytes..", "boot id 16 bytes", 4321, 987654321, 30000};
	pgs__claim_value claim = {holder, 8, 1, 2, {"first id 16 byt"}, {"last id, 16 byt"}};
	pgs__samples samples = {3, {{-1000, 7}, {1700000000000, 300}, {1700000225000, 70000}}};
	pgs__buffer b = {0};
	pgs__claim_encode(&claim, &b);
	emit_good(g, "claim", "plain", &b);
	emit_damaged(g, "claim", &b);
	emit_changed(g, "claim", "kind-3", "newer", &b, 0, 3);
	pgs__buffer_free(&b);
	claim.level_first = 3;
	pgs__claim_encode(&claim, &b);
	emit(g, "claim", "levels-backwards", "corrupt", pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	pgs__pin_encode(&(pgs__pin_value){holder, 300}, &b);
	emit_good(g, "pin", "plain", &b);
	emit_damaged(g, "pin", &b);
	emit_changed(g, "pin", "kind-2", "newer", &b, 0, 2);
	pgs__buffer_free(&b);
	pgs__samples_encode(&samples, &b);
	emit_good(g, "samples", "plain", &b);
	emit_damaged(g, "samples", &b);
	emit_changed(g, "samples", "kind-2", "newer", &b, 0, 2);
	pgs__buffer_free(&b);
	samples.list[2].time_ms = samples.list[1].time_ms;
	pgs__samples_encode(&samples, &b);
	emit(g, "samples", "same-time", "corrupt", pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static void make_numbers(golden *g)
{
	pgs__buffer b = {0};
	pgs__floor_encode(&(pgs__floor){1000, 900}, &b);
	emit_good(g, "floor", "plain", &b);
	emit_damaged(g, "floor", &b);
	emit_changed(g, "floor", "previous-above", "corrupt", &b, 8, 1);
	pgs__buffer_free(&b);
	pgs__number_encode(0x0102030405060708, pgs__buffer_extend(&b, PGS__NUMBER_SIZE));
	emit_good(g, "number", "plain", &b);
	emit_damaged(g, "number", &b);
	pgs__buffer_free(&b);
	pgs__put_bytes(&b, "an attribute", 12);
	pgs__seal(&b, 0);
	emit_good(g, "attr", "plain", &b);
	emit_damaged(g, "attr", &b);
	pgs__buffer_free(&b);
	emit_sealed(g, "attr", "empty", "good", "", 0);
}

/* ---- changelog ---- */

static void make_changes(golden *g)
{
	static const pgs__page_run runs[] = {{0, 1}, {3, 2}, {1000, 4000}};
	static const pgs_slice attrs[] = {{"root", 4}, {"size", 4}};
	pgs__change change = {.kind = PGS__CHANGE_COMMIT, .digest = "digest 16 bytes", .kv_bytes = 11111,
		.blob_bytes = 2222222, .base_revision = 300, .page_count = 5000, .truncated = true, .truncated_to = 2,
		.pages_written = 4003, .attrs = attrs, .attr_count = 2, .has_note = true, .note = {"a note", 6}};
	pgs__buffer b = {0}, encoded_runs = {0};
	pgs__runs_encode(runs, 3, &encoded_runs);
	change.runs = pgs__buffer_slice(&encoded_runs);
	pgs__change_encode(&change, &b);
	emit_good(g, "change", "commit", &b);
	emit_damaged(g, "change", &b);
	emit_changed(g, "change", "kind-4", "newer", &b, 0, 4);
	emit_changed(g, "change", "kind-0", "corrupt", &b, 0, 0);
	emit_changed(g, "change", "runs-and-count-differ", "corrupt", &b, b.size - 5, 0);
	pgs__buffer_free(&b);
	change.kind = PGS__CHANGE_COMMIT_RUNS_IN_BLOB;
	change.truncated = change.has_note = false;
	change.attr_count = 0;
	change.file_name = (pgs_slice){"x-000000000000012c-018bcfe5687b7abc8def0123456789ab", 51};
	change.file_size = 19;
	pgs__change_encode(&change, &b);
	emit_good(g, "change", "runs-in-blob", &b);
	pgs__buffer_free(&b);
	pgs__change_encode(&(pgs__change){.kind = PGS__CHANGE_ABORTED}, &b);
	emit_good(g, "change", "aborted", &b);
	pgs__buffer_free(&b);
	pgs__runs_file_encode(change.runs, &b);
	emit_good(g, "runs", "plain", &b);
	emit_damaged(g, "runs", &b);
	emit_changed(g, "runs", "version-2", "newer", &b, 4, 2);
	emit_changed(g, "runs", "touching", "corrupt", &b, 9, 0);
	pgs__buffer_free(&b);
	pgs__buffer_free(&encoded_runs);
}

/* ---- sorted files ---- */

static void put_entry(pgs__buffer *table, const pgs__sorted_entry *entry)
{
	pgs__sorted_entry_encode(entry, pgs__buffer_extend(table, PGS__SORTED_ENTRY_SIZE));
}

/* Three entries: a raw page, a tombstone of the same group, a compressed page of the next. */
static void make_sorted_file(golden *g)
{
	const uint64_t contents = PGS__SORTED_HEADER_SIZE + 3 * PGS__SORTED_ENTRY_SIZE;
	pgs__sorted_header header = {.page_size = PAGE_SIZE, .count = 3, .contents_offset = contents,
		.file_size = contents + PAGE_SIZE + sizeof text_frame};
	pgs__page_id dead = {{0}};
	pgs__buffer table = {0}, file = {0}, value = {0};
	memset(dead.bytes + 4, 0xff, 12);
	put_entry(&table, &(pgs__sorted_entry){g->noise_id, contents, PAGE_SIZE, 0});
	put_entry(&table, &(pgs__sorted_entry){dead, PGS__TOMBSTONE, 0, 250});
	put_entry(&table, &(pgs__sorted_entry){g->text_id, contents + PAGE_SIZE, sizeof text_frame, 300});
	header.table_check = pgs__check64(table.data, table.size);
	pgs__sorted_header_encode(&header, pgs__buffer_extend(&file, PGS__SORTED_HEADER_SIZE));
	pgs__put_bytes(&file, table.data, table.size);
	pgs__put_bytes(&file, g->noise, PAGE_SIZE);
	pgs__put_bytes(&file, text_frame, sizeof text_frame);
	emit_good(g, "sorted_file", "plain", &file);
	emit(g, "sorted_file", "cut", "corrupt", (pgs_slice){file.data, file.size - 1});
	emit_header(g, "sorted_file", "version-2", "newer", &file, 4, 2);
	emit_header(g, "sorted_file", "count-4", "corrupt", &file, 16, 4);
	file.data[PGS__SORTED_HEADER_SIZE + 20] ^= 1;
	emit(g, "sorted_file", "flipped-in-table", "corrupt", pgs__buffer_slice(&file));
	file.data[PGS__SORTED_HEADER_SIZE + 20] ^= 1;
	file.data[file.size - 10] ^= 1;
	emit(g, "sorted_file", "flipped-in-content", "corrupt", pgs__buffer_slice(&file));
	pgs__level_value_encode(header.file_size, pgs__buffer_slice(&table), 0, PGS__LEVEL_TABLE_MAX, &value);
	emit_good(g, "level", "table", &value);
	emit_damaged(g, "level", &value);
	emit_changed(g, "level", "kind-3", "newer", &value, 0, 3);
	emit_changed(g, "level", "count-4", "corrupt", &value, 3, 4);
	pgs__buffer_free(&value);
	pgs__buffer_free(&table);
	pgs__buffer_free(&file);
}

/* A table of 130 entries, three slices, as fences; and the key of its file. */
static void make_fences(golden *g)
{
	pgs__buffer table = {0}, value = {0};
	pgs__page_id first = {{0}}, last = {{0}};
	uint64_t offset = PGS__SORTED_HEADER_SIZE + 130 * PGS__SORTED_ENTRY_SIZE;
	for (uint32_t i = 0; i < 130; i++, offset += 100) {
		pgs__store_u32be(last.bytes + 4, i + 1);
		put_entry(&table, &(pgs__sorted_entry){last, offset, 100, 0});
	}
	pgs__store_u32be(first.bytes + 4, 1);
	pgs__level_value_encode(offset, pgs__buffer_slice(&table), 0, 1000, &value);
	emit_good(g, "level", "fences", &value);
	value.data[value.size - PGS__SEAL_SIZE - PGS__FENCE_SIZE + 7] = 0;
	emit_changed(g, "level", "descending", "corrupt", &value, 0, 2);
	pgs__key key = pgs__key_level(prefix, 2, &first, &last, "s-000000000000012c-018bcfe5687b7abc8def0123456789ab");
	emit(g, "level_key", "plain", "good", pgs__key_slice(&key));
	emit(g, "level_key", "no-name", "corrupt", (pgs_slice){key.bytes, key.size - 51});
	key.bytes[key.size - 1] = '/';
	emit(g, "level_key", "path", "corrupt", pgs__key_slice(&key));
	pgs__buffer_free(&table);
	pgs__buffer_free(&value);
}

/* ---- packs ---- */

static void make_packs(golden *g)
{
	static const pgs__page_range ranges[] = {{10, 20}, {4096, UINT64_MAX}};
	pgs__pointer full = {.kind = PGS__POINTER_FULL, .id = g->noise_id};
	pgs__entries_writer entries = {0};
	pgs__buffer b = {0}, pointer = encoded(&full);
	pgs__entries_add(&entries, 5, pgs__buffer_slice(&pointer));
	pgs__entries_add(&entries, 6, (pgs_slice){"\1", 1});
	pgs__entries_add(&entries, 5000, (pgs_slice){"\1", 1});
	pgs__pack_encode_inline(ranges, 2, &entries, &b);
	emit_good(g, "pack", "inline", &b);
	emit_damaged(g, "pack", &b);
	emit_changed(g, "pack", "kind-3", "newer", &b, 0, 3);
	emit_changed(g, "pack", "range-backwards", "corrupt", &b, 3, 9);
	emit_changed(g, "pack", "more-entries", "corrupt", &b, 7, 4);
	pgs__buffer_free(&b);
	pgs__pack_encode_file(ranges, 1, "i-000000000000012c-018bcfe5687b7abc8def0123456789ab", 5000, 300, &b);
	emit_good(g, "pack", "file", &b);
	emit_changed(g, "pack", "file-path", "corrupt", &b, 6, '/');
	pgs__buffer_free(&b);
	pgs__buffer_free(&pointer);
	pgs__buffer_free(&entries.bytes);
}

/* 300 pages, every second one: two blocks. */
static void make_index_file(golden *g)
{
	pgs__index_writer w = {0};
	pgs__buffer file = {0}, full = encoded(&(pgs__pointer){.kind = PGS__POINTER_FULL, .id = g->noise_id});
	for (uint64_t i = 0; i < 300; i++)
		pgs__index_add(&w, 2 * i, i == 299 ? pgs__buffer_slice(&full) : (pgs_slice){"\1", 1});
	int result = pgs__index_finish(&w, PAGE_SIZE, &file);
	assert(result == PGS_OK);
	(void)result;
	emit_good(g, "index_file", "plain", &file);
	emit(g, "index_file", "cut", "corrupt", (pgs_slice){file.data, file.size - 1});
	emit_header(g, "index_file", "version-2", "newer", &file, 4, 2);
	emit_header(g, "index_file", "blocks-3", "corrupt", &file, 12, 3);
	file.data[PGS__INDEX_HEADER_SIZE] ^= 1;
	emit(g, "index_file", "flipped-in-table", "corrupt", pgs__buffer_slice(&file));
	file.data[PGS__INDEX_HEADER_SIZE] ^= 1;
	file.data[file.size - 1] ^= 1;
	emit(g, "index_file", "flipped-in-block", "corrupt", pgs__buffer_slice(&file));
	pgs__index_writer_free(&w);
	pgs__buffer_free(&file);
	pgs__buffer_free(&full);
}

/* ---- named snapshots ---- */

static void make_snapshots(golden *g)
{
	static const pgs__snapshot_file files[] = {
		{0, 700, {"i-000000000000012c-018bcfe5687b7abc8def0123456789ab", 51}, 9000, 600},
		{1000, 1300, {"i-000000000000012c-018bcfe5687b7abc8def0123456789ac", 51}, 5000, 300},
	};
	pgs__attrs_writer w = {0};
	pgs__buffer b = {0}, attrs = {0};
	pgs__attrs_add(&w, (pgs_slice){"root", 4}, (pgs_slice){"17", 2});
	pgs__attrs_add(&w, (pgs_slice){"size", 4}, (pgs_slice){0});
	pgs__attrs_finish(&w, &attrs);
	pgs__snapshot_record record = {.revision = 300, .commit_revision = 299, .counter = 41, .page_count = 5000,
		.created_ms = 1700000000123, .file_count = 2, .files = files, .attrs = pgs__buffer_slice(&attrs)};
	pgs__snapshot_encode(&record, &b);
	emit_good(g, "snapshot", "inline", &b);
	emit_damaged(g, "snapshot", &b);
	emit_changed(g, "snapshot", "kind-3", "newer", &b, 0, 3);
	emit_changed(g, "snapshot", "kind-0", "corrupt", &b, 0, 0);
	emit_changed(g, "snapshot", "files-3", "corrupt", &b, 16, 3);
	pgs__buffer_free(&b);
	record.attrs_in_file = true;
	record.attrs_name = (pgs_slice){"a-000000000000012c-018bcfe5687b7abc8def0123456789ad", 51};
	record.attrs_size = 70000;
	record.file_count = 0;
	pgs__snapshot_encode(&record, &b);
	emit_good(g, "snapshot", "attrs-in-blob", &b);
	pgs__buffer_free(&b);
	pgs__attrs_file_encode(pgs__buffer_slice(&attrs), &b);
	emit_good(g, "attrs", "plain", &b);
	emit_damaged(g, "attrs", &b);
	emit_changed(g, "attrs", "version-2", "newer", &b, 4, 2);
	emit_changed(g, "attrs", "names-fall", "corrupt", &b, 8, 't');
	pgs__buffer_free(&b);
	pgs__buffer_free(&attrs);
	pgs__buffer_free(&w.bytes);
}

/* The file of v1 with a filter, which has two of its three ids; and the value of one with 130 entries. */
static void make_filtered(golden *g)
{
	const uint64_t contents = PGS__SORTED_HEADER_SIZE + 3 * PGS__SORTED_ENTRY_SIZE + 64 + 8;
	pgs__sorted_header header = {.page_size = PAGE_SIZE, .count = 3, .filter_size = 64,
		.contents_offset = contents, .file_size = contents + PAGE_SIZE + sizeof text_frame};
	pgs__page_id dead = {{0}};
	pgs__buffer table = {0}, file = {0};
	memset(dead.bytes + 4, 0xff, 12);
	put_entry(&table, &(pgs__sorted_entry){g->noise_id, contents, PAGE_SIZE, 7});
	put_entry(&table, &(pgs__sorted_entry){dead, PGS__TOMBSTONE, 0, 250});
	put_entry(&table, &(pgs__sorted_entry){g->text_id, contents + PAGE_SIZE, sizeof text_frame, 300});
	header.table_check = pgs__check64(table.data, table.size);
	pgs__sorted_header_encode(&header, pgs__buffer_extend(&file, PGS__SORTED_HEADER_SIZE));
	pgs__put_bytes(&file, table.data, table.size);
	pgs__sorted_filter_make(pgs__buffer_slice(&table), 64, pgs__buffer_extend(&file, 64 + 8));
	pgs__put_bytes(&file, g->noise, PAGE_SIZE);
	pgs__put_bytes(&file, text_frame, sizeof text_frame);
	emit_good(g, "sorted_file", "filter", &file);
	emit(g, "sorted_file", "cut", "corrupt", (pgs_slice){file.data, file.size - 1});
	emit_header(g, "sorted_file", "version-3", "newer", &file, 4, 3);
	emit_header(g, "sorted_file", "filter-in-version-1", "corrupt", &file, 4, 1);
	emit_header(g, "sorted_file", "no-filter", "corrupt", &file, 32, (uint8_t)(contents - 64));
	emit_header(g, "sorted_file", "filter-65", "corrupt", &file, 32, (uint8_t)(contents + 1));
	file.data[contents - 20] ^= 1;
	emit(g, "sorted_file", "flipped-in-filter", "corrupt", pgs__buffer_slice(&file));
	pgs__buffer_free(&table);
	pgs__buffer_free(&file);
}

static void make_filtered_level(golden *g)
{
	pgs__buffer table = {0}, value = {0};
	pgs__page_id id = {{0}};
	uint64_t offset = pgs__sorted_contents_offset(130, 320);
	for (uint32_t i = 0; i < 130; i++, offset += 100) {
		pgs__store_u32be(id.bytes + 4, i + 1);
		put_entry(&table, &(pgs__sorted_entry){id, offset, 100, 0});
	}
	pgs__level_value_encode(offset, pgs__buffer_slice(&table), 320, 1000, &value);
	emit_good(g, "level", "filter", &value);
	emit_damaged(g, "level", &value);
	/* kind, three bytes of file size, two of count, two of the filter's size: c0 02 */
	emit_changed(g, "level", "filter-321", "corrupt", &value, 6, 0xc1);
	emit_changed(g, "level", "filter-too-large", "corrupt", &value, 7, 0x7f);
	emit_changed(g, "level", "kind-4", "newer", &value, 0, 4);
	emit_changed(g, "level", "kind-2", "corrupt", &value, 0, 2);
	pgs__buffer_free(&table);
	pgs__buffer_free(&value);
}

void golden_make_filtered(golden_emit emit_file, void *ctx)
{
	golden g = {.emit = emit_file, .ctx = ctx};
	fill(&g);
	make_filtered(&g);
	make_filtered_level(&g);
}

void golden_make(golden_emit emit_file, void *ctx)
{
	golden g = {.emit = emit_file, .ctx = ctx};
	fill(&g);
	make_pointers(&g);
	make_meta(&g);
	make_identity_and_lock(&g);
	make_leases(&g);
	make_numbers(&g);
	make_changes(&g);
	make_sorted_file(&g);
	make_fences(&g);
	make_packs(&g);
	make_index_file(&g);
	make_snapshots(&g);
	emit(&g, "content", "raw", "good", (pgs_slice){g.noise, PAGE_SIZE});
	emit(&g, "content", "zstd", "good", (pgs_slice){text_frame, sizeof text_frame});
}
