/* What a backend counted. */
#include "support/operations.h"

#include <string.h>

#include "support/testing.h"

static void take(void *ctx, const pgs_operation_stat *stat)
{
	operation_list *list = ctx;
	assert_true(list->count < sizeof list->stats / sizeof *list->stats);
	assert_int_equal(stat->struct_size, sizeof *stat);
	list->stats[list->count++] = *stat;
}

operation_list kv_operations(pgs_kv *kv)
{
	operation_list list = {0};
	kv->vtable->operations(kv, take, &list);
	return list;
}

operation_list blob_operations(pgs_blob *blob)
{
	operation_list list = {0};
	blob->vtable->operations(blob, take, &list);
	return list;
}

operation_list store_operations(pgs_store *store)
{
	operation_list list = {0};
	assert_int_equal(pgs_store_operations(store, take, &list, NULL), PGS_OK);
	return list;
}

static const pgs_operation_stat *find(const operation_list *list, const char *operation)
{
	static const pgs_operation_stat none;
	for (size_t i = 0; list && i < list->count; i++)
		if (!strcmp(list->stats[i].operation, operation))
			return &list->stats[i];
	return &none;
}

pgs_operation_stat operation_since(const operation_list *now, const operation_list *before, const char *operation)
{
	const pgs_operation_stat *old = find(before, operation);
	pgs_operation_stat s = *find(now, operation);
	s.requests -= old->requests;
	s.failures -= old->failures;
	s.retries -= old->retries;
	s.bytes_sent -= old->bytes_sent;
	s.bytes_received -= old->bytes_received;
	return s;
}

uint64_t all_requests(const operation_list *list)
{
	uint64_t requests = 0;
	for (size_t i = 0; i < list->count; i++)
		requests += list->stats[i].requests;
	return requests;
}

void operations_expect_grown(const operation_list *now, const operation_list *before)
{
	assert_int_equal(now->count, before->count);
	for (size_t i = 0; i < now->count; i++) {
		const pgs_operation_stat *s = &now->stats[i], *old = &before->stats[i];
		assert_string_equal(s->backend, old->backend);
		assert_string_equal(s->operation, old->operation);
		assert_true(s->requests >= old->requests && s->failures >= old->failures);
		assert_true(s->retries >= old->retries && s->max_us >= old->max_us);
		assert_true(s->bytes_sent >= old->bytes_sent && s->bytes_received >= old->bytes_received);
		assert_true(s->failures <= s->requests && s->retries <= s->requests);
		assert_true(s->p50_us <= s->p99_us && s->p99_us <= s->max_us);
	}
}
