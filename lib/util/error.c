/* Result codes, their names and classes, and error messages. */
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	int class;
} codes[] = {
	[0] = {"PGS_OK", PGS_CLASS_OK},
	[-PGS_EINVAL] = {"PGS_EINVAL", PGS_CLASS_CALLER},
	[-PGS_ENOMEM] = {"PGS_ENOMEM", PGS_CLASS_BACKEND},
	[-PGS_ENOTFOUND] = {"PGS_ENOTFOUND", PGS_CLASS_CALLER},
	[-PGS_EEXIST] = {"PGS_EEXIST", PGS_CLASS_CALLER},
	[-PGS_ECONFLICT] = {"PGS_ECONFLICT", PGS_CLASS_RETRY},
	[-PGS_EBUSY] = {"PGS_EBUSY", PGS_CLASS_RETRY},
	[-PGS_EOLDREV] = {"PGS_EOLDREV", PGS_CLASS_CALLER},
	[-PGS_EUNKNOWN] = {"PGS_EUNKNOWN", PGS_CLASS_UNKNOWN},
	[-PGS_EIO] = {"PGS_EIO", PGS_CLASS_BACKEND},
	[-PGS_ECORRUPT] = {"PGS_ECORRUPT", PGS_CLASS_DATA},
	[-PGS_EREADONLY] = {"PGS_EREADONLY", PGS_CLASS_CALLER},
	[-PGS_ELIMIT] = {"PGS_ELIMIT", PGS_CLASS_CALLER},
	[-PGS_EAUTH] = {"PGS_EAUTH", PGS_CLASS_BACKEND},
	[-PGS_ETIMEOUT] = {"PGS_ETIMEOUT", PGS_CLASS_BACKEND},
	[-PGS_EVERSION] = {"PGS_EVERSION", PGS_CLASS_DATA},
	[-PGS_ENOSPC] = {"PGS_ENOSPC", PGS_CLASS_BACKEND},
};

#define CODE_COUNT ((int)(sizeof codes / sizeof codes[0]))

static int is_known(int code)
{
	return code <= 0 && code > -CODE_COUNT;
}

int pgs_error_class(int code)
{
	return is_known(code) ? codes[-code].class : PGS_CLASS_BACKEND;
}

const char *pgs_error_name(int code)
{
	return is_known(code) ? codes[-code].name : "PGS_?";
}

static void fill(pgs_error *err, int code, uint64_t page, const char *format, va_list args)
{
	err->code = code;
	err->page = page;
	vsnprintf(err->message, sizeof err->message, format, args);
}

int (pgs__error)(pgs_error *err, int code, const char *format, ...)
{
	if (!err)
		return code;
	va_list args;
	va_start(args, format);
	fill(err, code, PGS_NO_PAGE, format, args);
	va_end(args);
	return code;
}

int (pgs__error_page)(pgs_error *err, int code, uint64_t page, const char *format, ...)
{
	if (!err)
		return code;
	va_list args;
	va_start(args, format);
	fill(err, code, page, format, args);
	va_end(args);
	return code;
}

int (pgs__error_nomem)(pgs_error *err, const char *what)
{
	return pgs__error(err, PGS_ENOMEM, "out of memory (%s)", what);
}

int (pgs__error_prefix)(pgs_error *err, int code, const char *format, ...)
{
	if (!err)
		return code;
	uint64_t page = err->page;
	char text[sizeof err->message], rest[sizeof err->message];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	memcpy(rest, err->message, sizeof rest);
	pgs__error(err, code, "%s: %s", text, rest);
	err->page = page;
	return code;
}

int pgs__error_from_errno(int errnum)
{
	switch (errnum) {
	case ENOENT:
	case ENOTDIR:
		return PGS_ENOTFOUND;
	case ENOMEM:
		return PGS_ENOMEM;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return PGS_ENOSPC;
	case EROFS:
	case EACCES:
	case EPERM:
		return PGS_EREADONLY;
	case EINVAL:
	case ENAMETOOLONG:
		return PGS_EINVAL;
	default:
		return PGS_EIO;
	}
}

const char *pgs__printable(char *out, size_t out_size, const void *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *bytes = data;
	size_t used = 0, i;
	for (i = 0; i < size && used + 8 < out_size; i++) {
		if (bytes[i] >= 0x21 && bytes[i] < 0x7f && bytes[i] != '\\') {
			out[used++] = (char)bytes[i];
			continue;
		}
		out[used++] = '\\';
		out[used++] = 'x';
		out[used++] = digits[bytes[i] >> 4];
		out[used++] = digits[bytes[i] & 15];
	}
	if (i < size)
		for (const char *dots = "..."; *dots; dots++)
			out[used++] = *dots;
	out[used] = '\0';
	return out;
}
