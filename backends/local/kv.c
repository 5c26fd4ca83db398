/* The local KV: see kv.h for its parts, record.h for what is stored. */
#include "kv.h"

#include <string.h>

#include "dir.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

static void local_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count)
{
	(void)kv;
	for (size_t i = 0; i < count; i++)
		pgs__txn_release(&txns[i]);
}

static void local_limits(pgs_kv *kv, pgs_kv_limits *out)
{
	(void)kv;
	*out = (pgs_kv_limits){.max_key_bytes = PGS__LOCAL_KEY_MAX, .max_value_bytes = PGS__LOCAL_VALUE_MAX};
}

static int local_identity(pgs_kv *base, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	pgs__local_kv *kv = (pgs__local_kv *)base;
	(void)deadline_ms;
	memcpy(out, kv->env->identity, sizeof kv->env->identity);
	return pgs__env_check(kv->env, err);
}

/* What the trees take; free pages inside the file are not counted. */
static int used_bytes(pgs__env *env, MDB_txn *txn, uint64_t *out, pgs_error *err)
{
	const MDB_dbi tables[] = {1 /* LMDB's own: the names of the others */, env->versions, env->log, env->meta};
	*out = 0;
	for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
		MDB_stat st;
		int rc = mdb_stat(txn, tables[i], &st);
		if (rc)
			return pgs__env_error(env, rc, "cannot read its size", err);
		*out += (uint64_t)st.ms_psize * (st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages);
	}
	return PGS_OK;
}

static int local_stat(pgs_kv *base, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	pgs__env *env = ((pgs__local_kv *)base)->env;
	pgs__view *view;
	MDB_envinfo info;
	(void)deadline_ms;
	*out = (pgs_kv_stat){0};
	int status = pgs__env_check(env, err);
	if (!status)
		status = pgs__env_view_begin(env, &view, err);
	if (status)
		return status;
	status = pgs__read_revision(env, view->log, &out->revision, err);
	if (!status)
		status = pgs__read_compacted(env, view->txn, &out->compacted_revision, err);
	if (!status)
		status = used_bytes(env, view->txn, &out->size_bytes, err);
	out->used_bytes = out->size_bytes;
	mdb_env_info(env->mdb, &info);
	out->quota_bytes = info.me_mapsize;
	pgs__env_view_end(env, view);
	return status;
}

static uint64_t local_changes(pgs_kv *base)
{
	return pgs__env_last_visible(((pgs__local_kv *)base)->env);
}

static void local_close(pgs_kv *base)
{
	pgs__local_kv *kv = (pgs__local_kv *)base;
	pgs__env_release(kv->env);
	pgs__free(kv);
}

static const pgs_kv_vtable vtable = {
	.version = PGS_KV_VERSION,
	.struct_size = sizeof vtable,
	.txn = pgs__local_txn,
	.release = local_release,
	.watch_open = pgs__local_watch_open,
	.watch_next = pgs__local_watch_next,
	.watch_close = pgs__local_watch_close,
	.compact = pgs__local_compact,
	.limits = local_limits,
	.identity = local_identity,
	.stat = local_stat,
	.close = local_close,
	.changes = local_changes,
};

int pgs_kv_local_open(pgs_kv **out, const char *path, const pgs_local_options *options, pgs_error *err)
{
	pgs_local_options o;
	*out = NULL;
	int status = pgs__local_options(&o, options, path, err);
	if (status)
		return status;
	pgs__local_kv *kv = pgs__calloc(1, sizeof *kv);
	if (!kv)
		return pgs__error_nomem(err, "a store");
	pgs__metered_kv_init(&kv->base, "local", &vtable, 1);
	kv->sync = o.sync;
	kv->read_only = o.read_only;
	status = pgs__env_open(&kv->env, path, &o, err);
	if (status) {
		pgs__free(kv);
		return status;
	}
	*out = &kv->base.base;
	return PGS_OK;
}
