/* Keys. Everything of a database is under "<prefix>/", everything of a kind
 * under "<prefix>/<kind>/"; '0' is the byte after '/', so both ranges end at
 * the same bytes with '0' in the slash's place, whatever the prefix is. */
#include "codec/keys.h"

#include <assert.h>
#include <string.h>

#include <pagestore/error.h>

#include "util/cursor.h"
#include "util/random.h"

#define AFTER_SLASH '0'
#define TAIL_AT (PGS__PREFIX_SIZE + 3) /* past "<prefix>/p/" */

/* A caller who breaks a documented size gets a cut key in release builds, not an overrun. */
static void put(pgs__key *key, const void *bytes, size_t size)
{
	size_t room = PGS__KEY_MAX - key->size;
	assert(size <= room);
	if (size > room)
		size = room;
	if (size > 0)
		memcpy(key->bytes + key->size, bytes, size);
	key->size = (uint16_t)(key->size + size);
}

static void put_byte(pgs__key *key, uint8_t byte)
{
	put(key, &byte, 1);
}

pgs__key pgs__key_identity(void)
{
	pgs__key key = {0};
	put_byte(&key, 'i');
	return key;
}

pgs__key pgs__key_name(const void *name, size_t size)
{
	assert(size <= PGS_DB_NAME_MAX);
	pgs__key key = {0};
	put(&key, "n/", 2);
	put(&key, name, size);
	return key;
}

pgs__key pgs__key_single(const uint8_t *prefix, char which)
{
	pgs__key key = {0};
	put(&key, prefix, PGS__PREFIX_SIZE);
	put_byte(&key, '/');
	put_byte(&key, (uint8_t)which);
	return key;
}

pgs__key pgs__key_kind(const uint8_t *prefix, char kind)
{
	pgs__key key = pgs__key_single(prefix, kind);
	put_byte(&key, '/');
	return key;
}

pgs__key pgs__key_kind_end(const uint8_t *prefix, char kind)
{
	pgs__key key = pgs__key_single(prefix, kind);
	put_byte(&key, AFTER_SLASH);
	return key;
}

pgs__key pgs__key_prefix_end(const uint8_t *prefix)
{
	pgs__key key = {0};
	put(&key, prefix, PGS__PREFIX_SIZE);
	put_byte(&key, AFTER_SLASH);
	return key;
}

pgs__key pgs__key_after(const pgs__key *key)
{
	pgs__key after = *key;
	put_byte(&after, 0);
	return after;
}

static pgs__key with_tail(const uint8_t *prefix, char kind, const void *tail, size_t size)
{
	pgs__key key = pgs__key_kind(prefix, kind);
	put(&key, tail, size);
	return key;
}

pgs__key pgs__key_page(const uint8_t *prefix, uint64_t page_no)
{
	uint8_t tail[8];
	pgs__store_u64be(tail, page_no);
	return with_tail(prefix, 'p', tail, sizeof tail);
}

pgs__key pgs__key_attr(const uint8_t *prefix, const void *name, size_t size)
{
	assert(size <= PGS_ATTR_NAME_MAX);
	return with_tail(prefix, 'a', name, size);
}

pgs__key pgs__key_uuid(const uint8_t *prefix, char kind, const uint8_t uuid[16])
{
	return with_tail(prefix, kind, uuid, 16);
}

pgs__key pgs__key_content(const uint8_t *prefix, const pgs__page_id *id)
{
	return with_tail(prefix, 'c', id->bytes, PGS__ID_SIZE);
}

pgs__key pgs__key_level(const uint8_t *prefix, uint8_t level, const pgs__page_id *first, const pgs__page_id *last,
	const char *file_name)
{
	pgs__key key = pgs__key_kind(prefix, 'l');
	put_byte(&key, level);
	put(&key, first->bytes, PGS__ID_SIZE);
	put(&key, last->bytes, PGS__ID_SIZE);
	put(&key, file_name, strlen(file_name));
	return key;
}

pgs__key pgs__key_lock(const uint8_t *prefix, const char *role)
{
	return with_tail(prefix, 'k', role, strlen(role));
}

