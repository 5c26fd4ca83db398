/* Requests to JSON, written straight into the buffer that is sent.
 *
 * The gateway's form of etcd's protobuf messages: bytes in base64, numbers as numbers, enumerations by their numbers,
 * fields of value zero left out. */
#include "etcd.h"

#include <stdio.h>
#include <string.h>

#include "base64.h"
#include "util/kv_check.h"

/* etcd's enumerations. */
static const unsigned targets[] = {
	[PGS_KV_VERSION_COUNT] = 0, [PGS_KV_CREATE] = 1, [PGS_KV_MOD] = 2, [PGS_KV_VALUE] = 3};
static const unsigned relations[] = {
	[PGS_KV_EQUAL] = 0, [PGS_KV_GREATER] = 1, [PGS_KV_LESS] = 2, [PGS_KV_NOT_EQUAL] = 3};

void pgs__etcd_put_text(pgs__buffer *out, const char *text)
{
	pgs__put_bytes(out, text, strlen(text));
}

/* etcd's are signed. Larger ones are above all that it has: so is the largest. */
void pgs__etcd_put_number(pgs__buffer *out, uint64_t number)
{
	char digits[20], *at = digits + sizeof digits;
	if (number > INT64_MAX)
		number = INT64_MAX;
	do
		*--at = (char)('0' + number % 10);
	while (number /= 10);
	pgs__put_bytes(out, at, (size_t)(digits + sizeof digits - at));
}

void pgs__etcd_put_string(pgs__buffer *out, const char *text)
{
	pgs__put_u8(out, '"');
	for (; *text; text++) {
		char escape[7];
		if (*text == '"' || *text == '\\')
			pgs__put_u8(out, '\\');
		if ((unsigned char)*text < ' ') {
			snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*text);
			pgs__etcd_put_text(out, escape);
		} else {
			pgs__put_u8(out, (uint8_t)*text);
		}
	}
	pgs__put_u8(out, '"');
}

void pgs__etcd_put_range(const pgs__etcd *e, pgs__buffer *out, pgs_slice key, pgs_slice range_end)
{
	pgs__etcd_put_text(out, "\"key\":\"");
	pgs__base64_put(out, e->prefix, key);
	if (range_end.size) {
		pgs__etcd_put_text(out, "\",\"range_end\":\"");
		if (pgs__kv_is_to_end(range_end))
			pgs__base64_put(out, e->prefix_end, (pgs_slice){NULL, 0});
		else
			pgs__base64_put(out, e->prefix, range_end);
	}
	pgs__put_u8(out, '"');
}

static void put_field(pgs__buffer *out, const char *name, uint64_t number)
{
	pgs__etcd_put_text(out, name);
	pgs__etcd_put_number(out, number);
}

static void put_value(pgs__buffer *out, const char *name, pgs_slice value)
{
	pgs__etcd_put_text(out, name);
	pgs__base64_put(out, value, (pgs_slice){NULL, 0});
	pgs__put_u8(out, '"');
}

static void put_compare(const pgs__etcd *e, pgs__buffer *out, const pgs_kv_compare *compare)
{
	static const char *const names[] = {[PGS_KV_VERSION_COUNT] = ",\"version\":",
		[PGS_KV_CREATE] = ",\"create_revision\":",
		[PGS_KV_MOD] = ",\"mod_revision\":"};
	pgs__put_u8(out, '{');
	pgs__etcd_put_range(e, out, compare->key, compare->range_end);
	if (targets[compare->target])
		put_field(out, ",\"target\":", targets[compare->target]);
	if (relations[compare->relation])
		put_field(out, ",\"result\":", relations[compare->relation]);
	if (compare->target == PGS_KV_VALUE)
		put_value(out, ",\"value\":\"", compare->value);
	else if (compare->number)
		put_field(out, names[compare->target], compare->number);
	pgs__put_u8(out, '}');
}

static void put_range_members(const pgs__etcd *e, pgs__buffer *out, const pgs_kv_op *op, size_t limit)
{
	pgs__etcd_put_range(e, out, op->key, op->range_end);
	if (op->revision)
		put_field(out, ",\"revision\":", op->revision);
	if (op->min_mod_revision)
		put_field(out, ",\"min_mod_revision\":", op->min_mod_revision);
	if (limit)
		put_field(out, ",\"limit\":", limit);
	if (op->keys_only)
		pgs__etcd_put_text(out, ",\"keys_only\":true");
	if (op->count_only)
		pgs__etcd_put_text(out, ",\"count_only\":true");
}

/* Not one whose pages would each read the whole range: etcd looks at min_mod_revision after reading. */
bool pgs__etcd_pages(const pgs_kv_op *op)
{
	return op->kind == PGS_KV_RANGE && op->range_end.size && !op->count_only && !op->min_mod_revision;
}

static void put_op(const pgs__etcd *e, pgs__buffer *out, const pgs_kv_op *op, size_t page)
{
	switch (op->kind) {
	case PGS_KV_PUT:
		pgs__etcd_put_text(out, "{\"request_put\":{");
		pgs__etcd_put_range(e, out, op->key, (pgs_slice){NULL, 0});
		put_value(out, ",\"value\":\"", op->value);
		break;
	case PGS_KV_DELETE:
		pgs__etcd_put_text(out, "{\"request_delete_range\":{");
		pgs__etcd_put_range(e, out, op->key, op->range_end);
		break;
	case PGS_KV_RANGE:
		pgs__etcd_put_text(out, "{\"request_range\":{");
		bool cut = page && pgs__etcd_pages(op) && (op->limit == 0 || op->limit > page);
		put_range_members(e, out, op, cut ? page : op->limit);
		break;
	}
	pgs__etcd_put_text(out, "}}");
}

static void put_branch(const pgs__etcd *e, pgs__buffer *out, const char *name, const pgs_kv_op *ops, size_t count,
	size_t page)
{
	for (size_t i = 0; i < count; i++) {
		pgs__etcd_put_text(out, i ? "," : name);
		put_op(e, out, &ops[i], page);
	}
	if (count)
		pgs__put_u8(out, ']');
}

void pgs__etcd_put_txn(const pgs__etcd *e, pgs__buffer *out, const pgs_kv_txn *txn, size_t page)
{
	/* etcd answers a transaction without any operation from what this member has, which may be old: read something. */
	static const pgs_kv_op any = {.kind = PGS_KV_RANGE, .key = {"", 1}, .count_only = true};
	bool empty = txn->success_count == 0 && txn->failure_count == 0;
	pgs__etcd_put_text(out, "{\"compare\":[");
	for (size_t i = 0; i < txn->compare_count; i++) {
		if (i)
			pgs__put_u8(out, ',');
		put_compare(e, out, &txn->compares[i]);
	}
	pgs__put_u8(out, ']');
	put_branch(e, out, ",\"success\":[", empty ? &any : txn->success, empty ? 1 : txn->success_count, page);
	put_branch(e, out, ",\"failure\":[", empty ? &any : txn->failure, empty ? 1 : txn->failure_count, page);
	pgs__put_u8(out, '}');
}

void pgs__etcd_put_range_request(const pgs__etcd *e, pgs__buffer *out, const pgs_kv_op *op)
{
	pgs__put_u8(out, '{');
	put_range_members(e, out, op, op->limit);
	pgs__put_u8(out, '}');
}
