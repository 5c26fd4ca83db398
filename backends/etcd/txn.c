/* Arrays of transactions: sent side by side, a window at a time.
 *
 *      check (K3, K4) ──▶ one request each ──▶ decode ──▶ ranges with more to come: page by page, at the revision
 *                                                         of their transaction ──▶ done
 *
 * A read without a limit may be larger than memory wants at once, as JSON at least; so ranges of transactions that
 * only read are asked for in pages. etcd counts what a page leaves out, so that pages must not be small either: they
 * grow until one is of PAGE_BYTES. */
#include "etcd.h"

#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/kv_check.h"

#define FIRST_PAGE 1000               /* pairs */
#define PAGE_BYTES ((size_t)8 << 20)  /* of JSON */
#define PAGE_MAX ((size_t)1 << 17)    /* pairs */
#define READ "read keys"
#define CHANGE "change keys"
#define FULL_TRUST_MS 1000            /* how long "the cluster is full" is believed without asking again */

/* --- a cluster that is full ------------------------------------------------------------ */

static bool branch_puts(const pgs_kv_op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (ops[i].kind == PGS_KV_PUT)
			return true;
	return false;
}

static bool has_puts(const pgs_kv_txn *txn)
{
	return branch_puts(txn->success, txn->success_count) || branch_puts(txn->failure, txn->failure_count);
}

/* Whether an alarm of NOSPACE is up. One that cannot be asked for is none. */
static bool alarm_is_up(pgs__etcd *e, uint64_t deadline_ms)
{
	pgs__etcd_call call = {.path = "/v3/maintenance/alarm", .what = "ask for alarms", .headless = true};
	pgs__etcd_put_text(&call.body, "{\"action\":\"GET\"}");
	bool up = false;
	if (pgs__etcd_run_one(e, &call, deadline_ms, NULL) == PGS_OK) {
		const json_t *alarms = json_object_get(call.reply, "alarms");
		for (size_t i = 0; i < json_array_size(alarms); i++)
			up |= !strcmp(pgs__etcd_text(json_array_get(alarms, i), "alarm"), "NOSPACE");
	}
	pgs__etcd_call_free(&call);
	return up;
}

bool pgs__etcd_look_for_alarm(pgs__etcd *e, uint64_t deadline_ms)
{
	bool up = alarm_is_up(e, deadline_ms);
	atomic_store(&e->full_ms, up ? pgs__now_ms() : 0);
	return up;
}

/* etcd may say "database space exceeded" of a put that it has applied: of one that was accepted while there was room
 * and ran when there was none. That raises the alarm, before the answer is sent; and while the alarm is up, nothing
 * that puts is applied. So the answer is final for requests that were sent with the alarm known to be up, and for no
 * others: but see left_nothing(). Returns whether it is known. */
static bool knows_full(pgs__etcd *e, uint64_t deadline_ms)
{
	uint64_t full = atomic_load(&e->full_ms);
	if (full == 0)
		return false;
	if (pgs__now_ms() - full < FULL_TRUST_MS)
		return true;
	return pgs__etcd_look_for_alarm(e, deadline_ms);
}

/* A key that the transaction puts where it compares that there is none, or NULL. */
static const pgs_kv_op *find_new_key(const pgs_kv_txn *txn)
{
	for (size_t i = 0; i < txn->compare_count; i++) {
		const pgs_kv_compare *c = &txn->compares[i];
		if (c->target == PGS_KV_VALUE || c->relation != PGS_KV_EQUAL || c->number != 0 || c->range_end.size)
			continue;
		for (size_t k = 0; k < txn->success_count; k++)
			if (txn->success[k].kind == PGS_KV_PUT &&
				pgs__slice_compare(txn->success[k].key, c->key) == 0)
				return &txn->success[k];
	}
	return NULL;
}

/* Whether a refused transaction was certainly not applied. It was answered, so it is not under way any more; if a key
 * that it would have made is not there, and it puts nothing otherwise, it was not applied. (Or somebody has deleted the
 * key since: who makes keys in this way does not delete others' that are so new.) */
static bool left_nothing(pgs__etcd *e, const pgs_kv_txn *txn, uint64_t deadline_ms)
{
	const pgs_kv_op *made = branch_puts(txn->failure, txn->failure_count) ? NULL : find_new_key(txn);
	if (!made)
		return false;
	const pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = made->key, .count_only = true};
	pgs__etcd_call call = {.path = "/v3/kv/range", .what = READ};
	bool good = true;
	pgs__etcd_put_range_request(e, &call.body, &op);
	bool absent = pgs__etcd_run_one(e, &call, deadline_ms, NULL) == PGS_OK &&
		pgs__etcd_number(call.reply, "count", &good) == 0 && good;
	pgs__etcd_call_free(&call);
	return absent;
}

