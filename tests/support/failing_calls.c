/* See failing_calls.h. Each function here stands for the system's of the same name: for LMDB by its table of imported
 * functions, for the library's objects by the linker's --wrap. */
#include "support/failing_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int failing; /* errno, FAILING_SHORT, or 0 */
static atomic_size_t calls, from;
static atomic_bool lasts;
static _Atomic(const char *) failed;

void failing_calls_begin(int error, size_t nth, bool lasting)
{
	atomic_store(&calls, 0);
	atomic_store(&from, nth);
	atomic_store(&lasts, lasting);
	atomic_store(&failed, NULL);
	atomic_store(&failing, error);
}

const char *failing_calls_end(void)
{
	atomic_store(&failing, 0);
	return atomic_load(&failed);
}

enum { MEMORY, WRITE, OTHER, LOCK };

/* Whether this call fails; sets errno. */
static bool fails(const char *name, int kind)
{
	int error = atomic_load(&failing);
	bool ours = error == ENOMEM ? kind == MEMORY : error == FAILING_SHORT ? kind == WRITE : error && kind != MEMORY;
	if (!ours || (kind == LOCK && atomic_load(&lasts)))
		return false;
	size_t number = atomic_fetch_add(&calls, 1) + 1, first = atomic_load(&from);
	if (atomic_load(&lasts) ? number < first : number != first)
		return false;
	const char *none = NULL;
	atomic_compare_exchange_strong(&failed, &none, name);
	if (error != FAILING_SHORT)
		errno = error;
	return true;
}

static bool cut(void)
{
	return atomic_load(&failing) == FAILING_SHORT;
}

/* --- memory ------------------------------------------------------------------------------- */

static void *fail_malloc(size_t size)
{
	return fails("malloc", MEMORY) ? NULL : malloc(size);
}

static void *fail_calloc(size_t count, size_t size)
{
	return fails("calloc", MEMORY) ? NULL : calloc(count, size);
}

static void *fail_realloc(void *ptr, size_t size)
{
	return fails("realloc", MEMORY) ? NULL : realloc(ptr, size);
}

static int fail_posix_memalign(void **out, size_t alignment, size_t size)
{
	return fails("posix_memalign", MEMORY) ? ENOMEM : posix_memalign(out, alignment, size);
}

static char *fail_strdup(const char *text)
{
	return fails("strdup", MEMORY) ? NULL : strdup(text);
}

/* --- files ---------------------------------------------------------------------------------- */

int __real_open(const char *path, int flags, ...);
int __real_fcntl(int fd, int command, ...);
int __real_ftruncate(int fd, off_t size);
int __real_fallocate(int fd, int mode, off_t from, off_t size);
int __real_posix_fallocate(int fd, off_t from, off_t size);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t from);
int __real_msync(void *at, size_t size, int flags);
int __real_fdatasync(int fd);

int __wrap_open(const char *path, int flags, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_ftruncate(int fd, off_t size);
int __wrap_fallocate(int fd, int mode, off_t from, off_t size);
int __wrap_posix_fallocate(int fd, off_t from, off_t size);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t from);
int __wrap_msync(void *at, size_t size, int flags);
int __wrap_fdatasync(int fd);

int __wrap_open(const char *path, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	return fails("open", OTHER) ? -1 : __real_open(path, flags, mode);
}

/* Letting go of a byte does not fail. */
int __wrap_fcntl(int fd, int command, ...)
{
	va_list arguments;
	va_start(arguments, command);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	bool locks = command == F_SETLK || command == F_SETLKW || command == F_GETLK;
	bool unlocks = locks && ((const struct flock *)argument)->l_type == F_UNLCK;
	return !unlocks && fails("fcntl", locks ? LOCK : OTHER) ? -1 : __real_fcntl(fd, command, argument);
}

int __wrap_ftruncate(int fd, off_t size)
{
	return fails("ftruncate", OTHER) ? -1 : __real_ftruncate(fd, size);
}

int __wrap_fallocate(int fd, int mode, off_t at, off_t size)
{
	return fails("fallocate", OTHER) ? -1 : __real_fallocate(fd, mode, at, size);
}

int __wrap_posix_fallocate(int fd, off_t at, off_t size)
{
	return fails("posix_fallocate", OTHER) ? errno : __real_posix_fallocate(fd, at, size);
}

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
	return fails("mmap", OTHER) ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}

int __wrap_msync(void *at, size_t size, int flags)
{
	return fails("msync", OTHER) ? -1 : __real_msync(at, size, flags);
}

int __wrap_fdatasync(int fd)
{
	return fails("fdatasync", OTHER) ? -1 : __real_fdatasync(fd);
}

