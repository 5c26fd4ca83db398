/* quickstart: commit a page twice, then read both versions. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <pagestore.h>

static pgs_error err = PGS_ERROR_INIT;

static void must(int result)
{
	if (result == PGS_OK)
		return;
	fprintf(stderr, "%s: %s\n", pgs_error_name(result), err.message);
	exit(1);
}

int main(int argc, char **argv)
{
	static const char *const greetings[] = {"good morning", "good night"};
	pgs_txn_options writing = PGS_TXN_OPTIONS_INIT, reading = PGS_TXN_OPTIONS_INIT;
	char page[PGS_PAGE_SIZE_DEFAULT] = "";
	uint64_t revisions[2];
	pgs_store *store;
	pgs_db *db;
	pgs_txn *txn;

	must(pgs_open(&store, argc > 1 ? argv[1] : "mem:", NULL, &err));
	must(pgs_db_create(&db, store, "greetings", 9, NULL, &err));
	for (int i = 0; i < 2; i++) {
		writing.write = true;
		must(pgs_begin(&txn, db, &writing, &err));
		snprintf(page, sizeof page, "%s", greetings[i]);
		must(pgs_write(txn, 0, page));
		must(pgs_commit(txn, NULL, &revisions[i], &err)); /* frees the transaction, whatever it returns */
	}
	for (int i = 0; i < 2; i++) {
		reading.at_revision = revisions[i];
		must(pgs_begin(&txn, db, &reading, &err));
		must(pgs_read(txn, 0, page));
		printf("revision %" PRIu64 ": %s\n", revisions[i], page);
		pgs_abort(txn);
	}
	pgs_db_close(db);
	pgs_close(store);
	return 0;
}
