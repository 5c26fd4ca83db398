/* Running single jobs of maintenance in tests, and setting the floor without waiting for time to pass. */
#ifndef PGS_TESTS_JOBS_H
#define PGS_TESTS_JOBS_H

#include "maintain/jobs.h"

typedef int (*job)(pgs__worker *w);

/* Run a job without a budget. `options` and `report` may be NULL. The result is the job's. */
int job_run(pgs_db *db, job run, const pgs_maintain_options *options, pgs_maintain_report *report, pgs_error *err);

/* The same, ended by the progress callback when it is called the nth time: then the result is JOB_ENDED. */
#define JOB_ENDED 4711
int job_run_until(pgs_db *db, job run, int nth, pgs_error *err);

/* It must succeed; the report. */
pgs_maintain_report job_do(pgs_db *db, job run);

/* Raise the floor as a collector would, with no pins to mind. Fails the running test when the KV refuses. */
void set_floor(pgs_kv *kv, pgs_db *db, uint64_t floor);

#endif