static int fail_fsync(int fd)
{
	return fails("fsync", OTHER) ? -1 : fsync(fd);
}

static ssize_t fail_pread(int fd, void *out, size_t size, off_t at)
{
	return fails("pread", OTHER) ? -1 : pread(fd, out, size, at);
}

static ssize_t fail_write(int fd, const void *data, size_t size)
{
	if (!fails("write", WRITE))
		return write(fd, data, size);
	return cut() ? write(fd, data, size / 2) : -1;
}

static ssize_t fail_pwrite(int fd, const void *data, size_t size, off_t at)
{
	if (!fails("pwrite", WRITE))
		return pwrite(fd, data, size, at);
	return cut() ? pwrite(fd, data, size / 2, at) : -1;
}

static ssize_t fail_writev(int fd, const struct iovec *parts, int count)
{
	if (!fails("writev", WRITE))
		return writev(fd, parts, count);
	return cut() ? write(fd, parts[0].iov_base, parts[0].iov_len / 2) : -1;
}

/* --- LMDB's table of imported functions -------------------------------------------------------- */

static const struct import {
	const char *name;
	void (*to)(void);
} imports[] = {
#define IMPORT(name, to) {name, (void (*)(void))(to)}
	IMPORT("malloc", fail_malloc),       IMPORT("calloc", fail_calloc),
	IMPORT("realloc", fail_realloc),     IMPORT("posix_memalign", fail_posix_memalign),
	IMPORT("strdup", fail_strdup),       IMPORT("open", __wrap_open),
	IMPORT("fcntl", __wrap_fcntl),       IMPORT("ftruncate", __wrap_ftruncate),
	IMPORT("mmap", __wrap_mmap),         IMPORT("msync", __wrap_msync),
	IMPORT("fdatasync", __wrap_fdatasync), IMPORT("fsync", fail_fsync),
	IMPORT("pread", fail_pread),         IMPORT("pwrite", fail_pwrite),
	IMPORT("write", fail_write),         IMPORT("writev", fail_writev),
};

#if __ELF_NATIVE_CLASS == 64

typedef struct table {
	uintptr_t base;
	const ElfW(Sym) *symbols;
	const char *names;
	const ElfW(Rela) *plt, *data; /* relocations: of calls, and of pointers to functions */
	size_t plt_size, data_size;
} table;

static void redirect(const table *t, const ElfW(Rela) *r)
{
	const char *name = t->names + t->symbols[ELF64_R_SYM(r->r_info)].st_name;
	uintptr_t page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
	for (size_t i = 0; i < sizeof imports / sizeof *imports; i++) {
		if (strcmp(name, imports[i].name) != 0)
			continue;
		void **slot = (void **)(t->base + r->r_offset);
		uintptr_t page = (uintptr_t)slot / page_size * page_size;
		if (mprotect((void *)page, page_size, PROT_READ | PROT_WRITE) == 0)
			memcpy(slot, &imports[i].to, sizeof *slot);
	}
}

static int redirect_lmdb(struct dl_phdr_info *info, size_t size, void *found)
{
	table t = {.base = info->dlpi_addr};
	const ElfW(Dyn) *d = NULL;
	(void)size;
	if (!strstr(info->dlpi_name, "liblmdb"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			d = (const ElfW(Dyn) *)(t.base + info->dlpi_phdr[i].p_vaddr);
	for (; d && d->d_tag != DT_NULL; d++)
		switch (d->d_tag) {
		case DT_SYMTAB: t.symbols = (const ElfW(Sym) *)d->d_un.d_ptr; break;
		case DT_STRTAB: t.names = (const char *)d->d_un.d_ptr; break;
		case DT_JMPREL: t.plt = (const ElfW(Rela) *)d->d_un.d_ptr; break;
		case DT_PLTRELSZ: t.plt_size = d->d_un.d_val; break;
		case DT_RELA: t.data = (const ElfW(Rela) *)d->d_un.d_ptr; break;
		case DT_RELASZ: t.data_size = d->d_un.d_val; break;
		default: break;
		}
	for (size_t i = 0; i < t.plt_size / sizeof *t.plt; i++)
		redirect(&t, &t.plt[i]);
	for (size_t i = 0; i < t.data_size / sizeof *t.data; i++)
		redirect(&t, &t.data[i]);
	*(bool *)found = t.plt_size + t.data_size > 0;
	return 1;
}

bool failing_calls_install(void)
{
	bool found = false;
	dl_iterate_phdr(redirect_lmdb, &found);
	return found;
}

#else

bool failing_calls_install(void)
{
	return sizeof imports == 0;
}

#endif
