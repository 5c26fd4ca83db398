/* The children of interior pages of SQLite's b-trees (examples/sqlite/btree.c): the first byte chooses the page's size
 * and number, the rest is the page, zeros after it. */
#include "../examples/sqlite/btree.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint32_t children[SQ_CHILDREN_MAX];
	pgs_slice bytes = {data, size};
	unsigned choice = choose(&bytes, 16);
	const size_t page_size = (size_t)512 << choice / 2;
	const uint32_t page_no = choice % 2 + 1, page_count = (uint32_t)size * 7 + 3;
	uint8_t *page = calloc(1, page_size); /* of this very size: reading past it shows */
	CHECK(page);
	memcpy(page, bytes.data, bytes.size < page_size ? bytes.size : page_size);
	size_t count = sq_btree_children(page, page_size, page_no, page_count, children);
	CHECK(count <= SQ_CHILDREN_MAX && count != 1);
	CHECK(count == 0 || sq_btree_is_interior(page, page_no));
	for (size_t i = 0; i < count; i++)
		CHECK(children[i] >= 2 && children[i] <= page_count && children[i] != page_no);
	free(page);
	return 0;
}
