/* The world: clients as fibers, one running at a time; virtual time; what the library takes from the system. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "content/backend.h"
#include "util/hooks.h"

#define UNIX_START_MS 1700000000000
#define DEAD_SLEEP_MS 60000 /* who is dead waits for nothing: let it give up soon */

enum { STREAM_SCHEDULE = 1, STREAM_FAULTS, STREAM_MISFORTUNE = 4, STREAM_CLIENTS = 16, STREAM_LIVES = 1000 };

sim world;

/* --- time, random bytes, processes, for the library ----------------------------------- */

uint64_t client_now_ms(const sim_client *c)
{
	return c->mono_offset_ms + world.now_us / 1000 * c->rate / 1000;
}

static uint64_t hook_now_ms(void)
{
	return world.current ? client_now_ms(world.current) : 1 + world.now_us / 1000;
}

static int64_t hook_unix_ms(void)
{
	int64_t offset = world.current ? world.current->wall_offset_ms : 0;
	return UNIX_START_MS + (int64_t)(world.now_us / 1000) + offset;
}

static void hook_sleep_ms(uint32_t ms)
{
	sim_client *c = world.current;
	if (c->dead)
		c->mono_offset_ms += ms + DEAD_SLEEP_MS;
	else
		sim_sleep_us((uint64_t)ms * 1000 * 1000 / c->rate + 1);
}

static void hook_random_bytes(void *out, size_t size)
{
	uint8_t *bytes = out;
	for (size_t i = 0; i < size; i += 8) {
		uint64_t n = rng_next(&world.current->random);
		memcpy(bytes + i, &n, size - i < 8 ? size - i : 8);
	}
}

static void hook_process_self(pgs__process *out)
{
	*out = world.current->process;
}

static bool hook_process_is_gone(const pgs__process *process)
{
	if (memcmp(process->boot_id, world.current->process.boot_id, sizeof process->boot_id) != 0)
		return false;
	for (int i = 0; i <= SIM_CLIENTS_MAX; i++)
		if (world.clients[i].process.pid == process->pid && !world.clients[i].dead)
			return false;
	return true;
}

static const pgs__system hooks = {
	hook_now_ms, hook_unix_ms, hook_sleep_ms, hook_random_bytes, hook_process_self, hook_process_is_gone,
	machine_step,
};

/* --- the baton ------------------------------------------------------------------------- */

void sim_fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(world.failure, sizeof world.failure, format, args);
	va_end(args);
	trace("FAILED: %s", world.failure);
	for (;;)
		fiber_yield(); /* never resumed */
}

static void deliver_something(void)
{
	size_t count = 0;
	for (sim_link *l = world.links; l; l = link_next(l))
		count += link_has_delayed(l);
	uint64_t which = rng_below(&world.schedule, count);
	for (sim_link *l = world.links; l && count; l = link_next(l))
		if (link_has_delayed(l) && which-- == 0) {
			link_deliver(l);
			return;
		}
}

static void move_clocks(void)
{
	if (!(world.config.troubles & SIM_CLOCKS) || world.over)
		return;
	if (rng_chance(&world.schedule, world.config.jump, 10000)) {
		uint64_t ms = 1 + rng_below(&world.schedule, 20000);
		world.now_us += ms * 1000;
		trace("time jumps by %llu ms", (unsigned long long)ms);
	}
	if (rng_chance(&world.schedule, world.config.jump, 10000)) {
		sim_client *c = &world.clients[rng_below(&world.schedule, world.config.clients)];
		c->wall_offset_ms += (int64_t)rng_below(&world.schedule, 120000) - 60000;
		trace("the wall clock of %s jumps to %+lld ms", c->name, (long long)c->wall_offset_ms);
	}
}

void sim_pass_baton(void)
{
	world.step++;
	world.now_us += 1 + rng_below(&world.schedule, world.config.latency_us);
	if (world.step >= world.end_step)
		world.over = true;
	if (rng_chance(&world.schedule, world.config.deliver, 1000))
		deliver_something();
	move_clocks();
	if (rng_chance(&world.schedule, world.config.inspect, 10000))
		inspect();
	fiber_yield();
}

void sim_sleep_us(uint64_t us)
{
	if (world.current->dead && !world.current->buried)
		return;
	world.current->state = CLIENT_SLEEPING;
	world.current->wake_us = world.now_us + us;
	world.step++; /* so that waiting for ever ends */
	if (world.step >= world.end_step)
		world.over = true;
	fiber_yield();
	world.current->state = CLIENT_READY;
}

static bool is_ready(const sim_client *c)
{
	return c->fiber && (c->state == CLIENT_READY || (c->state == CLIENT_SLEEPING && c->wake_us <= world.now_us));
}

/* Let time pass until someone wakes. False: nobody ever will. */
static bool wait_for_someone(void)
{
	uint64_t earliest = UINT64_MAX;
	for (int i = 0; i <= SIM_CLIENTS_MAX; i++) {
		const sim_client *c = &world.clients[i];
		if (c->fiber && c->state == CLIENT_SLEEPING && c->wake_us < earliest)
			earliest = c->wake_us;
	}
	if (earliest == UINT64_MAX)
		return false;
	world.now_us = earliest > world.now_us ? earliest : world.now_us;
	return true;
}

