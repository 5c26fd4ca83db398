/* The small values. Each is unsealed before anything in it is believed, so
 * that "newer version" is never said of damage. */
#include "codec/meta.h"

#include <string.h>

#include <pagestore/store.h>
#include <pagestore/version.h>

#include "codec/seal.h"

#define HASH_XXH3 1
#define MAGIC_SIZE 4

#define TAG_CRITICAL 0x80 /* and above: a reader that does not know it must refuse */
#define TAG_PARENT 0x81

/* First bytes of values under k/, r/ and v. */
#define KIND_LOCK 1
#define KIND_CLAIM 2
#define KIND_PIN 1
#define KIND_SAMPLES 1
#define SAMPLE_SIZE 16

/* Magic and version: PGS_OK, PGS_ECORRUPT or PGS_EVERSION. */
static int read_version(pgs__reader *r, const char *magic, uint16_t *version)
{
	pgs_slice found = pgs__read_slice(r, MAGIC_SIZE);
	*version = pgs__read_u16(r);
	if (r->failed || memcmp(found.data, magic, MAGIC_SIZE) != 0 || *version == 0)
		return PGS_ECORRUPT;
	return *version > PGS_FORMAT_VERSION ? PGS_EVERSION : PGS_OK;
}

void pgs__meta_encode(const pgs__meta *meta, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_bytes(out, "PGSM", MAGIC_SIZE);
	pgs__put_u16(out, meta->format_version);
	pgs__put_u8(out, meta->hash_kind);
	pgs__put_u8(out, meta->order);
	pgs__put_u32(out, meta->page_size);
	pgs__put_u64(out, (uint64_t)meta->created_ms);
	pgs__put_bytes(out, meta->secret, PGS__SECRET_SIZE);
	if (meta->parent.size > 0) {
		pgs__put_u8(out, TAG_PARENT);
		pgs__put_varint(out, meta->parent.size);
		pgs__put_bytes(out, meta->parent.data, meta->parent.size);
	}
	pgs__seal(out, from);
}

/* The tagged fields: tags rise, so that none comes twice. */
static int read_fields(pgs__reader *r, pgs__meta *out)
{
	unsigned last = 0;
	while (pgs__reader_left(r) > 0) {
		unsigned tag = pgs__read_u8(r);
		uint64_t size = pgs__read_varint(r);
		if (r->failed || tag <= last || size == 0 || size > pgs__reader_left(r))
			return PGS_ECORRUPT;
		pgs_slice field = pgs__read_slice(r, (size_t)size);
		if (tag == TAG_PARENT)
			out->parent = field;
		else if (tag >= TAG_CRITICAL)
			return PGS_EVERSION;
		last = tag;
	}
	return pgs__reader_done(r) ? PGS_OK : PGS_ECORRUPT;
}

/* What the fixed fields may hold. Zero was never a hash kind; a greater one, or order, is a newer writer's. */
static int check_fixed(const pgs__meta *meta)
{
	if (meta->hash_kind == 0 || !pgs__page_size_ok(meta->page_size))
		return PGS_ECORRUPT;
	return meta->hash_kind > HASH_XXH3 || meta->order > PGS_ORDER_COUNTER ? PGS_EVERSION : PGS_OK;
}

int pgs__meta_decode(pgs_slice bytes, pgs__meta *out)
{
	*out = (pgs__meta){0};
	if (!pgs__unseal(&bytes))
		return PGS_ECORRUPT;
	pgs__reader r = pgs__reader_of(bytes);
	int result = read_version(&r, "PGSM", &out->format_version);
	if (result != PGS_OK)
		return result;
	out->hash_kind = pgs__read_u8(&r);
	out->order = pgs__read_u8(&r);
	out->page_size = pgs__read_u32(&r);
	out->created_ms = (int64_t)pgs__read_u64(&r);
	pgs__read_bytes(&r, out->secret, PGS__SECRET_SIZE);
	if (r.failed)
		return PGS_ECORRUPT;
	result = check_fixed(out);
	return result == PGS_OK ? read_fields(&r, out) : result;
}

void pgs__identity_encode(const pgs__identity *identity, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_bytes(out, "PGSI", MAGIC_SIZE);
	pgs__put_u16(out, identity->format_version);
	pgs__put_bytes(out, identity->random, sizeof identity->random);
	pgs__seal(out, from);
}

int pgs__identity_decode(pgs_slice bytes, pgs__identity *out)
{
	*out = (pgs__identity){0};
	if (!pgs__unseal(&bytes))
		return PGS_ECORRUPT;
	pgs__reader r = pgs__reader_of(bytes);
	int result = read_version(&r, "PGSI", &out->format_version);
	if (result != PGS_OK)
		return result;
	pgs__read_bytes(&r, out->random, sizeof out->random);
	return pgs__reader_done(&r) ? PGS_OK : PGS_ECORRUPT;
}

void pgs__floor_encode(const pgs__floor *floor, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_u64be(out, floor->floor);
	pgs__put_u64be(out, floor->previous);
	pgs__seal(out, from);
}

int pgs__floor_decode(pgs_slice bytes, pgs__floor *out)
{
	*out = (pgs__floor){0};
	if (!pgs__unseal(&bytes))
		return PGS_ECORRUPT;
	pgs__reader r = pgs__reader_of(bytes);
	out->floor = pgs__read_u64be(&r);
	out->previous = pgs__read_u64be(&r);
	return pgs__reader_done(&r) && out->previous <= out->floor ? PGS_OK : PGS_ECORRUPT;
}

void pgs__number_encode(uint64_t number, uint8_t out[PGS__NUMBER_SIZE])
{
	pgs__store_u64be(out, number);
	uint32_t check = pgs__check32(out, 8);
	for (int i = 0; i < PGS__SEAL_SIZE; i++)
		out[8 + i] = (uint8_t)(check >> (8 * i));
}

