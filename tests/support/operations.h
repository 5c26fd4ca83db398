/* What a backend counted, kept for comparing: see pagestore/operations.h. */
#ifndef PGS_TESTS_OPERATIONS_H
#define PGS_TESTS_OPERATIONS_H

#include <pagestore.h>
#include <pagestore/sys/blob.h>
#include <pagestore/sys/kv.h>

typedef struct operation_list {
	pgs_operation_stat stats[24];
	size_t count;
} operation_list;

/* The backend has the slot. */
operation_list kv_operations(pgs_kv *kv);
operation_list blob_operations(pgs_blob *blob);
operation_list store_operations(pgs_store *store);

/* What was added since `before` (NULL: since it was opened), with the later quantiles; zeros for an operation that is
 * not there. */
pgs_operation_stat operation_since(const operation_list *now, const operation_list *before, const char *operation);

/* Requests of all operations. */
uint64_t all_requests(const operation_list *list);

/* Fails unless nothing has shrunk since, and the numbers go together. */
void operations_expect_grown(const operation_list *now, const operation_list *before);

#endif
