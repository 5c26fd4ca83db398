/* The etcd KV: what its files share.
 *
 *     kv.c      handles, options, the vtable        url.c     etcd:// to options
 *     txn.c     arrays of transactions, paging      admin.c   compact, identity, stat
 *     watch.c   streams of events
 *     encode.c  requests to JSON                    decode.c  JSON to results, with json.c and base64.c
 *     call.c    failover, tokens, what an answer means for the outcome
 *     wire.c    requests over kept-alive connections, deadlines
 *
 * Invariants
 *  1 A request that may change something is given to the network at most once. Whoever sends it again must know that
 *    it was not applied, and never will be.
 *  2 No secret (password, token, a key file's content) is in a message, nor in what libcurl is asked to print.
 *  3 Every key sent begins with the prefix, every range ends at or before its end: stores that share a cluster do
 *    not meet.
 */
#ifndef PGS_ETCD_ETCD_H
#define PGS_ETCD_ETCD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <pagestore/backends.h>

#include "json.h"
#include "util/arena.h"
#include "util/cursor.h"
#include "util/meter.h"
#include "wire.h"

#define PGS__ETCD_DEFAULT_PORT 2379
#define PGS__ETCD_WINDOW 64 /* calls at most in one pgs__etcd_run() */

/* What requests are counted as: pagestore/operations.h. */
typedef enum pgs__etcd_operation {
	PGS__ETCD_TXN,
	PGS__ETCD_READ,
	PGS__ETCD_WATCH,
	PGS__ETCD_COMPACT,
	PGS__ETCD_STAT,
	PGS__ETCD_AUTH,
	PGS__ETCD_OPERATIONS
} pgs__etcd_operation;

/* The headers of a request with one token: replaced with it, freed by whoever uses them last. */
typedef struct pgs__etcd_headers {
	struct curl_slist *list;
	uint64_t number; /* of the token, 1, 2, …; 0: there is none */
	size_t users;    /* under the handle's lock */
} pgs__etcd_headers;

typedef struct pgs__etcd {
	pgs_kv base;
	/* Constant once open: */
	pgs__arena names;   /* the strings and slices below */
	pgs_slice prefix;     /* "/root/" */
	pgs_slice prefix_end; /* "/root0": the first key above all that begin with it */
	pgs_kv_limits limits;
	uint64_t quota_bytes;
	uint64_t cluster_id;
	uint32_t timeout_ms; /* of calls without a deadline of their own */
	bool read_only;
	const char *user; /* NULL: no authentication */
	char *password;   /* wiped when closed */
	pgs__wire wire;
	/* What was seen lately, by any thread: */
	_Atomic uint64_t compacted_revision;
	_Atomic uint64_t full_ms; /* when the cluster last said that it is full; 0 = it is not */
	pgs__meter meters[PGS__ETCD_OPERATIONS];
	struct curl_slist *plain_headers; /* of requests without a token */
	/* The token, under `lock`; one thread at a time renews it. */
	pthread_mutex_t lock;
	pthread_cond_t renewed;
	bool renewing;
	pgs__etcd_headers *headers;
} pgs__etcd;

static inline pgs__etcd *pgs__etcd_of(pgs_kv *kv)
{
	return (pgs__etcd *)kv;
}

/* --- calls (call.c) ------------------------------------------------------- */

typedef struct pgs__etcd_call pgs__etcd_call;

/* Reads an answer: PGS_OK; PGS_EIO, it is another cluster's; PGS_ECORRUPT, PGS_ENOMEM. */
typedef int pgs__etcd_decoder(pgs__etcd *e, pgs__etcd_call *call);

/* One request of the gateway and its answer. Zeroed, then `path`, `what`, `body` and `mutates` set. */
struct pgs__etcd_call {
	const char *path;
	const char *what; /* "read keys", for people */
	pgs__buffer body;
	bool mutates; /* not to be sent again while an earlier one may be applied */
	bool repeats; /* mutates, but a second time does no harm */
	bool plain;   /* without a token */
	pgs__etcd_decoder *decode; /* of the answer in `request`; NULL: a small one, into `reply` */
	void *ctx;                 /* decode's */
	bool headless; /* the reply has no header, which says whose it is and of which revision */
	int status;
	int final_status; /* of the last attempt alone: what `status` would be had none been lost before it */
	json_t *reply;     /* on PGS_OK, of small ones */
	uint64_t revision; /* its header's */
	size_t answer_size;
	pgs_error error;
	/* call.c's own: */
	pgs__wire_request request;
	unsigned attempts;
	unsigned renewals;
	bool done;
	bool lost; /* an earlier attempt of a repeating call may have been applied */
};

/* Run all of them at once, each to its end: status, and reply or error. `deadline_ms` is not 0. */
void pgs__etcd_run(pgs__etcd *e, pgs__etcd_call *calls, size_t count, uint64_t deadline_ms);

/* The same with one; returns its status with *err set. */
int pgs__etcd_run_one(pgs__etcd *e, pgs__etcd_call *call, uint64_t deadline_ms, pgs_error *err);

/* Frees what a call holds, also one that never ran. */
void pgs__etcd_call_free(pgs__etcd_call *call);

/* A server's or curl's text, as far as a message has room for it, on one line. Returns `out`. */
#define PGS__ETCD_LINE 200
const char *pgs__etcd_one_line(char out[PGS__ETCD_LINE], const char *text);