pgs__key pgs__key_snapshot(const uint8_t *prefix, const void *name, size_t size)
{
	assert(size <= PGS_SNAPSHOT_NAME_MAX);
	return with_tail(prefix, 's', name, size);
}

pgs__key pgs__key_unregistered(const uint8_t *prefix, const char *file_name)
{
	return with_tail(prefix, 'd', file_name, strlen(file_name));
}

bool pgs__key_tail(pgs_slice key, char kind, pgs_slice *tail)
{
	*tail = (pgs_slice){0};
	const uint8_t *bytes = key.data;
	if (key.size < TAIL_AT || bytes[0] < 0x80)
		return false;
	if (bytes[TAIL_AT - 3] != '/' || bytes[TAIL_AT - 2] != (uint8_t)kind || bytes[TAIL_AT - 1] != '/')
		return false;
	*tail = (pgs_slice){bytes + TAIL_AT, key.size - TAIL_AT};
	return true;
}

bool pgs__key_parse_page(pgs_slice key, uint64_t *page_no)
{
	pgs_slice tail;
	*page_no = 0;
	if (!pgs__key_tail(key, 'p', &tail) || tail.size != 8)
		return false;
	*page_no = pgs__load_u64be(tail.data);
	return true;
}

bool pgs__key_parse_level(pgs_slice key, pgs__level_key *out)
{
	pgs_slice tail;
	*out = (pgs__level_key){0};
	if (!pgs__key_tail(key, 'l', &tail))
		return false;
	pgs__reader r = pgs__reader_of(tail);
	out->level = pgs__read_u8(&r);
	pgs__read_bytes(&r, out->first.bytes, PGS__ID_SIZE);
	pgs__read_bytes(&r, out->last.bytes, PGS__ID_SIZE);
	pgs_slice name = pgs__read_slice(&r, pgs__reader_left(&r));
	if (r.failed || !pgs__file_name_ok(name))
		return false;
	memcpy(out->file_name, name.data, name.size);
	return memcmp(out->first.bytes, out->last.bytes, PGS__ID_SIZE) <= 0;
}

bool pgs__file_name_ok(pgs_slice name)
{
	const char *text = name.data;
	if (name.size == 0 || name.size > PGS__FILE_NAME_MAX)
		return false;
	for (size_t i = 0; i < name.size; i++) {
		bool good = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= '0' && text[i] <= '9') || text[i] == '-';
		if (!good)
			return false;
	}
	return true;
}

void pgs__blob_name(char out[PGS__BLOB_NAME_SIZE], const uint8_t *prefix, const char *file_name)
{
	size_t size = strnlen(file_name, PGS__FILE_NAME_MAX);
	assert(file_name[size] == '\0');
	pgs__hex(out, prefix, PGS__PREFIX_SIZE);
	out += (size_t)2 * PGS__PREFIX_SIZE;
	*out++ = '/';
	memcpy(out, file_name, size);
	out[size] = '\0';
}

int pgs__file_name_new(char out[PGS__FILE_NAME_MAX + 1], char kind, uint64_t base_revision)
{
	uint8_t uuid[16], base[8];
	out[0] = '\0';
	int result = pgs__uuid7(uuid);
	if (result != PGS_OK)
		return result;
	pgs__store_u64be(base, base_revision);
	out[0] = kind;
	out[1] = '-';
	pgs__hex(out + 2, base, sizeof base);
	out[18] = '-';
	pgs__hex(out + 19, uuid, sizeof uuid);
	return PGS_OK;
}

static bool unhex(const char *text, size_t digits, uint64_t *out)
{
	*out = 0;
	for (size_t i = 0; i < digits; i++) {
		char c = text[i];
		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		*out = *out << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	return true;
}

bool pgs__file_name_parse(pgs_slice name, pgs__file_name *out)
{
	const char *text = name.data;
	uint64_t uuid;
	*out = (pgs__file_name){0};
	if (name.size != 19 + 32 || text[0] < 'a' || text[0] > 'z' || text[1] != '-' || text[18] != '-')
		return false;
	out->kind = text[0];
	return unhex(text + 2, 16, &out->base_revision) && unhex(text + 19, 16, &uuid) && unhex(text + 35, 16, &uuid);
}
