/* The jobs of maintenance. Each does its work in bounded steps, stops when the worker's budget is spent (more work is
 * then noted in the report), and can be interrupted anywhere: the next run goes on.
 *
 * All return PGS_OK (done, nothing to do, or another worker has it), or an error of the backends, ECORRUPT, ENOTFOUND
 * (the database was dropped), ENOMEM, or what the progress callback returned.
 */
#ifndef PGS_MAINTAIN_JOBS_H
#define PGS_MAINTAIN_JOBS_H

#include "maintain/worker.h"

/* Note the time, and raise the floor as far as retention, quota and pins allow (floor.c). */
int pgs__job_floor(pgs__worker *w);

/* c/ → level 0 (flush.c). */
int pgs__job_flush(pgs__worker *w);

/* Fold packs into p/, oldest first (fold.c). */
int pgs__job_fold(pgs__worker *w);

/* Merge what the thresholds ask for, dropping garbage (merge.c). */
int pgs__job_merge(pgs__worker *w);

/* Prune the changelog, remove unregistered blobs and orphans (sweep.c). */
int pgs__job_sweep(pgs__worker *w);

/* Store-wide: compact the KV to the lowest floor, when the store owns it (compact_kv.c). */
int pgs__job_compact_kv(pgs__worker *w);

#endif
