/* quickstart: commit a page twice, then read both versions.
 *
 *     quickstart [URL]       mem: unless told; dir:/tmp/quick keeps it
 */
#include <inttypes.h>
#include <stdio.h>

#include <pagestore.h>

static int put(pgs_db *db, const char *text, uint64_t *revision, pgs_error *err)
{
	char page[PGS_PAGE_SIZE_DEFAULT] = {0};
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.write = true;
	int rc = pgs_begin(&txn, db, &options, err);
	if (rc != PGS_OK)
		return rc;
	snprintf(page, sizeof(page), "%s", text);
	rc = pgs_write(txn, 0, page);
	if (rc == PGS_OK)
		return pgs_commit(txn, NULL, revision, err); /* frees the transaction, whatever it returns */
	*err = *pgs_txn_error(txn);
	pgs_abort(txn);
	return rc;
}

static int show(pgs_db *db, uint64_t revision, pgs_error *err)
{
	char page[PGS_PAGE_SIZE_DEFAULT];
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.at_revision = revision;
	int rc = pgs_begin(&txn, db, &options, err);
	if (rc != PGS_OK)
		return rc;
	rc = pgs_read(txn, 0, page);
	if (rc == PGS_OK)
		printf("revision %" PRIu64 ": %s\n", revision, page);
	else
		*err = *pgs_txn_error(txn);
	pgs_abort(txn);
	return rc;
}

int main(int argc, char **argv)
{
	pgs_store *store = NULL;
	pgs_db *db = NULL;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t first, second;
	int rc = pgs_open(&store, argc > 1 ? argv[1] : "mem:", NULL, &err);
	if (rc == PGS_OK)
		rc = pgs_db_create(&db, store, "greetings", 9, NULL, &err);
	if (rc == PGS_EEXIST)
		rc = pgs_db_open(&db, store, "greetings", 9, NULL, &err);
	if (rc == PGS_OK)
		rc = put(db, "good morning", &first, &err);
	if (rc == PGS_OK)
		rc = put(db, "good night", &second, &err);
	if (rc == PGS_OK)
		rc = show(db, first, &err);
	if (rc == PGS_OK)
		rc = show(db, second, &err);
	if (rc != PGS_OK)
		fprintf(stderr, "quickstart: %s: %s\n", pgs_error_name(rc), err.message);
	pgs_db_close(db);
	pgs_close(store);
	return rc == PGS_OK ? 0 : 1;
}
