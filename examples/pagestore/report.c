/* What the tool says on stderr. */
#include "report.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "format.h"

static void say_hint(const char *hint)
{
	if (hint)
		fprintf(stderr, "  %s\n", hint);
}

int cli_fail(const char *hint, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("pagestore: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	say_hint(hint);
	return CLI_FAILED;
}

/* What to do about a result that the caller has no better advice for. */
static const char *advice(int code)
{
	switch (pgs_error_class(code)) {
	case PGS_CLASS_RETRY:
		return "Others are writing to the same database: run the command again.";
	case PGS_CLASS_BACKEND:
		return "Nothing was changed. Look at the machine or server that holds the store, then try again.";
	case PGS_CLASS_DATA:
		return "`pagestore verify DB` checks everything that is stored and names what is damaged.";
	case PGS_CLASS_UNKNOWN:
		return "`pagestore log DB` shows whether the commit is there.";
	default:
		return NULL;
	}
}

int cli_fail_pgs(const pgs_error *err, const char *hint, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("pagestore: ", stderr);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs(": ", stderr);
	if (err->message[0])
		cli_print_text(stderr, err->message, strlen(err->message));
	else
		fputs(pgs_error_name(err->code), stderr);
	fputc('\n', stderr);
	say_hint(hint ? hint : advice(err->code));
	return CLI_FAILED;
}

int cli_misused(const char *hint, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("pagestore: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	say_hint(hint ? hint : "usage: pagestore [-s URL] COMMAND ...; `pagestore help [COMMAND]` says more.");
	return CLI_USAGE;
}

void cli_warn(const char *format, ...)
{
	va_list args;
	char text[1024];
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	flockfile(stderr);
	fputs(isatty(STDERR_FILENO) ? "\r\033[Kpagestore: warning: " : "pagestore: warning: ", stderr);
	cli_print_text(stderr, text, strlen(text));
	fputc('\n', stderr);
	funlockfile(stderr);
}
