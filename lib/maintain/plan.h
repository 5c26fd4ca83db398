/* Which sorted files to merge next: decided from the map of files alone, without any I/O.
 *
 * Level 0 holds files as they come, in any order. Every level below holds files whose ranges of ids do not overlap,
 * level i about fanout^i of them, so the last level that is full holds most of the database, and a content is
 * copied about `fanout` times on its way from one level to the next.
 */
#ifndef PGS_MAINTAIN_PLAN_H
#define PGS_MAINTAIN_PLAN_H

#include "content/levels.h"
#include "maintain/worker.h"

#define PGS__LEVEL_LAST 15 /* takes whatever comes; with a fanout of 10 nobody gets there */

typedef struct pgs__plan_rules {
	uint32_t level0_files;
	uint32_t level_fanout;
	uint64_t file_bytes;
	uint64_t random;         /* chooses among level 1's files, and files to rewrite */
	const pgs__scope *busy;  /* what other workers have, or what failed: nothing that overlaps it is chosen */
	size_t busy_count;
} pgs__plan_rules;

typedef struct pgs__plan {
	pgs__file **inputs; /* of the map, which must outlive the plan; the array is freed by pgs__plan_free() */
	size_t count;       /* 0 = there is nothing to do */
	uint8_t level;      /* of the outputs */
	bool move;          /* the one input is registered there as it is, nothing being below it */
	pgs__scope scope;   /* to be claimed */
} pgs__plan;

/* The next merge that is due. All of these return PGS_OK, also when there is none (count 0), or PGS_ENOMEM. */
int pgs__plan_due(const pgs__file_map *map, const pgs__plan_rules *rules, pgs__plan *out);

/* The next merge that brings everything down to the deepest level there is (1 at least), whatever is due. */
int pgs__plan_down(const pgs__file_map *map, const pgs__plan_rules *rules, pgs__plan *out);

/* The next neighbours in the deepest level, beginning above `after` (NULL = at its start), that fit one file; at least
 * one file. */
int pgs__plan_neighbours(const pgs__file_map *map, const pgs__plan_rules *rules, const pgs__page_id *after,
			 pgs__plan *out);

/* A file, by chance, of those registered at or before `revision`: to be rewritten where it is. */
int pgs__plan_rewrite(const pgs__file_map *map, const pgs__plan_rules *rules, uint64_t revision, pgs__plan *out);

void pgs__plan_free(pgs__plan *plan);

/* Whether the plan is still right when the map has become this one: its inputs are there, and nothing else of the
 * output's level (unless that is 0) is in its range. */
bool pgs__plan_holds(const pgs__plan *plan, const pgs__file_map *map);

/* Whether what is below `level` may hold an id: by the files' ranges, and their tables or filters where those are in
 * memory. */
bool pgs__plan_below_may_hold(const pgs__file_map *map, uint8_t level, const pgs__page_id *id);

/* How many files are due to move. */
uint64_t pgs__plan_due_files(const pgs__file_map *map, const pgs__plan_rules *rules);

#endif
