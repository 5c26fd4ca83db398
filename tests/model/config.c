/* What a seed stands for. Seeds differ in kind: some have no faults and much maintenance, some crash all the time,
 * some are large transactions on a limited KV. A bug that needs one mixture is found by the seeds that have it.
 */
#include "sim.h"

#include <string.h>

enum { STREAM_CONFIG = 3 };

/* One of a few rates, none at all being the most likely. */
static uint32_t rate(sim_rng *r, uint32_t most)
{
	switch (rng_below(r, 5)) {
	case 0:
	case 1:
		return 0;
	case 2:
		return most / 20 + 1;
	case 3:
		return most / 5 + 1;
	default:
		return most;
	}
}

static void pick_faults(sim_config *c, sim_rng *r)
{
	bool any = rng_below(r, 5) != 0;
	c->error = rate(r, 400);
	c->lose = rate(r, 600);
	c->delay = rate(r, 800);
	c->crash = rate(r, 150);
	c->freeze = rate(r, 200);
	c->outage = rate(r, 20);
	c->jump = rate(r, 30);
	c->delayed_blobs = rng_below(r, 2) ? 5000 : 0;
	if (!any)
		c->error = c->lose = c->delay = c->crash = c->outage = 0;
	c->deliver = (uint32_t)(rng_below(r, 2) ? 1 + rng_below(r, 10) : 50);
	c->latency_us = rng_below(r, 2) ? 2000 : 20000;
	c->freeze_ms = (uint32_t[]){100, 1000, 3000, 40000}[rng_below(r, 4)];
	c->timeout_ms = rng_below(r, 3) ? 2000 : rng_below(r, 2) ? 300 : 30000;
}

static void pick_limits(sim_config *c, sim_rng *r)
{
	c->limits = (pgs_kv_limits){0};
	size_t ops = 24 + rng_below(r, 20), bytes = (34 << 10) + rng_below(r, 12 << 10);
	if (rng_below(r, 2))
		c->limits.max_txn_ops = ops;
	if (rng_below(r, 4) == 0)
		c->limits.max_request_bytes = bytes;
	if (c->fat)
		c->limits = (pgs_kv_limits){ops, (38 << 10) + rng_below(r, 3 << 10), 0, 0};
	if (!(c->troubles & SIM_LIMITS))
		c->limits = (pgs_kv_limits){0};
}

/* A client may do some of it beside its own work, or little else. */
static void add_maintenance(uint32_t *weights, sim_rng *r)
{
	uint64_t kind = rng_below(r, 4);
	weights[SIM_OP_MAINTAIN] = kind == 0 ? 0 : kind == 1 ? 200 : 20;
	if (kind == 1)
		weights[SIM_OP_TXN] /= 4;
	weights[SIM_OP_LEVELS] = 1;
	kind = rng_below(r, 4);
	weights[SIM_OP_PIN] = kind == 0 ? 30 : kind == 1 ? 5 : 0;
	kind = rng_below(r, 4);
	weights[SIM_OP_SNAPSHOT_CREATE] = kind == 0 ? 12 : kind == 1 ? 3 : 0;
	weights[SIM_OP_SNAPSHOT_READ] = kind < 2 ? 10 : 0;
	weights[SIM_OP_SNAPSHOT_DROP] = kind == 0 ? 6 : kind == 1 ? 2 : 0;
}

static void pick_weights(sim_config *c, sim_rng *r)
{
	static const uint32_t usual[SIM_OP_COUNT] = {
		[SIM_OP_TXN] = 90, [SIM_OP_BULK] = 10, [SIM_OP_SCAN] = 15, [SIM_OP_ATTRS] = 12, [SIM_OP_READ_OLD] = 25, [SIM_OP_STATUS] = 20,
		[SIM_OP_LOG] = 4, [SIM_OP_DIFF] = 4, [SIM_OP_STAT] = 2, [SIM_OP_VERIFY] = 1, [SIM_OP_SLEEP] = 5,
	};
	c->scanners = rng_below(r, 10) == 0;
	bool drops = rng_below(r, 8) == 0, bulky = rng_below(r, 3) == 0;
	if (c->scanners && (c->troubles & SIM_LIMITS)) /* read sets larger than what fits into compares */
		c->limits.max_txn_ops = 24 + rng_below(r, 12);
	for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++) {
		memcpy(c->weights[i], usual, sizeof usual);
		if (c->scanners)
			c->weights[i][SIM_OP_SCAN] = c->weights[i][SIM_OP_ATTRS] = 100;
		c->weights[i][SIM_OP_BULK] += bulky ? 60 : 0;
		if (c->troubles & SIM_MAINTENANCE)
			add_maintenance(c->weights[i], r);
		c->weights[i][SIM_OP_DROP] = drops && (c->troubles & SIM_DROPS) ? 2 : 0;
		switch (rng_below(r, 8)) {
		case 0:
		case 1:
			c->weights[i][SIM_OP_READ_OLD] *= 8; /* a reader of history */
			break;
		case 2:
			c->weights[i][SIM_OP_SCAN] *= 10;
			break;
		case 3:
			c->weights[i][SIM_OP_ATTRS] *= 10;
			break;
		}
	}
}

