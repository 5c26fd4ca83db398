/* Pages that the cache file knew: it has the content that a commit turns their pointer away from, so somebody on this
 * machine, in this process or one before, has read them.
 *
 * The mirror still has the old pointers: this comes before it takes the batch. Also of what happened while nobody
 * followed, which is for the mirror alone.
 */
#include "follow/follower.h"
#include "local_cache/mirror.h"

#define KEYS 64 /* looked up at once */

/* Pages of a batch that the page cache does not know, and the contents they had. */
typedef struct hot {
	pgs__follower *f;
	const pgs_kv_pair *pairs[KEYS];
	pgs_slice keys[KEYS];
	pgs__page_id old[KEYS];
	bool has_old[KEYS];
	size_t count;
} hot;

static void take_old(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	hot *h = ctx;
	uint64_t page_no;
	pgs__pointer pointer;
	h->has_old[index] = false;
	if (answer != PGS__MIRROR_PRESENT || !pgs__key_parse_page(pair->key, &page_no) ||
	    pgs__pointer_decode(pair->value, pgs__page_group(page_no, h->f->db->contents.page_size), &pointer) != PGS_OK)
		return;
	h->has_old[index] = pointer.kind == PGS__POINTER_FULL || (pointer.kind == PGS__POINTER_DELTA && pointer.has_base);
	h->old[index] = pointer.kind == PGS__POINTER_DELTA ? pointer.base : pointer.id;
}

/* The page needs another content now, if that is not in its pointer. */
static void fetch_later(pgs__follower *f, const pgs_kv_pair *pair)
{
	uint64_t page_no;
	pgs__pointer now;
	if (!pgs__key_parse_page(pair->key, &page_no) ||
	    pgs__pointer_decode(pair->value, pgs__page_group(page_no, f->db->contents.page_size), &now) != PGS_OK)
		return;
	bool based = now.kind == PGS__POINTER_DELTA && now.has_base;
	pgs__fetch_page page = {.page_no = page_no, .revision = pair->mod_revision, .known = true,
				.recent = pair->mod_revision > f->begun, .id = based ? now.base : now.id};
	if (now.kind == PGS__POINTER_FULL || based)
		pgs__fetch_page_later(&f->fetch, page.recent ? PGS_FETCH_QUEUE_COMMITS : PGS_FETCH_QUEUE_HOT, &page);
}

static void look_up(hot *h)
{
	pgs__disk_db *disk = h->f->db->contents.disk;
	pgs__page_id ids[KEYS];
	size_t places[KEYS], count = 0;
	bool there[KEYS] = {false};
	for (size_t i = 0; i < h->count; i++)
		h->has_old[i] = false;
	if (!h->count || pgs__mirror_get(disk, 0, h->keys, h->count, take_old, h, NULL, NULL) != PGS_OK)
		h->count = 0;
	for (size_t i = 0; i < h->count; i++) {
		if (!h->has_old[i])
			continue;
		places[count] = i;
		ids[count++] = h->old[i];
	}
	if (count && pgs__disk_look(disk, ids, count, there) == PGS_OK)
		for (size_t i = 0; i < count; i++)
			if (there[i])
				fetch_later(h->f, h->pairs[places[i]]);
	h->count = 0;
}

void pgs__follow_note_hot(pgs__follower *f, const pgs_kv_events *batch)
{
	hot h = {.f = f};
	if (!f->mirrors || f->load_due || f->load || f->fetch.options.fetch != PGS_FETCH_HOT)
		return;
	for (size_t i = 0; i < batch->count; i++) {
		const pgs_kv_event *e = &batch->events[i];
		uint64_t page_no;
		if (e->deleted || e->pair.mod_revision > f->seen || e->pair.mod_revision <= f->mirrored ||
		    !pgs__key_parse_page(e->pair.key, &page_no) || pgs__cache_knows(f->db->contents.cache, page_no))
			continue;
		h.pairs[h.count] = &e->pair;
		h.keys[h.count++] = e->pair.key;
		if (h.count == KEYS)
			look_up(&h);
	}
	look_up(&h);
}
