/* Filters in memory: a ring of slots with a clock's hand. `used` is the sum of the sizes in the ring. */
#include "content/filters.h"

#include "util/alloc.h"

void pgs__filters_init(pgs__filters *filters)
{
	*filters = (pgs__filters){.budget = PGS__FILTERS_BUDGET};
	pthread_mutex_init(&filters->lock, NULL);
}

void pgs__filters_free(pgs__filters *filters)
{
	pthread_mutex_destroy(&filters->lock);
}

/* Put a slot where the hand comes last. */
static void link_slot(pgs__filters *filters, pgs__filter_slot *slot)
{
	pgs__filter_slot *hand = filters->hand;
	if (!hand) {
		slot->next = slot->previous = filters->hand = slot;
	} else {
		slot->next = hand;
		slot->previous = hand->previous;
		hand->previous->next = slot;
		hand->previous = slot;
	}
	filters->used += slot->size;
}

static void drop_slot(pgs__filters *filters, pgs__filter_slot *slot)
{
	slot->previous->next = slot->next;
	slot->next->previous = slot->previous;
	if (filters->hand == slot)
		filters->hand = slot->next == slot ? NULL : slot->next;
	filters->used -= slot->size;
	pgs__free(slot->bits);
	*slot = (pgs__filter_slot){0};
}

static void make_room(pgs__filters *filters, size_t size)
{
	while (filters->hand && filters->used + size > filters->budget) {
		pgs__filter_slot *slot = filters->hand;
		if (slot->recent) {
			slot->recent = false;
			filters->hand = slot->next;
		} else {
			drop_slot(filters, slot);
			filters->evicted++;
		}
	}
}

bool pgs__filters_may_have(pgs__filters *filters, pgs__filter_slot *slot, const pgs__page_id *id)
{
	pthread_mutex_lock(&filters->lock);
	bool may_have = !slot->bits || pgs__filter_may_have(slot->bits, slot->size, id);
	slot->recent = true;
	filters->refused += !may_have;
	pthread_mutex_unlock(&filters->lock);
	return may_have;
}

bool pgs__filters_due(pgs__filters *filters, pgs__filter_slot *slot, size_t size, size_t slice_bytes, bool last)
{
	pthread_mutex_lock(&filters->lock);
	bool due = false;
	if (!slot->bits && !slot->damaged && size <= filters->budget) {
		slot->missed_bytes += slice_bytes;
		bool room = filters->used + size <= filters->budget;
		due = slot->missed_bytes > (!room ? size : last ? size / 4 : 0);
	}
	pthread_mutex_unlock(&filters->lock);
	return due;
}

bool pgs__filters_has_room(pgs__filters *filters, const pgs__filter_slot *slot, uint64_t size)
{
	pthread_mutex_lock(&filters->lock);
	bool room = !slot->bits && filters->used + size <= filters->budget;
	pthread_mutex_unlock(&filters->lock);
	return room;
}

void pgs__filters_keep(pgs__filters *filters, pgs__filter_slot *slot, uint8_t *bits, size_t size)
{
	pthread_mutex_lock(&filters->lock);
	if (slot->bits || size > filters->budget) { /* another thread was first */
		pgs__free(bits);
	} else {
		make_room(filters, size);
		*slot = (pgs__filter_slot){.bits = bits, .size = size, .recent = true};
		link_slot(filters, slot);
		filters->loaded++;
	}
	pthread_mutex_unlock(&filters->lock);
}

void pgs__filters_set_damaged(pgs__filters *filters, pgs__filter_slot *slot)
{
	pthread_mutex_lock(&filters->lock);
	slot->damaged = true;
	pthread_mutex_unlock(&filters->lock);
}

void pgs__filters_forget(pgs__filters *filters, pgs__filter_slot *slot)
{
	pthread_mutex_lock(&filters->lock);
	if (slot->bits)
		drop_slot(filters, slot);
	pthread_mutex_unlock(&filters->lock);
}
