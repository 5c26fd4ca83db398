/* Prefetch that knows SQLite.
 *
 * Where reads wait for a network, a scan that reads page after page waits once for each. What it reads next is told by
 *
 *   b-trees   Who reads the children of an interior page one after the other, in either direction, is scanning:
 *
 *                          ┌─────── interior ───────┐  ··> sibling, named by the parent: its children come next
 *                          │ a  b  c  d  e  f  g  h │
 *                            ↑  ↑  ↑  └──┴──┘
 *                            read     asked for: a window, twice as large each time half of it was read
 *
 *             A search by key reads one child of each page, and asks for nothing.
 *   strides   Pages with numbers close to each other, read in one direction: overflow chains, and all whose parents
 *             SQLite had in its own cache.
 *
 * Pages in the order of their numbers are left to the store, which reads ahead by itself, in larger pieces.
 *
 * Pages are asked for beside SQLite (pgs_prefetch_start); they do not become part of what the transaction relies on.
 *
 * P1 What is asked for and not read is bounded: by a share of what was (allowance), and in all (UNREAD_BYTES). Windows
 *    begin small, and grow by what they were good for.
 * P2 Nothing is begun but after reads that had to wait, as the connection's cost tells (pgs_cost.cache_misses). A read
 *    from memory costs a look at the page's first byte.
 * P3 Pages are hints (btree.h): nothing goes wrong if they lie, or are of another revision, but for P1.
 * P4 Failures are not reported: the read that needs the page will meet them.
 */
#include "file.h"

#include <string.h>

#include "btree.h"

enum {
	TREES = 64,                /* interior pages whose children are kept; they take 4 bytes for each */
	NOTED = 32,                /* interior pages that came from memory, and are looked into when it matters */
	STREAMS = 4,
	STEPS = 2,                 /* in a row that make a scan, */
	DENSE_STEPS = 2,           /* and one of pages in the order of their numbers */
	DENSE_REACH = 2,
	STREAM_STEPS = 3,
	STREAM_REACH = 4,          /* pages that a stride may have */
	HOPS = 32,                 /* interior pages that a window may cover */
	SKIPS = 8,                 /* children that may be left out: SQLite has them in its own cache */
	WINDOW_FIRST = 4,
	WINDOW_BYTES = 2 << 20,    /* of one window */
	UNREAD_BYTES = 8 << 20,    /* asked for and not read */
	FREE_BYTES = 256 << 10,    /* of that, whatever it was good for before */
	WINDOW_MAX = WINDOW_BYTES / 512
};

/* What is read in one direction. Positions are indexes of children, or numbers of pages. */
typedef struct scan {
	int64_t at;      /* read last */
	int direction;   /* 1, -1; 0: none yet */
	unsigned steps;  /* in that direction */
	size_t window;   /* asked for at once last; 0: nothing was */
	int64_t ahead;   /* the next to ask for */
} scan;

/* An interior page. */
typedef struct tree {
	uint32_t page;
	uint32_t *children; /* NULL: unused */
	size_t count;
	bool begun;         /* scan.at is one */
	uint32_t sibling;   /* whose children come next; 0: not known */
	scan scan;
	uint64_t used;
} tree;

struct sq_prefetch {
	tree trees[TREES];
	uint64_t clock;
	uint32_t noted[NOTED];
	size_t noted_count;
	scan streams[STREAMS];
	size_t next_stream;
	uint32_t last;         /* page read, */
	unsigned dense;        /* and how many before it came in the order of their numbers */
	sq_pages pending;      /* asked for, and not read since */
	uint64_t asked, used;
	uint64_t misses_seen, misses;
	uint32_t children[SQ_CHILDREN_MAX];
	uint8_t page[65536];
	uint32_t pages[WINDOW_MAX + 1];
	uint64_t numbers[2 * (WINDOW_MAX + 1)];
};

static uint32_t page_size_of(const sq_file *f)
{
	return f->seen.page_size;
}

static uint32_t page_count_of(const sq_file *f)
{
	return (uint32_t)(f->size / page_size_of(f));
}

