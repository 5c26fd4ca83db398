/* Choosing merges.
 *
 *   1. Files that overlap inside a level below 0, which only a registration cut short or damage leaves: merged
 *      together first, as the rules below rely on levels without overlaps.
 *   2. A level with more than fanout^i files: one of the excess into the level below, with what it overlaps there.
 *      The deepest first, so that what is merged next meets as little as possible. From level 1 a random one, as its
 *      files were all made together; else the oldest.
 *   3. Level 0, when it has enough files: those that overlap, with what they overlap in level 1. To bound write
 *      amplification it waits until they have a quarter of the bytes they would rewrite there, or until there are four
 *      times as many files as make it due: reads look into each.
 *
 * What overlaps nothing below is moved, not copied.
 */
#include "maintain/plan.h"

#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"

#define LEVEL0_INPUTS_MAX 32 /* of one merge: more wait for the next one */
#define NEIGHBOURS_MAX 64
#define LEVEL0_PATIENCE 4    /* times level0_files, and times the bytes of level 0 */

typedef struct planner {
	const pgs__file_map *map;
	const pgs__plan_rules *rules;
	pgs__plan *plan;
	pgs__file **sorted; /* room for the files of one level, in some order */
} planner;

/* --- ranges ------------------------------------------------------------------- */

static int compare_ids(const pgs__page_id *a, const pgs__page_id *b)
{
	return memcmp(a->bytes, b->bytes, PGS__ID_SIZE);
}

static bool touches(const pgs__file *file, const pgs__page_id *first, const pgs__page_id *last)
{
	return compare_ids(&file->key.first, last) <= 0 && compare_ids(first, &file->key.last) <= 0;
}

static bool is_busy(const planner *p)
{
	const pgs__scope *s = &p->plan->scope;
	for (size_t i = 0; i < p->rules->busy_count; i++) {
		const pgs__scope *b = &p->rules->busy[i];
		if (s->level_first <= b->level_last && b->level_first <= s->level_last &&
		    compare_ids(&s->first, &b->last) <= 0 && compare_ids(&b->first, &s->last) <= 0)
			return true;
	}
	return false;
}

/* --- building a plan ------------------------------------------------------------ */

static void start(planner *p, uint8_t level)
{
	p->plan->count = 0;
	p->plan->level = level;
	p->plan->move = false;
	p->plan->scope = (pgs__scope){.jobs = PGS__JOB_MERGE, .level_first = level, .level_last = level};
}

static void add(planner *p, pgs__file *file)
{
	pgs__scope *s = &p->plan->scope;
	if (p->plan->count == 0 || compare_ids(&file->key.first, &s->first) < 0)
		s->first = file->key.first;
	if (p->plan->count == 0 || compare_ids(&file->key.last, &s->last) > 0)
		s->last = file->key.last;
	if (file->key.level < s->level_first)
		s->level_first = file->key.level;
	p->plan->inputs[p->plan->count++] = file;
}

static bool has_input(const pgs__plan *plan, const pgs__file *file)
{
	for (size_t i = 0; i < plan->count; i++)
		if (plan->inputs[i] == file)
			return true;
	return false;
}

/* Add the files of a level that touch the plan's range. */
static bool add_touching(planner *p, uint8_t level)
{
	size_t before = p->plan->count;
	for (size_t i = 0; i < p->map->count; i++) {
		pgs__file *file = p->map->files[i];
		if (file->key.level == level && touches(file, &p->plan->scope.first, &p->plan->scope.last) &&
		    !has_input(p->plan, file))
			add(p, file);
	}
	return p->plan->count > before;
}

/* Nothing (more) to do: the plan is empty. */
static bool give_up(planner *p)
{
	p->plan->count = 0;
	return false;
}

/* --- the files of a level ---------------------------------------------------------- */

static int by_age(const void *a, const void *b)
{
	const pgs__file *x = *(pgs__file *const *)a, *y = *(pgs__file *const *)b;
	if (x->registered != y->registered)
		return x->registered < y->registered ? -1 : 1;
	return strcmp(x->key.file_name, y->key.file_name);
}

static int by_first(const void *a, const void *b)
{
	const pgs__file *x = *(pgs__file *const *)a, *y = *(pgs__file *const *)b;
	int order = compare_ids(&x->key.first, &y->key.first);
	return order ? order : by_age(a, b);
}

static size_t sort_level(planner *p, uint8_t level, int (*order)(const void *, const void *))
{
	size_t count = 0;
	for (size_t i = 0; i < p->map->count; i++)
		if (p->map->files[i]->key.level == level)
			p->sorted[count++] = p->map->files[i];
	if (count > 1)
		qsort(p->sorted, count, sizeof *p->sorted, order);
	return count;
}

/* The deepest level that has files; 0 when there are none. */
static uint8_t deepest(const pgs__file_map *map)
{
	return map->count ? map->files[map->count - 1]->key.level : 0; /* in the order of levels */
}

static uint64_t count_level(const pgs__file_map *map, uint8_t level)
{
	uint64_t count = 0;
	for (size_t i = 0; i < map->count; i++)
		count += map->files[i]->key.level == level;
	return count;
}

