/* Walking the table of a registered sorted file: out of its l/ value, or read from the file in slices. */
#include "maintain/table.h"

#include "content/merge_input.h"
#include "util/clock.h"

#define SLICES 256 /* read at once: about half a MiB */

uint32_t pgs__worker_timeout_ms(const pgs__worker *w)
{
	return (uint32_t)(pgs__db_deadline(w->db, 0) - pgs__now_ms());
}

int pgs__table_visit(pgs__worker *w, const pgs__file *file, pgs__table_visitor visit, void *ctx)
{
	pgs__merge_input input = {0};
	const pgs__merge_reader reader = {
		.blob = pgs__db_backend(w->db)->blob,
		.page_size = w->db->contents.page_size,
		.timeout_ms = pgs__worker_timeout_ms(w),
		.chunk_slices = SLICES,
		.window_bytes = w->db->contents.page_size,
		.err = w->err,
	};
	int result = pgs__merge_input_open(&input, file, &reader);
	while (result == PGS_OK && !input.ended) {
		pgs__sorted_entry entry = input.entry;
		if (entry.birth == 0)
			entry.birth = file->registered;
		result = visit(ctx, &entry);
		if (result == PGS_OK)
			result = pgs__merge_input_next(&input, &reader);
	}
	pgs__merge_input_close(&input);
	return result;
}