/* Thresholds so low that there is always something to do. */
static void pick_maintenance(sim_config *c, sim_rng *r)
{
	static const uint64_t retentions[] = {PGS_RETENTION_NONE, 20, 200, 1000, 5000};
	c->maintain = (pgs_maintain_options)PGS_MAINTAIN_OPTIONS_INIT;
	c->maintain.retention_ms = retentions[rng_below(r, 5)];
	c->maintain.flush_pages = 1 + (uint32_t)rng_below(r, 6);
	c->maintain.level0_files = 1 + (uint32_t)rng_below(r, 3);
	c->maintain.level_fanout = 2;
	c->maintain.file_bytes = rng_below(r, 2) ? 8192 : 65536;
	c->maintain_all = rng_below(r, 3) ? 120 : 600;
	c->inspect = (uint32_t[]){0, 10, 100}[rng_below(r, 3)];
	c->kv_history = rng_below(r, 2) ? PGS_KV_HISTORY_OWNED : PGS_KV_HISTORY_SHARED;
	c->by_writers = rng_below(r, 4) ? PGS_MAINTENANCE_MANUAL : PGS_MAINTENANCE_BY_WRITERS;
	if (!(c->troubles & SIM_MAINTENANCE))
		c->by_writers = PGS_MAINTENANCE_MANUAL;
}

/* Few pages that change between few contents, transactions that last about as long as history is kept, and one worker
 * who always collects: what is dropped too early is soon asked for, what relies on it comes too late.
 */
static void pick_deltas(sim_config *c, sim_rng *r);

static void pick_collector(sim_config *c, sim_rng *r)
{
	static const uint32_t writer[SIM_OP_COUNT] = {
		[SIM_OP_TXN] = 100, [SIM_OP_READ_OLD] = 10, [SIM_OP_STATUS] = 5,
	};
	static const uint32_t keeper[SIM_OP_COUNT] = {
		[SIM_OP_TXN] = 20, [SIM_OP_SNAPSHOT_CREATE] = 20, [SIM_OP_SNAPSHOT_READ] = 20, [SIM_OP_SNAPSHOT_DROP] = 15,
		[SIM_OP_PIN] = 20,
	};
	c->steps = 1000 + rng_below(r, 4000);
	c->clients = 3 + (uint32_t)rng_below(r, 2);
	c->burst = c->burst < 900 ? c->burst : 0;
	c->favourite = 0;
	c->palette = rng_below(r, 2) ? 0 : 2 + (uint32_t)rng_below(r, 3);
	c->hot = 1 + (uint32_t)rng_below(r, 6);
	c->touch = 1 + (uint32_t)rng_below(r, 2);
	c->pause = (uint32_t)rng_below(r, 300);
	c->blind = true;
	c->maintain.retention_ms = (uint64_t[]){PGS_RETENTION_NONE, 5, 20, 100}[rng_below(r, 4)];
	c->maintain.flush_pages = (uint32_t[]){1, 1, 3, 12}[rng_below(r, 4)];
	c->maintain.level0_files = 1;
	c->maintain.file_bytes = 4096 + rng_below(r, 3) * 4096;
	c->write_buffer_bytes = rng_below(r, 2) ? 0 : SIM_PAGE_SIZE;
	c->hot += c->write_buffer_bytes ? 3 : 0;
	c->fat = false;
	c->maintain_all = (uint32_t[]){0, 300, 900}[rng_below(r, 3)];
	c->latency_us = 2000;
	c->freeze = 100 + (uint32_t)rng_below(r, 200);
	c->freeze_ms = 20 + (uint32_t)rng_below(r, 300);
	c->timeout_ms = 2000;
	c->inspect = 80;
	c->databases = 1;
	memset(c->weights[0], 0, sizeof c->weights[0]);
	c->weights[0][SIM_OP_MAINTAIN] = 10;
	uint32_t bulk = rng_below(r, 2) ? 4 : 60, maintain = (uint32_t[]){0, 2, 50}[rng_below(r, 3)];
	for (uint32_t i = 1; i < SIM_CLIENTS_MAX; i++) {
		memcpy(c->weights[i], i == 2 && rng_below(r, 2) ? keeper : writer, sizeof writer);
		c->weights[i][SIM_OP_BULK] = bulk;
		c->weights[i][SIM_OP_MAINTAIN] = maintain;
	}
	if (rng_below(r, 4) == 0)
		pick_deltas(c, r);
}