/* The caller's deadline, or this handle's own when there is none. */
uint64_t pgs__etcd_deadline(const pgs__etcd *e, uint64_t deadline_ms);

/* What an error of the gateway means. Shared with watch.c, whose stream tells errors in another shape. */
typedef enum pgs__etcd_verdict {
	PGS__ETCD_FINAL,    /* `status` it is; nothing was applied */
	PGS__ETCD_RENEW,    /* nothing was applied: the token is not good any more */
	PGS__ETCD_REFUSED,  /* nothing was applied: this member cannot now */
	PGS__ETCD_ELSEWHERE /* this member cannot; whether anything was applied is open */
} pgs__etcd_verdict;

pgs__etcd_verdict pgs__etcd_judge(int grpc_code, const char *message, int *status);

/* --- tokens (token.c) ------------------------------------------------------- */

/* The headers to use now, until given back. */
pgs__etcd_headers *pgs__etcd_headers_take(pgs__etcd *e);
void pgs__etcd_headers_give(pgs__etcd *e, pgs__etcd_headers *headers);

/* Make the first ones, without a token; free the last ones. */
int pgs__etcd_token_init(pgs__etcd *e, pgs_error *err);
void pgs__etcd_token_free(pgs__etcd *e);

/* Get a token newer than `number`, or wait for the thread that does. Errors: EAUTH, also without a user. */
int pgs__etcd_token_renew(pgs__etcd *e, uint64_t number, uint64_t deadline_ms, pgs_error *err);

void pgs__etcd_wipe(char *secret); /* overwrite and free; NULL is fine */

/* --- JSON (encode.c, decode.c) ---------------------------------------------- */

void pgs__etcd_put_text(pgs__buffer *out, const char *text);
void pgs__etcd_put_number(pgs__buffer *out, uint64_t number); /* clamped to what etcd takes */
void pgs__etcd_put_string(pgs__buffer *out, const char *text);

/* "key":"…" and, unless it is empty, ,"range_end":"…" */
void pgs__etcd_put_range(const pgs__etcd *e, pgs__buffer *out, pgs_slice key, pgs_slice range_end);

/* A whole transaction. `page` > 0: at most so many pairs from each range that may be read on afterwards. */
void pgs__etcd_put_txn(const pgs__etcd *e, pgs__buffer *out, const pgs_kv_txn *txn, size_t page);

/* One range, as a request of its own. */
void pgs__etcd_put_range_request(const pgs__etcd *e, pgs__buffer *out, const pgs_kv_op *op);

/* True for a range whose result may come in several pages. */
bool pgs__etcd_pages(const pgs_kv_op *op);

/* A member of an object: 0 or "" when it is absent; *good becomes false when it is something else. */
uint64_t pgs__etcd_number(const json_t *object, const char *name, bool *good);
const char *pgs__etcd_text(const json_t *object, const char *name);

/* False for an answer of another cluster than the one this handle was opened on. */
bool pgs__etcd_is_ours(const pgs__etcd *e, uint64_t cluster, const pgs__etcd_call *call);

pgs__etcd_decoder pgs__etcd_decode_small;

/* A key-value pair; the key without the prefix. The bytes stay where the text was. PGS_OK or PGS_ECORRUPT. */
int pgs__etcd_pair(const pgs__etcd *e, pgs__json *j, pgs_kv_pair *out);

/* What a transaction's response holds: results in the arena, keys and values in the texts they came in. */
typedef struct pgs__etcd_kept {
	pgs__buffer text;
	struct pgs__etcd_kept *next;
} pgs__etcd_kept;

typedef struct pgs__etcd_response {
	pgs__arena arena;
	pgs__etcd_kept *texts;
} pgs__etcd_response;

/* put_txn()'s answer; ctx is the pgs_kv_txn. */
pgs__etcd_decoder pgs__etcd_decode_txn;

/* put_range_request()'s answer, as that of a transaction that only reads this range. */
pgs__etcd_decoder pgs__etcd_decode_range;
void pgs__etcd_drop_response(pgs_kv_txn *txn);

/* put_range_request()'s answer, added to a result; ctx is a pgs__etcd_page. */
typedef struct pgs__etcd_page {
	pgs__etcd_response *response;
	pgs_kv_result *result;
} pgs__etcd_page;

pgs__etcd_decoder pgs__etcd_decode_page;

/* --- the vtable's functions -------------------------------------------------- */

int pgs__etcd_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err);
void pgs__etcd_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count);
int pgs__etcd_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err);
int pgs__etcd_watch_next(pgs_kv_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err);
void pgs__etcd_watch_close(pgs_kv_watch *watch);
int pgs__etcd_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err);
int pgs__etcd_identity(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err);
int pgs__etcd_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err);

/* The store's revision now, and whose cluster it is (*cluster may be NULL). */
int pgs__etcd_revision(pgs__etcd *e, uint64_t *revision, uint64_t *cluster, uint64_t deadline_ms, pgs_error *err);

/* Find out whether the cluster is full, and remember it. */
bool pgs__etcd_look_for_alarm(pgs__etcd *e, uint64_t deadline_ms);

/* Remember that history below `revision` is gone. */
void pgs__etcd_saw_compacted(pgs__etcd *e, uint64_t revision);

#endif
