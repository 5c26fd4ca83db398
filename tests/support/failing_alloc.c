/* See failing_alloc.h. */
#include "support/failing_alloc.h"

#include <stdatomic.h>
#include <stdlib.h>

#include <pagestore/alloc.h>

static atomic_size_t until; /* allocations until the one that fails, it included; 0 = none */
static atomic_bool failed;
static atomic_size_t live;

static bool must_fail(void)
{
	size_t left = atomic_load(&until);
	while (left && !atomic_compare_exchange_weak(&until, &left, left - 1))
		;
	if (left != 1)
		return false;
	atomic_store(&failed, true);
	return true;
}

static void *counted_alloc(void *ctx, size_t size)
{
	(void)ctx;
	void *ptr = must_fail() ? NULL : malloc(size);
	if (ptr)
		atomic_fetch_add(&live, 1);
	return ptr;
}

static void *counted_realloc(void *ctx, void *ptr, size_t size)
{
	if (!ptr)
		return counted_alloc(ctx, size);
	return must_fail() ? NULL : realloc(ptr, size);
}

static void counted_free(void *ctx, void *ptr)
{
	(void)ctx;
	if (ptr)
		atomic_fetch_sub(&live, 1);
	free(ptr);
}

void failing_alloc_install(void)
{
	static const pgs_allocator counted = {counted_alloc, counted_realloc, counted_free, NULL};
	pgs_set_allocator(&counted);
	failing_alloc_begin(0);
	atomic_store(&live, 0);
}

void failing_alloc_uninstall(void)
{
	pgs_set_allocator(NULL);
}

void failing_alloc_begin(size_t nth)
{
	atomic_store(&failed, false);
	atomic_store(&until, nth);
}

bool failing_alloc_end(void)
{
	atomic_store(&until, 0);
	return atomic_load(&failed);
}

size_t failing_alloc_live(void)
{
	return atomic_load(&live);
}