/* --- asking --------------------------------------------------------------------------------------------- */

static uint64_t in_pages(const sq_file *f, uint64_t bytes)
{
	uint64_t pages = bytes / page_size_of(f);
	return pages > WINDOW_FIRST ? pages : WINDOW_FIRST;
}

/* How many pages may be asked for now (P1): a quarter of a megabyte, and as much as a quarter of what was good for
 * something before; and a page for each sixteen reads that waited, so that who changed its ways is found out. */
static size_t allowance(const sq_file *f)
{
	const sq_prefetch *p = f->prefetch;
	uint64_t unread = p->asked - p->used;
	uint64_t most = in_pages(f, FREE_BYTES) + p->used / 4 + p->misses / 16;
	most = most < in_pages(f, UNREAD_BYTES) ? most : in_pages(f, UNREAD_BYTES);
	return most > unread ? (size_t)(most - unread) : 0;
}

/* The store's numbers of a page of SQLite's, which may be a part of one, or several. */
static size_t store_pages(const sq_file *f, uint32_t page, uint64_t *numbers)
{
	const uint64_t first = (uint64_t)(page - 1) * page_size_of(f), last = first + page_size_of(f) - 1;
	size_t count = 0;
	for (uint64_t n = first / f->page_size + 1; n <= last / f->page_size + 1; n++)
		numbers[count++] = n;
	return count;
}

/* Who will read the pages (file.c): what is under way is known to the transaction it was asked of. */
static pgs_txn *source_of(const sq_file *f)
{
	const bool fetches = f->state == SQ_NOT_WRITING && f->mmap_bytes > 0; /* xFetch */
	if (f->reader && (fetches || !f->writer))
		return f->reader;
	return f->writer ? f->writer : f->after;
}

/* Ask for the first `count` of p->pages. Returns how many of them need no further asking. */
static size_t ask(sq_file *f, size_t count)
{
	sq_prefetch *p = f->prefetch;
	const size_t room = sizeof p->numbers / sizeof *p->numbers;
	const size_t each = page_size_of(f) > f->page_size ? page_size_of(f) / f->page_size : 1;
	size_t used = 0, done = 0, taken = 0;
	if (!source_of(f))
		return 0;
	count = count * each <= room ? count : room / each;
	for (size_t i = 0; i < count; i++)
		used += store_pages(f, p->pages[i], p->numbers + used);
	if (pgs_prefetch_start(source_of(f), p->numbers, used, &taken) != PGS_OK)
		return 0;
	for (; done < count && (done + 1) * each <= taken; done++)
		if (!sq_pages_has(&p->pending, p->pages[done]) && sq_pages_add(&p->pending, p->pages[done]) == SQLITE_OK)
			p->asked++;
	return done;
}

/* The size of the next window: twice the last, as far as that is allowed. */
static size_t next_window(const sq_file *f, size_t window)
{
	const size_t allowed = allowance(f), bytes = (size_t)in_pages(f, WINDOW_BYTES);
	size_t most = bytes < WINDOW_MAX ? bytes : WINDOW_MAX, next = window ? 2 * window : WINDOW_FIRST;
	most = allowed < most ? allowed : most;
	return next < most ? next : most;
}

/* --- scans ------------------------------------------------------------------------------------------------- */

/* Something was read at `to`. Up to `reach` is one step; what was scanned for a while may leave out `skips`. */
static void scan_step(scan *s, int64_t to, int64_t reach, int64_t skips)
{
	const int direction = to > s->at ? 1 : -1;
	const int64_t far = to > s->at ? to - s->at : s->at - to;
	if (far == 0)
		return;
	if ((s->direction == direction || s->direction == 0) && far <= (s->steps < STEPS ? reach : skips)) {
		s->direction = direction;
		s->steps++;
	} else {
		*s = (scan){.direction = far <= reach ? direction : 0, .steps = far <= reach};
	}
	s->at = to;
}

