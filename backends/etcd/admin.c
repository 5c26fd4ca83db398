/* What is asked of the store as a whole. */
#include "etcd.h"

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

/* A key that no pair has, for asking after the store and not after any of its keys. */
static const pgs_slice nothing = {"", 1};

void pgs__etcd_saw_compacted(pgs__etcd *e, uint64_t revision)
{
	uint64_t known = atomic_load(&e->compacted_revision);
	while (revision > known && !atomic_compare_exchange_weak(&e->compacted_revision, &known, revision))
		;
}

/* Read nothing, at `at` (0 = now). */
static int probe(pgs__etcd *e, uint64_t at, uint64_t *revision, uint64_t *cluster, uint64_t deadline_ms, pgs_error *err)
{
	const pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = nothing, .revision = at, .count_only = true};
	pgs__etcd_call call = {.path = "/v3/kv/range", .what = "ask for the revision"};
	bool good = true;
	pgs__etcd_put_range_request(e, &call.body, &op);
	int status = pgs__etcd_run_one(e, &call, deadline_ms, err);
	if (status == PGS_OK) {
		*revision = call.revision;
		if (cluster)
			*cluster = pgs__etcd_number(json_object_get(call.reply, "header"), "cluster_id", &good);
	}
	pgs__etcd_call_free(&call);
	return status;
}

int pgs__etcd_revision(pgs__etcd *e, uint64_t *revision, uint64_t *cluster, uint64_t deadline_ms, pgs_error *err)
{
	return probe(e, 0, revision, cluster, deadline_ms, err);
}

/* A compaction that was asked for twice has happened once: that it is too late the second time is success. */
int pgs__etcd_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	pgs__etcd *e = pgs__etcd_of(kv);
	pgs__etcd_call call = {
		.path = "/v3/kv/compaction", .what = "compact", .mutates = true, .repeats = true};
	if (e->read_only)
		return pgs__error(err, PGS_EREADONLY, "a compaction through a KV opened for reading");
	pgs__etcd_put_text(&call.body, "{\"revision\":");
	pgs__etcd_put_number(&call.body, revision);
	pgs__etcd_put_text(&call.body, "}");
	int status = pgs__etcd_run_one(e, &call, pgs__etcd_deadline(e, deadline_ms), err);
	if (status == PGS_EUNKNOWN && call.final_status == PGS_EOLDREV)
		status = PGS_OK;
	if (status == PGS_OK)
		pgs__etcd_saw_compacted(e, revision);
	pgs__etcd_call_free(&call);
	return status;
}

int pgs__etcd_identity(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	const pgs__etcd *e = pgs__etcd_of(kv);
	const uint8_t *prefix = e->prefix.data;
	uint64_t hash = 14695981039346656037u; /* FNV-1a */
	for (size_t i = 0; i < e->prefix.size; i++)
		hash = (hash ^ prefix[i]) * 1099511628211u;
	pgs__store_u64be(out, e->cluster_id);
	pgs__store_u64be(out + 8, hash);
	if (pgs__deadline_passed(deadline_ms))
		return pgs__error(err, PGS_ETIMEOUT, "the deadline had passed before the call");
	return PGS_OK;
}

/* etcd tells nobody how far it is compacted; but a read below that fails. What is known is mostly still so: then this
 * is one read. Otherwise somebody else has compacted, and halving finds where. */
static int find_compacted(pgs__etcd *e, uint64_t revision, uint64_t *out, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t known = atomic_load(&e->compacted_revision), low = known, high = revision, now;
	uint64_t at = known ? known : 1;
	int status = PGS_OK;
	*out = known;
	while (low < high) { /* readable from a revision in [low, high] on; `high` is readable */
		status = probe(e, at, &now, NULL, deadline_ms, err);
		if (status != PGS_OK && status != PGS_EOLDREV)
			return status;
		if (status == PGS_OK && at == (known ? known : 1))
			return PGS_OK;
		if (status == PGS_OK)
			high = at;
		else
			low = at + 1;
		at = low + (high - low) / 2;
	}
	pgs__etcd_saw_compacted(e, high);
	*out = atomic_load(&e->compacted_revision);
	return PGS_OK;
}

/* The size that the quota is about: free pages in the file count. Not the revision: the member may be behind. */
static int read_size(pgs__etcd *e, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	pgs__etcd_call call = {.path = "/v3/maintenance/status", .what = "ask for the status"};
	bool good = true;
	pgs__etcd_put_text(&call.body, "{}");
	int status = pgs__etcd_run_one(e, &call, deadline_ms, err);
	if (status == PGS_OK) {
		out->size_bytes = pgs__etcd_number(call.reply, "dbSize", &good);
		out->used_bytes = pgs__etcd_number(call.reply, "dbSizeInUse", &good);
	}
	pgs__etcd_call_free(&call);
	return status;
}

int pgs__etcd_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	pgs__etcd *e = pgs__etcd_of(kv);
	uint64_t until = pgs__etcd_deadline(e, deadline_ms);
	*out = (pgs_kv_stat){.quota_bytes = e->quota_bytes};
	int status = pgs__etcd_revision(e, &out->revision, NULL, until, err);
	if (status == PGS_OK)
		status = find_compacted(e, out->revision, &out->compacted_revision, until, err);
	if (status == PGS_OK)
		status = read_size(e, out, until, err);
	return status;
}
