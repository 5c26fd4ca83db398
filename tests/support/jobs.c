/* See jobs.h. */
#include "support/jobs.h"

#include "support/kv_calls.h"
#include "support/stores.h"
#include "support/testing.h"

int job_run(pgs_db *db, job run, const pgs_maintain_options *options, pgs_maintain_report *report, pgs_error *err)
{
	pgs_maintain_report local = PGS_MAINTAIN_REPORT_INIT;
	pgs__worker w = {.db = db,
			 .options = options ? *options : (pgs_maintain_options)PGS_MAINTAIN_OPTIONS_INIT,
			 .report = report ? report : &local,
			 .err = err,
			 .bytes_left = UINT64_MAX};
	int result = pgs__worker_read_floor(&w);
	return result == PGS_OK ? run(&w) : result;
}

static int count_down(void *ctx, const pgs_maintain_progress *progress)
{
	int *left = ctx;
	(void)progress;
	return --*left > 0 ? 0 : JOB_ENDED;
}

int job_run_until(pgs_db *db, job run, int nth, pgs_error *err)
{
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	options.progress = count_down;
	options.progress_ctx = &nth;
	return job_run(db, run, &options, NULL, err);
}

pgs_maintain_report job_do(pgs_db *db, job run)
{
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(job_run(db, run, NULL, &report, &err), PGS_OK, &err, "a job of maintenance");
	return report;
}

void set_floor(pgs_kv *kv, pgs_db *db, uint64_t floor)
{
	pgs__key g = pgs__key_single(pgs__db_prefix(db), 'g');
	pgs_kv_op get = pgs__op_get(pgs__key_slice(&g), 0);
	pgs__floor value;
	pgs_kv_txn txn = txn_of(&get, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(pgs__floor_decode(pgs__got(&txn, 0)->value, &value), PGS_OK);
	kv->vtable->release(kv, &txn, 1);
	assert_true(floor >= value.floor);
	value = (pgs__floor){floor, value.floor};
	pgs__buffer b = {0};
	pgs__floor_encode(&value, &b);
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&g), pgs__buffer_slice(&b));
	kv_apply(kv, &put, 1);
	pgs__buffer_free(&b);
}
