/* Interior pages of SQLite's b-trees.
 *
 *     [100 bytes, page 1 only] kind 2 | 5 · first freeblock 2 · cells 2 · content 2 · fragments 1 · right-most child 4
 *     · cell pointers 2 × cells, in key order · … · cells: child 4, key
 *
 * What is read here may be any page of the file: pointer maps, free pages and overflow pages have no kind, so that their
 * first byte may look like one. All that can be told from one page is checked; what gets through is numbers of pages
 * that exist, which at the worst are fetched for nothing.
 */
#include "btree.h"

enum { CELLS_AT = 3, CONTENT_AT = 5, RIGHT_AT = 8, POINTERS_AT = 12, CELL_LEAST = 5 };

static uint32_t get2(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t get4(const uint8_t *at)
{
	return get2(at) << 16 | get2(at + 2);
}

static bool is_child(uint32_t child, uint32_t page_no, uint32_t page_count)
{
	return child >= 2 && child <= page_count && child != page_no;
}

size_t sq_btree_children(const uint8_t *page, size_t page_size, uint32_t page_no, uint32_t page_count,
			 uint32_t *children)
{
	const size_t start = page_no == 1 ? 100 : 0;
	if (page_size < 512 || page_size > 65536 || !sq_btree_is_interior(page, page_no))
		return 0;
	const uint8_t *header = page + start;
	const size_t cells = get2(header + CELLS_AT), pointers_end = start + POINTERS_AT + 2 * cells;
	size_t content = get2(header + CONTENT_AT);
	content = content ? content : 65536;
	if (pointers_end + CELL_LEAST * cells > page_size || content < pointers_end || content > page_size)
		return 0;
	for (size_t i = 0; i < cells; i++) {
		const size_t cell = get2(header + POINTERS_AT + 2 * i);
		if (cell < content || cell + CELL_LEAST > page_size)
			return 0;
		children[i] = get4(page + cell);
		if (!is_child(children[i], page_no, page_count))
			return 0;
	}
	children[cells] = get4(header + RIGHT_AT);
	return cells && is_child(children[cells], page_no, page_count) ? cells + 1 : 0;
}
