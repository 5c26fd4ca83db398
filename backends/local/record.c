/* Encoding and decoding of the local KV's records: see record.h. */
#include "record.h"

#include <string.h>

#include "util/error.h"

#define FLAG_DELETED 1

int pgs__record_compare(const MDB_val *a, const MDB_val *b)
{
	/* A damaged file may hold keys without a tail: order them as plain bytes, decoding refuses them. */
	if (a->mv_size < 8 || b->mv_size < 8)
		return pgs__slice_compare(pgs__slice_of(a), pgs__slice_of(b));
	/* Of one length, as pages' are: the key's bytes, then the revision's, are compared in one go. */
	if (a->mv_size == b->mv_size)
		return memcmp(a->mv_data, b->mv_data, a->mv_size);
	pgs_slice a_key = {a->mv_data, a->mv_size - 8}, b_key = {b->mv_data, b->mv_size - 8};
	return pgs__slice_compare(a_key, b_key); /* never 0: the shorter is first at the latest */
}

MDB_val pgs__record_key(uint8_t *out, pgs_slice key, uint64_t revision)
{
	memcpy(out, key.data, key.size);
	pgs__store_u64be(out + key.size, ~revision);
	return (MDB_val){key.size + 8, out};
}

int pgs__record_decode(pgs__record *out, const MDB_val *key, const MDB_val *data, pgs_error *err)
{
	pgs__reader k = pgs__reader_of(pgs__slice_of(key));
	out->key = pgs__read_slice(&k, key->mv_size >= 8 ? key->mv_size - 8 : 0);
	out->mod_revision = ~pgs__read_u64be(&k);

	pgs__reader r = pgs__reader_of(pgs__slice_of(data));
	out->create_revision = pgs__read_varint(&r);
	out->version = pgs__read_varint(&r);
	uint8_t flags = pgs__read_u8(&r);
	out->deleted = flags & FLAG_DELETED;
	out->value = pgs__read_slice(&r, pgs__reader_left(&r));

	bool good = !k.failed && !r.failed && flags <= FLAG_DELETED && out->key.size > 0 && out->mod_revision > 0;
	if (good && out->deleted)
		good = out->create_revision == 0 && out->version == 0 && out->value.size == 0;
	else if (good)
		good = out->create_revision > 0 && out->create_revision <= out->mod_revision && out->version > 0;
	if (good)
		return PGS_OK;
	char name[64];
	return pgs__error(err, PGS_ECORRUPT, "the stored version of key '%s' at revision %llu is malformed",
		pgs__printable(name, sizeof name, out->key.data, out->key.size), (unsigned long long)out->mod_revision);
}

static size_t put_varint(uint8_t *out, uint64_t value)
{
	size_t size = 0;
	for (; value >= 0x80; value >>= 7)
		out[size++] = (uint8_t)(value | 0x80);
	out[size++] = (uint8_t)value;
	return size;
}

size_t pgs__record_header(uint8_t *out, uint64_t create_revision, uint64_t version, bool deleted)
{
	size_t size = put_varint(out, create_revision);
	size += put_varint(out + size, version);
	out[size++] = deleted ? FLAG_DELETED : 0;
	return size;
}

void pgs__log_put(pgs__buffer *log, pgs_slice key)
{
	pgs__put_varint(log, key.size);
	pgs__put_bytes(log, key.data, key.size);
}

bool pgs__log_next(pgs__reader *r, pgs_slice *key)
{
	if (pgs__reader_left(r) == 0)
		return false;
	uint64_t size = pgs__read_varint(r);
	if (size == 0 || size > PGS__LOCAL_KEY_MAX)
		r->failed = true;
	*key = pgs__read_slice(r, r->failed ? 0 : (size_t)size);
	return !r->failed;
}
