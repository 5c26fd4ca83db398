/* The local backend's KV in a scratch folder. */
#include "support/local_kv.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "support/testing.h"
#include "util/clock.h"

pgs_kv *local_open_with(const char *name, pgs_local_options options)
{
	pgs_kv *kv = NULL;
	pgs_error err = PGS_ERROR_INIT;
	if (!options.map_bytes)
		options.map_bytes = MAP_BYTES;
	if (pgs_kv_local_open(&kv, scratch_path(name), &options, &err) != PGS_OK)
		fail_msg("%s", err.message);
	return kv;
}

pgs_kv *local_open(const char *name)
{
	return local_open_with(name, (pgs_local_options)PGS_LOCAL_OPTIONS_INIT);
}

int local_open_fails(const char *name, pgs_local_options options, const char *says)
{
	pgs_kv *kv = NULL;
	pgs_error err = PGS_ERROR_INIT;
	if (!options.map_bytes)
		options.map_bytes = MAP_BYTES;
	int status = pgs_kv_local_open(&kv, scratch_path(name), &options, &err);
	assert_null(kv);
	assert_int_not_equal(status, PGS_OK);
	assert_int_equal(status, err.code);
	if (!strstr(err.message, says))
		fail_msg("'%s' does not say '%s'", err.message, says);
	return status;
}

void local_close(pgs_kv *kv)
{
	kv->vtable->close(kv);
}

int local_run(pgs_kv *kv, pgs_kv_txn *txn, pgs_error *err)
{
	return kv->vtable->txn(kv, txn, 1, pgs__now_ms() + 60000, err);
}

int64_t local_put(pgs_kv *kv, const char *key, pgs_slice value)
{
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE(key), .value = value};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	int status = local_run(kv, &txn, NULL);
	int64_t revision = (int64_t)txn.revision;
	kv->vtable->release(kv, &txn, 1);
	return status ? status : revision;
}

int64_t local_get_at(pgs_kv *kv, const char *key, uint64_t revision, uint64_t *mod)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = SLICE(key), .revision = revision};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	if (local_run(kv, &txn, &err) != PGS_OK)
		fail_msg("%s", err.message);
	int64_t number = -1;
	if (txn.results[0].count) {
		char text[32] = "";
		memcpy(text, txn.results[0].pairs[0].value.data, txn.results[0].pairs[0].value.size);
		number = atoll(text);
		if (mod)
			*mod = txn.results[0].pairs[0].mod_revision;
	}
	kv->vtable->release(kv, &txn, 1);
	return number;
}

int64_t local_get(pgs_kv *kv, const char *key)
{
	return local_get_at(kv, key, 0, NULL);
}

void local_increment(pgs_kv *kv, const char *key)
{
	for (bool done = false; !done;) {
		char text[32];
		uint64_t mod = 0;
		int64_t now = local_get_at(kv, key, 0, &mod);
		snprintf(text, sizeof text, "%lld", (long long)(now < 0 ? 1 : now + 1));
		pgs_kv_compare same = {
			.key = SLICE(key), .target = PGS_KV_MOD, .relation = PGS_KV_EQUAL, .number = mod};
		pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE(key), .value = SLICE(text)};
		pgs_kv_txn txn = {.compares = &same, .compare_count = 1, .success = &op, .success_count = 1};
		assert_int_equal(local_run(kv, &txn, NULL), PGS_OK);
		done = txn.succeeded;
		kv->vtable->release(kv, &txn, 1);
	}
}

pgs_kv_stat local_stat(pgs_kv *kv)
{
	pgs_kv_stat stat;
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	return stat;
}

void wait_for_child(pid_t child)
{
	int how;
	assert_int_equal(waitpid(child, &how, 0), child);
	assert_true(WIFEXITED(how));
	assert_int_equal(WEXITSTATUS(how), 0);
}

void skip_test(const char *why)
{
	const char *ci = getenv("CI");
	if (ci && !strcmp(ci, "true"))
		fail_msg("cannot run here: %s", why);
	print_message("SKIPPED: %s\n", why);
	skip();
}
