/* Tellers move money between the accounts of a database, each in a process or thread of its own. Whatever they do, and
 * whenever they are killed, no money is made or lost, and no transaction that was acknowledged is.
 *
 * What tellers run themselves uses nothing of the test's: that is for its own thread. */
#ifndef PGS_TESTS_SQLITE_BANK_H
#define PGS_TESTS_SQLITE_BANK_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

enum { BANK_ACCOUNTS = 300, BANK_BALANCE = 100, BANK_TELLERS = 8 };

typedef enum teller_kind {
	TELLER_OPTIMIST,   /* BEGIN … COMMIT, again when it conflicts */
	TELLER_IMMEDIATE,  /* BEGIN IMMEDIATE … COMMIT */
	TELLER_AUTOCOMMIT, /* one UPDATE that does all */
	TELLER_BUILDER,    /* makes, fills and drops tables and indexes, and now and then runs VACUUM */
	TELLER_AUDITOR,    /* adds up all the time, each time in a snapshot */
	TELLER_KINDS
} teller_kind;

/* In memory that processes share: who was killed cannot tell otherwise how far he got. */
typedef struct bank_board {
	atomic_ulong done[BANK_TELLERS];      /* transactions acknowledged, by teller, all of his lives */
	atomic_ulong conflicts[BANK_TELLERS]; /* … refused, and tried again */
} bank_board;

typedef struct teller {
	const char *uri;
	bank_board *board;
	unsigned number; /* below BANK_TELLERS */
	teller_kind kind;
	unsigned long count; /* transactions to do; 0 = as long as there is time */
	uint64_t end_ms;     /* of pgs__now_ms(), but not before the first transaction is done; 0 = none */
	int failure;         /* an SQLite code */
} teller;

bank_board *bank_board_new(void);
void bank_board_free(bank_board *board);

void bank_make(const char *uri);

/* The money is there, and what was acknowledged: of a teller who was killed one transaction more may be there.
 * The board is set to what is there. */
void bank_check(const char *uri, bank_board *board);

void *teller_run(void *teller);         /* as a thread's function, too */
pid_t teller_start(teller t);           /* a process, which exits with 0 if nothing failed */

#endif