static sim_client *pick(sim_client *last)
{
	sim_client *ready[SIM_CLIENTS_MAX + 1];
	size_t count = 0;
	for (int i = 0; i <= SIM_CLIENTS_MAX; i++)
		if (is_ready(&world.clients[i]))
			ready[count++] = &world.clients[i];
	if (count == 0)
		return NULL;
	if (rng_chance(&world.schedule, 10, 1000))
		world.favourite = (int)rng_below(&world.schedule, world.config.clients);
	if (last && is_ready(last) && rng_chance(&world.schedule, world.config.burst, 1000))
		return last;
	if (is_ready(&world.clients[world.favourite]) && rng_chance(&world.schedule, world.config.favourite, 1000))
		return &world.clients[world.favourite];
	return ready[rng_below(&world.schedule, count)];
}

static void run(sim_client *c)
{
	world.current = c;
	pgs__charge(c->charged);
	bool goes_on = fiber_resume(c->fiber);
	c->charged = pgs__charge(NULL);
	world.current = NULL;
	if (goes_on)
		return;
	fiber_free(c->fiber);
	c->fiber = NULL;
	c->state = CLIENT_DONE;
}

static void run_fibers(void)
{
	sim_client *last = NULL;
	while (!world.failure[0]) {
		machines_disturb();
		sim_client *c = pick(last);
		if (!c && wait_for_someone())
			continue;
		if (!c)
			return;
		last = c;
		run(c);
	}
}

void client_dies(sim_client *c)
{
	c->dead = true;
	c->faults++;
	world.crashes++;
	machine_left_behind(c);
}

void sim_kill(sim_client *c)
{
	if (!c->fiber || c->quiet || c->dead)
		return;
	client_dies(c);
	if (c->link)
		link_kill(c->link);
	c->state = CLIENT_READY;
	while (c->fiber && !c->buried && !world.failure[0])
		run(c);
}

/* --- lives and seeds --------------------------------------------------------------------- */

void client_reborn(sim_client *c)
{
	const sim_config *config = &world.config;
	sim_rng *r = &world.schedule;
	c->life++;
	c->dead = c->buried = false;
	snprintf(c->name, sizeof c->name, c->quiet ? "audit" : "c%d.%d", c->index, c->life);
	c->random = rng_stream(config->seed, STREAM_LIVES + (uint64_t)c->index * 1000 + (uint64_t)c->life);
	c->process = (pgs__process){.pid = ++world.next_pid, .start = world.next_pid};
	bool odd = !config->one_machine && c->index % 2;
	memset(c->process.boot_id, odd ? 0xbb : 0xaa, sizeof c->process.boot_id);
	c->rate = 1000;
	c->mono_offset_ms = 1 + rng_below(r, 1000000);
	c->wall_offset_ms = 0;
	uint64_t rate = rng_below(r, 3), wall = rng_below(r, 20000);
	if (config->troubles & SIM_CLOCKS && !c->quiet) {
		c->rate = rate == 0 ? 700 : rate == 1 ? 1500 : 1000;
		c->wall_offset_ms = (int64_t)wall - 10000;
	}
	const sim_machine *m = machine_of(c);
	if (!config->cache)
		return;
	memset(c->process.boot_id, (int)(m - world.machines) << 4 | (int)(m->boot % 15 + 1), sizeof c->process.boot_id);
	c->rate = m->rate;
	c->mono_offset_ms = m->mono_offset_ms;
}

static bool start_client(int index, void (*body)(void *))
{
	sim_client *c = &world.clients[index];
	c->index = index;
	c->quiet = body == auditor_main;
	c->state = CLIENT_READY;
	c->work = rng_stream(world.config.seed, STREAM_CLIENTS + (uint64_t)index);
	c->doing = "";
	client_reborn(c);
	c->fiber = fiber_new(body, c);
	return c->fiber != NULL;
}

static bool make_backends(void)
{
	pgs_error err = PGS_ERROR_INIT;
	static sim_client nobody = {.rate = 1000};
	nobody.random = rng_stream(world.config.seed, 0);
	world.current = &nobody; /* a store has a random identity */
	bool made = pgs_kv_memory_new(&world.kv, &world.config.limits, &err) == PGS_OK &&
		    pgs_blob_memory_new(&world.blob, &err) == PGS_OK;
	world.current = NULL;
	return made;
}

bool sim_run(const sim_config *config)
{
	memset(&world, 0, sizeof world);
	world.config = *config;
	world.now_us = 1000000;
	world.end_step = config->steps;
	world.schedule = rng_stream(config->seed, STREAM_SCHEDULE);
	world.faults = rng_stream(config->seed, STREAM_FAULTS);
	world.misfortune = rng_stream(config->seed, STREAM_MISFORTUNE);
	pgs__hooks = &hooks;
	contents_reset();
	trace_reset();
	if (!make_backends()) {
		snprintf(world.failure, sizeof world.failure, "out of memory");
		return false;
	}
	machines_start();
	for (uint32_t i = 0; i < config->clients; i++)
		start_client((int)i, client_main);
	run_fibers();
	world.over = true;
	if (!world.failure[0] && start_client(SIM_CLIENTS_MAX, auditor_main))
		run_fibers();
	return world.failure[0] == '\0';
}

void sim_free(void)
{
	machines_stop();
	link_free_all();
	if (world.kv)
		world.kv->vtable->close(world.kv);
	if (world.blob)
		world.blob->vtable->close(world.blob);
	world.kv = NULL;
	world.blob = NULL;
	model_free();
}
