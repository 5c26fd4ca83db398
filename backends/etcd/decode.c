/* JSON to results. What comes is not trusted: what is not as etcd's gateway writes it is PGS_ECORRUPT. */
#include "etcd.h"

#include <string.h>

#include "json.h"
#include "util/alloc.h"

/* --- small replies, with jansson ------------------------------------------------------- */

/* 64-bit numbers come as strings, small ones as numbers. */
uint64_t pgs__etcd_number(const json_t *object, const char *name, bool *good)
{
	const json_t *member = json_object_get(object, name);
	if (!member)
		return 0;
	if (json_is_integer(member) && json_integer_value(member) >= 0)
		return (uint64_t)json_integer_value(member);
	const char *text = json_string_value(member);
	uint64_t number = 0;
	if (!text || !*text)
		*good = false;
	for (; text && *text && *good; text++) {
		unsigned digit = (unsigned)(*text - '0');
		*good = digit <= 9 && number <= (UINT64_MAX - digit) / 10;
		number = number * 10 + digit;
	}
	return *good ? number : 0;
}

const char *pgs__etcd_text(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));
	return text ? text : "";
}

int pgs__etcd_decode_small(pgs__etcd *e, pgs__etcd_call *call)
{
	const pgs__buffer *answer = &call->request.answer;
	json_t *reply = json_loadb(answer->size ? (const char *)answer->data : "", answer->size, 0, NULL);
	const json_t *header = json_object_get(reply, "header");
	bool good = json_is_object(reply) && (call->headless || header);
	uint64_t cluster = pgs__etcd_number(header, "cluster_id", &good);
	call->revision = pgs__etcd_number(header, "revision", &good);
	if (good && pgs__etcd_is_ours(e, cluster, call)) {
		call->reply = reply;
		return PGS_OK;
	}
	json_decref(reply);
	return good ? PGS_EIO : PGS_ECORRUPT;
}

/* Whatever answers first is the cluster this handle belongs to. */
bool pgs__etcd_is_ours(const pgs__etcd *e, uint64_t cluster, const pgs__etcd_call *call)
{
	return call->headless || e->cluster_id == 0 || cluster == e->cluster_id;
}

/* --- pairs --------------------------------------------------------------------------------- */

int pgs__etcd_pair(const pgs__etcd *e, pgs__json *j, pgs_kv_pair *out)
{
	pgs_slice name, key = {"", 0};
	*out = (pgs_kv_pair){.value = {"", 0}};
	pgs__json_enter(j, '{');
	while (pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "key"))
			key = pgs__json_bytes(j);
		else if (pgs__json_is(name, "value"))
			out->value = pgs__json_bytes(j);
		else if (pgs__json_is(name, "create_revision"))
			out->create_revision = pgs__json_number(j);
		else if (pgs__json_is(name, "mod_revision"))
			out->mod_revision = pgs__json_number(j);
		else if (pgs__json_is(name, "version"))
			out->version = pgs__json_number(j);
		else
			pgs__json_skip(j);
	}
	if (j->failed || key.size <= e->prefix.size || memcmp(key.data, e->prefix.data, e->prefix.size) != 0)
		return PGS_ECORRUPT;
	out->key = (pgs_slice){(const char *)key.data + e->prefix.size, key.size - e->prefix.size};
	return PGS_OK;
}

/* Room for one more pair. What is outgrown stays in the arena: at most as much again. */
static int grow_pairs(pgs__arena *arena, pgs_kv_result *result, size_t *capacity)
{
	if (result->count < *capacity)
		return PGS_OK;
	size_t wanted = result->count < 2 ? 4 : result->count * 2;
	pgs_kv_pair *pairs = pgs__arena_calloc(arena, wanted, sizeof *pairs);
	if (!pairs)
		return PGS_ENOMEM;
	if (result->count)
		memcpy(pairs, result->pairs, result->count * sizeof *pairs);
	result->pairs = pairs;
	*capacity = wanted;
	return PGS_OK;
}

static int decode_pairs(const pgs__etcd *e, pgs__json *j, pgs__arena *arena, pgs_kv_result *result)
{
	size_t capacity = 0;
	pgs__json_enter(j, '[');
	while (pgs__json_element(j)) {
		int status = grow_pairs(arena, result, &capacity);
		if (status == PGS_OK)
			status = pgs__etcd_pair(e, j, &result->pairs[result->count]);
		if (status != PGS_OK)
			return status;
		result->count++;
	}
	return j->failed ? PGS_ECORRUPT : PGS_OK;
}