/* How many files a level may have. */
static uint64_t level_limit(const pgs__plan_rules *rules, uint8_t level)
{
	uint64_t limit = 1;
	if (level >= PGS__LEVEL_LAST)
		return UINT64_MAX;
	for (uint8_t i = 0; i < level; i++)
		limit = limit > UINT64_MAX / rules->level_fanout ? UINT64_MAX : limit * rules->level_fanout;
	return limit;
}

/* --- the rules ------------------------------------------------------------------------ */

/* Files that overlap inside a level, and all that hangs together with them. */
static bool plan_repair(planner *p, uint8_t level)
{
	size_t count = sort_level(p, level, by_first);
	for (size_t i = 0; i + 1 < count; i++) {
		start(p, level);
		add(p, p->sorted[i]);
		while (add_touching(p, level))
			;
		if (p->plan->count > 1 && !is_busy(p))
			return true;
	}
	return give_up(p);
}

/* A file, with what it overlaps in the level below it. */
static bool plan_into_next(planner *p, pgs__file *file)
{
	start(p, (uint8_t)(file->key.level + 1));
	add(p, file);
	p->plan->move = !add_touching(p, p->plan->level);
	return !is_busy(p);
}

static bool plan_excess(planner *p, uint8_t level)
{
	size_t count = sort_level(p, level, by_age);
	if (count <= level_limit(p->rules, level))
		return give_up(p);
	size_t from = level == 1 ? (size_t)(p->rules->random % count) : 0;
	for (size_t i = 0; i < count; i++)
		if (plan_into_next(p, p->sorted[(from + i) % count]))
			return true;
	return give_up(p);
}

/* The level 0 files that hang together with `seed`, by themselves or through level 1, and those of level 1. */
static void collect_level0(planner *p, pgs__file *seed)
{
	start(p, 1);
	add(p, seed);
	while (add_touching(p, 0) || add_touching(p, 1))
		;
}

static size_t count_inputs(const pgs__plan *plan, uint8_t level, uint64_t *bytes)
{
	size_t count = 0;
	*bytes = 0;
	for (size_t i = 0; i < plan->count; i++) {
		if (plan->inputs[i]->key.level != level)
			continue;
		count++;
		*bytes += plan->inputs[i]->index.file_size;
	}
	return count;
}

/* Too many at once: the oldest of them only, and what they overlap in level 1. */
static void limit_level0(planner *p, size_t sorted_count)
{
	const pgs__plan whole = *p->plan;
	pgs__file *oldest[LEVEL0_INPUTS_MAX];
	size_t count = 0;
	for (size_t i = 0; i < sorted_count && count < LEVEL0_INPUTS_MAX; i++)
		if (has_input(&whole, p->sorted[i]))
			oldest[count++] = p->sorted[i];
	start(p, 1);
	for (size_t i = 0; i < count; i++)
		add(p, oldest[i]);
	while (add_touching(p, 1))
		;
}

static bool plan_level0(planner *p, bool whatever)
{
	size_t count = sort_level(p, 0, by_age);
	bool urgent = whatever || count >= (uint64_t)LEVEL0_PATIENCE * p->rules->level0_files;
	if (!whatever && count < p->rules->level0_files)
		return give_up(p);
	for (size_t i = 0; i < count; i++) {
		uint64_t above, below;
		collect_level0(p, p->sorted[i]);
		if (count_inputs(p->plan, 0, &above) > LEVEL0_INPUTS_MAX)
			limit_level0(p, count);
		count_inputs(p->plan, 0, &above);
		count_inputs(p->plan, 1, &below);
		p->plan->move = p->plan->count == 1;
		if ((urgent || above >= below / LEVEL0_PATIENCE) && !is_busy(p))
			return true;
	}
	return give_up(p);
}

/* --- plans ------------------------------------------------------------------------------- */

static int open_planner(planner *p, const pgs__file_map *map, const pgs__plan_rules *rules, pgs__plan *out)
{
	*out = (pgs__plan){0};
	*p = (planner){.map = map, .rules = rules, .plan = out};
	out->inputs = pgs__calloc(map->count + 1, sizeof *out->inputs);
	p->sorted = pgs__calloc(map->count + 1, sizeof *p->sorted);
	if (out->inputs && p->sorted)
		return PGS_OK;
	pgs__free(p->sorted);
	pgs__plan_free(out);
	return PGS_ENOMEM;
}

static bool repair_any(planner *p)
{
	for (unsigned level = deepest(p->map); level > 0; level--)
		if (plan_repair(p, (uint8_t)level))
			return true;
	return false;
}

int pgs__plan_due(const pgs__file_map *map, const pgs__plan_rules *rules, pgs__plan *out)
{
	planner p;
	if (open_planner(&p, map, rules, out) != PGS_OK)
		return PGS_ENOMEM;
	bool found = repair_any(&p);
	for (unsigned level = deepest(map); !found && level > 0; level--)
		found = plan_excess(&p, (uint8_t)level);
	if (!found)
		plan_level0(&p, false);
	pgs__free(p.sorted);
	return PGS_OK;
}

