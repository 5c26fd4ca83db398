/* Stores for tests: several handles on one memory "server", one of them through faults; pages made from numbers.
 *
 * Everything here fails the running cmocka test when something refuses, so use it on the test's own thread. */
#ifndef PGS_TESTS_STORES_H
#define PGS_TESTS_STORES_H

#include <pagestore.h>
#include <pagestore/backends.h>
#include <pagestore/fault.h>

#define TEST_PAGE_SIZE 4096

/* The contents, and what is open on them. */
typedef struct server {
	pgs_kv *kv; /* direct: for looking at keys, and breaking them */
	pgs_blob *blob;
} server;

void server_start(server *s, const pgs_kv_limits *limits);
void server_stop(server *s);

/* A store on it; `fault` NULL = none. */
pgs_store *server_open(server *s, pgs_fault *fault, const pgs_store_options *options);

pgs_db *create_db(pgs_store *store, const char *name, const pgs_db_options *options);
pgs_db *open_db(pgs_store *store, const char *name);

pgs_txn *begin_write(pgs_db *db);
uint64_t commit_ok(pgs_txn *txn);

/* Bytes that do not compress, told by `seed`; seed 0 is the zero page. The lowest byte of the seed changes only a few
 * bytes of the page. */
void fill_page(void *page, uint64_t seed);
int read_seed(pgs_txn *txn, uint64_t page_no, uint64_t seed); /* pgs_read()'s result; fails when the bytes differ */
int write_seed(pgs_txn *txn, uint64_t page_no, uint64_t seed);

/* Write pages [first, first + count), page n with seed(n), in one commit. */
uint64_t write_pages(pgs_db *db, uint64_t first, uint64_t count, uint64_t (*seed)(uint64_t page_no));

/* Fails with the message when the code is another. */
void expect_code(int code, int expected, const pgs_error *err, const char *what);

/* A temporary directory below $TMPDIR or /tmp, and its removal with all that is in it. */
void make_folder(char path[64]);
void remove_folder(const char *path);

#endif
