/* Filling a caller's pgs_error. */
#ifndef PGS_UTIL_ERROR_H
#define PGS_UTIL_ERROR_H

#include <stddef.h>

#include <pagestore/error.h>

/* Set code, no page and a printf message; returns `code`. `err` may be NULL. */
int pgs__error(pgs_error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same, about page `page`. */
int pgs__error_page(pgs_error *err, int code, uint64_t page, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* "out of memory (what)"; returns PGS_ENOMEM. */
int pgs__error_nomem(pgs_error *err, const char *what);

/* Put "format: " before the message `err` already has; returns its code. */
int pgs__error_prefix(pgs_error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* clang's analyser looks at one file at a time: tell it that these return `code`. */
#ifdef __clang_analyzer__
#define pgs__error(err, code, ...) (pgs__error(err, code, __VA_ARGS__), (code))
#define pgs__error_page(err, code, ...) (pgs__error_page(err, code, __VA_ARGS__), (code))
#define pgs__error_prefix(err, code, ...) (pgs__error_prefix(err, code, __VA_ARGS__), (code))
#define pgs__error_nomem(err, what) (pgs__error_nomem(err, what), PGS_ENOMEM)
#endif

/* The PGS_E… of a failed system call (ENOSPC, EROFS, EACCES, ENOENT, …). */
int pgs__error_from_errno(int errnum);

/* Printable form of arbitrary bytes for messages: others than ASCII letters,
 * digits and punctuation become \xNN; cut to `size` with "…". Returns `out`. */
const char *pgs__printable(char *out, size_t out_size, const void *data, size_t size);

#endif