int pgs__plan_down(const pgs__file_map *map, const pgs__plan_rules *rules, pgs__plan *out)
{
	planner p;
	if (open_planner(&p, map, rules, out) != PGS_OK)
		return PGS_ENOMEM;
	bool found = repair_any(&p) || plan_level0(&p, true);
	for (uint8_t level = 1; !found && level < deepest(map); level++) {
		size_t count = sort_level(&p, level, by_first);
		for (size_t i = 0; !found && i < count; i++)
			found = plan_into_next(&p, p.sorted[i]);
	}
	if (!found)
		give_up(&p);
	pgs__free(p.sorted);
	return PGS_OK;
}

int pgs__plan_neighbours(const pgs__file_map *map, const pgs__plan_rules *rules, const pgs__page_id *after,
			 pgs__plan *out)
{
	planner p;
	if (open_planner(&p, map, rules, out) != PGS_OK)
		return PGS_ENOMEM;
	uint64_t bytes = 0, contents = 0;
	size_t count = deepest(map) ? sort_level(&p, deepest(map), by_first) : 0;
	start(&p, deepest(map));
	for (size_t i = 0; i < count && out->count < NEIGHBOURS_MAX; i++) {
		pgs__file *file = p.sorted[i];
		if (after && compare_ids(&file->key.first, after) <= 0)
			continue;
		bytes += file->index.file_size;
		contents += file->index.count;
		if (out->count && (bytes > rules->file_bytes || contents > PGS__SORTED_COUNT_MAX))
			break;
		add(&p, file);
	}
	pgs__free(p.sorted);
	return PGS_OK;
}

int pgs__plan_rewrite(const pgs__file_map *map, const pgs__plan_rules *rules, uint64_t revision, pgs__plan *out)
{
	planner p;
	if (open_planner(&p, map, rules, out) != PGS_OK)
		return PGS_ENOMEM;
	bool found = false;
	for (size_t i = 0; !found && i < map->count; i++) {
		pgs__file *file = map->files[(rules->random % map->count + i) % map->count];
		start(&p, file->key.level);
		add(&p, file);
		found = file->registered <= revision && !is_busy(&p);
	}
	if (!found)
		give_up(&p);
	pgs__free(p.sorted);
	return PGS_OK;
}

void pgs__plan_free(pgs__plan *plan)
{
	pgs__free(plan->inputs);
	*plan = (pgs__plan){0};
}

/* --- asking ---------------------------------------------------------------------------------- */

static const pgs__file *find_same(const pgs__file_map *map, const pgs__file *file)
{
	for (size_t i = 0; i < map->count; i++) {
		const pgs__file *f = map->files[i];
		if (f->key.level == file->key.level && f->registered == file->registered &&
		    strcmp(f->key.file_name, file->key.file_name) == 0)
			return f;
	}
	return NULL;
}

bool pgs__plan_holds(const pgs__plan *plan, const pgs__file_map *map)
{
	size_t found = 0, there = 0, expected = 0;
	for (size_t i = 0; i < plan->count; i++) {
		found += find_same(map, plan->inputs[i]) != NULL;
		expected += plan->inputs[i]->key.level == plan->level;
	}
	for (size_t i = 0; i < map->count; i++)
		there += map->files[i]->key.level == plan->level &&
			 touches(map->files[i], &plan->scope.first, &plan->scope.last);
	return found == plan->count && (plan->level == 0 || there == expected);
}

static bool file_may_hold(pgs__file *file, const pgs__page_id *id)
{
	pgs__sorted_entry entry;
	if (!touches(file, id, id))
		return false;
	if (!file->index.has_table)
		return pgs__filters_may_have(file->filters, &file->filter, id);
	return pgs__sorted_find(file->index.table, id, PGS_PAGE_SIZE_MAX, 0, UINT64_MAX, &entry) != PGS_ENOTFOUND;
}

bool pgs__plan_below_may_hold(const pgs__file_map *map, uint8_t level, const pgs__page_id *id)
{
	for (size_t first = 0, end; first < map->count; first = end) {
		end = pgs__file_map_level_end(map, first);
		if (map->files[first]->key.level <= level)
			continue;
		size_t at = pgs__file_map_up_to(map, first, end, id);
		for (; at > first && compare_ids(pgs__file_map_furthest(map, at - 1), id) >= 0; at--)
			if (file_may_hold(map->files[at - 1], id))
				return true;
	}
	return false;
}

uint64_t pgs__plan_due_files(const pgs__file_map *map, const pgs__plan_rules *rules)
{
	uint64_t due = 0, level0 = count_level(map, 0);
	for (unsigned level = 1; level <= deepest(map); level++) {
		uint64_t count = count_level(map, (uint8_t)level), limit = level_limit(rules, (uint8_t)level);
		due += count > limit ? count - limit : 0;
	}
	return due + (level0 >= rules->level0_files ? level0 : 0);
}
