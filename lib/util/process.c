/* Linux: /proc/sys/kernel/random/boot_id and the start time in /proc/<pid>/stat. */
#include "util/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/hooks.h"

/* Read a small file as text; "" when it cannot be read. */
static void read_text(const char *path, char *out, size_t size)
{
	out[0] = '\0';
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t got = read(fd, out, size - 1);
	out[got > 0 ? got : 0] = '\0';
	close(fd);
}

/* A process id means something in its PID namespace only: to each other, containers of one machine are different
 * machines. */
static void mix_namespace(uint8_t id[16])
{
	char text[64]; /* "pid:[4026531836]" */
	ssize_t size = readlink("/proc/self/ns/pid", text, sizeof text);
	for (ssize_t i = 0; i < size; i++)
		id[i % 16] ^= (uint8_t)text[i];
}

bool pgs__process_boot_id(uint8_t out[16])
{
	char text[64];
	if (pgs__hooks) {
		memcpy(out, pgs__process_self().boot_id, 16);
		return true;
	}
	read_text("/proc/sys/kernel/random/boot_id", text, sizeof text);
	size_t digits = 0;
	memset(out, 0, 16);
	for (const char *c = text; *c && digits < 32; c++) {
		const char hex[2] = {*c, '\0'};
		char *end;
		unsigned long value = strtoul(hex, &end, 16);
		if (end == hex)
			continue;
		out[digits / 2] = (uint8_t)(out[digits / 2] << 4 | value);
		digits++;
	}
	if (digits != 32)
		memset(out, 0, 16);
	return digits == 32;
}

static void read_boot_id(uint8_t out[16])
{
	if (pgs__process_boot_id(out))
		mix_namespace(out);
}

/* Field 22 of stat; the second, the command in parentheses, may hold anything. 0 when there is no such process. */
static uint64_t read_start(uint64_t pid)
{
	char path[48], text[1024];
	snprintf(path, sizeof path, "/proc/%llu/stat", (unsigned long long)pid);
	read_text(path, text, sizeof text);
	char *at = strrchr(text, ')');
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at, NULL, 10) : 0;
}

pgs__process pgs__process_self(void)
{
	pgs__process self = {.pid = (uint64_t)getpid()};
	if (pgs__hooks) {
		pgs__hooks->process_self(&self);
		return self;
	}
	read_boot_id(self.boot_id);
	self.start = read_start(self.pid);
	return self;
}

bool pgs__process_is_gone(const pgs__process *process)
{
	static const uint8_t unknown[16];
	if (pgs__hooks)
		return pgs__hooks->process_is_gone(process);
	uint8_t boot_id[16];
	read_boot_id(boot_id);
	if (memcmp(boot_id, unknown, 16) == 0 || memcmp(boot_id, process->boot_id, 16) != 0)
		return false;
	if (kill((pid_t)process->pid, 0) != 0 && errno == ESRCH)
		return true;
	uint64_t start = read_start(process->pid);
	return start != 0 && process->start != 0 && start != process->start;
}
