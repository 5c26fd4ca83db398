/* The memory blob store: an array of objects in name order.
 *
 * An object never changes once it is in the array, so only the array is under
 * the lock: readers take a reference and copy without it, and a put fills its
 * object, asking the caller's source, before it takes the lock at all.
 */
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include <pagestore/backends.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/metered.h"

typedef struct object {
	char *name;
	size_t size;
	size_t references; /* the array's, and one for each read going on */
	uint8_t data[];
} object;

typedef struct blob_store {
	pthread_mutex_t lock;
	size_t handles;
	object **objects; /* in memcmp order of their names */
	size_t count;
	size_t capacity;
} blob_store;

typedef struct memory_blob {
	pgs__metered_blob base;
	blob_store *store;
} memory_blob;

static blob_store *store_of(pgs_blob *blob)
{
	return ((memory_blob *)blob)->store;
}

/* --- names -------------------------------------------------------------- */

static bool is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
	       c == '-';
}

/* A part ends at '/' or the end, is not empty, and not "." or "..". */
static bool is_part(const char *part, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (!is_name_char(part[i]))
			return false;
	return size > 2 || (size == 2 && memcmp(part, "..", 2) != 0) || (size == 1 && *part != '.');
}

static bool is_name(const char *name)
{
	if (strnlen(name, PGS_BLOB_NAME_MAX + 1) > PGS_BLOB_NAME_MAX)
		return false;
	for (;;) {
		size_t size = strcspn(name, "/");
		if (!is_part(name, size))
			return false;
		if (name[size] == '\0')
			return true;
		name += size + 1;
	}
}

static int check_call(const char *name, uint64_t deadline_ms, pgs_error *err)
{
	if (!is_name(name))
		return pgs__error(err, PGS_EINVAL, "not a blob name: \"%.*s\"", PGS_BLOB_NAME_MAX, name);
	if (pgs__deadline_passed(deadline_ms))
		return pgs__error(err, PGS_ETIMEOUT, "the deadline had passed before the call");
	return PGS_OK;
}

/* --- the array (under the lock) ----------------------------------------- */

/* The first object whose name is at or above `name`. */
static size_t find_place(const blob_store *store, const char *name)
{
	size_t low = 0, high = store->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(store->objects[middle]->name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_at(const blob_store *store, size_t place, const char *name)
{
	return place < store->count && strcmp(store->objects[place]->name, name) == 0;
}

static void free_object(object *o)
{
	pgs__free(o->name);
	pgs__free(o);
}

static object *acquire(blob_store *store, const char *name)
{
	object *found = NULL;
	pthread_mutex_lock(&store->lock);
	size_t place = find_place(store, name);
	if (is_at(store, place, name)) {
		found = store->objects[place];
		found->references++;
	}
	pthread_mutex_unlock(&store->lock);
	return found;
}

static void drop(blob_store *store, object *o)
{
	pthread_mutex_lock(&store->lock);
	bool last = --o->references == 0;
	pthread_mutex_unlock(&store->lock);
	if (last)
		free_object(o);
}

/* --- the slots ---------------------------------------------------------- */

static object *new_object(const char *name, uint64_t size)
{
	if (size > SIZE_MAX - sizeof(object))
		return NULL;
	object *o = pgs__malloc(sizeof *o + (size_t)size);
	if (!o)
		return NULL;
	*o = (object){.name = pgs__strndup(name, strlen(name)), .size = (size_t)size, .references = 1};
	if (o->name)
		return o;
	pgs__free(o);
	return NULL;
}

/* Takes the object over unless it fails. */
static int insert(blob_store *store, object *o)
{
	int status = PGS_OK;
	pthread_mutex_lock(&store->lock);
	size_t place = find_place(store, o->name);
	bool there = is_at(store, place, o->name);
	if (!there)
		status = pgs__grow(&store->objects, &store->capacity, store->count + 1, sizeof *store->objects);
	if (!there && status == PGS_OK) {
		memmove(&store->objects[place + 1], &store->objects[place],
			(store->count - place) * sizeof *store->objects);
		store->objects[place] = o;
		store->count++;
	}
	pthread_mutex_unlock(&store->lock);
	if (there)
		free_object(o); /* B2: the same bytes */
	return status;
}

static int memory_put(pgs_blob *blob, const char *name, uint64_t size_bytes, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	int status = check_call(name, deadline_ms, err);
	if (status != PGS_OK)
		return status;
	object *o = new_object(name, size_bytes);
	if (!o)
		return pgs__error_nomem(err, "a memory blob");
	if (size_bytes)
		status = source(ctx, 0, o->data, o->size);
	if (status != PGS_OK) {
		free_object(o);
		return pgs__error(err, status, "the source of blob \"%s\" failed", name);
	}
	status = insert(store_of(blob), o);
	if (status != PGS_OK) {
		free_object(o);
		return pgs__error_nomem(err, "a memory blob");
	}
	return PGS_OK;
}

static int get_one(blob_store *store, pgs_blob_range *range, uint64_t deadline_ms, pgs_error *err)
{
	int status = check_call(range->name, deadline_ms, err);
	if (status != PGS_OK)
		return status;
	object *o = acquire(store, range->name);
	if (!o)
		return pgs__error(err, PGS_ENOTFOUND, "no blob \"%s\"", range->name);
	if (range->offset > o->size || range->size > o->size - range->offset)
		status = pgs__error(err, PGS_ECORRUPT, "blob \"%s\" has %zu bytes: no %zu at offset %llu", range->name,
			o->size, range->size, (unsigned long long)range->offset);
	else if (range->size)
		memcpy(range->buffer, o->data + range->offset, range->size);
	drop(store, o);
	return status;
}

static int memory_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	int result = PGS_OK;
	for (size_t i = 0; i < count; i++) {
		ranges[i].status = get_one(store_of(blob), &ranges[i], deadline_ms, result == PGS_OK ? err : NULL);
		if (result == PGS_OK)
			result = ranges[i].status;
	}
	return result;
}

static int memory_stat(pgs_blob *blob, const char *name, uint64_t *size_bytes, uint64_t deadline_ms, pgs_error *err)
{
	*size_bytes = 0;
	int status = check_call(name, deadline_ms, err);
	if (status != PGS_OK)
		return status;
	object *o = acquire(store_of(blob), name);
	if (!o)
		return pgs__error(err, PGS_ENOTFOUND, "no blob \"%s\"", name);
	*size_bytes = o->size;
	drop(store_of(blob), o);
	return PGS_OK;
}

/* Takes a reference on the first object after `last` (NULL = from the first)
 * whose name begins with `prefix`; NULL at the end. */
static object *acquire_after(blob_store *store, const object *last, const char *prefix)
{
	object *found = NULL;
	pthread_mutex_lock(&store->lock);
	size_t place = find_place(store, last ? last->name : prefix);
	if (last && is_at(store, place, last->name))
		place++;
	if (place < store->count && strncmp(store->objects[place]->name, prefix, strlen(prefix)) == 0) {
		found = store->objects[place];
		found->references++;
	}
	pthread_mutex_unlock(&store->lock);
	return found;
}

/* Looks for its place again at each name: the lister may put and remove. */
static int memory_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	blob_store *store = store_of(blob);
	int status = PGS_OK;
	object *o = NULL;
	do {
		object *next = acquire_after(store, o, prefix);
		if (o)
			drop(store, o);
		o = next;
		if (pgs__deadline_passed(deadline_ms))
			status = pgs__error(err, PGS_ETIMEOUT, "the deadline passed while listing blobs");
		else if (o)
			status = lister(ctx, o->name, o->size);
	} while (o && status == 0);
	if (o)
		drop(store, o);
	return status;
}

