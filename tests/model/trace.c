/* What happened, as a digest and in words. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "codec/keys.h"
#include "util/random.h"

#define LINES 250
#define LINE_SIZE 700

bool trace_on, trace_live;

static char lines[LINES][LINE_SIZE];
static size_t line_count;

void trace_note(uint64_t a, uint64_t b, uint64_t c)
{
	world.digest = rng_mix(world.digest ^ rng_mix(a + 0x1234567 * b + (c << 40)) ^ world.now_us);
}

void trace(const char *format, ...)
{
	if (!trace_on)
		return;
	char *line = lines[line_count++ % LINES];
	const sim_client *c = world.current;
	int used = snprintf(line, LINE_SIZE, "%6llu %9.3fs %-6s %-9s ", (unsigned long long)world.step,
		(double)world.now_us / 1e6, c ? c->name : "-", c && c->doing ? c->doing : "");
	va_list args;
	va_start(args, format);
	vsnprintf(line + used, LINE_SIZE - (size_t)used, format, args);
	va_end(args);
	if (trace_live)
		puts(line);
}

void trace_reset(void)
{
	line_count = 0;
}

void trace_print_last(void)
{
	size_t first = line_count > LINES ? line_count - LINES : 0;
	if (trace_live)
		return;
	if (first)
		printf("   ... %zu lines before (--trace prints all)\n", first);
	for (size_t i = first; i < line_count; i++)
		puts(lines[i % LINES]);
}

/* --- keys and transactions in words ------------------------------------------------------ */

typedef struct text {
	char bytes[600];
	size_t size;
} text;

static void add(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(text *t, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int n = vsnprintf(t->bytes + t->size, sizeof t->bytes - t->size, format, args);
	va_end(args);
	t->size += (size_t)(n > 0 ? n : 0);
	if (t->size >= sizeof t->bytes)
		t->size = sizeof t->bytes - 1;
}

static void add_hex(text *t, const uint8_t *data, size_t size)
{
	char hex[33];
	pgs__hex(hex, data, size < 16 ? size : 16);
	add(t, "%s", hex);
}

static void add_id(text *t, const uint8_t *id, size_t size)
{
	if (size < 16)
		return;
	add(t, "g%u.", id[3]);
	add_hex(t, id + 13, 3);
}

static void add_tail(text *t, char kind, const uint8_t *tail, size_t size)
{
	switch (kind) {
	case 'p':
		if (size == 8)
			add(t, "%u", (unsigned)(tail[6] << 8 | tail[7]));
		break;
	case 'c':
		add_id(t, tail, size);
		break;
	case 'l':
		if (size > 33) {
			add(t, "%u/", tail[0]);
			add_id(t, tail + 1, 16);
			add(t, "-");
			add_id(t, tail + 17, 16);
			add(t, "/%.*s", 4, (const char *)tail + 33);
			add(t, "%.*s", 6, (const char *)tail + size - 6);
		}
		break;
	case 'o':
	case 'x':
	case 'r':
		add_hex(t, size == 16 ? tail + 12 : tail, size == 16 ? 4 : size);
		break;
	case 'd':
		if (size > 6)
			add(t, "%.1s..%.6s", (const char *)tail, (const char *)tail + size - 6);
		break;
	default:
		for (size_t i = 0; i < size && i < 24; i++)
			add(t, "%c", tail[i] >= 32 && tail[i] < 127 ? tail[i] : '.');
	}
}

static void add_key(text *t, pgs_slice key)
{
	const uint8_t *k = key.data;
	if (key.size >= 10 && k[0] >= 0x80 && k[8] == '/') {
		add(t, "%c", k[9]);
		if (key.size > 10) {
			add(t, "/");
			add_tail(t, (char)k[9], k + 11, key.size > 11 ? key.size - 11 : 0);
		}
	} else if (key.size >= 2 && k[0] == 'n') {
		add(t, "n/%.*s", (int)key.size - 2, (const char *)k + 2);
	} else if (key.size == 9 && k[0] >= 0x80) {
		add(t, "<end>");
	} else {
		add(t, "%c", key.size && k[0] < 127 ? k[0] : '*');
	}
}

static void add_compare(text *t, const pgs_kv_compare *c)
{
	static const char *const relations[] = {"?", "=", "!=", "<", ">"};
	add(t, " ");
	add_key(t, c->key);
	if (c->range_end.size)
		add(t, "..");
	if (c->target == PGS_KV_VALUE)
		add(t, " value%s", relations[c->relation]);
	else if (c->target == PGS_KV_CREATE && c->number == 0)
		add(t, c->relation == PGS_KV_EQUAL ? " absent" : " exists");
	else
		add(t, " %s%s%llu", c->target == PGS_KV_MOD ? "mod" : "made", relations[c->relation],
			(unsigned long long)c->number);
	if (c->target == PGS_KV_VALUE && c->value.size >= 8) {
		const uint8_t *v = c->value.data;
		uint64_t n = 0;
		for (int i = 0; i < 8; i++)
			n = n << 8 | v[i];
		add(t, "%llu", (unsigned long long)n);
	}
	add(t, ",");
}

static void add_op(text *t, const pgs_kv_op *op)
{
	static const char *const kinds[] = {"?", "put", "del", "get"};
	add(t, " %s ", kinds[op->kind]);
	add_key(t, op->key);
	if (op->range_end.size && op->kind != PGS_KV_PUT)
		add(t, "..");
	if (op->kind == PGS_KV_RANGE && op->revision)
		add(t, "@%llu", (unsigned long long)op->revision);
	add(t, ",");
}

const char *trace_txn(const pgs_kv_txn *txn)
{
	static text t;
	t.size = 0;
	if (txn->compare_count)
		add(&t, "if");
	for (size_t i = 0; i < txn->compare_count; i++)
		add_compare(&t, &txn->compares[i]);
	if (txn->compare_count)
		add(&t, " then");
	for (size_t i = 0; i < txn->success_count; i++)
		add_op(&t, &txn->success[i]);
	t.bytes[t.size] = '\0';
	return t.bytes;
}

const char *trace_key(pgs_slice key)
{
	static text t;
	t.size = 0;
	add_key(&t, key);
	return t.bytes;
}

const char *trace_blob(const char *name)
{
	static text t;
	size_t size = strlen(name);
	t.size = 0;
	if (size > 40 && name[16] == '/')
		add(&t, "%.*s..%s", 2 + 16, name + 17, name + size - 6);
	else
		add(&t, "%s", name);
	return t.bytes;
}
