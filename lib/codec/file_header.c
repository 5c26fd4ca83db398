/* The header of sorted and index files. */
#include "codec/file_header.h"

#include <string.h>

#include "codec/page_id.h"
#include "codec/seal.h"

#define CHECKED 56 /* bytes under the header's own check */

void pgs__file_header_encode(const char magic[4], const pgs__file_header *header, uint8_t out[PGS__FILE_HEADER_SIZE])
{
	memcpy(out, magic, 4);
	pgs__store_little(out + 4, header->version, 2);
	pgs__store_little(out + 6, 0, 2);
	pgs__store_little(out + 8, header->page_size, 4);
	pgs__store_little(out + 12, header->own, 4);
	pgs__store_little(out + 16, header->count, 8);
	pgs__store_little(out + 24, PGS__FILE_HEADER_SIZE, 8);
	pgs__store_little(out + 32, header->body_offset, 8);
	pgs__store_little(out + 40, header->file_size, 8);
	pgs__store_little(out + 48, header->table_check, 8);
	pgs__store_little(out + CHECKED, pgs__check64(out, CHECKED), 8);
}

int pgs__file_header_decode(
	const char magic[4], uint16_t newest, const uint8_t in[PGS__FILE_HEADER_SIZE], pgs__file_header *out)
{
	*out = (pgs__file_header){0};
	/* The check before the version, so that damage is not taken for a newer format. */
	if (memcmp(in, magic, 4) != 0 || pgs__load_little(in + CHECKED, 8) != pgs__check64(in, CHECKED))
		return PGS_ECORRUPT;
	uint64_t version = pgs__load_little(in + 4, 2);
	if (version > newest)
		return PGS_EVERSION;
	if (version == 0 || pgs__load_little(in + 6, 2) != 0 || pgs__load_little(in + 24, 8) != PGS__FILE_HEADER_SIZE)
		return PGS_ECORRUPT;
	out->version = (uint16_t)version;
	out->page_size = (uint32_t)pgs__load_little(in + 8, 4);
	out->own = (uint32_t)pgs__load_little(in + 12, 4);
	out->count = pgs__load_little(in + 16, 8);
	out->body_offset = pgs__load_little(in + 32, 8);
	out->file_size = pgs__load_little(in + 40, 8);
	out->table_check = pgs__load_little(in + 48, 8);
	return pgs__page_size_ok(out->page_size) ? PGS_OK : PGS_ECORRUPT;
}