static void judge_full(pgs__etcd *e, pgs_kv_txn *txn, pgs_error *error, bool known, uint64_t deadline_ms)
{
	if (txn->status == PGS_ENOSPC) {
		atomic_store(&e->full_ms, pgs__now_ms());
		bool sure = known || left_nothing(e, txn, deadline_ms);
		txn->status = error->code = sure ? PGS_ENOSPC : PGS_EUNKNOWN;
	} else if (txn->status == PGS_OK && has_puts(txn)) {
		/* Not for each commit: the line in the cache is everybody's. */
		if (atomic_load_explicit(&e->full_ms, memory_order_relaxed))
			atomic_store(&e->full_ms, 0);
	}
}

/* --- one window of transactions ------------------------------------------------------------ */

typedef struct window {
	pgs__etcd *e;
	pgs_kv_txn *txns;
	size_t count;
	uint64_t deadline_ms;
	pgs__etcd_call *calls;
} window;

static int check(const pgs__etcd *e, const pgs_kv_txn *txn, uint64_t deadline_ms, pgs_error *err)
{
	if (e->read_only && pgs__kv_mutates(txn))
		return pgs__error(err, PGS_EREADONLY, "a change through a KV opened for reading");
	int status = pgs__kv_check(txn, &e->limits, err);
	if (status == PGS_OK && pgs__deadline_passed(deadline_ms))
		status = pgs__error(err, PGS_ETIMEOUT, "etcd at %s: cannot %s: the deadline had passed before the call",
			e->wire.endpoints[atomic_load(&e->wire.current)], pgs__kv_mutates(txn) ? CHANGE : READ);
	return status;
}

/* A read of one range is a request of its own in etcd, which costs it less than a transaction. */
static bool is_range(const pgs_kv_txn *txn)
{
	return txn->compare_count == 0 && txn->failure_count == 0 && txn->success_count == 1 &&
		txn->success[0].kind == PGS_KV_RANGE;
}

static void ask_range(const pgs__etcd *e, pgs__etcd_call *call, const pgs_kv_txn *txn, size_t page)
{
	pgs_kv_op op = txn->success[0];
	if (page && pgs__etcd_pages(&op) && (op.limit == 0 || op.limit > page))
		op.limit = page;
	call->path = "/v3/kv/range";
	call->decode = pgs__etcd_decode_range;
	pgs__etcd_put_range_request(e, &call->body, &op);
}

static void ask(const pgs__etcd *e, pgs__etcd_call *call, const pgs_kv_txn *txn, size_t page)
{
	call->path = "/v3/kv/txn";
	call->decode = pgs__etcd_decode_txn;
	pgs__etcd_put_txn(e, &call->body, txn, call->mutates ? 0 : page);
}

static void run_requests(window *w, size_t page)
{
	bool full = false;
	for (size_t i = 0; i < w->count; i++) {
		pgs__etcd_call *call = &w->calls[i];
		pgs_kv_txn *txn = &w->txns[i];
		if (call->done)
			continue;
		call->ctx = txn;
		call->mutates = pgs__kv_mutates(txn);
		call->what = call->mutates ? CHANGE : READ;
		call->body.size = 0;
		if (call->mutates && !full)
			full = knows_full(w->e, w->deadline_ms);
		(is_range(txn) ? ask_range : ask)(w->e, call, txn, page);
	}
	pgs__etcd_run(w->e, w->calls, w->count, w->deadline_ms);
	for (size_t i = 0; i < w->count; i++) {
		if (!w->calls[i].path) /* never ran */
			continue;
		w->txns[i].status = w->calls[i].status;
		if (w->calls[i].mutates)
			judge_full(w->e, &w->txns[i], &w->calls[i].error, full, w->deadline_ms);
	}
}

/* --- further pages --------------------------------------------------------------------------- */

/* A range of a transaction with more to come. */
typedef struct rest {
	size_t txn;            /* in the window */
	const pgs_kv_op *op;
	size_t page;           /* pairs to ask for */
	size_t before;         /* pairs that are there */
	uint8_t *key;          /* where to read on: the successor of the last key */
	pgs__etcd_page into;
} rest;