int pgs__number_decode(pgs_slice bytes, uint64_t *out)
{
	*out = 0;
	if (bytes.size != PGS__NUMBER_SIZE || !pgs__unseal(&bytes))
		return PGS_ECORRUPT;
	*out = pgs__load_u64be(bytes.data);
	return PGS_OK;
}

/* --- leases --------------------------------------------------------------------------- */

/* Open a sealed value whose kind is to be `known`, the newest of its key. */
static int open_kind(pgs_slice value, uint8_t known, pgs__reader *r)
{
	uint8_t kind;
	int result = pgs__sealed_open(value, known, r, &kind);
	return result == PGS_OK && kind != known ? PGS_ECORRUPT : result;
}

static void put_holder(pgs__buffer *out, const pgs__lock *holder)
{
	pgs__put_bytes(out, holder->owner, sizeof holder->owner);
	pgs__put_bytes(out, holder->boot_id, sizeof holder->boot_id);
	pgs__put_varint(out, holder->pid);
	pgs__put_varint(out, holder->process_start);
	pgs__put_varint(out, holder->lease_ms);
}

static void read_holder(pgs__reader *r, pgs__lock *out)
{
	pgs__read_bytes(r, out->owner, sizeof out->owner);
	pgs__read_bytes(r, out->boot_id, sizeof out->boot_id);
	out->pid = pgs__read_varint(r);
	out->process_start = pgs__read_varint(r);
	out->lease_ms = pgs__read_varint(r);
}

void pgs__lock_encode(const pgs__lock *lock, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_u8(out, KIND_LOCK);
	put_holder(out, lock);
	pgs__seal(out, from);
}

int pgs__lock_decode(pgs_slice bytes, pgs__lock *out)
{
	*out = (pgs__lock){0};
	pgs__reader r;
	int result = open_kind(bytes, KIND_LOCK, &r);
	if (result != PGS_OK)
		return result;
	read_holder(&r, out);
	return pgs__reader_done(&r) ? PGS_OK : PGS_ECORRUPT;
}

void pgs__claim_encode(const pgs__claim_value *claim, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_u8(out, KIND_CLAIM);
	put_holder(out, &claim->holder);
	pgs__put_varint(out, claim->jobs);
	pgs__put_u8(out, claim->level_first);
	pgs__put_u8(out, claim->level_last);
	pgs__put_bytes(out, claim->first.bytes, PGS__ID_SIZE);
	pgs__put_bytes(out, claim->last.bytes, PGS__ID_SIZE);
	pgs__seal(out, from);
}

int pgs__claim_decode(pgs_slice bytes, pgs__claim_value *out)
{
	*out = (pgs__claim_value){0};
	pgs__reader r;
	int result = open_kind(bytes, KIND_CLAIM, &r);
	if (result != PGS_OK)
		return result;
	read_holder(&r, &out->holder);
	uint64_t jobs = pgs__read_varint(&r);
	out->jobs = (uint32_t)jobs;
	out->level_first = pgs__read_u8(&r);
	out->level_last = pgs__read_u8(&r);
	pgs__read_bytes(&r, out->first.bytes, PGS__ID_SIZE);
	pgs__read_bytes(&r, out->last.bytes, PGS__ID_SIZE);
	bool ok = jobs != 0 && jobs <= UINT32_MAX && out->level_first <= out->level_last &&
		  memcmp(out->first.bytes, out->last.bytes, PGS__ID_SIZE) <= 0;
	return ok && pgs__reader_done(&r) ? PGS_OK : PGS_ECORRUPT;
}

void pgs__pin_encode(const pgs__pin_value *pin, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_u8(out, KIND_PIN);
	put_holder(out, &pin->holder);
	pgs__put_varint(out, pin->revision);
	pgs__seal(out, from);
}

int pgs__pin_decode(pgs_slice bytes, pgs__pin_value *out)
{
	*out = (pgs__pin_value){0};
	pgs__reader r;
	int result = open_kind(bytes, KIND_PIN, &r);
	if (result != PGS_OK)
		return result;
	read_holder(&r, &out->holder);
	out->revision = pgs__read_varint(&r);
	return pgs__reader_done(&r) && out->revision != 0 ? PGS_OK : PGS_ECORRUPT;
}

/* --- samples -------------------------------------------------------------------------- */

void pgs__samples_encode(const pgs__samples *samples, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_u8(out, KIND_SAMPLES);
	for (size_t i = 0; i < samples->count; i++) {
		pgs__put_u64(out, (uint64_t)samples->list[i].time_ms);
		pgs__put_u64(out, samples->list[i].revision);
	}
	pgs__seal(out, from);
}

int pgs__samples_decode(pgs_slice bytes, pgs__samples *out)
{
	out->count = 0;
	pgs__reader r;
	int result = open_kind(bytes, KIND_SAMPLES, &r);
	if (result != PGS_OK)
		return result;
	size_t count = pgs__reader_left(&r) / SAMPLE_SIZE;
	if (count > PGS__SAMPLES_MAX)
		return PGS_ECORRUPT;
	for (size_t i = 0; i < count; i++) {
		out->list[i].time_ms = (int64_t)pgs__read_u64(&r);
		out->list[i].revision = pgs__read_u64(&r);
		if (i > 0 && (out->list[i].time_ms <= out->list[i - 1].time_ms ||
			      out->list[i].revision <= out->list[i - 1].revision))
			return PGS_ECORRUPT;
	}
	if (!pgs__reader_done(&r))
		return PGS_ECORRUPT;
	out->count = count;
	return PGS_OK;
}
