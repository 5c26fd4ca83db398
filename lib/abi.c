/* The binary interface, pinned.
 *
 * Backends and engines are compiled apart from the library, so a field that
 * moves breaks them without a word from the compiler. These asserts are the
 * word: on an LP64 machine (the only kind there are numbers for) every field
 * stays where it is, and new ones go to the end of structs that carry
 * struct_size. Changing a number here is a new major version.
 */
#include <stddef.h>

#include <pagestore.h>
#include <pagestore/backends.h>
#include <pagestore/fault.h>
#include <pagestore/sys/blob.h>
#include <pagestore/sys/kv.h>

#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " has moved")
#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has another size")

/* A caller's struct_size is read before anything else is known of it. */
AT(pgs_store_options, struct_size, 0);
AT(pgs_db_options, struct_size, 0);
AT(pgs_db_stat, struct_size, 0);
AT(pgs_cache_stat, struct_size, 0);
AT(pgs_txn_options, struct_size, 0);
AT(pgs_commit_options, struct_size, 0);
AT(pgs_cost, struct_size, 0);
AT(pgs_log_options, struct_size, 0);
AT(pgs_verify_options, struct_size, 0);
AT(pgs_verify_report, struct_size, 0);
AT(pgs_operation_stat, struct_size, 0);
AT(pgs_follow_options, struct_size, 0);
AT(pgs_follow_stat, struct_size, 0);

#if defined(__LP64__)

/* The KV vtable: slot after slot, only ever appended to. */
AT(pgs_kv_vtable, version, 0);
AT(pgs_kv_vtable, struct_size, 4);
AT(pgs_kv_vtable, txn, 8);
AT(pgs_kv_vtable, release, 16);
AT(pgs_kv_vtable, watch_open, 24);
AT(pgs_kv_vtable, watch_next, 32);
AT(pgs_kv_vtable, watch_close, 40);
AT(pgs_kv_vtable, compact, 48);
AT(pgs_kv_vtable, limits, 56);
AT(pgs_kv_vtable, identity, 64);
AT(pgs_kv_vtable, stat, 72);
AT(pgs_kv_vtable, close, 80);
AT(pgs_kv_vtable, operations, 88);
AT(pgs_kv_vtable, changes, 96);

/* The blob vtable. */
AT(pgs_blob_vtable, version, 0);
AT(pgs_blob_vtable, struct_size, 4);
AT(pgs_blob_vtable, put, 8);
AT(pgs_blob_vtable, get, 16);
AT(pgs_blob_vtable, stat, 24);
AT(pgs_blob_vtable, list, 32);
AT(pgs_blob_vtable, remove, 40);
AT(pgs_blob_vtable, close, 48);
AT(pgs_blob_vtable, operations, 56);
AT(pgs_blob_vtable, concurrency, 64);

/* What backends are given and give back. */
AT(pgs_slice, data, 0);
AT(pgs_slice, size, 8);
SIZE(pgs_slice, 16);

AT(pgs_kv_compare, key, 0);
AT(pgs_kv_compare, range_end, 16);
AT(pgs_kv_compare, target, 32);
AT(pgs_kv_compare, relation, 36);
AT(pgs_kv_compare, number, 40);
AT(pgs_kv_compare, value, 48);
SIZE(pgs_kv_compare, 64);

AT(pgs_kv_op, kind, 0);
AT(pgs_kv_op, key, 8);
AT(pgs_kv_op, range_end, 24);
AT(pgs_kv_op, value, 40);
AT(pgs_kv_op, revision, 56);
AT(pgs_kv_op, min_mod_revision, 64);
AT(pgs_kv_op, limit, 72);
AT(pgs_kv_op, keys_only, 80);
AT(pgs_kv_op, count_only, 81);
SIZE(pgs_kv_op, 88);

AT(pgs_kv_pair, key, 0);
AT(pgs_kv_pair, value, 16);
AT(pgs_kv_pair, create_revision, 32);
AT(pgs_kv_pair, mod_revision, 40);
AT(pgs_kv_pair, version, 48);
SIZE(pgs_kv_pair, 56);

AT(pgs_kv_result, pairs, 0);
AT(pgs_kv_result, count, 8);
AT(pgs_kv_result, total, 16);
AT(pgs_kv_result, more, 24);
SIZE(pgs_kv_result, 32);