/* Pairs for the next page, from what the last one took. */
static size_t next_page(size_t pairs, size_t bytes)
{
	size_t each = bytes / (pairs ? pairs : 1) + 1, fit = PAGE_BYTES / each;
	return fit < 1 ? 1 : fit > PAGE_MAX ? PAGE_MAX : fit;
}

/* Whether the range has pairs left that the caller wants. */
static bool lacks(const pgs_kv_result *result, const pgs_kv_op *op)
{
	return result->more && result->count && pgs__etcd_pages(op) && (op->limit == 0 || result->count < op->limit);
}

/* The request for the next page. Without memory its body fails, and with it the call. */
static void ask_on(const pgs__etcd *e, rest *r, uint64_t revision, pgs__etcd_call *call)
{
	const pgs_kv_pair *last = &r->into.result->pairs[r->into.result->count - 1];
	size_t left = r->op->limit ? r->op->limit - r->into.result->count : SIZE_MAX;
	pgs_kv_op op = *r->op;
	uint8_t *key = pgs__realloc(r->key, last->key.size + 1);
	r->before = r->into.result->count;
	*call = (pgs__etcd_call){.path = "/v3/kv/range", .what = READ, .decode = pgs__etcd_decode_page, .ctx = &r->into};
	if (!key) {
		call->body.failed = true;
		return;
	}
	r->key = key;
	memcpy(key, last->key.data, last->key.size);
	key[last->key.size] = 0;
	op.key = (pgs_slice){key, last->key.size + 1};
	op.revision = op.revision ? op.revision : revision;
	op.limit = left < r->page ? left : r->page;
	pgs__etcd_put_range_request(e, &call->body, &op);
}

static void take_page(window *w, rest *r, pgs__etcd_call *call)
{
	pgs_kv_txn *txn = &w->txns[r->txn];
	if (call->status != PGS_OK) {
		txn->status = call->status;
		w->calls[r->txn].error = call->error;
	}
	r->page = next_page(r->into.result->count - r->before, call->answer_size);
	pgs__etcd_call_free(call);
}

/* One more page of each, side by side; drops those that are whole, or whose transaction has failed. */
static void read_pages(window *w, rest *rests, pgs__etcd_call *calls, size_t *count)
{
	size_t kept = 0;
	for (size_t i = 0; i < *count; i++)
		ask_on(w->e, &rests[i], w->txns[rests[i].txn].revision, &calls[i]);
	pgs__etcd_run(w->e, calls, *count, w->deadline_ms);
	for (size_t i = 0; i < *count; i++) {
		rest *r = &rests[i];
		take_page(w, r, &calls[i]);
		if (w->txns[r->txn].status == PGS_OK && lacks(r->into.result, r->op))
			rests[kept++] = *r;
		else
			pgs__free(r->key);
	}
	*count = kept;
}

/* Add the transaction's ranges that lack something, from *op on, as long as there is room. */
static void add_rests(window *w, size_t i, size_t *op, rest *rests, size_t *count)
{
	pgs_kv_txn *txn = &w->txns[i];
	const pgs_kv_op *ops = txn->succeeded ? txn->success : txn->failure;
	size_t pairs = 0;
	for (size_t k = 0; k < txn->result_count; k++)
		pairs += txn->results[k].count;
	for (; *op < txn->result_count && *count < PGS__ETCD_WINDOW; ++*op)
		if (!w->calls[i].mutates && lacks(&txn->results[*op], &ops[*op]))
			rests[(*count)++] = (rest){.txn = i,
				.op = &ops[*op],
				.into = {txn->response, &txn->results[*op]},
				.page = next_page(pairs, w->calls[i].answer_size)};
}

static bool is_whole(const window *w, size_t i)
{
	const pgs_kv_txn *txn = &w->txns[i];
	const pgs_kv_op *ops = txn->succeeded ? txn->success : txn->failure;
	for (size_t k = 0; k < txn->result_count && txn->status == PGS_OK && !w->calls[i].mutates; k++)
		if (lacks(&txn->results[k], &ops[k]))
			return false;
	return true;
}

/* From transaction *i, operation *op on. */
static void fill(window *w, rest *rests, size_t *count, size_t *i, size_t *op)
{
	while (*i < w->count && *count < PGS__ETCD_WINDOW) {
		if (w->txns[*i].status == PGS_OK)
			add_rests(w, *i, op, rests, count);
		if (w->txns[*i].status == PGS_OK && *op < w->txns[*i].result_count)
			return; /* there was no room for the rest of it */
		++*i;
		*op = 0;
	}
}

