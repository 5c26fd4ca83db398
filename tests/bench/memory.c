/* What memory this process takes, without what is mapped from files. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t anonymous_bytes(void)
{
	char line[200];
	uint64_t kib = 0;
	FILE *file = fopen("/proc/self/status", "r");
	bench_check(file != NULL, "/proc/self/status");
	while (fgets(line, sizeof line, file))
		if (strncmp(line, "RssAnon:", 8) == 0)
			kib = strtoull(line + 8, NULL, 10);
	fclose(file);
	bench_check(kib != 0, "/proc/self/status says nothing of RssAnon");
	return kib << 10;
}

static void note_peak(bench_memory *m)
{
	uint64_t now = anonymous_bytes();
	m->peak = now > m->peak ? now : m->peak;
}

static void *watch(void *ctx)
{
	bench_memory *m = ctx;
	while (!m->stop) {
		note_peak(m);
		usleep(2000);
	}
	return NULL;
}

void bench_memory_start(bench_memory *m)
{
	*m = (bench_memory){.before = anonymous_bytes()};
	bench_check(pthread_create(&m->thread, NULL, watch, m) == 0, "starting a thread");
}

double bench_memory_end(bench_memory *m)
{
	m->stop = true;
	pthread_join(m->thread, NULL);
	note_peak(m);
	return (double)(m->peak > m->before ? m->peak - m->before : 0) / (1 << 20);
}