/* How much of what was asked for is still to be read. */
static size_t scan_left(const scan *s)
{
	const int64_t left = (s->ahead - (s->at + s->direction)) * s->direction;
	return s->window && left > 0 ? (size_t)left : 0;
}

static bool scan_is_due(const scan *s, size_t left)
{
	return left <= s->window / 2;
}

/* Before more is asked for: the reader may have got past what was. */
static void scan_catch_up(scan *s)
{
	if (scan_left(s) == 0)
		s->ahead = s->at + s->direction;
}

/* --- interior pages ------------------------------------------------------------------------------------------ */

static tree *find_tree(sq_prefetch *p, uint32_t page)
{
	for (size_t i = 0; i < TREES; i++)
		if (p->trees[i].children && p->trees[i].page == page)
			return &p->trees[i];
	return NULL;
}

/* The place for one more: the least recently used one's. */
static tree *oldest_tree(sq_prefetch *p)
{
	tree *oldest = &p->trees[0];
	for (size_t i = 1; i < TREES; i++)
		if (p->trees[i].used < oldest->used)
			oldest = &p->trees[i];
	return oldest;
}

/* The scan of `t` comes to its sibling `s`: it goes on there as it was. */
static void pass_on(const tree *t, tree *s)
{
	if (s->begun)
		return;
	s->begun = true;
	s->scan = t->scan;
	s->scan.at = t->scan.direction > 0 ? -1 : (int64_t)s->count;
	s->scan.ahead = s->scan.at + t->scan.direction;
}

/* A scan that was waiting for this page goes on with it. */
static void inherit_scan(sq_prefetch *p, tree *s)
{
	for (size_t i = 0; i < TREES; i++)
		if (p->trees[i].children && p->trees[i].scan.window && p->trees[i].sibling == s->page)
			pass_on(&p->trees[i], s);
}

/* Keep the children of an interior page, if it is one. */
static tree *learn_tree(sq_file *f, uint32_t page, const uint8_t *bytes)
{
	sq_prefetch *p = f->prefetch;
	tree *t = find_tree(p, page);
	const size_t count = sq_btree_children(bytes, page_size_of(f), page, page_count_of(f), p->children);
	if (t && count == t->count && memcmp(t->children, p->children, count * sizeof *t->children) == 0)
		return t;
	if (!t && !count)
		return NULL;
	uint32_t *children = count ? sqlite3_malloc64(count * sizeof *children) : NULL;
	t = t ? t : oldest_tree(p);
	sqlite3_free(t->children);
	*t = (tree){.page = page, .children = children, .count = count};
	if (!children)
		return NULL;
	memcpy(children, p->children, count * sizeof *children);
	t->used = ++p->clock;
	inherit_scan(p, t);
	return t;
}

/* Read an interior page for its children: it is in memory, or on its way there. */
static tree *look_into(sq_file *f, uint32_t page)
{
	tree *t = find_tree(f->prefetch, page);
	if (t || f->page_size != page_size_of(f) || !source_of(f) || page > page_count_of(f))
		return t;
	if (pgs_read(source_of(f), page, f->prefetch->page) != PGS_OK)
		return NULL;
	return learn_tree(f, page, f->prefetch->page);
}

/* Look into it when it matters. */
static void note(sq_prefetch *p, uint32_t page)
{
	for (size_t i = 0; i < p->noted_count; i++)
		if (p->noted[i] == page)
			return;
	if (p->noted_count == NOTED)
		memmove(p->noted, p->noted + 1, --p->noted_count * sizeof *p->noted);
	p->noted[p->noted_count++] = page;
}

static int64_t index_of(const tree *t, uint32_t child)
{
	const int64_t next = t->scan.at + t->scan.direction;
	if (next >= 0 && next < (int64_t)t->count && t->children[next] == child)
		return next;
	for (size_t i = 0; i < t->count; i++)
		if (t->children[i] == child)
			return (int64_t)i;
	return -1;
}

static tree *find_parent(sq_prefetch *p, uint32_t child, int64_t *index)
{
	for (size_t i = 0; i < TREES; i++) {
		tree *t = &p->trees[i];
		if (!t->children || (*index = index_of(t, child)) < 0)
			continue;
		t->used = ++p->clock;
		return t;
	}
	return NULL;
}

