/* pagestore/error.h: result codes and error details
 *
 * Every fallible function returns PGS_OK (0) or one of the negative codes
 * below; the numbers are pinned and never change meaning. Functions that take
 * a `pgs_error *` fill it on failure with what was tried, on what, and what to
 * do about it. NULL is always accepted there.
 * After PGS_OK what it holds is unspecified.
 *
 *     pgs_error err = PGS_ERROR_INIT;
 *     if (pgs_open(&store, url, NULL, &err) != PGS_OK)
 *             fprintf(stderr, "%s\n", err.message);
 *
 * Threads: plain data, no shared state.
 */
#ifndef PAGESTORE_ERROR_H
#define PAGESTORE_ERROR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
	PGS_OK = 0,
	PGS_EINVAL = -1,     /* an argument is wrong: a bug in the caller, or bad input from its user */
	PGS_ENOMEM = -2,     /* the allocator returned NULL */
	PGS_ENOTFOUND = -3,  /* no such store, database, attribute, blob, revision's commit */
	PGS_EEXIST = -4,     /* the name is taken */
	PGS_ECONFLICT = -5,  /* another transaction committed what this one read or wrote: begin again */
	PGS_EBUSY = -6,      /* a lock is held, or maintenance is behind: retry later */
	PGS_EOLDREV = -7,    /* the revision is below the oldest one still readable */
	PGS_EUNKNOWN = -8,   /* the outcome is not known: ask pgs_commit_status() */
	PGS_EIO = -9,        /* the backend failed; nothing was applied */
	PGS_ECORRUPT = -10,  /* stored bytes are not what was written; the message names the place */
	PGS_EREADONLY = -11, /* a write through a read-only transaction or store */
	PGS_ELIMIT = -12,    /* a documented limit would be passed */
	PGS_EAUTH = -13,     /* the server refused the credentials */
	PGS_ETIMEOUT = -14,  /* the deadline passed; nothing was applied */
	PGS_EVERSION = -15,  /* written by a newer format version, or a vtable of an unknown version */
	PGS_ENOSPC = -16     /* disk, map or quota is full */
};

/* What a caller does about a result, for code that does not want sixteen cases. */
enum {
	PGS_CLASS_OK = 0,
	PGS_CLASS_RETRY = 1,   /* begin the transaction again: ECONFLICT, EBUSY */
	PGS_CLASS_CALLER = 2,  /* change the call: EINVAL, ENOTFOUND, EEXIST, EREADONLY, ELIMIT, EOLDREV */
	PGS_CLASS_BACKEND = 3, /* look at the machine or server: EIO, ETIMEOUT, EAUTH, ENOSPC, ENOMEM */
	PGS_CLASS_DATA = 4,    /* look at the stored data: ECORRUPT, EVERSION */
	PGS_CLASS_UNKNOWN = 5  /* ask pgs_commit_status(): EUNKNOWN */
};

/* page value of an error that is not about one page */
#define PGS_NO_PAGE UINT64_MAX

#define PGS_ERROR_MESSAGE_SIZE 384

typedef struct pgs_error {
	int code;      /* the result the function returned */
	uint64_t page; /* the page it is about, or PGS_NO_PAGE */
	char message[PGS_ERROR_MESSAGE_SIZE]; /* one line, NUL-terminated, no secrets */
} pgs_error;

#define PGS_ERROR_INIT { 0, PGS_NO_PAGE, "" }

/* The PGS_CLASS_… of a result code; unknown codes are PGS_CLASS_BACKEND. Since 0.1. */
int pgs_error_class(int code);

/* The code's symbol, such as "PGS_ECONFLICT"; "PGS_?" for an unknown one. Static storage. Since 0.1. */
const char *pgs_error_name(int code);

#ifdef __cplusplus
}
#endif

#endif
