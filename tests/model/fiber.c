/* Fibers on ucontext. The address sanitizer is told of each switch. */
#include "fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#ifdef WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#define STACK_SIZE (2u << 20)
#else
#define STACK_SIZE (512u << 10)
#endif
#define GUARD_SIZE 4096

struct fiber {
	fiber *next; /* in the pool */
	ucontext_t context;
	uint8_t *stack; /* with a page below that faults */
	void (*body)(void *ctx);
	void *ctx;
	bool ended;
	void *fake_stack;
};

static ucontext_t main_context;
static fiber *running;
static fiber *pool;
#ifdef WITH_ASAN
static void *main_fake_stack;
static const void *main_bottom;
static size_t main_size;
#endif

static void enter_fiber(fiber *f)
{
#ifdef WITH_ASAN
	__sanitizer_start_switch_fiber(&main_fake_stack, f->stack + GUARD_SIZE, STACK_SIZE);
#endif
	swapcontext(&main_context, &f->context);
#ifdef WITH_ASAN
	__sanitizer_finish_switch_fiber(main_fake_stack, NULL, NULL);
#endif
	(void)f;
}

static void leave_fiber(fiber *f)
{
#ifdef WITH_ASAN
	__sanitizer_start_switch_fiber(f->ended ? NULL : &f->fake_stack, main_bottom, main_size);
#endif
	swapcontext(&f->context, &main_context);
#ifdef WITH_ASAN
	__sanitizer_finish_switch_fiber(f->fake_stack, &main_bottom, &main_size);
#endif
}

static void start(void)
{
	fiber *f = running;
#ifdef WITH_ASAN
	__sanitizer_finish_switch_fiber(NULL, &main_bottom, &main_size);
#endif
	f->body(f->ctx);
	f->ended = true;
	leave_fiber(f);
}

static fiber *new_stack(void)
{
	fiber *f = calloc(1, sizeof *f);
	if (!f)
		return NULL;
	f->stack = mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->stack == MAP_FAILED || mprotect(f->stack, GUARD_SIZE, PROT_NONE) != 0) {
		free(f);
		return NULL;
	}
	return f;
}

static void prepare(fiber *f)
{
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = f->stack + GUARD_SIZE;
	f->context.uc_stack.ss_size = STACK_SIZE;
	f->context.uc_link = NULL;
	makecontext(&f->context, start, 0);
}

fiber *fiber_new(void (*body)(void *ctx), void *ctx)
{
	fiber *f = pool;
	if (f)
		pool = f->next;
	else
		f = new_stack();
	if (!f)
		return NULL;
	f->body = body;
	f->ctx = ctx;
	f->ended = false;
	f->fake_stack = NULL;
	prepare(f);
	return f;
}

bool fiber_resume(fiber *f)
{
	running = f;
	enter_fiber(f);
	running = NULL;
	return !f->ended;
}

void fiber_yield(void)
{
	leave_fiber(running);
}

void fiber_free(fiber *f)
{
	if (!f)
		return;
	f->next = pool;
	pool = f;
}