/* The same, looking into pages that came from memory, too. */
static tree *search_parent(sq_file *f, uint32_t child, int64_t *index)
{
	sq_prefetch *p = f->prefetch;
	tree *t = find_parent(p, child, index);
	while (!t && p->noted_count) {
		look_into(f, p->noted[--p->noted_count]);
		t = find_parent(p, child, index);
	}
	return t;
}

/* --- scans of b-trees ---------------------------------------------------------------------------------------- */

static bool is_exhausted(const tree *t)
{
	return t->scan.ahead < 0 || t->scan.ahead >= (int64_t)t->count;
}

/* The interior page that follows; 0: the parent is not known, or it is the last. */
static uint32_t sibling_of(sq_prefetch *p, tree *t)
{
	int64_t index;
	const tree *parent = t->sibling ? NULL : find_parent(p, t->page, &index);
	if (parent && index + t->scan.direction >= 0 && index + t->scan.direction < (int64_t)parent->count)
		t->sibling = parent->children[index + t->scan.direction];
	return t->sibling;
}

static bool is_at_hand(sq_prefetch *p, uint32_t page)
{
	return find_tree(p, page) || sq_pages_has(&p->pending, page);
}

/* The next children of `t`, and once it looks like a long scan the page whose children come after them. */
static void ask_for_children(sq_file *f, tree *t)
{
	sq_prefetch *p = f->prefetch;
	scan *s = &t->scan;
	const size_t window = next_window(f, s->window);
	size_t count = 0, done;
	bool with_sibling = s->window && sibling_of(p, t) && !is_at_hand(p, t->sibling);
	scan_catch_up(s);
	with_sibling = with_sibling && window;
	if (with_sibling)
		p->pages[count++] = t->sibling;
	for (int64_t i = s->ahead; i >= 0 && i < (int64_t)t->count && count < window; i += s->direction)
		p->pages[count++] = t->children[i];
	done = count ? ask(f, count) : 0;
	if (done == 0)
		return;
	s->ahead += (int64_t)(done - with_sibling) * s->direction;
	s->window = window;
}

/* Where a scan goes on after `t`, if that can be known without waiting for long. */
static tree *next_tree(sq_file *f, tree *t)
{
	sq_prefetch *p = f->prefetch;
	const uint32_t sibling = sibling_of(p, t);
	if (!sibling)
		return NULL;
	if (!is_at_hand(p, sibling)) {
		p->pages[0] = sibling;
		if (allowance(f))
			ask(f, 1);
		return NULL;
	}
	tree *next = look_into(f, sibling);
	if (next)
		pass_on(t, next);
	return next;
}

/* Have a window under way ahead of the reader, in `t` and, where it ends, in those after it. */
static void keep_ahead(sq_file *f, tree *t)
{
	size_t left = 0;
	for (int hops = 0; t && hops < HOPS; hops++) {
		left += scan_left(&t->scan);
		if (!scan_is_due(&t->scan, left))
			return;
		scan_catch_up(&t->scan);
		if (!is_exhausted(t)) {
			ask_for_children(f, t);
			return;
		}
		const int direction = t->scan.direction;
		t = next_tree(f, t);
		t = t && t->scan.direction == direction ? t : NULL;
	}
}

static void step_in_tree(sq_file *f, tree *t, int64_t index)
{
	scan *s = &t->scan;
	if (t->begun) {
		scan_step(s, index, 1, SKIPS);
	} else { /* who begins at an end probably goes on to the other */
		t->begun = true;
		*s = (scan){.at = index, .direction = index == 0 ? 1 : index + 1 == (int64_t)t->count ? -1 : 0};
		s->steps = s->direction != 0;
	}
	if (s->steps >= STEPS)
		keep_ahead(f, t);
}

/* --- strides ---------------------------------------------------------------------------------------------------- */