/* --- results ------------------------------------------------------------------------------------ */

typedef struct header {
	uint64_t cluster;
	uint64_t revision;
} header;

static header decode_header(pgs__json *j)
{
	header out = {0, 0};
	pgs_slice name;
	pgs__json_enter(j, '{');
	while (pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "cluster_id"))
			out.cluster = pgs__json_number(j);
		else if (pgs__json_is(name, "revision"))
			out.revision = pgs__json_number(j);
		else
			pgs__json_skip(j);
	}
	return out;
}

/* A range's, a put's or a delete's result: the first is added to what the result has. */
static int decode_result(const pgs__etcd *e, pgs__json *j, pgs__arena *arena, pgs_kv_result *result, header *from)
{
	pgs_slice name;
	int status = PGS_OK;
	uint64_t total = 0;
	result->more = false;
	pgs__json_enter(j, '{');
	while (status == PGS_OK && pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "header"))
			*from = decode_header(j);
		else if (pgs__json_is(name, "kvs"))
			status = decode_pairs(e, j, arena, result);
		else if (pgs__json_is(name, "more"))
			result->more = pgs__json_flag(j);
		else if (pgs__json_is(name, "count") || pgs__json_is(name, "deleted"))
			total = pgs__json_number(j);
		else
			pgs__json_skip(j);
	}
	result->total = total;
	return status == PGS_OK && j->failed ? PGS_ECORRUPT : status;
}

static int decode_response(
	const pgs__etcd *e, pgs__json *j, const pgs_kv_op *op, pgs__arena *arena, pgs_kv_result *result)
{
	static const char *const names[] = {[PGS_KV_PUT] = "response_put",
		[PGS_KV_DELETE] = "response_delete_range",
		[PGS_KV_RANGE] = "response_range"};
	pgs_slice name;
	header ignored;
	bool found = false;
	int status = PGS_OK;
	pgs__json_enter(j, '{');
	while (status == PGS_OK && pgs__json_member(j, &name)) {
		if (found || !pgs__json_is(name, names[op->kind]))
			return PGS_ECORRUPT;
		found = true;
		status = decode_result(e, j, arena, result, &ignored);
	}
	if (op->kind == PGS_KV_PUT || (op->kind == PGS_KV_RANGE && !op->count_only))
		result->total = 0;
	return status == PGS_OK && (j->failed || !found) ? PGS_ECORRUPT : status;
}

/* --- transactions ------------------------------------------------------------------------------------ */

/* What a reply says but for its responses, and where those are: `succeeded`, which says what they are, may follow. */
typedef struct outline {
	header header;
	bool succeeded;
	pgs__json responses; /* at == NULL: there are none */
} outline;

static bool decode_outline(pgs__json *j, outline *out)
{
	pgs_slice name;
	*out = (outline){.responses = {NULL, NULL, false}};
	pgs__json_enter(j, '{');
	while (pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "header")) {
			out->header = decode_header(j);
		} else if (pgs__json_is(name, "succeeded")) {
			out->succeeded = pgs__json_flag(j);
		} else {
			if (pgs__json_is(name, "responses"))
				out->responses = *j;
			pgs__json_skip(j);
		}
	}
	return !j->failed && out->header.revision > 0;
}

static int decode_responses(
	const pgs__etcd *e, outline *from, const pgs_kv_op *ops, size_t count, pgs__arena *arena, pgs_kv_result *results)
{
	pgs__json *j = &from->responses;
	if (!j->at)
		return count == 0 ? PGS_OK : PGS_ECORRUPT;
	pgs__json_enter(j, '[');
	for (size_t i = 0; i < count; i++) {
		int status = pgs__json_element(j) ? decode_response(e, j, &ops[i], arena, &results[i]) : PGS_ECORRUPT;
		if (status != PGS_OK)
			return status;
	}
	return PGS_OK;
}

static int fill_txn(const pgs__etcd *e, outline *from, pgs_kv_txn *txn)
{
	const pgs_kv_op *ops = from->succeeded ? txn->success : txn->failure;
	size_t count = from->succeeded ? txn->success_count : txn->failure_count;
	pgs__etcd_response *response = txn->response;
	pgs_kv_result *results = pgs__arena_calloc(&response->arena, count, sizeof *results);
	int status = results ? decode_responses(e, from, ops, count, &response->arena, results) : PGS_ENOMEM;
	if (status != PGS_OK)
		return status;
	txn->succeeded = from->succeeded;
	txn->revision = from->header.revision;
	txn->results = results;
	txn->result_count = count;
	return PGS_OK;
}