/* One page or two, changed a little or all over: what a delta was taken against is soon garbage. */
static void pick_deltas(sim_config *c, sim_rng *r)
{
	c->deltas = true;
	c->palette = 0;
	c->hot = 1 + (uint32_t)rng_below(r, 2);
	c->touch = 1;
	c->limits = (pgs_kv_limits){0};
	c->write_buffer_bytes = 0;
	c->maintain.flush_pages = 1;
	c->maintain_all = 900;
	c->pause = 100 + (uint32_t)rng_below(r, 300);
	for (uint32_t i = 1; i < SIM_CLIENTS_MAX; i++)
		c->weights[i][SIM_OP_BULK] = 0;
}

/* Clients that follow, and transactions that begin on what they have. */
static void pick_followers(sim_config *c, sim_rng *r)
{
	if (rng_below(r, 6))
		return;
	c->fresh = (uint32_t[]){200, 600, 950}[rng_below(r, 3)];
	c->mute = (c->troubles & SIM_ERRORS) && rng_below(r, 2) ? 2000 : 0;
	for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++) {
		uint64_t kind = rng_below(r, 3); /* who never follows has what it did itself */
		c->weights[i][SIM_OP_FOLLOW] = kind == 0 ? 0 : kind == 1 ? 10 : 60;
		c->weights[i][SIM_OP_READ_FRESH] = 30;
	}
}

/* Machines with cache files, which something happens to now and then; followers that keep their mirrors. */
static void pick_cache(sim_config *c, sim_rng *r)
{
	if (rng_below(r, 4) || !(c->troubles & SIM_CACHE))
		return;
	c->cache = rng_below(r, 3) ? 1000 : 700;
	c->cache_room = rng_below(r, 4) ? 0 : 100;
	c->cache_step = (uint32_t[]){20, 200, 500}[rng_below(r, 3)];
	c->cache_crash = (c->troubles & SIM_CRASHES) && rng_below(r, 2) ? 1 + c->crash / 4 : 0;
	c->cache_freeze = (c->troubles & SIM_FREEZES) ? (uint32_t[]){0, 20, 100}[rng_below(r, 3)] : 0;
	c->disturb = (c->troubles & SIM_DAMAGE) ? (uint32_t[]){0, 200, 1000}[rng_below(r, 3)] : 0;
	c->fresh = c->fresh ? c->fresh : (uint32_t[]){300, 700, 950}[rng_below(r, 3)];
	c->one_machine |= rng_below(r, 3) != 0;
	for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++) {
		c->weights[i][SIM_OP_FOLLOW] = (uint32_t[]){0, 20, 60, 200}[rng_below(r, 4)];
		c->weights[i][SIM_OP_READ_FRESH] = 60;
	}
}

void config_from_seed(sim_config *out, uint64_t seed, uint32_t troubles, uint32_t clients_max, uint64_t steps)
{
	sim_rng r = rng_stream(seed, STREAM_CONFIG);
	memset(out, 0, sizeof *out);
	out->seed = seed;
	out->troubles = troubles;
	out->clients = 2 + (uint32_t)rng_below(&r, 3);
	out->steps = 300 + rng_below(&r, 1200);
	out->burst = (uint32_t[]){0, 300, 700, 950}[rng_below(&r, 4)];
	out->favourite = (uint32_t[]){0, 0, 600, 950}[rng_below(&r, 4)];
	pick_faults(out, &r);
	out->fat = rng_below(&r, 8) == 0;
	out->palette = rng_below(&r, 3) ? 0 : 2 + (uint32_t)rng_below(&r, 5);
	pick_limits(out, &r);
	out->databases = rng_below(&r, 4) ? 1 : SIM_DATABASES;
	out->cache_bytes = rng_below(&r, 3) ? 64 << 10 : 4096;
	out->write_buffer_bytes = rng_below(&r, 4) ? 0 : SIM_PAGE_SIZE * (1 + rng_below(&r, 6));
	out->delta_divisor = out->fat || rng_below(&r, 2) ? 2 : 0;
	out->order = rng_below(&r, 4) ? PGS_ORDER_REVISION : PGS_ORDER_COUNTER;
	out->pause = 30;
	out->touch = 1 + (uint32_t)rng_below(&r, 8);
	out->hot = rng_below(&r, 2) ? SIM_PAGES : 2 + (uint32_t)rng_below(&r, 6);
	out->one_machine = rng_below(&r, 2);
	pick_weights(out, &r);
	pick_maintenance(out, &r);
	if (!out->scanners && rng_below(&r, 5) < 2 && (troubles & SIM_MAINTENANCE))
		pick_collector(out, &r);
	out->silent = rng_below(&r, 2);
	out->turns = rng_below(&r, 4) ? 0 : 500 + (uint32_t)rng_below(&r, 400);
	if (out->turns) { /* freezes past the lock's lease */
		out->freeze_ms = 20000;
		out->freeze += 40;
	}
	for (uint32_t i = 0; out->databases > 1 && i < SIM_CLIENTS_MAX; i++)
		out->weights[i][SIM_OP_MANY] = 40;
	pick_followers(out, &r);
	pick_cache(out, &r);
	if (steps)
		out->steps = steps;
	if (out->clients > clients_max)
		out->clients = clients_max;
}