/* Complete every range of the window. */
static void complete(window *w)
{
	size_t count = 0, i = 0, op = 0;
	while (i < w->count && is_whole(w, i))
		i++;
	if (i == w->count)
		return;
	rest *rests = pgs__malloc(PGS__ETCD_WINDOW * sizeof *rests);
	pgs__etcd_call *calls = pgs__malloc(PGS__ETCD_WINDOW * sizeof *calls);
	if (rests && calls) {
		for (fill(w, rests, &count, &i, &op); count > 0; fill(w, rests, &count, &i, &op))
			read_pages(w, rests, calls, &count);
	} else {
		for (; i < w->count; i++)
			if (!is_whole(w, i))
				w->txns[i].status = pgs__error_nomem(&w->calls[i].error, "pages of a range");
	}
	pgs__free(rests);
	pgs__free(calls);
}

/* --- the slots ----------------------------------------------------------------------------- */

static bool reads_now(const pgs_kv_txn *txn)
{
	const pgs_kv_op *ops = txn->success;
	size_t count = txn->success_count;
	for (size_t i = 0; i < count + txn->failure_count; i++) {
		const pgs_kv_op *op = i < count ? &ops[i] : &txn->failure[i - count];
		if (op->revision)
			return false;
	}
	return true;
}

/* Those of which a page failed because its revision, which was the newest, has been compacted by then: again, in one
 * piece. */
static void repeat_compacted(window *w, const bool *whole)
{
	bool any = false;
	for (size_t i = 0; i < w->count; i++) {
		pgs__etcd_call *call = &w->calls[i];
		bool again = whole[i] && w->txns[i].status == PGS_EOLDREV && reads_now(&w->txns[i]);
		any |= again;
		if (!again) {
			call->done = true;
			call->path = NULL;
			continue;
		}
		pgs__etcd_drop_response(&w->txns[i]);
		pgs__etcd_call_free(call);
		*call = (pgs__etcd_call){.path = NULL};
	}
	if (any)
		run_requests(w, 0);
}

static void run_window(window *w)
{
	bool whole[PGS__ETCD_WINDOW] = {false};
	for (size_t i = 0; i < w->count; i++) {
		pgs_kv_txn *txn = &w->txns[i];
		pgs__etcd_call *call = &w->calls[i];
		*call = (pgs__etcd_call){.path = NULL};
		txn->succeeded = false;
		txn->revision = 0;
		txn->results = NULL;
		txn->result_count = 0;
		txn->response = NULL;
		txn->status = check(w->e, txn, w->deadline_ms, &call->error);
		call->status = txn->status;
		call->done = txn->status != PGS_OK;
	}
	run_requests(w, FIRST_PAGE);
	for (size_t i = 0; i < w->count; i++)
		whole[i] = w->txns[i].status == PGS_OK;
	complete(w);
	repeat_compacted(w, whole);
}

/* The first failure is the array's. */
static int end_window(window *w, int result, pgs_error *err)
{
	for (size_t i = 0; i < w->count; i++) {
		pgs_kv_txn *txn = &w->txns[i];
		if (txn->status != PGS_OK)
			txn->succeeded = false;
		if (txn->status != PGS_OK && result == PGS_OK) {
			result = txn->status;
			if (err)
				*err = w->calls[i].error;
		}
		pgs__etcd_call_free(&w->calls[i]);
	}
	return result;
}

int pgs__etcd_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	pgs__etcd *e = pgs__etcd_of(kv);
	pgs__etcd_call one;
	window w = {.e = e, .calls = &one, .deadline_ms = pgs__etcd_deadline(e, deadline_ms)};
	size_t most = count < PGS__ETCD_WINDOW ? count : PGS__ETCD_WINDOW;
	if (count > 1)
		w.calls = pgs__malloc(most * sizeof *w.calls);
	if (!w.calls) { /* one by one, then */
		w.calls = &one;
		most = 1;
	}
	int result = PGS_OK;
	for (size_t done = 0; done < count; done += w.count) {
		w.txns = txns + done;
		w.count = count - done < most ? count - done : most;
		run_window(&w);
		result = end_window(&w, result, err);
	}
	if (w.calls != &one)
		pgs__free(w.calls);
	return result;
}

void pgs__etcd_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count)
{
	(void)kv;
	for (size_t i = 0; i < count; i++)
		pgs__etcd_drop_response(&txns[i]);
}
