/* Interior pages of SQLite's b-trees (https://www.sqlite.org/fileformat.html), as far as prefetching needs them. */
#ifndef SQ_BTREE_H
#define SQ_BTREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No interior page has more children: each takes a pointer of 2 bytes and a cell of 5 at least. */
#define SQ_CHILDREN_MAX (65536 / 7 + 1)

/* Whether a page says that it is an interior page, of a table or an index. `page_no` 1 begins with the file's header. */
static inline bool sq_btree_is_interior(const uint8_t *page, uint32_t page_no)
{
	uint8_t kind = page[page_no == 1 ? 100 : 0];
	return kind == 2 || kind == 5;
}

/* The children of an interior page in key order, the right-most one last: at most SQ_CHILDREN_MAX. Any bytes may be
 * given. 0: it is no interior page, or it is damaged. Numbers are of [2, page_count], and not the page's own. */
size_t sq_btree_children(const uint8_t *page, size_t page_size, uint32_t page_no, uint32_t page_count,
			 uint32_t *children);

#endif
