/* Sets of page numbers, as bits. */
#include "file.h"

#include <string.h>

int sq_pages_add(sq_pages *set, uint64_t page)
{
	uint64_t word = page / 64;
	if (word >= set->word_count) {
		uint64_t count = set->word_count ? set->word_count : 16;
		while (count <= word)
			count *= 2;
		uint64_t *words = sqlite3_realloc64(set->words, count * sizeof *words);
		if (!words)
			return SQLITE_IOERR_NOMEM;
		memset(words + set->word_count, 0, (count - set->word_count) * sizeof *words);
		set->words = words;
		set->word_count = count;
	}
	set->words[word] |= 1ull << page % 64;
	return SQLITE_OK;
}

bool sq_pages_has(const sq_pages *set, uint64_t page)
{
	return page / 64 < set->word_count && (set->words[page / 64] >> page % 64 & 1);
}

void sq_pages_remove(sq_pages *set, uint64_t page)
{
	if (page / 64 < set->word_count)
		set->words[page / 64] &= ~(1ull << page % 64);
}

uint64_t sq_pages_next(const sq_pages *set, uint64_t from)
{
	uint64_t word = from / 64;
	if (word >= set->word_count)
		return PGS_NO_PAGE;
	uint64_t bits = set->words[word] & ~0ull << from % 64;
	while (!bits && ++word < set->word_count)
		bits = set->words[word];
	return bits ? word * 64 + (uint64_t)__builtin_ctzll(bits) : PGS_NO_PAGE;
}

void sq_pages_clear(sq_pages *set)
{
	if (set->words)
		memset(set->words, 0, set->word_count * sizeof *set->words);
}

void sq_pages_free(sq_pages *set)
{
	sqlite3_free(set->words);
	*set = (sq_pages){0};
}