/* The answer's text goes with the response, whose pairs lie in it. */
static int keep_text(pgs__etcd_response *response, pgs__etcd_call *call)
{
	pgs__etcd_kept *kept = pgs__arena_alloc(&response->arena, sizeof *kept);
	if (!kept)
		return PGS_ENOMEM;
	*kept = (pgs__etcd_kept){call->request.answer, response->texts};
	response->texts = kept;
	call->request.answer = (pgs__buffer){0};
	return PGS_OK;
}

int pgs__etcd_decode_txn(pgs__etcd *e, pgs__etcd_call *call)
{
	pgs_kv_txn *txn = call->ctx;
	outline from;
	pgs__json j = pgs__json_of(call->request.answer.data, call->request.answer.size);
	if (!call->request.answer.size || !decode_outline(&j, &from))
		return PGS_ECORRUPT;
	if (!pgs__etcd_is_ours(e, from.header.cluster, call))
		return PGS_EIO;
	txn->response = pgs__calloc(1, sizeof(pgs__etcd_response));
	int status = txn->response ? keep_text(txn->response, call) : PGS_ENOMEM;
	if (status == PGS_OK)
		status = fill_txn(e, &from, txn);
	if (status != PGS_OK)
		pgs__etcd_drop_response(txn);
	return status;
}

static int fill_range(const pgs__etcd *e, pgs__json *j, pgs_kv_txn *txn, const pgs__etcd_call *call)
{
	pgs__etcd_response *response = txn->response;
	pgs_kv_result *result = pgs__arena_calloc(&response->arena, 1, sizeof *result);
	header from = {0, 0};
	int status = result ? decode_result(e, j, &response->arena, result, &from) : PGS_ENOMEM;
	if (status == PGS_OK && (from.revision == 0 || !pgs__etcd_is_ours(e, from.cluster, call)))
		status = from.revision ? PGS_EIO : PGS_ECORRUPT;
	if (status != PGS_OK)
		return status;
	if (!txn->success[0].count_only)
		result->total = 0;
	txn->succeeded = true;
	txn->revision = from.revision;
	txn->results = result;
	txn->result_count = 1;
	return PGS_OK;
}

int pgs__etcd_decode_range(pgs__etcd *e, pgs__etcd_call *call)
{
	pgs_kv_txn *txn = call->ctx;
	pgs__json j = pgs__json_of(call->request.answer.data, call->request.answer.size);
	if (!call->request.answer.size)
		return PGS_ECORRUPT;
	txn->response = pgs__calloc(1, sizeof(pgs__etcd_response));
	int status = txn->response ? keep_text(txn->response, call) : PGS_ENOMEM;
	if (status == PGS_OK)
		status = fill_range(e, &j, txn, call);
	if (status != PGS_OK)
		pgs__etcd_drop_response(txn);
	return status;
}

void pgs__etcd_drop_response(pgs_kv_txn *txn)
{
	pgs__etcd_response *response = txn->response;
	if (response) {
		for (pgs__etcd_kept *at = response->texts; at; at = at->next)
			pgs__buffer_free(&at->text);
		pgs__arena_free(&response->arena);
	}
	pgs__free(response);
	txn->results = NULL;
	txn->result_count = 0;
	txn->response = NULL;
}

int pgs__etcd_decode_page(pgs__etcd *e, pgs__etcd_call *call)
{
	pgs__etcd_page *page = call->ctx;
	header from = {0, 0};
	pgs__json j = pgs__json_of(call->request.answer.data, call->request.answer.size);
	pgs_kv_result result = *page->result; /* unchanged unless all is well */
	if (!call->request.answer.size)
		return PGS_ECORRUPT;
	int status = decode_result(e, &j, &page->response->arena, &result, &from);
	if (status == PGS_OK && (from.revision == 0 || !pgs__etcd_is_ours(e, from.cluster, call)))
		status = from.revision ? PGS_EIO : PGS_ECORRUPT;
	if (status == PGS_OK)
		status = keep_text(page->response, call);
	if (status != PGS_OK)
		return status;
	result.total = 0;
	*page->result = result;
	return PGS_OK;
}
