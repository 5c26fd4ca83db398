/* A database on an etcd of its own. */
#include "etcd_fixture.h"

#include <stdlib.h>
#include <string.h>

#include <pagestore/backends.h>
#include <pagestore/maintain.h>

#define CHANGED 50        /* bytes of a page */
#define FILL_PAGES 100000 /* in one commit */

void etcd_db_small_page(uint32_t number, uint8_t page[4096])
{
	bench_random random = {number};
	memset(page, 0, 4096);
	for (size_t i = 0; i < 48; i += 8) {
		uint64_t word = bench_random_next(&random);
		memcpy(page + 512 + i, &word, sizeof word);
	}
}

static void open_store(etcd_db *d)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_blob *blob;
	bench_must(pgs_kv_etcd_open(&kv, etcd_endpoints(d->etcd), "bench", NULL, &err), &err, "pgs_kv_etcd_open");
	bench_must(counting_kv_new(&kv, kv, &d->counted, &err), &err, "counting_kv_new");
	bench_must(pgs_blob_memory_new(&blob, &err), &err, "pgs_blob_memory_new");
	bench_must(pgs_open_with(&d->ours.store, kv, blob, NULL, &err), &err, "pgs_open_with");
}

static void fill(etcd_db *d, etcd_db_page page)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t bytes[4096];
	pgs_txn *t;
	options.write = true;
	for (uint32_t i = 0; i < d->pages;) {
		bench_must(pgs_begin(&t, d->ours.db, &options, &err), &err, "pgs_begin");
		for (uint32_t end = i + FILL_PAGES; i < end && i < d->pages; i++) {
			page(i, bytes);
			bench_must(pgs_write(t, i, bytes), pgs_txn_error(t), "pgs_write");
		}
		bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
	}
}

/* As after a while of maintenance: nothing in packs. */
static void settle(etcd_db *d)
{
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.all = true;
	do
		bench_must(pgs_maintain(d->ours.db, &options, &report, &err), &err, "pgs_maintain");
	while (report.more);
	bench_check(report.due_packs == 0, "packs are left");
}

bool etcd_db_open(const bench_env *env, etcd_db *out, uint32_t pages, etcd_db_page page)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	*out = (etcd_db){.pages = pages};
	if (!etcd_available())
		return false;
	setenv("TMPDIR", env->dir, 1); /* where the server's files go */
	out->etcd = etcd_start(&(etcd_setup){.synced = true});
	bench_check(out->etcd != NULL, "etcd does not start");
	options.page_size_bytes = 4096;
	options.cache_bytes = 64u << 20;
	open_store(out);
	bench_must(pgs_db_create(&out->ours.db, out->ours.store, "bench", 5, &options, &err), &err, "pgs_db_create");
	fill(out, page);
	settle(out);
	return true;
}

void etcd_db_close(etcd_db *d)
{
	bench_db_close(&d->ours);
	etcd_stop(d->etcd);
}

void etcd_db_reopen(etcd_db *d)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_close(d->ours.db);
	options.cache_bytes = 64u << 20;
	bench_must(pgs_db_open(&d->ours.db, d->ours.store, "bench", 5, &options, &err), &err, "pgs_db_open");
}

void etcd_db_warm(etcd_db *d)
{
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[4096];
	pgs_txn *t;
	bench_must(pgs_begin(&t, d->ours.db, NULL, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < d->pages; i++)
		bench_must(pgs_read(t, i, page), pgs_txn_error(t), "pgs_read");
	pgs_abort(t);
}

double etcd_db_commit(etcd_db *d, bench_random *random, const uint32_t *pages, uint32_t count, double *whole)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[4096];
	pgs_txn *t;
	options.write = true;
	double began = bench_seconds();
	bench_must(pgs_begin(&t, d->ours.db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < count; i++) {
		size_t at = bench_random_next(random) % (sizeof page - CHANGED);
		bench_must(pgs_read(t, pages[i], page), pgs_txn_error(t), "pgs_read");
		for (size_t k = 0; k < CHANGED; k++)
			page[at + k] = (uint8_t)bench_random_next(random);
		bench_must(pgs_write(t, pages[i], page), pgs_txn_error(t), "pgs_write");
	}
	double since = bench_seconds();
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
	double end = bench_seconds();
	if (whole)
		*whole = end - began;
	return end - since;
}