static scan *find_stream(sq_prefetch *p, uint32_t page)
{
	for (size_t i = 0; i < STREAMS; i++) {
		const int64_t at = p->streams[i].at;
		if (at && page <= at + STREAM_REACH && page + STREAM_REACH >= at)
			return &p->streams[i];
	}
	scan *s = &p->streams[p->next_stream++ % STREAMS];
	*s = (scan){.at = page};
	return s;
}

static void step_in_stream(sq_file *f, uint32_t page)
{
	sq_prefetch *p = f->prefetch;
	scan *s = find_stream(p, page);
	size_t count = 0;
	scan_step(s, page, STREAM_REACH, STREAM_REACH);
	if (s->steps < STREAM_STEPS || !scan_is_due(s, scan_left(s)))
		return;
	scan_catch_up(s);
	const size_t window = next_window(f, s->window);
	for (int64_t i = s->ahead; i >= 2 && i <= page_count_of(f) && count < window; i += s->direction)
		p->pages[count++] = (uint32_t)i;
	const size_t done = count ? ask(f, count) : 0;
	if (done == 0)
		return;
	s->ahead += (int64_t)done * s->direction;
	s->window = window;
}

/* --- what SQLite reads ---------------------------------------------------------------------------------------------- */

static bool is_ready(sq_file *f)
{
	if (!f->prefetch) {
		f->prefetch = sqlite3_malloc64(sizeof *f->prefetch);
		if (f->prefetch)
			memset(f->prefetch, 0, sizeof *f->prefetch);
		f->prefetches = f->prefetch != NULL;
	}
	return f->prefetches;
}

/* The page was waited for, or would have been: see where this leads. */
static void follow(sq_file *f, uint32_t page, bool interior)
{
	int64_t index;
	if (f->prefetch->dense >= DENSE_STEPS)
		return;
	tree *parent = search_parent(f, page, &index);
	if (parent)
		step_in_tree(f, parent, index);
	else if (!interior)
		step_in_stream(f, page);
}

void sq_prefetch_saw(sq_file *f, int64_t offset, const uint8_t *bytes, size_t size)
{
	if (size == 0 || size != page_size_of(f) || offset % (int64_t)size != 0 || !is_ready(f))
		return;
	sq_prefetch *p = f->prefetch;
	const uint32_t page = (uint32_t)(offset / (int64_t)size) + 1;
	const bool interior = sq_btree_is_interior(bytes, page), missed = f->cost.cache_misses != p->misses_seen;
	const bool pending = sq_pages_has(&p->pending, page);
	p->dense = page > p->last && page - p->last <= DENSE_REACH ? p->dense + 1 : 0;
	p->last = page;
	if (pending) {
		sq_pages_remove(&p->pending, page);
		p->used++;
	}
	p->misses += missed && !pending;
	if (interior && (missed || pending || f->page_size != size))
		learn_tree(f, page, bytes);
	else if (interior)
		note(p, page);
	if (missed || pending)
		follow(f, page, interior);
	p->misses_seen = f->cost.cache_misses;
}

void sq_prefetch_forget(sq_file *f)
{
	sq_prefetch *p = f->prefetch;
	for (size_t i = 0; p && i < TREES; i++) {
		sqlite3_free(p->trees[i].children);
		p->trees[i] = (tree){0};
	}
}

void sq_prefetch_free(sq_file *f)
{
	sq_prefetch_forget(f);
	if (f->prefetch)
		sq_pages_free(&f->prefetch->pending);
	sqlite3_free(f->prefetch);
	f->prefetch = NULL;
}

/* --- numbers ------------------------------------------------------------------------------------------------------------ */

sq_prefetch_stat sq_prefetch_stat_get(const sq_file *f)
{
	const sq_prefetch *p = f->prefetch;
	return p ? (sq_prefetch_stat){p->asked, p->asked - p->used} : (sq_prefetch_stat){0};
}

void sq_prefetch_stat_reset(sq_file *f)
{
	sq_prefetch *p = f->prefetch;
	if (!p)
		return;
	sq_pages_clear(&p->pending);
	p->asked = p->used = p->misses = p->misses_seen = 0;
}
