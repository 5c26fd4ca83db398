/* XML: see xml.h. One pass over the document; `path` is the stack of open elements, and each has its text until its
 * first child begins: S3 has no mixed content, so an element with children has no text that matters. */
#include "xml.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <pagestore/error.h>

typedef struct parser {
	const char *at, *end;
	char path[PGS__XML_PATH_MAX];
	size_t path_size;
	size_t starts[PGS__XML_DEPTH_MAX]; /* where the name of each open element begins in `path` */
	size_t depth;
	bool rooted; /* the root element was there */
	char text[PGS__XML_TEXT_MAX + 1];
	size_t text_size;
} parser;

static bool begins(const parser *p, const char *word)
{
	size_t size = strlen(word);
	return (size_t)(p->end - p->at) >= size && !memcmp(p->at, word, size);
}

/* Go behind the next `word`. */
static bool skip_past(parser *p, const char *word)
{
	const char *found = memmem(p->at, (size_t)(p->end - p->at), word, strlen(word));
	if (found)
		p->at = found + strlen(word);
	return found != NULL;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_space(parser *p)
{
	while (p->at < p->end && is_space(*p->at))
		p->at++;
}

/* --- text ------------------------------------------------------------------- */

static bool put_char(parser *p, char c)
{
	if (p->text_size == PGS__XML_TEXT_MAX || c == '\0')
		return false;
	p->text[p->text_size++] = c;
	return true;
}

static bool put_code_point(parser *p, uint32_t code)
{
	if (code == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
		return false;
	if (code < 0x80)
		return put_char(p, (char)code);
	if (code < 0x800)
		return put_char(p, (char)(0xc0 | code >> 6)) && put_char(p, (char)(0x80 | (code & 63)));
	if (code < 0x10000)
		return put_char(p, (char)(0xe0 | code >> 12)) && put_char(p, (char)(0x80 | (code >> 6 & 63))) &&
		       put_char(p, (char)(0x80 | (code & 63)));
	return put_char(p, (char)(0xf0 | code >> 18)) && put_char(p, (char)(0x80 | (code >> 12 & 63))) &&
	       put_char(p, (char)(0x80 | (code >> 6 & 63))) && put_char(p, (char)(0x80 | (code & 63)));
}

static int digit_of(char c, uint32_t base)
{
	int digit = c >= '0' && c <= '9'   ? c - '0'
		    : c >= 'a' && c <= 'f' ? c - 'a' + 10
		    : c >= 'A' && c <= 'F' ? c - 'A' + 10
					   : 99;
	return digit < (int)base ? digit : -1;
}

/* &#…; */
static bool read_number(parser *p)
{
	uint32_t base = p->at < p->end && *p->at == 'x' ? 16 : 10, code = 0;
	size_t digits = 0;
	if (base == 16)
		p->at++;
	for (; p->at < p->end && digit_of(*p->at, base) >= 0; p->at++, digits++) {
		code = code * base + (uint32_t)digit_of(*p->at, base);
		if (code > 0x10ffff)
			return false;
	}
	if (digits == 0 || p->at == p->end || *p->at != ';')
		return false;
	p->at++;
	return put_code_point(p, code);
}

static bool read_entity(parser *p)
{
	static const struct {
		const char *name;
		char c;
	} entities[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
	for (size_t i = 0; i < sizeof entities / sizeof *entities; i++)
		if (begins(p, entities[i].name)) {
			p->at += strlen(entities[i].name);
			return put_char(p, entities[i].c);
		}
	if (!begins(p, "&#"))
		return false;
	p->at += 2;
	return read_number(p);
}

static bool read_cdata(parser *p)
{
	p->at += strlen("<![CDATA[");
	while (p->at < p->end && !begins(p, "]]>"))
		if (!put_char(p, *p->at++))
			return false;
	return skip_past(p, "]]>");
}

/* One character or entity of text. Outside of the root, only space is allowed. */
static bool read_text(parser *p)
{
	if (p->depth == 0)
		return is_space(*p->at++);
	return *p->at == '&' ? read_entity(p) : put_char(p, *p->at++);
}

/* --- elements ----------------------------------------------------------------- */

static bool is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
	       c == '.' || c == ':';
}

static pgs_slice read_name(parser *p)
{
	const char *start = p->at;
	while (p->at < p->end && is_name_char(*p->at))
		p->at++;
	return (pgs_slice){start, (size_t)(p->at - start)};
}

/* name = "value", any number of times. */
static bool skip_attributes(parser *p)
{
	for (skip_space(p); p->at < p->end && is_name_char(*p->at); skip_space(p)) {
		read_name(p);
		skip_space(p);
		if (p->at == p->end || *p->at++ != '=')
			return false;
		skip_space(p);
		if (p->at == p->end || (*p->at != '"' && *p->at != '\''))
			return false;
		char quote[2] = {*p->at++, '\0'};
		if (!skip_past(p, quote))
			return false;
	}
	return true;
}

static bool open_element(parser *p, pgs_slice name)
{
	size_t slash = p->depth > 0;
	if (p->depth == PGS__XML_DEPTH_MAX || p->path_size + slash + name.size >= sizeof p->path ||
		(p->depth == 0 && p->rooted))
		return false;
	if (slash)
		p->path[p->path_size++] = '/';
	p->starts[p->depth++] = p->path_size;
	memcpy(p->path + p->path_size, name.data, name.size);
	p->path_size += name.size;
	p->path[p->path_size] = '\0';
	p->text_size = 0;
	p->rooted = true;
	return true;
}

static int close_element(parser *p, pgs__xml_handler handler, void *ctx)
{
	p->text[p->text_size] = '\0';
	int status = handler(ctx, p->path, p->text, p->text_size);
	size_t start = p->starts[--p->depth];
	p->path_size = start ? start - 1 : 0;
	p->path[p->path_size] = '\0';
	p->text_size = 0;
	return status;
}

/* </name> */
static int read_end(parser *p, pgs__xml_handler handler, void *ctx)
{
	p->at += 2;
	pgs_slice name = read_name(p);
	skip_space(p);
	if (p->depth == 0 || p->at == p->end || *p->at++ != '>')
		return PGS_ECORRUPT;
	size_t start = p->starts[p->depth - 1];
	if (name.size != p->path_size - start || memcmp(name.data, p->path + start, name.size) != 0)
		return PGS_ECORRUPT;
	return close_element(p, handler, ctx);
}

/* <name …> or <name …/> */
static int read_start(parser *p, pgs__xml_handler handler, void *ctx)
{
	p->at++;
	pgs_slice name = read_name(p);
	if (name.size == 0 || !open_element(p, name) || !skip_attributes(p))
		return PGS_ECORRUPT;
	bool empty = begins(p, "/");
	p->at += empty;
	if (p->at == p->end || *p->at++ != '>')
		return PGS_ECORRUPT;
	return empty ? close_element(p, handler, ctx) : PGS_OK;
}

static int read_one(parser *p, pgs__xml_handler handler, void *ctx)
{
	bool good;
	if (*p->at != '<')
		good = read_text(p);
	else if (begins(p, "<?"))
		good = skip_past(p, "?>");
	else if (begins(p, "<!--"))
		good = skip_past(p, "-->");
	else if (begins(p, "<![CDATA["))
		good = p->depth > 0 && read_cdata(p);
	else if (begins(p, "</"))
		return read_end(p, handler, ctx);
	else
		return read_start(p, handler, ctx);
	return good ? PGS_OK : PGS_ECORRUPT;
}

int pgs__xml_read(pgs_slice document, pgs__xml_handler handler, void *ctx)
{
	parser p;
	p.at = document.size ? document.data : "";
	p.end = p.at + document.size;
	p.path_size = p.depth = p.text_size = 0;
	p.path[0] = '\0';
	p.rooted = false;
	if (begins(&p, "\xef\xbb\xbf"))
		p.at += 3;
	while (p.at < p.end) {
		int status = read_one(&p, handler, ctx);
		if (status != PGS_OK)
			return status;
	}
	return p.rooted && p.depth == 0 ? PGS_OK : PGS_ECORRUPT;
}