static int memory_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	int status = check_call(name, deadline_ms, err);
	if (status != PGS_OK)
		return status;
	blob_store *store = store_of(blob);
	object *gone = NULL;
	pthread_mutex_lock(&store->lock);
	size_t place = find_place(store, name);
	if (is_at(store, place, name)) {
		gone = store->objects[place];
		store->count--;
		memmove(&store->objects[place], &store->objects[place + 1],
			(store->count - place) * sizeof *store->objects);
	}
	pthread_mutex_unlock(&store->lock);
	if (gone)
		drop(store, gone);
	return PGS_OK;
}

/* --- creation and end --------------------------------------------------- */

static void free_store(blob_store *store)
{
	for (size_t i = 0; i < store->count; i++)
		free_object(store->objects[i]);
	pgs__free(store->objects);
	pthread_mutex_destroy(&store->lock);
	pgs__free(store);
}

static void memory_close(pgs_blob *blob)
{
	blob_store *store = store_of(blob);
	pthread_mutex_lock(&store->lock);
	bool last = --store->handles == 0;
	pthread_mutex_unlock(&store->lock);
	if (last)
		free_store(store);
	pgs__free(blob);
}

static const pgs_blob_vtable memory_vtable = {
	.version = PGS_BLOB_VERSION,
	.struct_size = sizeof(pgs_blob_vtable),
	.put = memory_put,
	.get = memory_get,
	.stat = memory_stat,
	.list = memory_list,
	.remove = memory_remove,
	.close = memory_close,
};

static int new_handle(pgs_blob **out, blob_store *store, pgs_error *err)
{
	memory_blob *blob = pgs__calloc(1, sizeof *blob);
	if (!blob)
		return pgs__error_nomem(err, "a memory blob store");
	pgs__metered_blob_init(&blob->base, "memory", &memory_vtable);
	blob->store = store;
	pthread_mutex_lock(&store->lock);
	store->handles++;
	pthread_mutex_unlock(&store->lock);
	*out = &blob->base.base;
	return PGS_OK;
}

int pgs_blob_memory_new(pgs_blob **out, pgs_error *err)
{
	*out = NULL;
	blob_store *store = pgs__calloc(1, sizeof *store);
	if (!store || pthread_mutex_init(&store->lock, NULL) != 0) {
		pgs__free(store);
		return pgs__error_nomem(err, "a memory blob store");
	}
	int status = new_handle(out, store, err);
	if (status != PGS_OK)
		free_store(store);
	return status;
}

int pgs_blob_memory_share(pgs_blob **out, pgs_blob *blob, pgs_error *err)
{
	*out = NULL;
	if (!blob || blob->vtable->close != memory_close)
		return pgs__error(err, PGS_EINVAL, "not a memory blob store");
	return new_handle(out, store_of(blob), err);
}
