#include "support/disk_cache.h"

#include <stdlib.h>
#include <string.h>

#include "codec/pointer.h"
#include "support/testing.h"
#include "util/clock.h"

const uint8_t disk_prefix[PGS__PREFIX_SIZE] = {0x80, 1, 2, 3, 4, 5, 6, 7};

#define WAIT_MS 5000

static void count_line(void *ctx, int level, const char *message)
{
	(void)level;
	(void)message;
	++*(unsigned *)ctx;
}

void disk_open(disk *d, const char *path, uint64_t size, uint8_t store)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs__disk_cache_options o = {.path = path, .size_bytes = size, .logger = count_line, .logger_ctx = &d->warnings};
	memset(o.identity, store, sizeof o.identity);
	d->warnings = 0;
	int status = pgs__disk_cache_open(&d->cache, &o, &err);
	if (status == PGS_OK)
		status = pgs__disk_db_attach(&d->db, d->cache, disk_prefix, DISK_PAGE, &err);
	if (status != PGS_OK)
		fail_msg("%s: %s", path, err.message);
	pgs__mirror_believe(d->db, NULL); /* what there is of a mirror; damage is met again */
}

void disk_close(disk *d)
{
	pgs__disk_db_detach(d->db);
	pgs__disk_cache_close(d->cache);
	d->db = NULL;
	d->cache = NULL;
}

/* --- contents ---------------------------------------------------------------------------- */

static uint64_t mix(uint64_t n)
{
	n = (n ^ n >> 31) * 0x9e3779b97f4a7c15u;
	return n ^ n >> 29;
}

pgs__page_id disk_id(uint64_t n)
{
	pgs__page_id id;
	uint64_t hash = mix(n + 1);
	pgs__store_u32be(id.bytes, 0); /* a group: pages of the tests are in one */
	pgs__store_u32be(id.bytes + 4, (uint32_t)n);
	memcpy(id.bytes + 8, &hash, 8);
	return id;
}

static void fill(uint8_t *out, size_t size, uint64_t n)
{
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)(mix(n * 131 + i / 8) >> 8 * (i % 8));
}

void disk_put(disk *d, uint64_t n, size_t size)
{
	uint8_t bytes[PGS_PAGE_SIZE_MAX];
	pgs__page_id id = disk_id(n);
	fill(bytes, size, n);
	pgs__disk_put(d->db, &id, (pgs_slice){bytes, size});
}

void disk_flush(disk *d)
{
	pgs_error err = PGS_ERROR_INIT;
	if (pgs__disk_flush(d->cache, pgs__now_ms() + WAIT_MS, &err) != PGS_OK)
		fail_msg("%s", err.message);
}

typedef struct sight {
	uint64_t n;
	bool found, good;
} sight;

static void see(void *ctx, size_t index, pgs_slice stored)
{
	sight *s = ctx;
	uint8_t bytes[PGS_PAGE_SIZE_MAX];
	(void)index;
	s->found = true;
	s->good = stored.size <= sizeof bytes;
	if (!s->good)
		return;
	fill(bytes, stored.size, s->n);
	s->good = memcmp(bytes, stored.data, stored.size) == 0;
}

bool disk_has(disk *d, uint64_t n, unsigned *damaged)
{
	sight s = {.n = n};
	pgs__page_id id = disk_id(n);
	pgs__disk_get(d->db, &id, 1, see, &s);
	if (s.found && !s.good && damaged)
		++*damaged;
	else if (s.found && !s.good)
		fail_msg("content %llu is not what was put", (unsigned long long)n);
	return s.found && s.good;
}

pgs__disk_stat disk_stat(disk *d)
{
	pgs__disk_stat stat;
	assert_int_equal(pgs__disk_stat_get(d->cache, &stat, NULL), PGS_OK);
	return stat;
}

/* --- the mirror ------------------------------------------------------------------------------ */

void disk_pair_make(disk_pair *p, uint64_t page_no, uint64_t content, uint64_t revision)
{
	pgs__pointer pointer = {.kind = PGS__POINTER_FULL, .id = disk_id(content)};
	pgs__buffer value = {0};
	pgs__pointer_encode(&pointer, &value);
	assert_false(value.failed || value.size > sizeof p->value);
	p->key = pgs__key_page(disk_prefix, page_no);
	memcpy(p->value, value.data, value.size);
	p->pair = (pgs_kv_pair){.key = pgs__key_slice(&p->key),
				.value = {p->value, value.size},
				.create_revision = revision,
				.mod_revision = revision,
				.version = 1};
	pgs__buffer_free(&value);
}

static void take(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	uint64_t *out = ctx;
	pgs__pointer pointer;
	(void)index;
	*out = answer == PGS__MIRROR_ABSENT ? DISK_ABSENT : DISK_UNKNOWN;
	if (answer != PGS__MIRROR_PRESENT)
		return;
	assert_int_equal(pgs__pointer_decode(pair->value, 0, &pointer), PGS_OK);
	*out = pgs__load_u32be(pointer.id.bytes + 4);
	pgs__page_id id = disk_id(*out);
	assert_memory_equal(id.bytes, pointer.id.bytes, PGS__ID_SIZE);
}

uint64_t disk_page(disk *d, uint64_t page_no, uint64_t at)
{
	uint64_t out = DISK_UNKNOWN;
	pgs__key key = pgs__key_page(disk_prefix, page_no);
	pgs_slice slice = pgs__key_slice(&key);
	pgs__mirror_get(d->db, at, &slice, 1, take, &out, NULL, NULL);
	return out;
}

void disk_load(disk *d, uint64_t count, uint64_t revision)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t until = pgs__now_ms() + WAIT_MS;
	disk_pair *made = calloc(count + 1, sizeof *made);
	pgs_kv_pair *pairs = calloc(count + 1, sizeof *pairs);
	for (uint64_t i = 0; i < count; i++) {
		disk_pair_make(&made[i], i, i, revision);
		pairs[i] = made[i].pair;
	}
	pgs__key first = pgs__key_kind(disk_prefix, 'p'), end = pgs__key_kind_end(disk_prefix, 'p');
	int status = pgs__mirror_load_begin(d->db, revision, until, &err);
	if (status == PGS_OK)
		status = pgs__mirror_load_range(d->db, revision, pgs__key_slice(&first), pgs__key_slice(&end), pairs, count,
						until, &err);
	if (status == PGS_OK)
		status = pgs__mirror_load_end(d->db, revision, until, &err);
	free(pairs);
	free(made);
	if (status != PGS_OK)
		fail_msg("%s", err.message);
}

int disk_apply(disk *d, uint64_t from, uint64_t to, uint64_t page_no, uint64_t content)
{
	disk_pair p;
	disk_pair_make(&p, page_no, content == DISK_ABSENT ? 0 : content, to);
	pgs__mirror_change change = {.pair = p.pair, .deleted = content == DISK_ABSENT};
	return pgs__mirror_apply(d->db, from, to, 0, &change, 1, pgs__now_ms() + WAIT_MS, NULL, NULL);
}