AT(pgs_kv_txn, compares, 0);
AT(pgs_kv_txn, compare_count, 8);
AT(pgs_kv_txn, success, 16);
AT(pgs_kv_txn, success_count, 24);
AT(pgs_kv_txn, failure, 32);
AT(pgs_kv_txn, failure_count, 40);
AT(pgs_kv_txn, status, 48);
AT(pgs_kv_txn, succeeded, 52);
AT(pgs_kv_txn, revision, 56);
AT(pgs_kv_txn, results, 64);
AT(pgs_kv_txn, result_count, 72);
AT(pgs_kv_txn, response, 80);
SIZE(pgs_kv_txn, 88);

AT(pgs_kv_event, deleted, 0);
AT(pgs_kv_event, pair, 8);
SIZE(pgs_kv_event, 64);

AT(pgs_kv_events, events, 0);
AT(pgs_kv_events, count, 8);
AT(pgs_kv_events, revision, 16);
SIZE(pgs_kv_events, 24);

AT(pgs_kv_limits, max_txn_ops, 0);
AT(pgs_kv_limits, max_request_bytes, 8);
AT(pgs_kv_limits, max_key_bytes, 16);
AT(pgs_kv_limits, max_value_bytes, 24);
SIZE(pgs_kv_limits, 32);

AT(pgs_kv_stat, revision, 0);
AT(pgs_kv_stat, compacted_revision, 8);
AT(pgs_kv_stat, size_bytes, 16);
AT(pgs_kv_stat, quota_bytes, 24);
AT(pgs_kv_stat, used_bytes, 32);
SIZE(pgs_kv_stat, 40);

AT(pgs_blob_range, name, 0);
AT(pgs_blob_range, offset, 8);
AT(pgs_blob_range, size, 16);
AT(pgs_blob_range, buffer, 24);
AT(pgs_blob_range, status, 32);
SIZE(pgs_blob_range, 40);

AT(pgs_operation_stat, backend, 8);
AT(pgs_operation_stat, operation, 16);
AT(pgs_operation_stat, requests, 24);
AT(pgs_operation_stat, failures, 32);
AT(pgs_operation_stat, retries, 40);
AT(pgs_operation_stat, bytes_sent, 48);
AT(pgs_operation_stat, bytes_received, 56);
AT(pgs_operation_stat, p50_us, 64);
AT(pgs_operation_stat, p99_us, 72);
AT(pgs_operation_stat, max_us, 80);

AT(pgs_cost, kv_requests, 8);
AT(pgs_cost, kv_bytes_sent, 16);
AT(pgs_cost, kv_bytes_received, 24);
AT(pgs_cost, blob_gets, 32);
AT(pgs_cost, blob_bytes_received, 40);
AT(pgs_cost, blob_puts, 48);
AT(pgs_cost, blob_bytes_sent, 56);
AT(pgs_cost, cache_hits, 64);
AT(pgs_cost, cache_misses, 72);
AT(pgs_cost, pages_ahead, 80);
AT(pgs_cost, disk_cache_hits, 88);
AT(pgs_cost, disk_cache_misses, 96);

/* Options of the backends, and the plain structs of the API that have no size field. */
AT(pgs_local_options, struct_size, 0);
AT(pgs_local_options, sync, 4);
AT(pgs_local_options, map_bytes, 8);
AT(pgs_local_options, read_only, 16);
AT(pgs_local_options, must_exist, 17);

AT(pgs_fault_options, struct_size, 0);
AT(pgs_fault_options, seed, 8);
AT(pgs_fault_options, error_per_million, 16);
AT(pgs_fault_options, lose_reply_per_million, 20);
AT(pgs_fault_options, latency_us_max, 24);
AT(pgs_fault_options, before, 32);
AT(pgs_fault_options, before_ctx, 40);

AT(pgs_allocator, alloc, 0);
AT(pgs_allocator, realloc, 8);
AT(pgs_allocator, free, 16);
AT(pgs_allocator, ctx, 24);
SIZE(pgs_allocator, 32);

AT(pgs_error, code, 0);
AT(pgs_error, page, 8);
AT(pgs_error, message, 16);
SIZE(pgs_error, 400);

#endif
