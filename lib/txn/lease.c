/* Leases. */
#include "txn/lease.h"

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/process.h"
#include "util/random.h"

#define SIGHTINGS_KEPT_MS 86400000u /* of databases that nobody opens, which may have been dropped */

int pgs__lease_self(pgs__lock *out, uint64_t lease_ms, pgs_error *err)
{
	pgs__process self = pgs__process_self();
	*out = (pgs__lock){.pid = self.pid, .process_start = self.start, .lease_ms = lease_ms};
	memcpy(out->boot_id, self.boot_id, sizeof out->boot_id);
	if (pgs__random_bytes(out->owner, sizeof out->owner) != PGS_OK)
		return pgs__error(err, PGS_EIO, "the system gives no random bytes");
	return PGS_OK;
}

bool pgs__lease_is_elsewhere(const pgs__lock *holder)
{
	const uint8_t unknown[sizeof holder->boot_id] = {0};
	pgs__process self = pgs__process_self();
	return memcmp(holder->boot_id, self.boot_id, sizeof self.boot_id) != 0 ||
	       memcmp(holder->boot_id, unknown, sizeof unknown) == 0;
}

bool pgs__lease_is_gone(const pgs__lock *holder)
{
	pgs__process process = {.pid = holder->pid, .start = holder->process_start};
	memcpy(process.boot_id, holder->boot_id, sizeof process.boot_id);
	return pgs__process_is_gone(&process);
}

void pgs__observed_init(pgs__observed *observed)
{
	observed->since = (pgs__map){0};
	pthread_mutex_init(&observed->lock, NULL);
}

void pgs__observed_free(pgs__observed *observed)
{
	pgs__map_free(&observed->since);
	pthread_mutex_destroy(&observed->lock);
}

/* Keep what is still there, so that the table is never larger than the keys of its kind. */
static void replace(pgs__observed *observed, pgs__lease *const *leases, size_t count, uint64_t now_ms)
{
	pgs__map next = {0};
	for (size_t i = 0; i < count; i++) {
		const uint64_t *since = pgs__map_get(&observed->since, leases[i]->mod_revision);
		if (pgs__map_set(&next, leases[i]->mod_revision, since ? *since : now_ms, NULL) != PGS_OK) {
			pgs__map_free(&next);
			return;
		}
	}
	pgs__map_free(&observed->since);
	observed->since = next;
}

void pgs__observed_judge(pgs__observed *observed, pgs__lease *const *leases, size_t count, uint64_t asked_ms)
{
	pthread_mutex_lock(&observed->lock);
	replace(observed, leases, count, pgs__now_ms());
	for (size_t i = 0; i < count; i++) {
		const uint64_t *since = pgs__map_get(&observed->since, leases[i]->mod_revision);
		leases[i]->dead_at_ms = since && leases[i]->holder.lease_ms < UINT64_MAX - *since
						? *since + leases[i]->holder.lease_ms
						: 0;
		leases[i]->dead = since && asked_ms >= *since && asked_ms - *since >= leases[i]->holder.lease_ms;
	}
	pthread_mutex_unlock(&observed->lock);
	for (size_t i = 0; i < count; i++)
		leases[i]->dead = leases[i]->dead || pgs__lease_is_gone(&leases[i]->holder);
}

/* --- of databases --------------------------------------------------------------- */

static void sightings_delete(pgs__sightings *s)
{
	pgs__observed_free(&s->claims);
	pgs__observed_free(&s->pins);
	pgs__observed_free(&s->writers);
	pgs__free(s);
}

/* Delete those that are not of use any more. */
static void tidy(pgs__sightings **list)
{
	uint64_t now = pgs__now_ms();
	for (pgs__sightings **link = list; *link;) {
		pgs__sightings *s = *link;
		bool empty = s->claims.since.count == 0 && s->pins.since.count == 0;
		if (s->references || (!empty && now - s->left_ms < SIGHTINGS_KEPT_MS)) {
			link = &s->next;
			continue;
		}
		*link = s->next;
		sightings_delete(s);
	}
}

pgs__sightings *pgs__sightings_enter(pgs__sightings **list, const uint8_t *prefix)
{
	pgs__sightings *s = *list;
	while (s && memcmp(s->prefix, prefix, PGS__PREFIX_SIZE) != 0)
		s = s->next;
	if (!s && (s = pgs__calloc(1, sizeof *s))) {
		memcpy(s->prefix, prefix, PGS__PREFIX_SIZE);
		pgs__observed_init(&s->claims);
		pgs__observed_init(&s->pins);
		pgs__observed_init(&s->writers);
		s->next = *list;
		*list = s;
	}
	if (s)
		s->references++;
	return s;
}

void pgs__sightings_leave(pgs__sightings **list, pgs__sightings *sightings)
{
	if (!sightings)
		return;
	sightings->left_ms = pgs__now_ms();
	sightings->references--;
	tidy(list);
}

void pgs__sightings_free(pgs__sightings **list)
{
	while (*list) {
		pgs__sightings *s = *list;
		*list = s->next;
		sightings_delete(s);
	}
}
